"""Two classes may write their routes on one app object; each deployment answers only its own and the common ones."""

import os

import httpx
from fastapi import FastAPI

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"
app = FastAPI()


@app.get("/version")
async def version() -> str:
    return "2"


@serve.deployment
@serve.ingress(app)
class Readers:
    @app.get("/readers")
    async def readers(self) -> list[str]:
        return ["ada", "carl"]


@serve.deployment
@serve.ingress(app)
class Writers:
    @app.get("/writers")
    async def writers(self) -> list[str]:
        return ["jane"]


serve.run(Readers.bind(), name="readers", route_prefix="/r")
serve.run(Writers.bind(), name="writers", route_prefix="/w")

assert httpx.get(f"{URL}/r/readers").json() == ["ada", "carl"]
assert httpx.get(f"{URL}/w/writers").json() == ["jane"]
assert httpx.get(f"{URL}/r/version").json() == httpx.get(f"{URL}/w/version").json() == "2"
assert httpx.get(f"{URL}/r/writers").status_code == httpx.get(f"{URL}/w/readers").status_code == 404
