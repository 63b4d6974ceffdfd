"""`serve history`: what an application was, as far back as the instance keeps it."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any
from urllib.parse import quote

import typer

from serve_lite_cli.address import control_plane
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.rest import APPLICATIONS


def command(
    app: Annotated[str, typer.Argument(metavar="APP", help="Name of the application.")],
    address: AddressOption = "",
    as_json: JsonOption = False,
) -> None:
    """List the revisions of an application that `serve rollback` can go back to, newest first."""
    answer = control_plane(address).get(f"{APPLICATIONS}{quote(app, safe='')}/history")
    if as_json:
        print(json.dumps(answer["revisions"], indent=2))
        return
    for revision in answer["revisions"]:
        print(line_of(revision))


def line_of(revision: dict[str, Any]) -> str:
    """Return one revision for people."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(revision["deployed_at_s"]))
    replicas = ", ".join(f"{name} x {number}" for name, number in revision["replicas"].items())
    mark = "*" if revision["is_current"] else " "
    source = (
        f"{revision['source']:<11}"  # declarative: a config file; imperative: `serve.run`, or `serve run`
    )
    where = revision["import_path"] or "serve.run"
    return f"{mark} {revision['revision']:>4}  {at}  {source}  {where}  {replicas}"
