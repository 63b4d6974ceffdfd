"""What a row of the comparison tells: figures, how they are written, and what ours should reach.

A goal is a number, and where the machine decides most of it also a share of what another contender gets: if that
one was measured in the same run, the share decides, so that the verdict is the same on a slow machine and a fast one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

Write = Callable[[float], str]


class Reached(Enum):
    """How a figure of ours stands against its goals."""

    AIM = "aim"  #: the better of the two goals
    TARGET = "target"  #: the one that must be reached
    MISSED = "missed"


@dataclass(frozen=True)
class Goal:
    """A number to reach."""

    value: float
    #: a contender's name and what share of its figure counts instead of `value` if it was measured
    share: tuple[str, float] | None = None

    def resolved(self, others: Mapping[str, float]) -> float:
        """Return the number that counts, given the other contenders' medians of the same figure."""
        if self.share is not None and self.share[0] in others:
            return others[self.share[0]] * self.share[1]
        return self.value


@dataclass(frozen=True)
class Figure:
    """One line of a table: a number that each contender has or lacks."""

    key: str  #: its name in the results, unique among all rows
    title: str
    write: Write
    more_is_better: bool = False
    target: Goal | None = None
    aim: Goal | None = None

    def reached(self, ours: float, others: Mapping[str, float]) -> Reached | None:
        """Return how `ours` stands against the goals; None if the figure has none."""
        if self.aim is not None and self._is_as_good(ours, self.aim.resolved(others)):
            return Reached.AIM
        if self.target is None:
            return None if self.aim is None else Reached.MISSED
        is_reached = self._is_as_good(ours, self.target.resolved(others))
        return Reached.TARGET if is_reached else Reached.MISSED

    def advantage(self, ours: float, other: float) -> float | None:
        """Return how many times better `ours` is than `other`; None where a ratio says nothing."""
        better, worse = (ours, other) if self.more_is_better else (other, ours)
        return better / worse if better > 0 and worse > 0 else None

    def _is_as_good(self, value: float, bound: float) -> bool:
        return value >= bound if self.more_is_better else value <= bound


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def milliseconds(value: float) -> str:
    if value < 1:
        return f"{value:.3f} ms"
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"


def microseconds(value: float) -> str:
    return f"{value:,.1f} µs" if value < 100 else f"{value:,.0f} µs"


def megabytes(value: float) -> str:
    return f"{value:.1f} MB" if value < 10 else f"{value:,.0f} MB"


def megabytes_per_s(value: float) -> str:
    return f"{value:,.0f} MB/s"


def per_s(value: float) -> str:
    return f"{value:,.0f}/s"


def percent(value: float) -> str:
    return f"{value:.1f} %"


def times(value: float) -> str:
    return f"{value:.2f} ×"


def count(value: float) -> str:
    return f"{value:,.0f}"
