"""What a plain deployment returns decides what the HTTP client gets: text, JSON, bytes, or a response as it is."""

import dataclasses
import os

import httpx
from starlette.requests import Request
from starlette.responses import Response

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@dataclasses.dataclass
class Plant:
    name: str
    height_cm: int


@serve.deployment
class Garden:
    def __call__(self, request: Request):
        match request.url.path:
            case "/text":
                return "ivy"
            case "/data":
                return {"plants": [Plant("fern", 40), Plant("palm", 180)]}
            case "/bytes":
                return b"\x00seed"
            case "/nothing":
                return None
        return Response("no such plant", status_code=404, headers={"x-garden": "north"})


serve.run(Garden.bind())

text = httpx.get(f"{URL}/text")
assert text.text == "ivy" and text.headers["content-type"] == "text/plain; charset=utf-8"

data = httpx.get(f"{URL}/data")
assert data.json() == {"plants": [{"name": "fern", "height_cm": 40}, {"name": "palm", "height_cm": 180}]}
assert data.headers["content-type"] == "application/json"

assert httpx.get(f"{URL}/bytes").content == b"\x00seed"
assert httpx.get(f"{URL}/nothing").content == b""

missing = httpx.get(f"{URL}/moss")
assert (missing.status_code, missing.headers["x-garden"]) == (404, "north")
