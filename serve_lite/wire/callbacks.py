"""Starting tasks from callbacks of the loop: protocols and signal handlers, around which no task runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from typing import Any

from anyio.abc import TaskGroup


def start_soon(group: TaskGroup, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
    """`group.start_soon`, for code that may run outside any task.

    anyio asks sniffio, where that is installed (older httpx and trio bring it), which loop this is; and sniffio,
    unless told, knows it only inside tasks.
    """
    sniffio = sys.modules.get("sniffio")
    if sniffio is None:
        group.start_soon(function, *args)
        return
    told = sniffio.current_async_library_cvar

    async def run() -> None:
        told.set(None)  # inside the task sniffio sees for itself, and threads shall not inherit what was said
        await function(*args)

    token = told.set("asyncio")
    try:
        group.start_soon(run, name=getattr(function, "__qualname__", None))
    finally:
        told.reset(token)
