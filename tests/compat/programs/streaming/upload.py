"""Requests stream in as well: a large body is read in pieces while the client is still sending it."""

import os

import httpx
from starlette.requests import Request

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
class Lines:
    async def __call__(self, request: Request) -> dict[str, int]:
        lines = pieces = 0
        async for chunk in request.stream():
            lines += chunk.count(b"\n")
            pieces += bool(chunk)
        return {"lines": lines, "pieces": pieces}


def document():
    for number in range(200):
        yield f"chapter {number}\n".encode() * 500


serve.run(Lines.bind())

answer = httpx.post(URL, content=document()).json()
assert answer["lines"] == 100_000
assert answer["pieces"] > 1
