"""Events on their way to the controller's loop."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel

from serve_lite.state import events as ev


class Inbox:
    """Collects events until the loop asks for them. One reader."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: list[ev.Event] = []
        self._is_woken = False
        self._arrived = anyio.Event()

    def post(self, event: ev.Event) -> None:
        """Put an event. Never blocks."""
        self._events.append(event)
        self._arrived.set()

    def wake(self) -> None:
        """Have the loop look again without an event."""
        self._is_woken = True
        self._arrived.set()

    async def collect(self, until: float | None) -> list[ev.Event]:
        """Return all events that came, waiting for one until `until`, or for ever."""
        if not self._events and not self._is_woken:
            delay_s = max(0.0, until - self._clock()) if until is not None else float("inf")
            with anyio.move_on_after(delay_s):
                await self._arrived.wait()
        else:
            await anyio.lowlevel.checkpoint()  # a loop that always has work must still let others run
        events, self._events = self._events, []
        self._is_woken = False
        self._arrived = anyio.Event()
        return events
