"""Clients that take nothing of what was written to them. Pure: time and sizes are arguments."""

from __future__ import annotations


class WriteWatch:
    """Tells whether nothing of what was written has gone out for as long as a client may take.

    Looked at now and then; there is no timer and nothing to count for each write.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._unsent_bytes = 0  #: when last looked
        self._since = 0.0

    def progressed(self) -> None:
        """Much of it has gone out."""
        self._unsent_bytes = 0

    def is_stalled(self, unsent_bytes: int, now: float, *, may_grow: bool) -> bool:
        """Look at how much is unsent.

        Args:
            may_grow: more may have been written since the last look, so that an equal size says nothing.
        """
        if not unsent_bytes or may_grow or unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self._since = unsent_bytes, now
            return False
        return now - self._since >= self._timeout_s
