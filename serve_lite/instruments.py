"""Cells: what our own code counts and measures, as cheaply as adding to a number.

A family has a name, a kind and label names; each combination of label values has a cell. Nothing is
locked, rendered or sent when a cell changes: `collect` takes a picture of all families when somebody
asks. Sources of other make (`add_source`) are asked at the same time. Call cells from one thread only:
the loop's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import msgspec

#: bounds of latency buckets in milliseconds, as Ray Serve has them
LATENCY_MS = (
    1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 1000, 2000, 5000,
    10_000, 60_000, 120_000, 300_000, 600_000,
)  # fmt: skip


class Series(msgspec.Struct, array_like=True):
    """One cell's picture.

    `values` is `[value]` of a counter or gauge; of a histogram the count in each bucket (not cumulative),
    the count above the last bound, and the sum of what was observed.
    """

    labels: list[str]
    values: list[float]


class Family(msgspec.Struct, array_like=True):
    """One metric's picture, as it travels from a replica to the daemon."""

    name: str
    kind: str  #: "counter", "gauge" or "histogram"
    help: str
    label_names: list[str]
    series: list[Series]
    bounds: list[float] = []  #: upper bounds of a histogram's buckets


class Cell:
    """A number that is added to (counter) or set (gauge)."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def picture(self) -> list[float]:
        return [self.value]


class HistogramCell:
    """Counts of observations by bucket, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def picture(self) -> list[float]:
        return [*self.counts, self.total]


class Counter:
    """A family of cells that only grow.

    Args:
        name: as Prometheus shows it, without a prefix; counters get `_total` there.
        help: one line.
        label_names: a cell for each combination of their values.
    """

    kind = "counter"
    bounds: tuple[float, ...] = ()

    def __init__(self, name: str, help: str, label_names: Sequence[str] = ()) -> None:
        self.name = name
        self.help = help
        self.label_names = tuple(label_names)
        self._cells: dict[tuple[str, ...], Cell] = {}
        _families[name] = self

    def labels(self, *values: str) -> Cell:
        """Return the cell of these label values; keep it where it is used often."""
        cell = self._cells.get(values)
        if cell is None:
            cell = self._cells[values] = Cell()
        return cell

    def picture(self) -> Family:
        series = [Series(list(values), cell.picture()) for values, cell in self._cells.items()]
        return Family(self.name, self.kind, self.help, list(self.label_names), series)


class Gauge(Counter):
    """A family of cells that are set."""

    kind = "gauge"


class Histogram:
    """A family of cells that observations are counted in, by bucket."""

    kind = "histogram"

    def __init__(
        self, name: str, help: str, label_names: Sequence[str] = (), bounds: Sequence[float] = LATENCY_MS
    ) -> None:
        self.name = name
        self.help = help
        self.label_names = tuple(label_names)
        self.bounds = tuple(bounds)
        self._cells: dict[tuple[str, ...], HistogramCell] = {}
        _families[name] = self

    def labels(self, *values: str) -> HistogramCell:
        """Return the cell of these label values."""
        cell = self._cells.get(values)
        if cell is None:
            cell = self._cells[values] = HistogramCell(self.bounds)
        return cell

    def picture(self) -> Family:
        series = [Series(list(values), cell.picture()) for values, cell in self._cells.items()]
        return Family(
            self.name, self.kind, self.help, list(self.label_names), series, [float(b) for b in self.bounds]
        )


_families: dict[str, Counter | Histogram] = {}
_sources: list[Callable[[], list[Family]]] = []


def add_source(source: Callable[[], list[Family]]) -> None:
    """Have `collect` ask this too: metrics that are kept elsewhere, such as the user's."""
    _sources.append(source)


def collect() -> list[Family]:
    """Return a picture of every family that has a cell, and of every source."""
    ours = [family.picture() for family in _families.values()]
    return [f for f in ours if f.series] + [f for source in _sources for f in source()]
