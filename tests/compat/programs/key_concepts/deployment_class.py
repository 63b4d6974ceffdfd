"""A class becomes a deployment: its constructor runs once in each replica, its methods answer requests."""

import os

import httpx
from starlette.requests import Request

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
class SpamFilter:
    def __init__(self) -> None:
        self.suspicious = {"prize", "winner", "urgent", "lottery"}

    def score(self, text: str) -> float:
        words = text.lower().split()
        return sum(word in self.suspicious for word in words) / len(words)

    async def __call__(self, request: Request) -> dict:
        mail = await request.json()
        return {"subject": mail["subject"], "spam": self.score(mail["subject"]) > 0.3}


handle = serve.run(SpamFilter.bind())

# Over HTTP, `__call__` gets the request.
answer = httpx.post(URL, json={"subject": "Urgent prize inside"})
assert answer.json() == {"subject": "Urgent prize inside", "spam": True}

# From Python, a handle calls any method with ordinary arguments.
assert handle.score.remote("lunch at noon").result() == 0.0
