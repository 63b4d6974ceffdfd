"""A constructor may be `async`, and may start background tasks that live as long as the replica."""

import asyncio

import serve_lite as serve


@serve.deployment
class RateTable:
    async def __init__(self) -> None:
        self.version = 0
        self.refreshed = asyncio.Condition()
        self.rates = await self.load()
        self.refresher = asyncio.create_task(self.refresh())

    async def load(self) -> dict[str, float]:
        await asyncio.sleep(0)  # a database would be asked here
        return {"standard": 0.2, "reduced": 0.07}

    async def refresh(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            async with self.refreshed:
                self.rates = await self.load()
                self.version += 1
                self.refreshed.notify_all()

    async def tax(self, kind: str, price: float) -> float:
        return price * self.rates[kind]

    async def wait_for_version(self, version: int) -> int:
        async with self.refreshed:
            await self.refreshed.wait_for(lambda: self.version >= version)
            return self.version


handle = serve.run(RateTable.bind())
assert handle.tax.remote("standard", 50.0).result() == 10.0
assert handle.wait_for_version.remote(3).result() >= 3
