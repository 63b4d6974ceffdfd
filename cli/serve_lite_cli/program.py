"""The program as typer has it: which commands there are and what their help says."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from importlib.metadata import version as version_of
from typing import Annotated

import typer

#: Each is a module of this package, with `_` for `-`, that has a `command` function and, optionally, a `CONTEXT`.
COMMANDS = (
    "start", "run", "deploy", "build", "validate", "schema", "diff", "scale", "history", "rollback", "status", "logs",
    "events", "config", "keys", "delete", "shutdown", "upgrade", "systemd", "controller-health",
    "token", "security-check",
)  # fmt: skip


def run_program(words: list[str]) -> int:
    """Run the command that the words of a command line ask for; return the exit code."""
    # Help, completion and misspelt names need to know all commands; others load only their own.
    known = words[:1] if words and words[0] in COMMANDS else COMMANDS
    try:
        build_program(known)(words, prog_name="serve")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def build_program(names: Iterable[str]) -> typer.Typer:
    """Return the program with these commands."""
    program = typer.Typer(
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    program.callback()(root)
    for name in names:
        module = importlib.import_module(f"serve_lite_cli.{name.replace('-', '_')}")
        program.command(name, context_settings=getattr(module, "CONTEXT", None))(module.command)
    return program


def show_version(wanted: bool) -> None:
    """Print the version and leave, if asked for."""
    if wanted:
        print(f"serve-lite, version {version_of('serve-lite')}")
        raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Serve Python applications on this machine, compatible with Ray Serve.

    Exit codes: 0 done, 1 failed, 2 used wrongly. Errors go to stderr, and with --json nothing but JSON to stdout.
    """
