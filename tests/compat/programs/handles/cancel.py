"""`response.cancel()` ends the work: the handler gets a CancelledError, whoever waits a RequestCancelledError."""

import asyncio

import serve_lite as serve
from serve_lite.exceptions import RequestCancelledError


@serve.deployment
class Search:
    def __init__(self) -> None:
        self.events: asyncio.Queue[str] = asyncio.Queue()

    async def run(self, query: str) -> str:
        await self.events.put(f"searching {query}")
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await self.events.put(f"gave up {query}")
            raise
        return "found"

    async def next_event(self) -> str:
        return await self.events.get()


handle = serve.run(Search.bind())

response = handle.run.remote("needle")
assert handle.next_event.remote().result() == "searching needle"

response.cancel()
assert handle.next_event.remote().result() == "gave up needle"
assert response.cancelled()
try:
    response.result()
except RequestCancelledError as error:
    print(error)
else:
    raise AssertionError("a cancelled response has no result")
