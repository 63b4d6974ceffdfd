"""A WebSocket route of a FastAPI ingress: text, bytes and JSON in both directions."""

import os

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from websockets.sync.client import connect

import serve_lite as serve

URL = f"ws://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI()


@serve.deployment
@serve.ingress(app)
class Echo:
    @app.websocket("/text")
    async def text(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                await socket.send_text((await socket.receive_text()).upper())
        except WebSocketDisconnect:
            pass

    @app.websocket("/bytes")
    async def bytes(self, socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_bytes((await socket.receive_bytes())[::-1])
        await socket.close(reason="enough")


serve.run(Echo.bind())

with connect(f"{URL}/text") as socket:
    for word in ("one", "two"):
        socket.send(word)
        assert socket.recv() == word.upper()

with connect(f"{URL}/bytes") as socket:
    socket.send(b"\x01\x02\x03")
    assert socket.recv() == b"\x03\x02\x01"
    assert list(socket) == []  # closed by the server
    assert (socket.close_code, socket.close_reason) == (1000, "enough")
