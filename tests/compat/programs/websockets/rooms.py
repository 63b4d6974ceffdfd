"""One replica holds the sockets of all clients, so what one sends can go to the others."""

import os

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from websockets.sync.client import connect

import serve_lite as serve

URL = f"ws://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI()


@serve.deployment
@serve.ingress(app)
class Rooms:
    def __init__(self) -> None:
        self.rooms: dict[str, list[WebSocket]] = {}

    @app.websocket("/rooms/{name}")
    async def join(self, socket: WebSocket, name: str, who: str) -> None:
        await socket.accept()
        members = self.rooms.setdefault(name, [])
        members.append(socket)
        await self.tell(members, f"{who} is here")
        try:
            async for text in socket.iter_text():
                await self.tell(members, f"{who}: {text}")
        except WebSocketDisconnect:
            pass
        finally:
            members.remove(socket)

    async def tell(self, members: list[WebSocket], text: str) -> None:
        for member in members:
            await member.send_text(text)


serve.run(Rooms.bind())

with connect(f"{URL}/rooms/garden?who=ann") as ann:
    assert ann.recv() == "ann is here"
    with connect(f"{URL}/rooms/garden?who=bob") as bob:
        assert ann.recv() == bob.recv() == "bob is here"
        bob.send("hello")
        assert ann.recv() == bob.recv() == "bob: hello"
