"""Constructors annotated with the handle classes of then; what is injected are today's handles."""

import os

import httpx
from starlette.requests import Request

import serve_lite as serve
from serve_lite.handle import RayServeHandle

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
class Lowercase:
    def __call__(self, text: str) -> str:
        return text.lower()


@serve.deployment
class Words:
    def __call__(self, text: str) -> int:
        return len(text.split())


@serve.deployment(route_prefix="/count")
class Pipeline:
    def __init__(self, lowercase: RayServeHandle, words: RayServeHandle):
        self.lowercase = lowercase.options(use_new_handle_api=True)
        self.words = words.options(use_new_handle_api=True)

    async def __call__(self, request: Request) -> int:
        text = await request.json()
        return await self.words.remote(self.lowercase.remote(text))


serve.run(Pipeline.bind(Lowercase.bind(), Words.bind()))
assert httpx.post(f"{URL}/count", json="To Be Or Not To Be").json() == 6
