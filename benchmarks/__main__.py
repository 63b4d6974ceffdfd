"""`python -m benchmarks setup | run | list`; the Makefile's bench targets call it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

from benchmarks import report
from benchmarks.contenders.base import Contender
from benchmarks.run import CONTENDERS, QUICK, RESULTS, Settings, run


def main() -> int:
    """Run the command line and return its exit code."""
    arguments = _arguments()
    contenders = [c for c in CONTENDERS if not arguments.names or c.name in arguments.names]
    if arguments.command == "setup":
        return _setup(contenders)
    if arguments.command == "list":
        for contender in contenders:
            print(f"{contender.name:12} {contender.title:40} {contender.missing() or 'ready'}")
        return 0
    return _run(contenders, arguments)


def _setup(contenders: Sequence[Contender]) -> int:
    for contender in contenders:
        print(f"{contender.title}: ", end="", flush=True)
        try:
            contender.setup()
        except subprocess.CalledProcessError as error:
            print(f"could not be installed ({error}); it will be skipped")
        else:
            print(contender.missing() or "ready")
    return 0


def _run(contenders: Sequence[Contender], arguments: argparse.Namespace) -> int:
    settings = QUICK if arguments.quick else Settings()
    if arguments.rounds:
        settings = replace(settings, rounds=arguments.rounds)
    if arguments.seconds:
        settings = replace(settings, seconds=arguments.seconds)
    if arguments.connections:
        settings = replace(settings, connections=tuple(arguments.connections))

    results = run(contenders, settings)
    text = report.markdown(results)
    raw = RESULTS / "raw" / f"{results['taken_at'].replace(':', '')}.json"
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_text(json.dumps(results, indent=1))
    print("\n" + text)
    complete = not arguments.quick and not arguments.names
    if complete:  # a part of the contenders or short rounds are no result to show
        (RESULTS / "latest.json").write_text(json.dumps(results, indent=1))
        (RESULTS / "latest.md").write_text(text)
    print(f"Raw data: {raw}" + ("" if complete else " (latest.md is written by complete runs only)"))
    return 1 if any("error" in sample for sample in results["samples"]) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    known = [contender.name for contender in CONTENDERS]
    for name, about in (
        ("setup", "install the contenders, each into an environment of its own"),
        ("list", "show the contenders and which can run here"),
        ("run", "measure"),
    ):
        command = commands.add_parser(name, help=about)
        command.add_argument("names", nargs="*", choices=[*known, []], metavar="name", help=", ".join(known))
        if name == "run":
            command.add_argument("--quick", action="store_true", help="one short round, to see that it works")
            command.add_argument("--rounds", type=int)
            command.add_argument("--seconds", type=float, help="of load at each number of connections")
            command.add_argument("--connections", type=int, nargs="+")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
