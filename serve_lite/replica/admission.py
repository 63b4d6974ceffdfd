"""Which calls a replica accepts: strictly at most `limit` at once, none while it is not ready or stops.

Nothing is queued here. A refused caller keeps its call, and is told when there is room again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from serve_lite.wire.calls import CalleeTable
from serve_lite.wire.messages import RejectReason


class Admission:
    """Counts ongoing requests. `ongoing` is what callers are told as this replica's load."""

    def __init__(self) -> None:
        self.ongoing = 0
        self.limit = 0
        self.ready = False
        self.draining = False
        self.on_idle: Callable[[], None] | None = None
        self._waiting: deque[CalleeTable] = deque()

    def refusal(self) -> RejectReason | None:
        """Why a new call may not enter now, or None."""
        if self.draining:
            return RejectReason.DRAINING
        if self.ongoing >= self.limit:
            return RejectReason.FULL if self.ready else RejectReason.NOT_READY
        return None

    def refused_full(self, caller: CalleeTable) -> None:
        """Remember to tell this caller when there is room."""
        if not caller.wants_room:
            caller.wants_room = True
            self._waiting.append(caller)

    def enter(self) -> None:
        """Count one call in; the caller has asked `refusal`."""
        self.ongoing += 1

    def leave(self) -> None:
        """Count one call out, once its work has really ended, and before it is answered."""
        self.ongoing -= 1
        if self._waiting:
            self.offer_room()
        if self.ongoing == 0 and self.on_idle is not None:
            self.on_idle()

    def offer_room(self) -> None:
        """Offer room to the caller that waits longest; one that does not want it passes it on."""
        while self._waiting and self.ongoing < self.limit and not self.draining:
            caller = self._waiting.popleft()
            if caller.wants_room:
                caller.offer_room()
                return

    def forget(self, caller: CalleeTable) -> None:
        """This caller is gone."""
        caller.wants_room = False

    def set_limit(self, limit: int) -> None:
        """Change the limit; calls above a lowered one run to their end."""
        self.limit = limit
        self.offer_room()
