"""A plain ASGI function that uses what the specification calls extensions."""

from __future__ import annotations

from typing import Any

import serve_lite as serve
from tests.frameworks import kitchen

TRAILERS = [(b"x-sum", b"11"), (b"content-length", b"99"), (b"x-note", b"done")]


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await refuse_websocket(receive, send)
        return
    if scope["type"] != "http":
        return
    await {"/hints": hints, "/trailers": trailers, "/read": read, "/pass": pass_over}[scope["path"]](
        scope, receive, send
    )


async def answer(send: Any, body: bytes, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def hints(scope: Any, receive: Any, send: Any) -> None:
    assert "http.response.early_hint" in scope["extensions"]
    await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>"]})
    await kitchen.gate("hinted")  # the test has seen them
    await answer(send, b"page")


async def trailers(scope: Any, receive: Any, send: Any) -> None:
    assert "http.response.trailers" in scope["extensions"]
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
    await send({"type": "http.response.body", "body": b"read: " + body, "more_body": False})
    await send({"type": "http.response.trailers", "headers": TRAILERS[:2], "more_trailers": True})
    await send({"type": "http.response.trailers", "headers": TRAILERS[2:]})


async def read(scope: Any, receive: Any, send: Any) -> None:
    kitchen.note("began")
    await kitchen.gate("read")
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await answer(send, b"read %d" % len(body))


async def pass_over(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"not wanted", 413)


async def refuse_websocket(receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    headers = [(b"x-reason", b"late"), (b"content-type", b"text/plain")]
    await send({"type": "websocket.http.response.start", "status": 402, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"pay ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"first"})


served = serve.deployment(serve.ingress(app)()).bind()
