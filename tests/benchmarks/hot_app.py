"""What the hot path leads to: a handler that does nothing, and one that calls it through a handle."""

from starlette.requests import Request

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@serve.deployment
class Noop:
    async def __call__(self, request: Request) -> str:
        return "hello"

    async def echo(self, word: str) -> str:
        return word


@serve.deployment
class Caller:
    def __init__(self, callee: DeploymentHandle) -> None:
        self._callee = callee

    async def __call__(self, request: Request) -> str:
        return await self._callee.echo.remote("hello")


noop = Noop.bind()
chain = Caller.bind(Noop.options(name="Callee").bind())
