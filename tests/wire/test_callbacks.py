"""Tasks started from callbacks of the loop, also where sniffio is installed and knows of no task."""

from __future__ import annotations

import asyncio
import sys
import types
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from serve_lite.wire.callbacks import start_soon

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["installed", "missing"])
def sniffio(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for the foreign package, which only some environments have; None where it is missing."""
    if request.param == "missing":
        monkeypatch.delitem(sys.modules, "sniffio", raising=False)
        return None
    module = types.ModuleType("sniffio")
    module.current_async_library_cvar = ContextVar("library", default=None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sniffio", module)
    return module


async def test_a_task_runs_and_neither_it_nor_the_callback_keeps_what_sniffio_was_told(sniffio: Any) -> None:
    seen: list[Any] = []

    def told() -> Any:
        return sniffio.current_async_library_cvar.get() if sniffio else None

    async def work(word: str) -> None:
        seen.extend((word, told()))

    class Group:
        """Tells what anyio would have been told when it asked."""

        def start_soon(self, *arguments: Any, **named: Any) -> None:
            seen.append(told())
            group.start_soon(*arguments, **named)

    def callback() -> None:
        start_soon(Group(), work, "worked")  # type: ignore[arg-type]  # the part of a group that is used
        seen.append(told())

    async with anyio.create_task_group() as group:
        asyncio.get_running_loop().call_soon(callback)
        await anyio.sleep(0)  # the callback has its turn, and so the group has its task
        await anyio.sleep(0)
    assert seen == ["asyncio" if sniffio else None, None, "worked", None]
