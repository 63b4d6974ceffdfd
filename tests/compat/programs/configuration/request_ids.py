"""Every request has an id: the client's own `X-Request-ID`, or a new one; the answer carries it back."""

import os

import httpx
from starlette.requests import Request

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
class Traced:
    async def __call__(self, request: Request) -> str:
        if request.url.path == "/fail":
            raise RuntimeError("for the log only")
        return request.headers["x-request-id"]


serve.run(Traced.bind())

own = httpx.get(URL, headers={"x-request-id": "order-17"})
assert own.text == own.headers["x-request-id"] == "order-17"

first, second = httpx.get(URL), httpx.get(URL)
assert first.text == first.headers["x-request-id"]
assert first.text != second.text

failed = httpx.get(f"{URL}/fail", headers={"x-request-id": "order-18"})
assert (failed.status_code, failed.text) == (500, "Internal Server Error")
assert failed.headers["x-request-id"] == "order-18"
