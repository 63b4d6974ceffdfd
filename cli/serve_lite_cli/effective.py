"""`serve config --effective`: every option of a running instance, with who chose it."""

from __future__ import annotations

import json
import sys
from typing import Any

from serve_lite_cli.rest import INSTANCE, RestClient

HEADINGS = ("OPTION", "VALUE", "FROM")


def show_effective(client: RestClient, *, as_json: bool) -> None:
    """Print the options: a table on a terminal, aligned columns elsewhere, or JSON."""
    answer = client.get(INSTANCE)
    if as_json:
        print(json.dumps(answer, indent=2))
        return
    rows = [(option["name"], text_of(option["value"]), option["origin"]) for option in answer["options"]]
    if sys.stdout.isatty():
        show_table(rows)
    else:
        print("\n".join(aligned([HEADINGS, *rows])))


def show_table(rows: list[tuple[str, str, str]]) -> None:
    """Print rows for eyes; what differs from the default stands out."""
    from rich.console import Console  # only on a terminal
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading.capitalize(), overflow="fold", no_wrap=heading == "OPTION")
    for name, value, origin in rows:
        style = "dim" if origin == "default" else "bold"
        table.add_row(name, Text(value, style=style), Text(origin, style=style))
    Console(highlight=False).print(table)


def aligned(rows: list[tuple[str, str, str]]) -> list[str]:
    """Return rows as lines whose columns begin below each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}" for name, value, origin in rows]


def text_of(value: Any) -> str:
    """Return a value as a settings file would have it, on one line."""
    return value if isinstance(value, str) and value else json.dumps(value)
