"""In async code a response is awaited; many of them at once with `asyncio.gather`."""

import asyncio

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@serve.deployment
class Squares:
    async def __call__(self, number: int) -> int:
        await asyncio.sleep(0.01)
        return number * number


async def main(handle: DeploymentHandle) -> None:
    assert await handle.remote(12) == 144

    responses = [handle.remote(number) for number in range(100)]  # all of them run now
    assert await asyncio.gather(*responses) == [number * number for number in range(100)]

    response = handle.remote(5)
    assert await response == 25
    assert await response == 25  # as often as one likes


asyncio.run(main(serve.run(Squares.bind())))
