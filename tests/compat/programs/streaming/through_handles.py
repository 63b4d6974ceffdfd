"""`options(stream=True)` turns a generator method into something to iterate over, in sync and in async code."""

import asyncio

import serve_lite as serve
from serve_lite.handle import DeploymentHandle


@serve.deployment
class Dice:
    def rolls(self, seed: int, number: int):
        for _ in range(number):
            seed = (seed * 1103515245 + 12345) % 2**31
            yield seed % 6 + 1

    async def letters(self, word: str):
        for letter in word:
            await asyncio.sleep(0)
            yield letter


async def read(handle: DeploymentHandle) -> list[str]:
    return [letter async for letter in handle.letters.remote("stream")]


handle = serve.run(Dice.bind()).options(stream=True)

rolls = handle.rolls.remote(seed=7, number=1000)
assert 1 <= next(rolls) <= 6
assert sum(1 for _ in rolls) == 999

assert asyncio.run(read(handle)) == list("stream")
