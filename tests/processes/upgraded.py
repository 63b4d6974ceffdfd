"""An application whose requests are of every kind, for the tests of upgrades."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse

import serve_lite as serve

app = FastAPI()


@serve.deployment(max_ongoing_requests=1000)
@serve.ingress(app)
class Everything:
    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    @app.get("/pid")
    async def pid(self) -> int:
        await asyncio.sleep(0.005)  # so that some are always under way
        return os.getpid()

    @app.get("/numbers")
    async def numbers(self) -> StreamingResponse:
        return StreamingResponse(self._numbers(), media_type="text/plain")

    async def _numbers(self) -> AsyncIterator[str]:
        """Count until the gate is open."""
        number = 0
        while not (self._folder / "gate").exists():
            yield f"{number}\n"
            number += 1
            await asyncio.sleep(0.01)
        yield "end\n"

    @app.get("/count")
    async def count(self, to: int) -> StreamingResponse:
        async def numbers() -> AsyncIterator[str]:
            for number in range(to):
                yield f"{number}\n"
                await asyncio.sleep(0.005)

        return StreamingResponse(numbers(), media_type="text/plain")

    @app.post("/total")
    async def total(self, request: Request) -> int:
        """Return how many bytes the body has; it is read as it comes."""
        return sum([len(piece) async for piece in self._pieces(request)])

    @app.post("/through")
    async def through(self, request: Request) -> StreamingResponse:
        """Send each piece of the body back when it comes."""
        return StreamingResponse(self._pieces(request), media_type="application/octet-stream")

    async def _pieces(self, request: Request) -> AsyncIterator[bytes]:
        """Give the pieces of a body, and leave a mark, if one is asked for, when the first has come."""
        mark = request.query_params.get("mark")
        async for piece in request.stream():
            if mark:
                (self._folder / mark).touch()
            yield piece

    @app.websocket("/echo")
    async def echo(self, socket: WebSocket) -> None:
        await socket.accept()
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                (self._folder / "left").write_text(str(message.get("code")))
                return
            await socket.send_text(str(os.getpid()))

    async def call(self) -> int:
        await asyncio.sleep(0.005)
        return os.getpid()


def everything(args: dict[str, str]) -> serve.Application:
    return Everything.options(num_replicas=2).bind(args["folder"])
