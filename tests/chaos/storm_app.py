"""What the storm is about: an ingress with plain, streamed and WebSocket answers, each made of calls to another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from starlette.responses import StreamingResponse

import serve_lite as serve

STREAMED = 15  #: items of a stream
_ITEM_EVERY_S = 0.01

api = FastAPI()


@serve.deployment(num_replicas=2, max_ongoing_requests=20, graceful_shutdown_timeout_s=10)
class Worker:
    """Counts on."""

    def __init__(self, version: str, is_bad: bool) -> None:
        if is_bad:
            raise RuntimeError(f"version {version} cannot be built")
        self._version = version

    async def work(self, n: int) -> int:
        await asyncio.sleep(0.005)
        return n + 1

    async def count(self, n: int) -> AsyncIterator[int]:
        for i in range(STREAMED):
            await asyncio.sleep(_ITEM_EVERY_S)
            yield n + i


@serve.deployment(num_replicas=2, max_ongoing_requests=50, graceful_shutdown_timeout_s=10)
@serve.ingress(api)
class Door:
    """Has the worker do everything."""

    def __init__(self, worker: serve.handle.DeploymentHandle) -> None:
        self._worker = worker

    @api.get("/")
    async def plain(self, n: int) -> int:
        return int(await self._worker.work.remote(n))

    @api.get("/stream")
    async def stream(self, n: int) -> StreamingResponse:
        async def items() -> AsyncIterator[str]:
            async for i in self._worker.count.options(stream=True).remote(n):
                yield f"{i}\n"

        return StreamingResponse(items(), media_type="text/plain")

    @api.post("/add")
    async def add(self, request: Request) -> StreamingResponse:
        """Send back each line of the body, a number, with 1 added by the worker; both are streamed."""

        async def answers() -> AsyncIterator[str]:
            async for line in _lines(request):
                yield f"{await self._worker.work.remote(int(line))}\n"

        return StreamingResponse(answers(), media_type="text/plain")

    @api.post("/last")
    async def last(self, request: Request) -> int:
        """Return the last of the numbers in the body, with 1 added."""
        numbers = [int(line) async for line in _lines(request)]
        return int(await self._worker.work.remote(numbers[-1]))

    @api.websocket("/talk")
    async def talk(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                n = int(await socket.receive_text())
                await socket.send_text(str(await self._worker.work.remote(n)))
        except WebSocketDisconnect:
            pass


async def _lines(request: Request) -> AsyncIterator[bytes]:
    """Give the lines of the body as they come."""
    rest = b""
    async for piece in request.stream():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line


def app(args: dict[str, str]) -> serve.Application:
    """Build a version. `bad` says where it is to fail, if it is to."""
    bad = args.get("bad", "")
    if bad == "import":
        raise ImportError("a version that cannot be imported")
    worker = Worker.options(num_replicas=int(args.get("workers", "2")), max_constructor_retry_count=1)
    return Door.bind(worker.bind(args["version"], bad == "constructor"))
