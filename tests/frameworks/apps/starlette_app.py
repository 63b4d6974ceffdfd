"""Starlette."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import serve_lite as serve
from tests.frameworks import kitchen


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    kitchen.note("started")
    yield {"menu": "soup"}
    kitchen.note("stopped")


async def state(request: Request) -> Response:
    return JSONResponse({"menu": request.state.menu})


async def get_json(request: Request) -> Response:
    return JSONResponse({"query": dict(request.query_params)})


async def post_json(request: Request) -> Response:
    return JSONResponse(await request.json(), status_code=201)


async def form(request: Request) -> Response:
    async with request.form() as fields:
        return JSONResponse({"name": fields["name"], "tags": fields.getlist("tag")})


async def upload(request: Request) -> Response:
    async with request.form() as fields:
        file: Any = fields["file"]
        data = await file.read()
        return JSONResponse({"name": file.filename, "size": len(data), "end": data[-3:].decode()})


async def cookies(request: Request) -> Response:
    answer = JSONResponse(request.cookies)
    answer.set_cookie("visit", "first", path="/")
    answer.set_cookie("taste", "salty", path="/")
    return answer


async def redirect(request: Request) -> Response:
    return RedirectResponse(request.url_for("get_json"))


async def fail(request: Request) -> Response:
    raise RuntimeError(kitchen.SECRET)


async def events(request: Request) -> Response:
    async def lines() -> AsyncIterator[str]:
        yield "data: one\n\n"
        await kitchen.gate("events")
        yield "data: two\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


async def file(request: Request) -> Response:
    return FileResponse(kitchen.served_file(), filename="file.bin")


async def background(request: Request) -> Response:
    async def later() -> None:
        await kitchen.gate("background")
        kitchen.note("washed up")

    return PlainTextResponse("served", background=BackgroundTask(later))


async def where(request: Request) -> Response:
    assert request.client is not None
    return JSONResponse(
        {
            "client": request.client.host,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "url": str(request.url_for("get_json")),
        }
    )


async def large(request: Request) -> Response:
    return PlainTextResponse(kitchen.LARGE)


async def mounted(request: Request) -> Response:
    return JSONResponse({"hello": request.path_params["name"]})


async def talk(socket: WebSocket) -> None:
    await socket.accept(subprotocol="chat" if "chat" in socket.scope["subprotocols"] else None)
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"])
            if message.get("bytes") is not None:
                await socket.send_bytes(message["bytes"][::-1])
            elif message["text"] == "bye":
                await socket.close(4001, "said bye")
                return
            else:
                await socket.send_text(message["text"].upper())
    except WebSocketDisconnect as left:
        kitchen.note(f"left with {left.code}")


app = Starlette(
    lifespan=lifespan,
    middleware=[
        Middleware(CORSMiddleware, allow_origins=[kitchen.SITE]),
        Middleware(GZipMiddleware, minimum_size=1000),
    ],
    routes=[
        Route("/state", state),
        Route("/json", get_json),
        Route("/json", post_json, methods=["POST"]),
        Route("/form", form, methods=["POST"]),
        Route("/upload", upload, methods=["POST"]),
        Route("/cookies", cookies),
        Route("/redirect", redirect),
        Route("/fail", fail),
        Route("/events", events),
        Route("/file", file),
        Route("/background", background),
        Route("/where", where),
        Route("/large", large),
        WebSocketRoute("/talk", talk),
        Mount("/sub", Starlette(routes=[Route("/hello/{name}", mounted)])),
    ],
)

served = serve.deployment(serve.ingress(app)()).bind()
narrow = serve.deployment(serve.ingress(app)(), max_ongoing_requests=1).bind()
