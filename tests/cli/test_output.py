"""Tables: plain text in a pipe, drawn on a terminal."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys

import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite_cli.output import GAP, aligned
from serve_lite_cli.program import COMMANDS
from tests.cli.commands import PROGRAM, Cli
from tests.instances import DEADLINE_S

CELLS = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=8)
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=5)
)


@given(TABLES)
def test_cells_of_a_column_begin_at_the_same_place(rows: list[list[str]]) -> None:
    columns, *rest = rows
    lines = aligned(columns, rest)
    assert len(lines) == len(rows)
    start = 0
    for i in range(len(columns)):
        width = max(len(row[i]) for row in rows)
        for line, row in zip(lines, rows, strict=True):
            assert line[start : start + width].rstrip() == row[i]
        start += width + len(GAP)
    assert all(line == line.rstrip() for line in lines)


def test_a_cell_of_several_lines_stays_in_its_column() -> None:
    assert aligned(("A", "B", "C"), [("1", "x\n  y", "2"), ("3", "", "4")]) == [
        "A  B    C",
        "1  x    2",
        "     y",
        "3       4",
    ]


def on_terminal(cli: Cli, *words: str) -> str:
    """Return what a command writes on a terminal."""
    ours, its = pty.openpty()
    environment = {**cli.environment, "COLUMNS": "200", "TERM": "xterm"}
    with (
        open(ours, "rb", buffering=0) as terminal,
        subprocess.Popen([*PROGRAM, *words], stdout=its, cwd=cli.folder, env=environment) as command,
    ):
        os.close(its)  # the command has the only one left, so its end is the end of the text
        pieces = []
        try:
            while piece := terminal.read(65536):
                pieces.append(piece)
        except OSError as error:  # how Linux says that nobody writes any more
            assert error.errno == errno.EIO
        assert command.wait(DEADLINE_S) == 0
    return b"".join(pieces).decode()


async def test_on_a_terminal_tables_are_drawn_and_statuses_coloured(cli: Cli) -> None:
    await cli.start()
    await cli("deploy", "shop:app", "--wait")
    text = await anyio.to_thread.run_sync(on_terminal, cli, "status", "--table")
    assert "\x1b[32mRUNNING" in text
    assert "─" in text
    plain = (await cli("status", "--table")).out
    assert "\x1b" not in plain and "─" not in plain
    assert plain.splitlines()[0].split() == ["NAME", "STATUS", "REPLICAS", "ROUTE", "DEPLOYED", "MESSAGE"]


@pytest.mark.parametrize("command", ["history", "events", "diff"])
async def test_every_table_is_drawn_on_a_terminal(cli: Cli, command: str) -> None:
    await cli.start()
    await cli("deploy", "shop:app", "--wait")
    words = {
        "history": ["default"],
        "diff": [cli.write("app.yaml", "applications: [{import_path: shop:held}]\n")],
    }.get(command, [])
    assert "─" in await anyio.to_thread.run_sync(on_terminal, cli, command, *words)


async def test_a_table_or_json_but_not_both(cli: Cli) -> None:
    done = await cli("status", "--table", "--json")
    assert (done.code, "one of --table and --json" in done.err) == (2, True)


def test_no_command_loads_rich_before_it_draws() -> None:
    code = (
        "import sys; from serve_lite_cli.program import COMMANDS, build_program; build_program(COMMANDS); "
        "from serve_lite_cli.output import print_table; print_table(('A',), [('1',)]); "
        "assert 'rich' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(COMMANDS) > 1
