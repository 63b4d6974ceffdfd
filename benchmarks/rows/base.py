"""The shape of a row: which application it needs, what it measures there, and how the figures read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.contenders.base import App, Contender
from benchmarks.figures import Figure
from benchmarks.server import Server


@dataclass(frozen=True)
class Plot:
    """A picture of figures: a curve for each contender over `xs`, or bars side by side if there are none."""

    name: str  #: of the file
    title: str
    keys: Sequence[str]  #: of the figures, in order
    unit: str  #: of the axis with the figures
    xs: Sequence[float] = ()  #: one for each key
    x_title: str = ""


#: Keys of figures and their numbers, in the order in which they were measured.
Measured = Iterator[tuple[str, float]]


class Row:
    """One kind of measurement. Subclasses set the class variables and measure.

    Rows that need the same application are measured one after another on one start of it, in the order of
    `all.ROWS`: what weighs an idle server comes before what loads it.
    """

    name: ClassVar[str]  #: for the command line and the raw results
    group: ClassVar[str]  #: the table that its figures are in
    about: ClassVar[str]  #: one or two sentences below the table
    app: ClassVar[App] = "noop"
    figures: ClassVar[Sequence[Figure]]
    plots: ClassVar[Sequence[Plot]] = ()
    #: Measured in the first round only: it takes long, and rounds hardly differ.
    once: ClassVar[bool] = False
    #: Only these contenders are measured; empty: all that have the application.
    only: ClassVar[Sequence[str]] = ()

    def lacks(self, contender: Contender) -> str | None:
        """Return why this row is not measured for `contender`, or None if it is."""
        if self.only and contender.name not in self.only:
            return "not measured for it"
        return contender.lacks(self.app)

    def measure(self, server: Server) -> Measured:
        """Yield the figures as they come: key and number. May leave some out; all before an error are kept.

        Raises:
            BenchmarkError: it could not be measured, or an answer was wrong.
        """
        raise NotImplementedError


class HandleRow(Row):
    """A row that needs handles, or another part of Ray Serve's API in Python."""

    def lacks(self, contender: Contender) -> str | None:
        return super().lacks(contender) if contender.has_handles else "it has no handles"
