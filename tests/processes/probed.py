"""Applications that the tests of probes deploy by import path: each misbehaves when it is asked to."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

from starlette.requests import Request

import serve_lite as serve


class Behaviour:
    """Does to its loop what the query says; `folder` has a file for each request that entered."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._lock = threading.Lock()
        self._gate = asyncio.Event()

    async def __call__(self, request: Request) -> dict[str, Any]:
        what, name = request.query_params.get("what", ""), request.query_params.get("name", "")
        if name:
            with open(self._folder / name, "a") as file:
                file.write(f"{os.getpid()}\n")
        if what == "sleep":
            self._until_opened(lambda: time.sleep(0.05))
        elif what == "spin":
            self._until_opened(lambda: None)
        elif what == "lock":
            self._lock.acquire()
            self._lock.acquire()
        elif what == "async":
            await self._gate.wait()
        return {"pid": os.getpid()}

    def _until_opened(self, wait: Any) -> None:
        """Block the loop, in one long call, until the test says that it is enough."""
        while not (self._folder / "gate").exists():
            wait()


@serve.deployment
class Misbehaves(Behaviour):
    """Misbehaves, and has no health check."""


@serve.deployment(health_check_period_s=0.1, health_check_timeout_s=0.3)
class Checked(Behaviour):
    """The same, with a health check."""

    async def check_health(self) -> None:
        """All is well, if this is asked at all."""


def app(args: dict[str, Any]) -> serve.Application:
    """Build `Misbehaves` with these options."""
    folder = args.pop("folder")
    return Misbehaves.options(**args).bind(folder)


def checked(args: dict[str, Any]) -> serve.Application:
    """Build `Checked` with these options."""
    folder = args.pop("folder")
    return Checked.options(**args).bind(folder)
