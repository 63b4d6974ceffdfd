"""A StreamingResponse reaches the client piece by piece, while the rest is still being made."""

import asyncio
import os

import httpx
from starlette.requests import Request
from starlette.responses import StreamingResponse

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
class Radio:
    def __init__(self) -> None:
        self.heard = asyncio.Event()

    async def __call__(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self.programme(), media_type="text/plain")

    async def programme(self):
        yield "news "
        await self.heard.wait()  # goes on only when the listener has said that the first part came
        for part in ("weather ", "music"):
            yield part

    async def say_heard(self) -> None:
        self.heard.set()


handle = serve.run(Radio.bind())

with httpx.stream("GET", URL) as answer:
    assert answer.headers["content-type"].startswith("text/plain")
    pieces = answer.iter_text()
    first = next(pieces)
    assert first == "news "
    handle.say_heard.remote().result()
    assert "".join(pieces) == "weather music"
