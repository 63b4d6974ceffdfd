"""Any ASGI app can be the ingress; here a Starlette one, with a mounted part."""

import os

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route

import serve_lite as serve

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


async def home(request: Request) -> PlainTextResponse:
    return PlainTextResponse("cellar")


async def wine(request: Request) -> JSONResponse:
    # The deployment's instance, for what the constructor made.
    cellar = serve.get_replica_context().servable_object
    return JSONResponse(cellar.bottles[request.path_params["name"]])


app = Starlette(routes=[Route("/", home), Mount("/wines", routes=[Route("/{name}", wine)])])


@serve.deployment
@serve.ingress(app)
class Cellar:
    def __init__(self) -> None:
        self.bottles = {"merlot": {"year": 2019, "left": 3}}


serve.run(Cellar.bind())

assert httpx.get(URL).text == "cellar"
assert httpx.get(f"{URL}/wines/merlot").json() == {"year": 2019, "left": 3}
