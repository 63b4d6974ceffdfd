"""Litestar."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from litestar import Litestar, MediaType, Request, Response, WebSocket, asgi, get, post, websocket
from litestar.background_tasks import BackgroundTask
from litestar.config.compression import CompressionConfig
from litestar.config.cors import CORSConfig
from litestar.datastructures import State, UploadFile
from litestar.enums import RequestEncodingType
from litestar.exceptions import WebSocketDisconnect
from litestar.logging import LoggingConfig
from litestar.params import Body
from litestar.response import File, Redirect, ServerSentEvent

import serve_lite as serve
from tests.frameworks import kitchen
from tests.frameworks.prices import Prices


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    kitchen.note("started")
    app.state.menu = "soup"
    yield
    kitchen.note("stopped")


@get("/state")
async def read_state(state: State) -> dict[str, str]:
    return {"menu": state.menu}


@get("/json", name="get_json", sync_to_thread=True)
def get_json(request: Request[Any, Any, Any]) -> dict[str, Any]:
    return {"query": dict(request.query_params)}


@post("/json")
async def post_json(data: dict[str, Any]) -> dict[str, Any]:
    return data


@post("/form", status_code=200)
async def form(request: Request[Any, Any, Any]) -> dict[str, Any]:
    fields = await request.form()
    return {"name": fields["name"], "tags": fields.getall("tag")}


@post("/upload", status_code=200)
async def upload(
    data: Annotated[dict[str, UploadFile], Body(media_type=RequestEncodingType.MULTI_PART)],
) -> dict[str, Any]:
    file = data["file"]
    content = await file.read()
    return {"name": file.filename, "size": len(content), "end": content[-3:].decode()}


@get("/cookies")
async def cookies(request: Request[Any, Any, Any]) -> Response[dict[str, str]]:
    answer = Response(dict(request.cookies))
    answer.set_cookie("visit", "first", path="/")
    answer.set_cookie("taste", "salty", path="/")
    return answer


@get("/redirect")
async def redirect(request: Request[Any, Any, Any]) -> Redirect:
    return Redirect(request.url_for("get_json"))


@get("/fail")
async def fail() -> None:
    raise RuntimeError(kitchen.SECRET)


@get("/events")
async def events() -> ServerSentEvent:
    async def messages() -> AsyncIterator[str]:
        yield "one"
        await kitchen.gate("events")
        yield "two"

    return ServerSentEvent(messages())


@get("/file")
async def file() -> File:
    return File(kitchen.served_file(), filename="file.bin")


async def wash_up() -> None:
    await kitchen.gate("background")
    kitchen.note("washed up")


@get("/background")
async def background() -> Response[str]:
    return Response("served", background=BackgroundTask(wash_up), media_type=MediaType.TEXT)


@get("/where")
async def where(request: Request[Any, Any, Any]) -> dict[str, Any]:
    assert request.client is not None
    return {
        "client": request.client.host,
        "scheme": request.url.scheme,
        "path": request.url.path,
        "url": request.url_for("get_json"),
    }


@get("/price/{dish:str}")
async def price(dish: str) -> dict[str, Any]:
    prices = serve.get_replica_context().servable_object.args[0]
    answer: dict[str, Any] = await prices.price_of.remote(dish)
    return answer


@get("/large", media_type=MediaType.TEXT)
async def large() -> str:
    return kitchen.LARGE


@asgi("/sub", is_mount=True, copy_scope=True)
async def mounted(scope: Any, receive: Any, send: Any) -> None:
    name = scope["path"].rstrip("/").rpartition("/")[2]
    await Response({"hello": name}).to_asgi_response(app=scope["app"], request=Request(scope))(
        scope, receive, send
    )


@websocket("/talk")
async def talk(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept(subprotocols="chat" if "chat" in socket.scope["subprotocols"] else None)
    try:
        while True:
            message: Any = await socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(detail="", code=message["code"])
            if message.get("bytes") is not None:
                await socket.send_bytes(message["bytes"][::-1])
            elif message["text"] == "bye":
                await socket.close(4001, "said bye")
                return
            else:
                await socket.send_text(message["text"].upper())
    except WebSocketDisconnect as left:
        kitchen.note(f"left with {left.code}")


app = Litestar(
    route_handlers=[
        read_state, get_json, post_json, form, upload, cookies, redirect, fail, events, file, background, where,
        price, large, mounted, talk,
    ],
    lifespan=[lifespan],
    compression_config=CompressionConfig(backend="gzip", minimum_size=1000),
    cors_config=CORSConfig(allow_origins=[kitchen.SITE]),
    logging_config=LoggingConfig(log_exceptions="always"),
)  # fmt: skip

served = serve.deployment(serve.ingress(app)()).bind(Prices.bind())
