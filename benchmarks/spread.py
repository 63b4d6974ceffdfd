"""What several rounds say together: the median, and how far apart they are."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The rounds of one figure of one contender."""

    lowest: float
    median: float
    highest: float
    rounds: int

    def written(self, write: Callable[[float], str]) -> str:
        """Return the median, with the lowest and highest round in brackets where they read differently."""
        middle = write(self.median)
        if write(self.lowest) == write(self.highest):
            return middle
        return f"{middle} ({write(self.lowest)} to {write(self.highest)})"


def spread(values: Sequence[float]) -> Spread | None:
    """Return the spread of `values`; None if there are none."""
    if not values:
        return None
    return Spread(min(values), statistics.median(values), max(values), len(values))


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that at least `percent` of a hundred values do not exceed (nearest rank).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("there is no percentile of no values")
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(rank, 1) - 1]
