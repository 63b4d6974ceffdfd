"""A text generator behind an ingress: its words travel through both deployments to the client as they are made."""

import os

import httpx
from starlette.requests import Request
from starlette.responses import StreamingResponse

import serve_lite as serve
from serve_lite.handle import DeploymentHandle

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
class Writer:
    def __init__(self) -> None:
        self.follows = {"once": "upon", "upon": "a", "a": "time", "time": "."}

    async def write(self, word: str):
        while word in self.follows:
            word = self.follows[word]
            yield word


@serve.deployment
class Editor:
    def __init__(self, writer: DeploymentHandle) -> None:
        self.writer = writer.options(stream=True)

    async def capitals(self, start: str):
        async for word in self.writer.write.remote(start):
            yield word.upper() + "\n"

    async def __call__(self, request: Request) -> StreamingResponse:
        return StreamingResponse(self.capitals(request.query_params["start"]))


serve.run(Editor.bind(Writer.bind()))

with httpx.stream("GET", URL, params={"start": "once"}) as answer:
    assert list(answer.iter_lines()) == ["UPON", "A", "TIME", "."]
