"""A batched `__call__` gets a list of HTTP requests and returns a list of answers."""

import asyncio
import os

import httpx
from starlette.requests import Request

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
class LanguageGuess:
    @serve.batch(max_batch_size=4, batch_wait_timeout_s=5)
    async def __call__(self, requests: list[Request]) -> list[dict]:
        texts = [(await request.body()).decode() for request in requests]
        return [{"language": self.guess(text), "batch": len(texts)} for text in texts]

    def guess(self, text: str) -> str:
        return "de" if "ß" in text or " der " in text else "en"


async def main() -> None:
    texts = ["a big dog", "wo ist der Hund", "the street", "Straße"]
    async with httpx.AsyncClient(base_url=URL) as client:
        answers = await asyncio.gather(*(client.post("/", content=text) for text in texts))
    assert [answer.json()["language"] for answer in answers] == ["en", "de", "en", "de"]
    assert {answer.json()["batch"] for answer in answers} == {4}


serve.run(LanguageGuess.bind())
asyncio.run(main())
