"""Handlers of the app turn the application's own exceptions into answers, wherever they were raised."""

import os

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI()


class OverdrawnError(Exception):
    def __init__(self, missing: int) -> None:
        super().__init__(missing)
        self.missing = missing


@app.exception_handler(OverdrawnError)
async def overdrawn(request: Request, error: OverdrawnError) -> JSONResponse:
    return JSONResponse({"missing": error.missing}, status_code=402)


@serve.deployment
class Ledger:
    def book(self, amount: int) -> int:
        if amount > 100:
            raise OverdrawnError(amount - 100)
        return 100 - amount


@serve.deployment
@serve.ingress(app)
class Bank:
    def __init__(self, ledger) -> None:
        self.ledger = ledger

    @app.post("/pay/{amount}")
    async def pay(self, amount: int) -> int:
        return await self.ledger.book.remote(amount)

    @app.get("/bug")
    async def bug(self) -> None:
        raise KeyError("secret detail")


serve.run(Bank.bind(Ledger.bind()))

assert httpx.post(f"{URL}/pay/30").json() == 70
refused = httpx.post(f"{URL}/pay/130")
assert (refused.status_code, refused.json()) == (402, {"missing": 30})
broken = httpx.get(f"{URL}/bug")
assert (broken.status_code, broken.text) == (500, "Internal Server Error")
