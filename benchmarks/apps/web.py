"""A Starlette application: a word, JSON, large bodies, a stream of small chunks, a WebSocket."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from benchmarks.asks import CHUNK, CHUNKS, TRANSFER_BYTES

LARGE = b"x" * TRANSFER_BYTES


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def json(request: Request) -> Response:
    """Read a JSON document and answer the same: it is parsed once and written once."""
    return JSONResponse(await request.json())


async def upload(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def download(request: Request) -> Response:
    return Response(LARGE, media_type="application/octet-stream")


async def chunks(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(CHUNKS):
            yield CHUNK

    return StreamingResponse(pieces(), media_type="text/plain")


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_bytes(await websocket.receive_bytes())
    except WebSocketDisconnect:
        return


def build() -> Starlette:
    return Starlette(
        routes=[
            Route("/", hello),
            Route("/hello", hello),
            Route("/json", json, methods=["POST"]),
            Route("/upload", upload, methods=["POST"]),
            Route("/download", download),
            Route("/chunks", chunks),
            WebSocketRoute("/echo", echo),
        ]
    )
