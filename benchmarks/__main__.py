"""`python -m benchmarks setup | list | run | report`; the Makefile's bench targets call it."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TypeVar

from benchmarks import plots, report, results
from benchmarks.contenders import all as contenders
from benchmarks.contenders.base import Contender
from benchmarks.rows import all as rows
from benchmarks.rows.base import Row
from benchmarks.settings import QUICK, Settings
from benchmarks.suite import Suite

T = TypeVar("T")


def main() -> int:
    """Run the command line and return its exit code."""
    arguments = _arguments()
    match arguments.command:
        case "setup":
            return _setup(arguments.contenders or contenders.CONTENDERS)
        case "list":
            return _list()
        case "report":
            return _report([Path(path) for path in arguments.files], Path(arguments.output))
    return _run(arguments)


def _setup(chosen: Sequence[Contender]) -> int:
    for contender in chosen:
        print(f"{contender.title}: ", end="", flush=True)
        try:
            contender.setup()
        except subprocess.CalledProcessError as error:
            print(f"could not be installed ({error}); it will be skipped")
        else:
            print(contender.missing() or "ready")
    return 0


def _list() -> int:
    print("contenders")
    for contender in contenders.CONTENDERS:
        print(f"  {contender.name:12} {contender.title:40} {contender.missing() or 'ready'}")
    print("rows")
    for row in rows.ROWS:
        print(f"  {row.name:12} {row.group}: {', '.join(figure.title for figure in row.figures[:3])}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    settings = QUICK if arguments.quick else Settings()
    settings = replace(
        settings,
        rounds=arguments.rounds or settings.rounds,
        seconds=arguments.seconds or settings.seconds,
    )
    chosen_rows: Sequence[Row] = arguments.rows or rows.ROWS
    chosen: Sequence[Contender] = arguments.contenders or contenders.CONTENDERS
    is_whole = not (arguments.rows or arguments.contenders or arguments.quick)

    signal.signal(signal.SIGTERM, _interrupt)
    suite = Suite(chosen_rows, chosen, settings, budget_s=_budget_s(arguments))
    taken = suite.run()
    print("\n" + report.markdown(taken, chosen_rows))
    print(f"{taken.ended}, after {taken.seconds_taken / 60:.1f} minutes. Raw data: {suite.path}")
    if is_whole and taken.ended == "complete":
        _report([suite.path], results.FOLDER)
    else:
        print(
            "A part, short rounds or an interrupted run are no result to show, so `latest.md` is as it was."
        )
        print(
            f"`python -m benchmarks report {suite.path} [...] --output DIRECTORY` writes its page and plots."
        )
    return 1 if any(sample.error for sample in taken.samples) else 0


def _report(files: Sequence[Path], folder: Path) -> int:
    """Write the page and the plots of one run, or of several as one."""
    whole = results.merged([results.load(path) for path in files], list(contenders.BY_NAME))
    measured = {sample.row for sample in whole.samples}
    shown = [row for row in rows.ROWS if row.name in measured]
    written = plots.write(whole, shown, folder)
    whole.save(folder / "latest.json")
    (folder / "latest.md").write_text(report.markdown(whole, shown, written))
    print(f"written: {folder / 'latest.md'}, latest.json{''.join(', ' + name for name in written)}")
    return 0


def _budget_s(arguments: argparse.Namespace) -> float | None:
    return arguments.budget_minutes * 60 if arguments.budget_minutes else None


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    setup = commands.add_parser("setup", help="install the contenders, each into an environment of its own")
    commands.add_parser("list", help="show the contenders, which can run here, and the rows")
    run = commands.add_parser("run", help="measure")
    page = commands.add_parser("report", help="write the page and plots of raw data")

    for command in (setup, run):
        command.add_argument(
            "--contenders",
            type=lambda text: _chosen(text, {**contenders.BY_NAME}, {"limits": contenders.LIMITS}),
            metavar="NAMES",
            help=f"separated by commas: {', '.join(contenders.BY_NAME)}; `limits` are those that manage nothing",
        )
    run.add_argument(
        "--rows",
        type=lambda text: _chosen(text, {**rows.BY_NAME}, rows.GROUPS),
        metavar="NAMES",
        help=f"separated by commas: {', '.join(rows.BY_NAME)}; groups: {', '.join(rows.GROUPS)}",
    )
    run.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    run.add_argument("--rounds", type=int)
    run.add_argument("--seconds", type=float, help="of each load")
    run.add_argument("--budget-minutes", type=float, help="start nothing more after so long")
    page.add_argument("files", nargs="+", metavar="FILE", help="raw data; several are shown as one run")
    page.add_argument("--output", default=str(results.FOLDER), metavar="DIRECTORY")
    return parser.parse_args()


def _chosen(text: str, known: Mapping[str, T], sets: Mapping[str, Sequence[str]]) -> list[T]:
    """Return what the names in `text` stand for, in the order of `known`; raises ArgumentTypeError."""
    names: set[str] = set()
    for name in text.split(","):
        if name not in known and name not in sets:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join([*known, *sets])}")
        names.update(sets.get(name, (name,)))
    return [value for name, value in known.items() if name in names]


if __name__ == "__main__":
    sys.exit(main())
