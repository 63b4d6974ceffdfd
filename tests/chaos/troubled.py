"""Applications in trouble of every kind. Each leaves a file `there` when its trouble has begun and ends with `gate`."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from starlette.requests import Request

import serve_lite as serve


def be_in_trouble(folder: str) -> None:
    """Say so, and return when the test ends it. Blocks."""
    Path(folder, "there").touch()
    while not Path(folder, "gate").exists():
        time.sleep(0.01)


@serve.deployment
class Waits:
    """A constructor that takes long."""

    def __init__(self, folder: str) -> None:
        be_in_trouble(folder)

    def __call__(self, request: Request) -> str:
        return "at last"


@serve.deployment
class Spins:
    """A constructor that keeps a core busy."""

    def __init__(self, folder: str) -> None:
        Path(folder, "there").touch()
        while not Path(folder, "gate").exists():
            sum(range(10_000))

    def __call__(self, request: Request) -> str:
        return "at last"


@serve.deployment
class Crashes:
    """Dies in its constructor, every time, once it has run once."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        if Path(folder, "crash").exists():
            with open(Path(folder, "there"), "a") as file:
                file.write("x")
            os.abort()

    def __call__(self, request: Request) -> str:
        Path(self._folder, "crash").touch()
        os.abort()


@serve.deployment(max_ongoing_requests=1, max_queued_requests=4)
class Full:
    """Works on one request for ever."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    async def __call__(self, request: Request) -> str:
        (self._folder / "there").touch()
        while not (self._folder / "gate").exists():
            await asyncio.sleep(0.01)
        return "at last"


@serve.deployment
class Blocks:
    """Blocks its event loop."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    async def __call__(self, request: Request) -> str:
        be_in_trouble(self._folder)
        return "at last"


def app(args: dict[str, str]) -> serve.Application:
    """Build the application with the trouble `args["what"]`."""
    what, folder = args["what"], args["folder"]
    if what == "Eats":  # memory, while it is imported
        eaten = bytearray(256 * 2**20)
        eaten[::4096] = b"x" * len(eaten[::4096])
        be_in_trouble(folder)
        what = "Blocks"
    return globals()[what].bind(folder)
