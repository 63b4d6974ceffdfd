"""An application whose work lasts until a test lets it end, and which counts itself.

Every call of every replica appends to one file, so that a test sees what was started, and how many ran at once.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

from starlette.requests import Request

import serve_lite as serve


class Diary:
    """A file that several processes write lines into, and the gates they wait for."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def note(self, what: str, name: str) -> None:
        with open(self.folder / "diary", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{what} {name} {os.getpid()}\n")

    async def work(self, name: str) -> str:
        """Note the start, wait until the gate of all or of this name is there, note the end."""
        self.note("start", name)
        try:
            while not (self.folder / "open").exists() and not (self.folder / f"open-{name}").exists():
                await asyncio.sleep(0.005)
        finally:
            self.note("end", name)
        return name


@serve.deployment(
    num_replicas=2,
    max_ongoing_requests=2,
    max_queued_requests=4,
    backpressure_config={"status_code": 429, "retry_after_s": 2.5},
)
class Limited:
    """Two replicas that take two requests each; four more may wait."""

    def __init__(self, folder: str) -> None:
        self._diary = Diary(folder)

    async def __call__(self, request: Request) -> str:
        return await self._diary.work(request.query_params["name"])

    async def work(self, name: str) -> str:
        return await self._diary.work(name)


@serve.deployment(max_ongoing_requests=100)
class Front:
    """Calls `Limited` for each of its own requests."""

    def __init__(self, limited: serve.handle.DeploymentHandle) -> None:
        self._limited = limited

    async def __call__(self, request: Request) -> str:
        return await self._limited.work.remote(request.query_params["name"])


@serve.deployment(max_ongoing_requests=100)
class Neighbour:
    """Another application on the same instance."""

    async def __call__(self, request: Request) -> str:
        return "well"


def limited(args: dict[str, str]) -> serve.Application:
    return Limited.bind(args["folder"])


def one_at_a_time(args: dict[str, str]) -> serve.Application:
    return Limited.options(num_replicas=1, max_ongoing_requests=1, max_queued_requests=1).bind(args["folder"])


def composed(args: dict[str, str]) -> serve.Application:
    one = Limited.options(num_replicas=1, max_ongoing_requests=1, max_queued_requests=-1)
    return Front.bind(one.bind(args["folder"]))


neighbour = Neighbour.bind()
