"""Applications that the tests of processes deploy by import path."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from starlette.requests import Request

import serve_lite as serve


@serve.deployment
class Who:
    """Tells which process it is, and what it sees of its environment."""

    def __call__(self, request: Request) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "cwd": os.getcwd(),
            "colour": os.environ.get("COLOUR", ""),
            "early": os.environ.get("LD_TEST", ""),
            "path": sys.path[0],
            "session": os.getsid(0),
            "keys": sorted(key for key in os.environ if key.startswith(("LISTEN_", "SERVE_LITE_INSTANCE"))),
        }


@serve.deployment
class Held:
    """Enters, says so with a file, and answers when the gate file is there."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    async def __call__(self, request: Request) -> str:
        (self._folder / f"entered-{os.getpid()}").touch()
        while not (self._folder / "gate").exists():
            await asyncio.sleep(0.01)
        return str(os.getpid())


@serve.deployment
class Doomed:
    """Dies inside a C library, so to speak."""

    def __call__(self, request: Request) -> str:
        print("last words of python", flush=True)
        os.write(2, b"last words of C\n")
        os.abort()


@serve.deployment
class FailsToBuild:
    def __init__(self) -> None:
        raise RuntimeError("no model here")

    def __call__(self, request: Request) -> str:
        return "never"


who = Who.bind()
two = Who.options(name="Two", num_replicas=2).bind()
doomed = Doomed.bind()
fails = FailsToBuild.options(max_constructor_retry_count=1).bind()
not_bound = Who
number = 7


def held(args: dict[str, str]) -> serve.Application:
    return Held.bind(args["folder"])


def copies(args: dict[str, str]) -> serve.Application:
    return Who.options(num_replicas=int(args["n"])).bind()
