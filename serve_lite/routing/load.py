"""What a caller tells of its calls to a deployment whose number of replicas follows the load.

Nothing is counted for it: the router's own numbers are read on a timer, and told when there is anything to tell.
A caller that is idle reads two numbers every few seconds and sends nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_lite.wire.messages import DeploymentLoad


class LoadTeller:
    """Tells one router's load.

    Lifetime: a timer of the running loop, from `follow` with a period to `close`, or to `follow` without one.

    Args:
        read: returns the present load.
        tell: hands it to whoever decides; never blocks, and may lose it.
    """

    def __init__(self, read: Callable[[], DeploymentLoad], tell: Callable[[DeploymentLoad], None]) -> None:
        self._read, self._tell = read, tell
        self._every_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._has_told = False  #: that there is some load; so its end is to be told too
        self._has_called = False  #: that calls wait, since the timer last fired

    def follow(self, every_s: float) -> None:
        """Tell from now on every `every_s` seconds; 0: not any more. Tells at once what there is already.

        To be called again when a listener may have forgotten what it heard.
        """
        if every_s != self._every_s:
            self._every_s = every_s
            self._stop_timer()
            if every_s:
                self._timer = asyncio.get_running_loop().call_later(every_s, self._tick)
        if every_s:
            self._tell_if_any()

    def call_waits(self) -> None:
        """A call found no replica at all: whoever may start one hears it now, not at the next tick."""
        if self._every_s and not self._has_called:
            self._has_called = True
            self._tell_if_any()

    def close(self) -> None:
        """Tell nothing more."""
        self._every_s = 0.0
        self._stop_timer()

    def _tick(self) -> None:
        self._has_called = False
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._tick)
        self._tell_if_any()

    def _tell_if_any(self) -> None:
        load = self._read()
        if not load.is_none or self._has_told:
            self._has_told = not load.is_none
            self._tell(load)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
