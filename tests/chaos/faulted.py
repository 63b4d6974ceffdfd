"""Applications that the tests of faults deploy by import path."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from starlette.requests import Request

import serve_lite as serve


@serve.deployment
class Chatty:
    """Prints more than a disk without room takes, and tells which process it is."""

    def __call__(self, request: Request) -> dict[str, int]:
        print("a line for the log " * 1000)
        return {"pid": os.getpid()}


def chatty(args: dict[str, str]) -> serve.Application:
    return Chatty.options(num_replicas=int(args.get("n", "1"))).bind()


watched = Chatty.options(
    num_replicas=2, health_check_period_s=0.2, health_check_timeout_s=1, graceful_shutdown_timeout_s=1
).bind()


@serve.deployment(health_check_period_s=0.1, health_check_timeout_s=5)
class Clocked:
    """Tells how far its wall clock is ahead of the system's, and how often its health was asked for."""

    def __init__(self) -> None:
        self._checks = 0

    def check_health(self) -> None:
        self._checks += 1

    def __call__(self, request: Request) -> dict[str, float]:
        ahead_s = time.time() - time.clock_gettime(time.CLOCK_REALTIME)
        return {"pid": os.getpid(), "ahead_s": ahead_s, "checks": self._checks}


clocked = Clocked.bind()


@serve.deployment(num_replicas=2, max_ongoing_requests=2)
class Held:
    """Says with a file that a request has entered, and answers when the gate is there."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    async def __call__(self, request: Request) -> str:
        (self._folder / f"entered-{os.getpid()}-{request.query_params['n']}").touch()
        while not (self._folder / "gate").exists():
            await asyncio.sleep(0.01)
        return str(os.getpid())


def held(args: dict[str, str]) -> serve.Application:
    return Held.bind(args["folder"])
