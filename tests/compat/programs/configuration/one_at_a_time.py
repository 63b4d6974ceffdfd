"""`max_ongoing_requests=1` gives a replica one request at a time; the others wait their turn."""

import asyncio

import serve_lite as serve


@serve.deployment(max_ongoing_requests=1)
class Printer:
    def __init__(self) -> None:
        self.is_printing = False
        self.pages = 0

    async def print_page(self) -> int:
        assert not self.is_printing, "two jobs on one sheet"
        self.is_printing = True
        await asyncio.sleep(0.002)
        self.is_printing = False
        self.pages += 1
        return self.pages


handle = serve.run(Printer.bind())
jobs = [handle.print_page.remote() for _ in range(20)]
assert sorted(job.result() for job in jobs) == list(range(1, 21))
