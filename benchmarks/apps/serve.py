"""The two applications as deployments. One file for Ray Serve and for us: only the import differs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

OPTIONS: dict[str, Any]
if not TYPE_CHECKING and os.environ["BENCHMARK_SERVE"] == "ray":
    from ray import serve

    OPTIONS = {"max_ongoing_requests": 100, "ray_actor_options": {"num_cpus": 0}}
else:
    import serve_lite as serve

    OPTIONS = {"max_ongoing_requests": 100}


@serve.deployment(**OPTIONS)
class Noop:
    """Answers `hello` over HTTP and through a handle."""

    async def __call__(self, request: Any) -> str:
        return "hello"

    async def echo(self, value: str) -> str:
        return value


def fastapi(args: dict[str, str]) -> Any:
    """Build the FastAPI application; a function, so that `Noop` is served without importing FastAPI."""
    from fastapi import FastAPI

    api = FastAPI()

    @serve.deployment(**OPTIONS)
    @serve.ingress(api)
    class Json:
        @api.get("/")
        async def answer(self) -> dict[str, object]:
            return {"message": "hello", "number": 42}

    return Json.bind()


noop = Noop.bind()
