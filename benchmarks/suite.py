"""Take the rounds: every contender once, then every contender again, so that drift hits all alike.

Within a round each contender is started afresh for each application, and the rows that need the application are
measured on it, one after another. Whatever fails is a sample too, and is shown. Results are saved after each row.
"""

from __future__ import annotations

import http.client
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks import machine, processes
from benchmarks.contenders.base import App, Contender
from benchmarks.results import FOLDER, Results, Sample
from benchmarks.rows.base import Row
from benchmarks.server import BenchmarkError, Server, started
from benchmarks.settings import Settings

#: What a contender or a driver may do to us; anything else is a mistake of ours and ends the run.
FAILURES = (
    psutil.Error,
    BenchmarkError,
    OSError,
    EOFError,
    subprocess.SubprocessError,
    http.client.HTTPException,
    ValueError,
)


@dataclass(frozen=True)
class Visit:
    """One start of one contender, and the rows to measure on it."""

    round: int
    contender: Contender
    app: App
    rows: Sequence[Row]


def visits(rows: Sequence[Row], contenders: Sequence[Contender], rounds: int) -> Iterator[Visit]:
    """Yield the starts of a run in order: by round, then by application, then by contender."""
    apps = list(dict.fromkeys(row.app for row in rows))
    for number in range(1, rounds + 1):
        for app in apps:
            for contender in contenders:
                wanted = [
                    row
                    for row in rows
                    if row.app == app and row.lacks(contender) is None and not (row.once and number > 1)
                ]
                if wanted:
                    yield Visit(number, contender, app, wanted)


class Suite:
    """One run.

    Lifetime: made by the command line; `run` ends with everything stopped, also when it is interrupted.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        contenders: Sequence[Contender],
        settings: Settings,
        *,
        folder: Path = FOLDER / "raw",
        budget_s: float | None = None,
    ) -> None:
        self._rows = rows
        self._settings = settings
        self._budget_s = budget_s
        self._present = [c for c in contenders if c.missing() is None]
        self._began = time.monotonic()
        self.results = Results(
            taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine.describe(),
            settings=asdict(settings),
            load_average_before=machine.load_average(),
            titles={c.name: c.title for c in contenders},
            versions={c.name: c.versions() for c in self._present},
            absent={c.name: why for c in contenders if (why := c.missing()) is not None},
            why_not={
                row.name: {c.name: why for c in self._present if (why := row.lacks(c)) is not None}
                for row in rows
            },
        )
        self.path = folder / f"{self.results.taken_at.replace(':', '')}.json"  #: of the raw data

    def run(self) -> Results:
        """Measure until all is done, the budget is used up, or somebody interrupts."""
        processes.become_subreaper()
        for name, why in self.results.absent.items():
            print(f"skipped: {self.results.titles[name]}: {why}")
        try:
            for visit in visits(self._rows, self._present, self._settings.rounds):
                if self._is_over():
                    self.results.ended = f"the budget of {self._budget_s or 0:.0f} s was used up"
                    break
                self._visit(visit)
            else:
                self.results.ended = "complete"
        except KeyboardInterrupt:
            self.results.ended = "interrupted"
            print("\ninterrupted; what was measured is kept", flush=True)
        self._save()
        return self.results

    def _visit(self, visit: Visit) -> None:
        minutes = (time.monotonic() - self._began) / 60
        where = f"round {visit.round}/{self._settings.rounds}: {visit.contender.title}: {visit.app}"
        print(f"[{minutes:.1f} min] {where}", flush=True)
        first = len(self.results.samples)
        notes: list[str] = []
        try:
            with started(visit.contender, visit.app, self._settings) as server:
                notes = server.notes
                for row in visit.rows:
                    if self._is_over():
                        break
                    self._measure(visit, row, server)
        except FAILURES as error:
            samples = self.results.samples[first:]
            measured = {sample.row for sample in samples}
            for row in visit.rows:
                if row.name not in measured:
                    self._keep(Sample(row.name, visit.contender.name, visit.round, error=_words(error)))
        if notes and len(self.results.samples) > first:  # of the stop
            self.results.samples[-1].notes += notes
        self._save()

    def _measure(self, visit: Visit, row: Row, server: Server) -> None:
        sample = Sample(row.name, visit.contender.name, visit.round)
        try:
            for key, value in row.measure(server):
                sample.figures[key] = float(value)
        except FAILURES as error:
            sample.error = _words(error)
        sample.notes, server.notes[:] = list(server.notes), []
        self._keep(sample)

    def _keep(self, sample: Sample) -> None:
        self.results.samples.append(sample)
        self._save()
        if sample.error is not None:
            print(f"  {sample.row}: FAILED: {sample.error.splitlines()[0]}", flush=True)
            return
        row = next(row for row in self._rows if row.name == sample.row)
        told = [
            f"{f.title}: {f.write(sample.figures[f.key])}" for f in row.figures if f.key in sample.figures
        ]
        shown = told if len(told) <= 6 else [*told[:6], "..."]
        print(f"  {sample.row}: {'; '.join(shown)}", flush=True)

    def _is_over(self) -> bool:
        return self._budget_s is not None and time.monotonic() - self._began > self._budget_s

    def _save(self) -> None:
        self.results.seconds_taken = time.monotonic() - self._began
        self.results.save(self.path)


def _words(error: BaseException) -> str:
    return str(error).strip() or repr(error)
