"""Asking before something is removed."""

from __future__ import annotations

import typer


def ask(question: str, *, yes: bool, as_json: bool) -> None:
    """Return if the user wants to go on; leave the command if not.

    Raises:
        typer.BadParameter: the command is to print JSON, so a program calls it, which cannot be asked.
        typer.Abort: the user does not want to.
    """
    if yes:
        return
    if as_json:
        raise typer.BadParameter("--json needs --yes here: a program cannot be asked.")
    typer.confirm(f"{question} Do you want to continue?", abort=True)
