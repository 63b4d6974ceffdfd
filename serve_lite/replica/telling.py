"""What a replica tells the daemon while it starts or stops: the phase that it is in (`state/phases.py` keeps them)."""

from __future__ import annotations

import asyncio
import time

from serve_lite.schema import Phase
from serve_lite.wire.control import News
from serve_lite.wire.messages import PhaseNews


class PhaseTeller:
    """Tells phases to whoever waits for the end of `init` or `stop`; to nobody without `news`."""

    def __init__(self, news: News | None = None) -> None:
        self._news = news

    async def enter(self, phase: Phase, note: str = "") -> None:
        """Say that a phase begins; returns once that is on its way."""
        if self._news is None:
            return
        self._news.tell(PhaseNews(phase, time.monotonic(), note))
        # User code may hold the loop from now on. One turn of it collects what is to be sent, the next one sends it.
        for _ in range(2):
            await asyncio.sleep(0)
