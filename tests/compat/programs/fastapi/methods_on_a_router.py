"""An APIRouter can itself be the ingress, with the methods of the class as its routes."""

import os

import httpx
from fastapi import APIRouter

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
router = APIRouter(prefix="/tickets")


@serve.deployment
@serve.ingress(router)
class Tickets:
    def __init__(self) -> None:
        self.sold = 0

    @router.post("/")
    async def sell(self, number: int = 1) -> dict[str, int]:
        self.sold += number
        return {"sold": self.sold}


serve.run(Tickets.bind())

assert httpx.post(f"{URL}/tickets/").json() == {"sold": 1}
assert httpx.post(f"{URL}/tickets/?number=3").json() == {"sold": 4}
