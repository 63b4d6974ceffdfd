"""When the client stops reading, the generator is ended: what it holds can be given back in a `finally`."""

import asyncio
import os

import httpx
from starlette.requests import Request
from starlette.responses import StreamingResponse

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
class Ticker:
    def __init__(self) -> None:
        self.listeners = 0
        self.all_left = asyncio.Event()

    async def __call__(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self.ticks())

    async def ticks(self):
        self.listeners += 1
        try:
            while True:
                yield "tick\n"
                await asyncio.sleep(0.01)
        finally:
            self.listeners -= 1
            if self.listeners == 0:
                self.all_left.set()

    async def wait_until_all_left(self) -> int:
        await self.all_left.wait()
        return self.listeners


handle = serve.run(Ticker.bind())

with httpx.stream("GET", URL) as answer:
    lines = answer.iter_lines()
    assert [next(lines) for _ in range(3)] == ["tick"] * 3
# Leaving the block closes the connection.
assert handle.wait_until_all_left.remote().result(timeout_s=30) == 0
