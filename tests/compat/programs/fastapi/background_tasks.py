"""A background task runs in the replica after the answer was sent."""

import asyncio
import os

import httpx
from fastapi import BackgroundTasks, FastAPI

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI()


@serve.deployment
@serve.ingress(app)
class Newsletter:
    def __init__(self) -> None:
        self.sent: asyncio.Queue[str] = asyncio.Queue()

    @app.post("/subscribe")
    async def subscribe(self, address: str, background: BackgroundTasks) -> str:
        background.add_task(self.welcome, address)
        return "thank you"

    async def welcome(self, address: str) -> None:
        await self.sent.put(f"welcome, {address}")

    async def next_mail(self) -> str:
        return await self.sent.get()


handle = serve.run(Newsletter.bind())

assert httpx.post(f"{URL}/subscribe", params={"address": "ann@example.org"}).json() == "thank you"
assert handle.next_mail.remote().result() == "welcome, ann@example.org"
