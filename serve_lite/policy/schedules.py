"""Schedules of autoscaling: which bounds hold at a time of day, and until when.

A window opens when its cron expression comes and is over after `duration_s`, or when it is `until` next. Pure: the
wall clock is an argument. `capacity.py` makes bounds of what is open, `controller/scaling.py` asks again in time.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from serve_lite.config import AutoscalingSchedule
from serve_lite.cron import next_time, next_time_of_day

_MOST_S = 2 * 86400.0  #: a window that ends at a time of day is open for less than this


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What the schedules that are in force ask for."""

    lowest: int = 0  #: the fewest replicas; 0 asks for nothing
    highest: int | None = None  #: the most, in the place of `max_replicas`; None leaves that as it is
    holds: tuple[str, ...] = ()  #: the schedules in force, to show
    until: float | None = None  #: wall clock; before this nothing changes. None: never


NO_WINDOW = Window()


def window_at(schedules: Sequence[AutoscalingSchedule], now: float) -> Window:
    """Return what holds at a time. Of several windows the largest minimum and the largest maximum count."""
    if not schedules:
        return NO_WINDOW
    ends = [(schedule, open_until(schedule, now)) for schedule in schedules]
    in_force = [schedule for schedule, end in ends if end is not None]
    changes = [end if end is not None else next_time(s.cron, s.timezone, now) for s, end in ends]
    return Window(
        lowest=max((s.min_replicas or 0 for s in in_force), default=0),
        highest=max((s.max_replicas for s in in_force if s.max_replicas is not None), default=None),
        holds=tuple(f"{s.cron!r} {s.timezone}" for s in in_force),
        until=min((at for at in changes if at is not None), default=None),
    )


def open_until(schedule: AutoscalingSchedule, now: float) -> float | None:
    """Return until when a schedule's window is open at least; None if it is not open.

    It may be open for longer, where another one begins before the first ends.
    """
    began = now - (_MOST_S if schedule.duration_s is None else schedule.duration_s)
    while True:
        start = next_time(schedule.cron, schedule.timezone, began)
        if start is None or start > now:
            return None
        end = _end(schedule, start)
        if end > now:
            return end
        began = end - 1  # those that start before that end with it


def _end(schedule: AutoscalingSchedule, start: float) -> float:
    if schedule.duration_s is not None:
        return start + schedule.duration_s
    assert schedule.until is not None
    return next_time_of_day(schedule.until, schedule.timezone, start)
