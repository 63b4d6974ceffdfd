"""Two models in a row: the ingress asks one deployment, then another, each with replicas of its own."""

import os

import httpx
from starlette.requests import Request

import serve_lite as serve
from serve_lite.handle import DeploymentHandle

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment(num_replicas=2)
class Translator:
    def __init__(self) -> None:
        self.words = {"bonjour": "hello", "le": "the", "monde": "world"}

    def translate(self, text: str) -> str:
        return " ".join(self.words.get(word, word) for word in text.split())


@serve.deployment
class Headline:
    def shout(self, text: str) -> str:
        return text.upper() + "!"


@serve.deployment
class Newsroom:
    def __init__(self, translator: DeploymentHandle, headline: DeploymentHandle) -> None:
        self.translator, self.headline = translator, headline

    async def __call__(self, request: Request) -> str:
        text = (await request.body()).decode()
        translated = await self.translator.translate.remote(text)
        return await self.headline.shout.remote(translated)


serve.run(Newsroom.bind(Translator.bind(), Headline.bind()))
assert httpx.post(URL, content="bonjour le monde").text == "HELLO THE WORLD!"
