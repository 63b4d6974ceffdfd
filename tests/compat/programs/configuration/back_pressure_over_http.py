"""Over HTTP a refused request gets 503 or 429, with a `Retry-After` if the deployment says when to come back."""

import asyncio
import os

import httpx

import serve_lite as serve
from serve_lite.config import BackpressureConfig

URL = f"http://127.0.0.1:{os.environ.get('SERVE_LITE_HTTP_PORT', 8000)}"


@serve.deployment
class Gate:
    def __init__(self) -> None:
        self.somebody_waits = asyncio.Event()
        self.is_open = asyncio.Event()

    async def wait(self) -> None:
        self.somebody_waits.set()
        await self.is_open.wait()

    async def first_waits(self) -> None:
        await self.somebody_waits.wait()

    async def open(self) -> None:
        self.is_open.set()


@serve.deployment(
    max_ongoing_requests=1,
    max_queued_requests=1,
    backpressure_config=BackpressureConfig(status_code=429, retry_after_s=2.5),
)
class Ferry:
    def __init__(self, gate) -> None:
        self.gate = gate

    async def __call__(self) -> str:
        await self.gate.wait.remote()
        return "across"


async def main() -> None:
    gate = serve.get_deployment_handle("Gate", "ferry")
    async with httpx.AsyncClient(base_url=URL) as client:
        first = asyncio.create_task(client.get("/"))
        await gate.first_waits.remote()

        others = {asyncio.create_task(client.get("/")) for _ in range(4)}  # one waits, three are refused
        waiting = others
        while len(waiting) > 1:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for answer in (task.result() for task in done):
                assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")

        await gate.open.remote()
        assert [(await task).text for task in (first, *waiting)] == ["across", "across"]


serve.run(Ferry.bind(Gate.bind()), name="ferry")
asyncio.run(main())
