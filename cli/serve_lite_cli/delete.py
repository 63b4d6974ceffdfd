"""`serve delete`: remove single applications."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from serve_lite_cli.address import control_plane
from serve_lite_cli.consent import ask
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.output import print_json
from serve_lite_cli.rest import APPLICATIONS


def command(
    names: Annotated[list[str], typer.Argument(help="Applications to remove.", metavar="NAME...")],
    address: AddressOption = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove applications; what else runs goes on running.

    With --json: {"deleted": [NAME, ...]}; needs --yes.
    """
    client = control_plane(address)
    ask(f"This will delete {', '.join(names)}.", yes=yes, as_json=as_json)
    for name in names:
        client.delete(f"{APPLICATIONS}{quote(name, safe='')}")
        if not as_json:
            print(f"Deleted application '{name}'.", flush=True)
    if as_json:
        print_json({"deleted": names})
