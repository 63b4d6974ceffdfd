"""Answers that do not begin, or stop coming: limits besides the one for the whole request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from serve_lite.proxy.options import ProxyOptions


class Watched(Protocol):
    """An answer under watch."""

    @property
    def waits_for_client(self) -> bool:
        """Whether it is the client who is slow: its body has not come, or it does not take the answer."""

    def fell_silent(self, limit_s: float) -> None:
        """The application has said nothing for so long. Nothing more is watched."""


class AnswerWatch:
    """Watches one answer: until its first byte, then from piece to piece.

    One timer, which pieces do not move: it looks again when the limit could first be reached.

    Lifetime: from `__init__` to `stop`, or until it has told that the answer fell silent.
    """

    def __init__(self, answer: Watched, options: ProxyOptions, clock: Callable[[], float]) -> None:
        self._answer = answer
        self._options = options
        self._clock = clock
        self._limit_s = options.first_byte_timeout_s
        self._since = clock()
        self._timer: asyncio.TimerHandle | None = None
        self._wait(self._limit_s)

    def progressed(self, *, is_first: bool) -> None:
        """A piece has come."""
        self._since = self._clock()
        if is_first:
            self.stop()
            self._limit_s = self._options.idle_timeout_s
            self._wait(self._limit_s)

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, seconds: float | None) -> None:
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        limit_s = self._limit_s
        assert limit_s is not None
        if self._answer.waits_for_client:
            self._since = self._clock()
        left_s = self._since + limit_s - self._clock()
        if left_s <= 0:
            self._answer.fell_silent(limit_s)
        else:
            self._wait(left_s)
