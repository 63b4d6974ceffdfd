"""`serve history`: what an application was, as far back as the instance keeps it."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from serve_lite_cli.address import control_plane
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.output import print_json, print_table, when
from serve_lite_cli.rest import APPLICATIONS


def command(
    app: Annotated[str, typer.Argument(metavar="APP", help="Name of the application.")],
    address: AddressOption = "",
    as_json: JsonOption = False,
) -> None:
    """List the revisions of an application that `serve rollback` can go back to, newest first.

    The one that serves is marked with `*`: after a deploy that failed, that is an earlier one than the newest.

    With --json: a list of {"revision", "is_current", "deployed_at_s", "source", "import_path", "route_prefix",
    "replicas": {DEPLOYMENT: N}, "config", "reason"}.
    """
    answer = control_plane(address).get(f"{APPLICATIONS}{quote(app, safe='')}/history")
    if as_json:
        print_json(answer["revisions"])
        return
    rows = [row_of(revision) for revision in answer["revisions"]]
    columns = ("", "REVISION", "DEPLOYED", "SOURCE", "IMPORT PATH", "ROUTE", "REPLICAS", "WHY")
    used = len(columns) if any(row[-1] for row in rows) else len(columns) - 1
    print_table(columns[:used], [row[:used] for row in rows])


def row_of(revision: dict[str, Any]) -> tuple[str, ...]:
    """Return one revision for people."""
    return (
        "*" if revision["is_current"] else "",
        str(revision["revision"]),
        when(revision["deployed_at_s"]),
        revision["source"],  # declarative: a config file; imperative: `serve.run`, or `serve run`
        revision["import_path"] or "serve.run",
        revision["route_prefix"] or "-",
        ", ".join(f"{name} x {number}" for name, number in revision["replicas"].items()),
        next(iter(revision["reason"].splitlines()), ""),  # of one that came back by itself
    )
