"""The results of a run as one JSON document: written after each row, so that an interrupted run keeps what it has.

schema          number of this layout
taken_at, machine, load_average_before, settings, seconds_taken, ended
contenders      name -> {title, versions} or {title, absent: why it cannot run here}
why_not         row -> contender -> why it has no such figure
samples         [{row, contender, round, figures: {key: number}, notes: [...]} or {..., error: text}]
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.spread import Spread, spread

SCHEMA = 2
#: Where results are kept; elsewhere where nothing may be written beside the code.
FOLDER = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results")


@dataclass
class Sample:
    """What one row found of one contender in one round."""

    row: str
    contender: str
    round: int
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str | None = None  #: why there are no figures


@dataclass
class Results:
    """A run, as it is kept."""

    taken_at: str
    machine: Mapping[str, str]
    settings: Mapping[str, Any]
    load_average_before: float
    titles: dict[str, str]
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    why_not: dict[str, dict[str, str]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    seconds_taken: float = 0.0
    ended: str = "running"  #: `complete`, or why it ended before that

    def of(self, contender: str, figure: Figure) -> Spread | None:
        """Return what the rounds say about one figure of one contender."""
        found = (s.figures.get(figure.key) for s in self.samples if s.contender == contender)
        return spread([value for value in found if value is not None])

    def save(self, path: Path) -> None:
        """Write the document in place of the one before; never leaves half of it."""
        document = {"schema": SCHEMA, **{name: _plain(value) for name, value in vars(self).items()}}
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        os.replace(beside, path)


def load(path: Path) -> Results:
    """Read what `save` has written.

    Raises:
        ValueError: it is of another layout.
    """
    document = json.loads(path.read_text())
    if document.pop("schema", None) != SCHEMA:
        raise ValueError(f"{path} is not of layout {SCHEMA}; take the run again")
    samples = [Sample(**sample) for sample in document.pop("samples")]
    return Results(samples=samples, **document)


def merged(parts: Sequence[Results], order: Sequence[str]) -> Results:
    """Return several runs as one, with the circumstances of the last; for a run that was taken in pieces.

    Contenders come in `order`. The rounds of the pieces count as further rounds, so that spreads stay honest.
    """
    if not parts:
        raise ValueError("there is nothing to merge")
    last = parts[-1]
    titles, versions, absent = _joined(parts, "titles"), _joined(parts, "versions"), _joined(parts, "absent")
    why_not: dict[str, dict[str, str]] = {}
    for part in parts:
        for row, reasons in part.why_not.items():
            why_not.setdefault(row, {}).update(reasons)
    endings = [part.ended for part in parts if part.ended != "complete"]
    return Results(
        taken_at=last.taken_at,
        machine=last.machine,
        settings=last.settings,
        load_average_before=max(part.load_average_before for part in parts),
        titles=titles,
        versions={name: versions[name] for name in sorted(versions, key=order.index)},
        absent={name: why for name, why in absent.items() if name not in versions},
        why_not=why_not,
        samples=[
            Sample(**{**vars(sample), "round": sample.round + 100 * number})
            for number, part in enumerate(parts)
            for sample in part.samples
        ],
        seconds_taken=sum(part.seconds_taken for part in parts),
        ended=endings[-1] if endings else "complete",
    )


def _joined(parts: Sequence[Results], name: str) -> dict[str, Any]:
    return {key: value for part in parts for key, value in getattr(part, name).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [vars(item) if isinstance(item, Sample) else item for item in value]
    return value
