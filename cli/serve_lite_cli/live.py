"""A deploy on a terminal: one line for each application, deployment and replica, changed in place.

The only part of the command line's progress that loads rich; `progress.py` loads it when there is a terminal.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from serve_lite_cli.steps import SHOWN_S, Step

FRAMES_PER_S = 8
_ROWS_LEFT_FREE = 2  #: of the terminal, for the line that counts what is not shown and for the cursor


class LiveDisplay:
    """Shows steps on a terminal until it is closed; the last picture stays.

    Lifetime: made and closed by `progress.follow_deploy`. A thread of rich's repaints, so that seconds go on while
    nothing happens; `close` ends it.
    """

    def __init__(self, screen: TextIO) -> None:
        self._console = Console(file=screen, highlight=False)
        self._steps: list[Step] = []
        self._live = Live(
            console=self._console,
            refresh_per_second=FRAMES_PER_S,
            get_renderable=self._picture,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def show(self, steps: Mapping[str, Step]) -> None:
        """Show these steps from now on."""
        self._steps = list(steps.values())

    def close(self) -> None:
        """Leave the last picture on the screen."""
        self._live.refresh()
        self._live.stop()

    def _picture(self) -> Group:
        shown = fitting(self._steps, self._console.height - _ROWS_LEFT_FREE)
        lines = lines_of(shown, time.time())
        if hidden := len(self._steps) - len(shown):
            lines.append(Text(f"and {hidden} more", "dim"))
        return Group(*lines)


def lines_of(steps: Sequence[Step], now: float) -> list[Text]:
    """Return one line for each step, in columns; what a narrow terminal has no room for is cut off at the end."""
    names = ["  " * step.level + step.name for step in steps]
    times = [seconds_of(step, now) for step in steps]
    widths = [max(map(len, column), default=0) for column in (names, [s.now for s in steps], times)]
    lines = []
    for step, name, seconds in zip(steps, names, times, strict=True):
        style = "red" if step.has_failed else "green" if step.is_settled else "yellow"
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(name.ljust(widths[0]) + "  ")
        line.append(step.now.ljust(widths[1]) + "  ", style)
        line.append(seconds.rjust(widths[2]) + "  ")
        line.append(more_of(step), "dim")
        line.rstrip()
        lines.append(line)
    return lines


def fitting(steps: Sequence[Step], rows: int) -> list[Step]:
    """Return the steps to show in so many rows, in their order: what is not settled before what is."""
    if len(steps) <= rows:
        return list(steps)
    by_interest = sorted(
        range(len(steps)), key=lambda i: (steps[i].is_settled and not steps[i].has_failed, i)
    )
    kept = set(by_interest[: max(0, rows)])
    return [step for i, step in enumerate(steps) if i in kept]


def seconds_of(step: Step, now: float) -> str:
    """Return how long the phase lasts so far, or how long it took to get there."""
    if step.since is not None:
        return f"{max(0.0, now - step.since):.1f} s"
    return f"{step.took_s:.1f} s" if step.took_s is not None else ""


def more_of(step: Step) -> str:
    """Return what the phases before took, and what else there is to say."""
    told = [f"{phase} {seconds:.1f} s" for phase, seconds in step.finished if seconds >= SHOWN_S]
    return "  ".join(part for part in (", ".join(told), step.note) if part)
