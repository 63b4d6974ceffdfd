"""Medians and spread of the rounds, as a Markdown table. A loss is printed as plainly as a win."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]
Sample = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table: where the number is in a sample, and how it is written."""

    title: str
    app: str
    path: tuple[str, ...]
    write: Callable[[float], str]


def markdown(results: Results) -> str:
    """Return the report of one run."""
    names = [name for name in results["titles"] if name in results["versions"]]
    rows = [row for row in _rows(results) if any(_values(results, name, row) for name in names)]
    header = ["", *(results["titles"][name] for name in names)]
    table = [header, ["---"] * len(header)]
    for row in rows:
        table.append([row.title, *(_cell(_values(results, name, row), row.write) for name in names)])

    lines = ["# serve-lite beside others", "", *_circumstances(results), ""]
    lines += ["| " + " | ".join(cells) + " |" for cells in table]
    lines += ["", "Median of the rounds, and in brackets the lowest and the highest.", ""]
    lines += _ratios(results, names)
    lines += _failures(results)
    return "\n".join(lines).rstrip() + "\n"


def _rows(results: Results) -> list[Row]:
    rows = [
        Row("start command to first answer", "noop", ("start_s",), lambda v: f"{v:.2f} s"),
        Row("idle memory (PSS)", "noop", ("idle", "pss_mb"), lambda v: f"{v:.0f} MB"),
        Row("processes", "noop", ("idle", "processes"), lambda v: f"{v:.0f}"),
        Row("idle processor, of one core", "noop", ("idle", "cpu_percent"), lambda v: f"{v:.1f} %"),
    ]
    for app, label in (("noop", "no-op"), ("fastapi", "FastAPI JSON")):
        for connections in results["settings"]["connections"]:
            level = f"{label}, {connections} connection" + ("s" if connections > 1 else "")
            at = ("http", str(connections))
            rows += [
                Row(f"{level}: requests/s", app, (*at, "requests_per_s"), lambda v: f"{v:,.0f}"),
                Row(f"{level}: p50", app, (*at, "p50_ms"), _milliseconds),
                Row(f"{level}: p99", app, (*at, "p99_ms"), _milliseconds),
            ]
    rows += [
        Row("handle call from a driver: calls/s", "noop", ("handle", "calls_per_s"), lambda v: f"{v:,.0f}"),
        Row("handle call from a driver: p50", "noop", ("handle", "p50_ms"), _milliseconds),
        Row("handle call from a driver: p99", "noop", ("handle", "p99_ms"), _milliseconds),
    ]
    return rows


def _values(results: Results, name: str, row: Row) -> list[float]:
    """Return the numbers of one contender for one row, one from each round that has it."""
    found = []
    for sample in results["samples"]:
        if sample["contender"] != name or sample["app"] != row.app:
            continue
        value: Any = sample
        for step in row.path:
            value = value.get(step) if isinstance(value, dict) else None
        if value is not None:
            found.append(float(value))
    return found


def _cell(values: Sequence[float], write: Callable[[float], str]) -> str:
    if not values:
        return "-"
    middle = write(statistics.median(values))
    if len(values) == 1 or write(min(values)) == write(max(values)):
        return middle
    return f"{middle} ({write(min(values))} to {write(max(values))})"


def _milliseconds(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def _circumstances(results: Results) -> list[str]:
    settings, place = results["settings"], results["machine"]
    lines = [
        f"{results['taken_at']}; {place['processor']}, {place['memory']}, {place['system']}; "
        f"load by {place['load']}.",
        f"{settings['rounds']} interleaved rounds, {settings['seconds']:g} s of load each after "
        f"{settings['warm_up_s']:g} s of warm-up; answers checked before each.",
        "",
    ]
    for name, versions in results["versions"].items():
        listed = ", ".join(f"{package} {version}" for package, version in versions.items())
        lines.append(f"- {results['titles'][name]}: {listed}")
    for name, reason in results["absent"].items():
        lines.append(f"- {results['titles'][name]}: skipped: {reason}")
    if results["load_average_before"] > 0.5:
        lines += [
            "",
            f"The machine was busy: load average {results['load_average_before']:.1f} before the run.",
        ]
    return lines


def _ratios(results: Results, names: Sequence[str]) -> list[str]:
    """Return how our requests per second at the most connections compare, app by app."""
    most = max(results["settings"]["connections"])
    lines = []
    for app, label in (("noop", "No-op"), ("fastapi", "FastAPI JSON")):
        row = Row("", app, ("http", str(most), "requests_per_s"), str)
        medians = {name: statistics.median(v) for name in names if (v := _values(results, name, row))}
        ours = medians.pop("serve-lite", None)
        if ours is None or not medians:
            continue
        others = (f"{ours / rate:.2f} × {results['titles'][name]}" for name, rate in medians.items() if rate)
        lines += [f"{label} at {most} connections, serve-lite is {', '.join(others)}.", ""]
    return lines


def _failures(results: Results) -> list[str]:
    lines = []
    for sample in results["samples"]:
        what = f"{results['titles'][sample['contender']]}, {sample['app']}, round {sample['round']}"
        if "error" in sample:
            lines += [f"- {what}: {sample['error'].splitlines()[0]}"]
        for connections, seen in sample.get("http", {}).items():
            if seen["errors"]:
                lines += [
                    f"- {what}: {seen['errors']} of {seen['requests']} requests failed at {connections} connections."
                ]
        if sample["killed_at_stop"]:
            limit_s, count = results["settings"]["stop_limit_s"], len(sample["killed_at_stop"])
            lines += [f"- {what}: did not stop within {limit_s:g} s; {count} of its processes were killed."]
    return ["Failures:", "", *lines] if lines else []
