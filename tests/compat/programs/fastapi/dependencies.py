"""FastAPI's dependencies work as usual: nested ones, and those that clean up after the request."""

import asyncio
import os
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI, Header, HTTPException

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI()


def member(authorization: Annotated[str, Header()]) -> str:
    names = {"Bearer k1": "ann", "Bearer k2": "bob"}
    if authorization not in names:
        raise HTTPException(401, "unknown key")
    return names[authorization]


async def locker(name: Annotated[str, Depends(member)]):
    club = serve.get_replica_context().servable_object
    await club.events.put(f"open {name}")
    yield f"locker of {name}"
    await club.events.put(f"lock {name}")


@serve.deployment
@serve.ingress(app)
class Club:
    def __init__(self) -> None:
        self.events: asyncio.Queue[str] = asyncio.Queue()

    @app.get("/mine")
    async def mine(self, place: Annotated[str, Depends(locker)]) -> str:
        return place

    async def next_event(self) -> str:
        return await self.events.get()


handle = serve.run(Club.bind())

with httpx.Client(base_url=URL) as client:
    assert client.get("/mine", headers={"authorization": "Bearer nope"}).status_code == 401
    for key, name in (("k1", "ann"), ("k2", "bob")):
        answer = client.get("/mine", headers={"authorization": f"Bearer {key}"})
        assert answer.json() == f"locker of {name}"
        assert handle.next_event.remote().result() == f"open {name}"
        assert handle.next_event.remote().result() == f"lock {name}"
