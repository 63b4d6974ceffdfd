"""Waiting for what an instance says, and for what its keeper does."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import psutil

from tests.instances import DEADLINE_S, Instance, is_running

T = TypeVar("T")


async def eventually(ask: Callable[[], Awaitable[T]], what: str, *, deadline_s: float = DEADLINE_S) -> T:
    """Return the first true answer; fail the test if none comes."""
    give_up_at = time.monotonic() + deadline_s
    while not (value := await ask()):
        assert time.monotonic() < give_up_at, f"in {deadline_s} s it did not come true that {what}"
        await anyio.sleep(0.02)
    return value


class Attempts:
    """Counts the daemons that a keeper starts and that end."""

    def __init__(self, instance: Instance) -> None:
        self._keeper = psutil.Process(instance.keeper_pid)
        self._seen: set[int] = set()

    def ended(self) -> int:
        """Return how many of those seen so far have ended."""
        self._seen.update(child.pid for child in self._keeper.children() if _is_daemon(child))
        return sum(not is_running(pid) for pid in self._seen)


def _is_daemon(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return command.startswith("serve-lite: daemon") or "serve_lite.daemon.entry" in command
