"""`serve rollback`: an application as it was."""

from __future__ import annotations

import sys
from typing import Annotated
from urllib.parse import quote

import typer

from serve_lite_cli.address import control_plane
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.output import print_json
from serve_lite_cli.progress import follow_deploy
from serve_lite_cli.rest import APPLICATIONS


def command(
    app: Annotated[str, typer.Argument(metavar="APP", help="Name of the application.")],
    revision: Annotated[
        int | None,
        typer.Argument(
            metavar="[REVISION]", min=1, help="As `serve history` lists it. [default: the one before]"
        ),
    ] = None,
    address: AddressOption = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Show how it goes, until it is done; end with 1 if it fails.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Deploy an earlier revision of an application again: its configuration, arguments and options.

    Modules are imported as they are today: the instance keeps no copies of files.

    With --json: {"application": NAME, "revision": N, "status": STATUS}, where N is the new revision.
    """
    client = control_plane(address)
    asked = {} if revision is None else {"revision": revision}
    reply = client.post(f"{APPLICATIONS}{quote(app, safe='')}/rollback", asked)
    out = sys.stderr if as_json else sys.stdout
    print(f"Rolling {app} back, as revision {reply['revision']}.", file=out, flush=True)
    status = "DEPLOYING"
    if wait:
        apps = follow_deploy(client, [app], lambda line: print(line, file=out, flush=True), screen=out)
        status = apps[app]["status"]
    if as_json:
        print_json({"application": app, "revision": reply["revision"], "status": status})
