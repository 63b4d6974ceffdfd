"""What user code raised, made fit to be raised in every task that waits for it."""

from __future__ import annotations

import asyncio
import traceback
from types import TracebackType
from typing import NoReturn

from serve_lite.exceptions import RayServeException, RequestCancelledError


class Failure:
    """An exception that several tasks raise, each as if it were the only one.

    All raise the same object. Each begins with the traceback that it had here: without that, every raise would
    add its own frames to it.

    Args:
        error: what user code raised. One that would do something else in another task is replaced, with
            `error` as its cause: SystemExit and KeyboardInterrupt would end the loop and with it all other
            requests, CancelledError would pass for a cancellation of the task that raises it, and
            StopIteration and GeneratorExit for the end of a generator.
        what: what failed, as the subject of a sentence.
    """

    __slots__ = ("_traceback", "error")

    def __init__(self, error: BaseException, what: str) -> None:
        self.error = _ordinary(error, what)
        self._traceback = _without_earlier_raises(self.error.__traceback__)

    def throw(self) -> NoReturn:
        """Raise the exception."""
        raise self.error.with_traceback(self._traceback)


def _ordinary(error: BaseException, what: str) -> Exception:
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    if isinstance(error, asyncio.CancelledError):
        replacement: Exception = RequestCancelledError()
    else:
        text = "".join(traceback.format_exception_only(error)).strip()  # `str` of a user's class may raise
        replacement = RayServeException(f"{what} raised {text}")
    replacement.__cause__ = error
    return replacement


def _without_earlier_raises(found: TracebackType | None) -> TracebackType | None:
    """Return the traceback without what an earlier `throw` had left, if user code raises one object again."""
    steps = []
    step = found
    while step is not None and step.tb_frame.f_code is not Failure.throw.__code__:
        steps.append(step)
        step = step.tb_next
    if step is None:
        return found
    kept: TracebackType | None = None
    for step in reversed(steps):
        kept = TracebackType(kept, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return kept
