"""`result(timeout_s=...)` stops waiting, not the work: the same response can be asked again."""

import asyncio

import serve_lite as serve


@serve.deployment
class Kiln:
    def __init__(self) -> None:
        self.fired = asyncio.Event()

    async def fire(self, piece: str) -> str:
        await self.fired.wait()
        return f"{piece}, glazed"

    async def open_door(self) -> None:
        self.fired.set()


handle = serve.run(Kiln.bind())
bowl = handle.fire.remote("bowl")

for timeout_s in (0, 0.05):  # zero only looks
    try:
        bowl.result(timeout_s=timeout_s)
    except TimeoutError:
        continue
    raise AssertionError("the kiln is still closed")

handle.open_door.remote().result()
assert bowl.result(timeout_s=30) == "bowl, glazed"
