"""An event loop in a thread of its own, for parts of serve_lite that share a process with other code."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")
Main = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]

log = logging.getLogger("serve_lite")


class LoopThread:
    """Runs one coroutine on a new loop in a daemon thread.

    Lifetime: `start` returns once the coroutine has called what it was given; the thread ends with the
    coroutine, and what is left on the loop is cancelled then. How the coroutine is told to end is its
    own affair; `join` waits for it.

    Args:
        name: of the thread.
        main: called on the loop with a function that says "ready".
    """

    def __init__(self, name: str, main: Main) -> None:
        self.loop: asyncio.AbstractEventLoop
        self._main = main
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Return once it is ready; raise what it raised before that, as it is.

        Waits as long as the coroutine takes: that may be a user's constructor.
        """
        self._thread.start()
        self._ready.result()

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the loop soon; nothing happens if the loop has ended."""
        try:
            self.loop.call_soon_threadsafe(function, *args)
        except (RuntimeError, AttributeError):  # closed, or not even made
            pass

    def ask(self, work: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T:
        """Run a coroutine on the loop and return its result.

        Raises:
            TimeoutError: it has taken longer than `timeout_s` seconds; it is cancelled then.
        """
        future = asyncio.run_coroutine_threadsafe(work(), self.loop)
        try:
            return future.result(timeout_s)
        finally:
            future.cancel()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the thread; return whether it has come."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                self.loop = runner.get_loop()
                runner.run(self._main(self._tell_ready))
        except (
            BaseException
        ) as error:  # boundary: a thread has no caller; user code may even raise SystemExit
            if not self._ready.done():
                self._ready.set_exception(error)
            else:
                log.error("thread %s ended early", self._thread.name, exc_info=error)
        else:
            if not self._ready.done():
                self._ready.set_exception(RuntimeError(f"{self._thread.name} ended before it was ready"))

    def _tell_ready(self) -> None:
        self._ready.set_result(None)
