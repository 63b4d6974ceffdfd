"""`serve events`: what happened on the instance."""

from __future__ import annotations

import json
import re
import time
from typing import Annotated

import typer

from serve_lite_cli.address import control_plane
from serve_lite_cli.flags import AddressOption, JsonOption

MOST = 2000  #: as many as an instance keeps

#: How a deployment is written where it is the subject of an event.
DEPLOYMENT = re.compile(r"Deployment\(name='.*', app='(?P<app>.*)'\)")


def command(
    address: AddressOption = "",
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=MOST, help="How many, counted from the newest.")
    ] = 100,
    app: Annotated[str, typer.Option("--app", help="Only those of this application.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Print what happened: deploys, builds, starts and stops of replicas with their reasons. Newest last."""
    asked = MOST if app else limit
    rows = control_plane(address).get(f"/api/serve/events?limit={asked}")["events"]
    wanted = [row for row in reversed(rows) if not app or app_of(row["subject"]) == app][-limit:]
    if as_json:
        print(json.dumps(wanted, indent=2))
        return
    for row in wanted:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["at"]))
        first, *more = row["text"].splitlines() or [""]
        print("\n".join([f"{at}  {row['subject']}: {first}", *(f"    {line}" for line in more)]))


def app_of(subject: str) -> str:
    """Return the application that an event is about; its subject is one, or a deployment or replica of one."""
    deployment = DEPLOYMENT.fullmatch(subject)
    return deployment["app"] if deployment else subject.split("#", 1)[0]
