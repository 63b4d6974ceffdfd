"""The applications as plain ASGI, for servers without deployments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

HEADERS = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"5")]


async def noop(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `hello` to everything."""
    assert scope["type"] == "http", "started with --lifespan auto: other scopes are refused by raising"
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"hello"})


def __getattr__(name: str) -> Any:
    """Build an application with a framework only where it is served; its import is part of that start."""
    if name == "web":
        from benchmarks.apps.web import build

        return build()
    if name != "fastapi":
        raise AttributeError(name)
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/")
    async def answer() -> dict[str, object]:
        return {"message": "hello", "number": 42}

    return app
