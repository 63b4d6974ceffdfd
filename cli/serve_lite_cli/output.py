"""How commands print what they found: JSON for programs, tables for people.

A table is drawn by rich on a terminal and is plain aligned text elsewhere, so that it can be searched and cut.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

GAP = "  "

#: How a status looks on a terminal.
COLOURS = {
    "RUNNING": "green",
    "HEALTHY": "green",
    "DEPLOYING": "yellow",
    "UPDATING": "yellow",
    "UPSCALING": "yellow",
    "DOWNSCALING": "yellow",
    "DELETING": "yellow",
    "DEPLOY_FAILED": "red",
    "UNHEALTHY": "red",
    "fail": "red",
    "pass": "green",
    "restart": "yellow",
    "remove": "yellow",
}


def print_json(value: Any) -> None:
    """Print a value of JSON's types, for programs."""
    print(json.dumps(value, indent=2), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their columns. A cell may have several lines."""
    from serve_lite_cli.yaml_text import readable  # brings a YAML writer, which JSON has no use for

    cleaned = [[str(readable(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(columns, cleaned)
    else:
        print("\n".join(aligned(columns, cleaned)))


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table in plain text; each column is as wide as its widest cell."""
    split = [[cell.splitlines() or [""] for cell in row] for row in (columns, *rows)]
    widths = [max(len(line) for row in split for line in row[i]) for i in range(len(columns))]
    return [
        GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for row in split
        for line in zip_longest(*row, fillvalue="")
    ]


def when(seconds: float) -> str:
    """Return a time in this machine's zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _draw(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box  # loading it takes longer than most commands
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True)
    table.add_column(columns[-1], overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
    Console().print(table)
