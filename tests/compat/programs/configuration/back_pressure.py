"""`max_queued_requests` limits how many calls wait; one more is refused at once instead of piling up."""

import asyncio

import serve_lite as serve
from serve_lite.exceptions import BackPressureError


@serve.deployment
class Bell:
    def __init__(self) -> None:
        self.somebody_waits = asyncio.Event()
        self.has_rung = asyncio.Event()

    async def wait(self) -> None:
        self.somebody_waits.set()
        await self.has_rung.wait()

    async def first_waits(self) -> None:
        await self.somebody_waits.wait()

    async def ring(self) -> None:
        self.has_rung.set()


@serve.deployment(max_ongoing_requests=1, max_queued_requests=2)
class Counter:
    def __init__(self, bell) -> None:
        self.bell = bell

    async def attend(self, customer: str) -> str:
        await self.bell.wait.remote()
        return f"{customer} is served"


counter = serve.run(Counter.bind(Bell.bind()), name="shop")
bell = serve.get_deployment_handle("Bell", "shop")

at_the_counter = counter.attend.remote("Ann")
bell.first_waits.remote().result()
in_the_queue = [counter.attend.remote(name) for name in ("Bob", "Cem")]

try:
    counter.attend.remote("Dora").result()
except BackPressureError as error:
    print(error)
else:
    raise AssertionError("the queue is full")

bell.ring.remote().result()
served = [response.result() for response in (at_the_counter, *in_the_queue)]
assert served == ["Ann is served", "Bob is served", "Cem is served"]
