"""Applications of a single deployment: `hello` in two ways, and two ASGI applications as ingress."""

from __future__ import annotations

from typing import Any

from benchmarks.apps.flavour import OPTIONS, serve


@serve.deployment(**{**OPTIONS, "max_ongoing_requests": 1000})
class Noop:
    """Answers `hello` over HTTP and through a handle."""

    async def __call__(self, request: Any) -> str:
        return "hello"

    async def echo(self, value: str) -> str:
        return value


@serve.deployment(**OPTIONS)
class Sync:
    def __call__(self, request: Any) -> str:
        return "hello"


# The ingress applications are built by functions, so that the others are served without importing them.


def fastapi(args: dict[str, str]) -> Any:
    from fastapi import FastAPI

    api = FastAPI()

    @serve.deployment(**OPTIONS)
    @serve.ingress(api)
    class Json:
        @api.get("/")
        async def answer(self) -> dict[str, object]:
            return {"message": "hello", "number": 42}

    return Json.bind()


def web(args: dict[str, str]) -> Any:
    from benchmarks.apps.web import build

    @serve.deployment(**OPTIONS)
    @serve.ingress(build())
    class Web:
        """All of it is in the Starlette application."""

    return Web.bind()


noop = Noop.bind()
sync = Sync.bind()
