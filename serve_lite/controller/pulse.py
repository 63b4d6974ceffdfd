"""How the controller's loop fares: when it ran, how long a pass took, how long it slept.

Counted by the loop itself, a few additions a pass. `admin/health.py` shows it.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterable

import msgspec

#: Passes that durations are told of.
WINDOW = 1000


class DurationStats(msgspec.Struct, frozen=True, kw_only=True):
    """Durations of the last passes in seconds; all 0 before the first."""

    mean: float = 0.0
    std: float = 0.0
    min: float = 0.0
    max: float = 0.0


class PulseView(msgspec.Struct, frozen=True, kw_only=True):
    """The loop as it stands. Times are those of the clock that `Pulse` was given."""

    started_at: float
    now: float
    last_pass_at: float | None  #: None before the first
    passes: int
    pass_duration_s: DurationStats
    passes_per_s: float  #: since the start
    last_sleep_s: float
    expected_sleep_s: float | None  #: None: until something happens


class Pulse:
    """What the loop tells of itself. Starts with the controller."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started_at = self._pass_began = self._sleep_began = clock()
        self._last_pass_at: float | None = None
        self._passes = 0
        self._durations: deque[float] = deque(maxlen=WINDOW)
        self._last_sleep_s = 0.0
        self._expected_sleep_s: float | None = 0.0
        self._wakes_at: float | None = self._started_at

    def falls_asleep(self, until: float | None) -> None:
        """The loop waits for an event, until a time or for ever."""
        self._sleep_began = self._clock()
        self._wakes_at = until

    def begins_pass(self) -> None:
        """The loop has woken."""
        self._pass_began = self._clock()
        self._last_sleep_s = self._pass_began - self._sleep_began
        self._expected_sleep_s = (
            None if self._wakes_at is None else max(0.0, self._wakes_at - self._sleep_began)
        )

    def ends_pass(self) -> None:
        """A pass is done, or has failed."""
        self._last_pass_at = self._clock()
        self._passes += 1
        self._durations.append(self._last_pass_at - self._pass_began)

    def view(self) -> PulseView:
        """Return how things stand."""
        now = self._clock()
        age_s = now - self._started_at
        return PulseView(
            started_at=self._started_at,
            now=now,
            last_pass_at=self._last_pass_at,
            passes=self._passes,
            pass_duration_s=stats_of(self._durations),
            passes_per_s=self._passes / age_s if age_s > 0 else 0.0,
            last_sleep_s=self._last_sleep_s,
            expected_sleep_s=self._expected_sleep_s,
        )


def stats_of(durations: Iterable[float]) -> DurationStats:
    """Return mean, standard deviation (of the population), least and most of some durations."""
    known = list(durations)
    if not known:
        return DurationStats()
    return DurationStats(
        mean=statistics.fmean(known), std=statistics.pstdev(known), min=min(known), max=max(known)
    )
