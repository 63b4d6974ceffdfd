"""A time limit for HTTP requests: too slow a handler is cancelled and the client gets 408."""

import asyncio
import os

import httpx
from starlette.requests import Request

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
class Oracle:
    def __init__(self) -> None:
        self.given_up = asyncio.Event()

    async def __call__(self, request: Request) -> str:
        if request.url.path == "/quick":
            return "yes"
        try:
            await asyncio.Event().wait()  # ponders for ever
        finally:
            self.given_up.set()

    async def has_given_up(self) -> bool:
        return await self.given_up.wait()


serve.start(http_options={"request_timeout_s": 0.5})
handle = serve.run(Oracle.bind())

assert httpx.get(f"{URL}/quick").text == "yes"
late = httpx.get(f"{URL}/deep", timeout=30)
assert late.status_code == 408
assert late.headers["x-request-id"] in late.text
assert handle.has_given_up.remote().result(timeout_s=30)
