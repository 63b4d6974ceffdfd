"""The ingress looks at a request and asks the cheap model first, the expensive one only if need be."""

import os

import httpx
from starlette.requests import Request

import serve_lite as serve
from serve_lite.handle import DeploymentHandle

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
class QuickModel:
    def estimate(self, text: str) -> tuple[str, float]:
        return ("question", 0.95) if text.endswith("?") else ("statement", 0.6)


@serve.deployment
class ThoroughModel:
    def classify(self, text: str) -> str:
        first = text.split()[0].lower()
        return "request" if first in ("please", "send", "give") else "statement"


@serve.deployment
class Cascade:
    def __init__(self, quick: DeploymentHandle, thorough: DeploymentHandle) -> None:
        self.quick, self.thorough = quick, thorough

    async def __call__(self, request: Request) -> dict[str, str]:
        text = request.query_params["text"]
        label, confidence = await self.quick.estimate.remote(text)
        if confidence >= 0.9:
            return {"label": label, "by": "quick"}
        return {"label": await self.thorough.classify.remote(text), "by": "thorough"}


serve.run(Cascade.bind(QuickModel.bind(), ThoroughModel.bind()))

with httpx.Client(base_url=URL) as client:
    assert client.get("/", params={"text": "Is it late?"}).json() == {"label": "question", "by": "quick"}
    assert client.get("/", params={"text": "Please sit."}).json() == {"label": "request", "by": "thorough"}
