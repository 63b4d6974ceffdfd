"""A chat over a WebSocket: each message is answered by a model in another deployment, word by word."""

import os

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from websockets.sync.client import connect

import serve_lite as serve
from serve_lite.handle import DeploymentHandle

URL = f"ws://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI()


@serve.deployment
class Parrot:
    async def answer(self, text: str, turn: int):
        yield f"[{turn}]"
        for word in reversed(text.split()):
            yield word


@serve.deployment
@serve.ingress(app)
class Chat:
    def __init__(self, model: DeploymentHandle) -> None:
        self.model = model.options(stream=True)

    @app.websocket("/chat")
    async def chat(self, socket: WebSocket) -> None:
        await socket.accept()
        turn = 0
        try:
            while True:
                text = await socket.receive_text()
                turn += 1
                async for word in self.model.answer.remote(text, turn):
                    await socket.send_text(word)
                await socket.send_text("")
        except WebSocketDisconnect:
            pass


serve.run(Chat.bind(Parrot.bind()), route_prefix="/bots")

with connect(f"{URL}/bots/chat") as socket:
    for text, expected in (("how are you", "[1] you are how"), ("fine", "[2] fine")):
        socket.send(text)
        words = iter(socket.recv, "")
        assert " ".join(words) == expected
