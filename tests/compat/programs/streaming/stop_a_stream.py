"""A stream that is no longer wanted is cancelled; the generator on the other side ends."""

import asyncio

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@serve.deployment
class Pi:
    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def approximations(self):
        total, sign, divisor = 0.0, 1.0, 1.0
        try:
            while True:
                total += sign * 4 / divisor
                sign, divisor = -sign, divisor + 2
                yield total
                await asyncio.sleep(0)
        finally:
            self.ended.set()

    async def wait_for_end(self) -> bool:
        return await self.ended.wait()


async def main(handle: DeploymentHandle) -> None:
    numbers = handle.options(stream=True).approximations.remote()
    async for number in numbers:
        if abs(number - 3.14159) < 0.005:
            numbers.cancel()
            break
    assert await handle.wait_for_end.remote()


asyncio.run(main(serve.run(Pi.bind())))
