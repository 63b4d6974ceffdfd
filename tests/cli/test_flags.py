"""Every command and every flag has a help text, and a line in tests/compat/table.yaml that names a test of it.

That the tests exist is seen to by compat/test_table.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import typer

from serve_lite_cli.program import COMMANDS, build_program
from tests.compat.table import Line, lines_of, read

PROGRAM: Any = typer.main.get_command(build_program(COMMANDS))

LINES = [line for group in read() for line in lines_of(group)]


def spellings(parameter: Any) -> list[str]:
    """Return how a flag may be written."""
    return sorted([*parameter.opts, *parameter.secondary_opts])


def flags_of(command: str) -> list[Any]:
    """Return what can be given to a command as `--flag`."""
    return [p for p in PROGRAM.commands[command].params if p.param_type_name == "option"]


def told(kind: str, command: str) -> list[Line]:
    """Return the lines of the table about a command's flags, or about itself."""
    name = f"serve {command}"
    if kind == "command":
        return [line for line in LINES if line.kind == kind and line.name == name]
    return [line for line in LINES if line.kind == kind and line.parent and line.parent.name == name]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_and_all_its_parameters_have_help(command: str) -> None:
    found = PROGRAM.commands[command]
    assert found.help and found.help.split("\n")[0].endswith(".")
    for parameter in found.params:
        assert parameter.help, f"serve {command}: {parameter.name} has no help"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_flag_is_told_with_a_test(command: str) -> None:
    (line,) = told("command", command)
    assert line.checks
    in_table = {", ".join(sorted(line.entry.name.split(", "))): line for line in told("flag", command)}
    in_program = {", ".join(spellings(flag)) for flag in flags_of(command)}
    assert set(in_table) == in_program
    for name, flag in in_table.items():
        assert flag.checks, f"serve {command} {name} has no test"


def test_the_table_tells_of_no_other_commands() -> None:
    assert {line.name for line in LINES if line.kind == "command"} == {f"serve {name}" for name in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_program_may_have_json_of_every_command_that_tells_something(command: str) -> None:
    has_json = any("--json" in flag.opts for flag in flags_of(command))
    assert has_json is (
        command not in ("run", "schema")
    )  # one stays in the foreground, one prints nothing else
