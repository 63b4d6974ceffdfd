"""The results as a Markdown page: medians and spread, targets, ratios, and all that failed or is missing.

A loss is printed as plainly as a win.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.contenders.all import OURS
from benchmarks.figures import Figure, Goal, Reached
from benchmarks.results import Results
from benchmarks.rows.base import Row

_WORDS = {Reached.AIM: "aim reached", Reached.TARGET: "reached", Reached.MISSED: "**missed**"}


def markdown(results: Results, rows: Sequence[Row], plots: Sequence[str] = ()) -> str:
    """Return the page. `plots` are files beside it."""
    lines = ["# serve-lite beside others", "", *_circumstances(results), "", *_verdict(results, rows)]
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        lines += _group(results, group, members)
    lines += [f"![{name}]({name})" for name in plots]
    lines += ["", *_failures(results)]
    return "\n".join(lines).rstrip() + "\n"


def verdicts(results: Results, rows: Sequence[Row]) -> dict[str, Reached]:
    """Return how each of our figures that has a goal stands, by its title."""
    found: dict[str, Reached] = {}
    for figure in (figure for row in rows for figure in row.figures):
        if (reached := _reached(results, figure)) is not None:
            found[figure.title] = reached
    return found


def _verdict(results: Results, rows: Sequence[Row]) -> list[str]:
    found = verdicts(results, rows)
    if not found:
        return []
    missed = [title for title, how in found.items() if how is Reached.MISSED]
    aims = sum(how is Reached.AIM for how in found.values())
    reached = len(found) - len(missed)
    line = f"Of {len(found)} targets of serve-lite {reached} are reached, {aims} of them up to the aim."
    return [line, *([f"Missed: {'; '.join(missed)}."] if missed else []), ""]


def _group(results: Results, group: str, rows: Sequence[Row]) -> list[str]:
    """Return a table of the figures that anybody has, and what its rows say about themselves."""
    figures = [f for row in rows for f in row.figures if any(results.of(n, f) for n in results.versions)]
    if not figures:
        return []
    names = [n for n in results.versions if any(results.of(n, f) for f in figures)]
    has_goals = OURS in names and any(f.target or f.aim for f in figures)
    ours = [OURS] if OURS in names else []
    others = [n for n in names if n != OURS]

    head = ["", *(results.titles[n] for n in ours)]
    head += ["target", "aim", ""] if has_goals else []
    table = [head + [results.titles[n] for n in others]]
    for figure in figures:
        cells = [figure.title, *(_cell(results, n, figure) for n in ours)]
        if has_goals:
            cells += [_goal(results, figure, figure.target), _goal(results, figure, figure.aim)]
            reached = _reached(results, figure)
            cells.append(_WORDS[reached] if reached else "")
        table.append(cells + [_cell(results, n, figure) for n in others])

    lines = [f"## {group}", "", *_table(table), ""]
    lines += [f"- *{row.name}*: {row.about}" for row in rows]
    lines += [""]
    if ours and others:
        lines += _ratios(results, figures, others)
    return lines


def _ratios(results: Results, figures: Sequence[Figure], others: Sequence[str]) -> list[str]:
    """Return how many times better than each of the others we are; below 1 we are worse."""
    table = [["serve-lite is better by", *(results.titles[n] for n in others)]]
    for figure in figures:
        mine = results.of(OURS, figure)
        if mine is None:
            continue
        cells = []
        for name in others:
            theirs = results.of(name, figure)
            ratio = figure.advantage(mine.median, theirs.median) if theirs else None
            cells.append("-" if ratio is None else f"{ratio:.2g} ×" if ratio < 10 else f"{ratio:,.0f} ×")
        if set(cells) != {"-"}:
            table.append([figure.title, *cells])
    if len(table) == 1:
        return []
    return [*_table(table), ""]


def _reached(results: Results, figure: Figure) -> Reached | None:
    mine = results.of(OURS, figure)
    return figure.reached(mine.median, _others(results, figure)) if mine else None


def _others(results: Results, figure: Figure) -> dict[str, float]:
    found = ((name, results.of(name, figure)) for name in results.versions if name != OURS)
    return {name: spread.median for name, spread in found if spread is not None}


def _goal(results: Results, figure: Figure, goal: Goal | None) -> str:
    if goal is None:
        return ""
    written = figure.write(goal.resolved(_others(results, figure)))
    if goal.share is not None and goal.share[0] in _others(results, figure):
        name, share = goal.share
        return f"{written} ({share:g} × {results.titles[name]})"
    return written


def _cell(results: Results, name: str, figure: Figure) -> str:
    spread = results.of(name, figure)
    return spread.written(figure.write) if spread else "-"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]


def _circumstances(results: Results) -> list[str]:
    settings, place = results.settings, results.machine
    rounds = settings["rounds"]
    lines = [
        f"{results.taken_at}; {place['processor']}, {place['memory']}, {place['system']}; load by {place['load']}.",
        f"{rounds} interleaved round{'s' if rounds > 1 else ''}, {settings['seconds']:g} s of each load after "
        f"{settings['warm_up_s']:g} s of warm-up; answers checked before each. "
        f"The run took {results.seconds_taken / 60:.0f} minutes.",
        "Each number is the median of the rounds; in brackets the lowest and the highest.",
        "",
    ]
    if results.ended != "complete":
        lines += [f"The run did not come to its end: {results.ended}.", ""]
    if results.load_average_before > 0.5:
        lines += [f"The machine was busy: load average {results.load_average_before:.1f} before the run.", ""]
    for name, versions in results.versions.items():
        listed = ", ".join(f"{package} {version}" for package, version in versions.items())
        lines.append(f"- {results.titles[name]}: {listed}")
    lines += [f"- {results.titles[name]}: skipped: {reason}" for name, reason in results.absent.items()]
    return lines


def _failures(results: Results) -> list[str]:
    lines: list[str] = []
    for sample in results.samples:
        what = f"{results.titles[sample.contender]}, {sample.row}, round {sample.round}"
        if sample.error is not None:
            lines.append(f"- {what}: {sample.error.splitlines()[0]}")
        lines += [f"- {what}: {note}." for note in sample.notes]
    said = ["## What failed", "", *lines, ""] if lines else []
    return [*said, *_reasons(results)]


def _reasons(results: Results) -> list[str]:
    """Return why contenders have no figure in a row, one line for each reason."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for row, reasons in results.why_not.items():
        for name, why in reasons.items():
            by_reason.setdefault((results.titles[name], why), []).append(row)
    if not by_reason:
        return []
    told = (f"- {title}: {_listed(rows)}: {why}" for (title, why), rows in by_reason.items())
    return ["## What a `-` means", "", *told, ""]


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"*{word}*" for word in words)
