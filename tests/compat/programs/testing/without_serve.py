"""The decorated class is still there, as `func_or_class`: unit tests can use it like any other class."""

import asyncio

import serve_lite as serve


@serve.deployment(num_replicas=4)
class Tip:
    def __init__(self, percent: float) -> None:
        self.percent = percent

    def amount(self, bill: float) -> float:
        return round(bill * self.percent / 100, 2)

    async def split(self, bill: float, guests: int) -> float:
        return round((bill + self.amount(bill)) / guests, 2)


tip = Tip.func_or_class(percent=10)

assert tip.amount(48.0) == 4.8
assert asyncio.run(tip.split(60.0, guests=3)) == 22.0
