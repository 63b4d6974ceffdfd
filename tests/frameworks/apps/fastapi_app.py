"""FastAPI, functions as routes. Also run with an older release."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import fastapi
from fastapi import BackgroundTasks, FastAPI, Form, Request, Response, UploadFile, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel
from starlette.websockets import WebSocketDisconnect

import serve_lite as serve
from tests.frameworks import kitchen


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    kitchen.note("started")
    yield {"menu": "soup"}
    kitchen.note("stopped")


app = FastAPI(lifespan=lifespan)
app.add_middleware(GZipMiddleware, minimum_size=1000)
app.add_middleware(CORSMiddleware, allow_origins=[kitchen.SITE])
sub = FastAPI()


class Order(BaseModel):
    dish: str
    count: int


@app.get("/version")
def version() -> str:
    return fastapi.__version__


@app.get("/state")
async def state(request: Request) -> dict[str, str]:
    return {"menu": request.state.menu}


@app.get("/json")
def get_json(a: str = "", b: str = "") -> dict[str, Any]:  # in a thread
    return {"query": {key: value for key, value in {"a": a, "b": b}.items() if value}}


@app.post("/json", status_code=201)
async def post_json(order: Order) -> Order:
    return order


@app.post("/form")
async def form(name: Annotated[str, Form()], tag: Annotated[list[str], Form()]) -> dict[str, Any]:
    return {"name": name, "tags": tag}


@app.post("/upload")
def upload(file: UploadFile) -> dict[str, Any]:
    data = file.file.read()
    return {"name": file.filename, "size": len(data), "end": data[-3:].decode()}


@app.get("/cookies")
async def cookies(request: Request, response: Response) -> dict[str, str]:
    response.set_cookie("visit", "first", path="/")
    response.set_cookie("taste", "salty", path="/")
    return request.cookies


@app.get("/redirect")
async def redirect(request: Request) -> Response:
    return RedirectResponse(request.url_for("get_json"))


@app.get("/fail")
async def fail() -> None:
    raise RuntimeError(kitchen.SECRET)


@app.get("/events")
async def events() -> Response:
    async def lines() -> AsyncIterator[str]:
        yield "data: one\n\n"
        await kitchen.gate("events")
        yield "data: two\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


@app.get("/file")
async def file() -> Response:
    return FileResponse(kitchen.served_file(), filename="file.bin")


@app.get("/background")
async def background(tasks: BackgroundTasks) -> str:
    def later() -> None:
        kitchen.wait_for_gate("background")
        kitchen.note("washed up")

    tasks.add_task(later)
    return "served"


@app.get("/where")
async def where(request: Request) -> dict[str, Any]:
    assert request.client is not None
    return {
        "client": request.client.host,
        "scheme": request.url.scheme,
        "path": request.url.path,
        "url": str(request.url_for("get_json")),
    }


@app.get("/large")
async def large() -> Response:
    return Response(kitchen.LARGE, media_type="text/plain")


@sub.get("/hello/{name}")
async def mounted(name: str) -> dict[str, str]:
    return {"hello": name}


app.mount("/sub", sub)


@app.websocket("/talk")
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


served = serve.deployment(serve.ingress(app)()).bind()
