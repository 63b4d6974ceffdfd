"""`serve events`: what happened on the instance."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from serve_lite_cli.address import control_plane
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.output import print_json, print_table, when

MOST = 2000  #: as many as an instance keeps

#: How a deployment is written where it is the subject of an event of an older release.
DEPLOYMENT = re.compile(r"Deployment\(name='(?P<deployment>.*)', app='(?P<app>.*)'\)")


def command(
    address: AddressOption = "",
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=MOST, help="How many, counted from the newest.")
    ] = 100,
    app: Annotated[str, typer.Option("--app", help="Only those of this application.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Print what happened: deploys, builds, starts and stops of replicas with their reasons. Newest last.

    With --json: a list of {"at": SECONDS, "subject", "app", "deployment", "replica", "text"}; the subject is the next
    three as the instance keeps them, and what an event is not about is "".
    """
    asked = MOST if app else limit
    rows = control_plane(address).get(f"/api/serve/events?limit={asked}")["events"]
    found = [{**row, **subject_of(row["subject"])} for row in reversed(rows)]
    wanted = [row for row in found if app in ("", row["app"])][-limit:]
    if as_json:
        print_json(wanted)
    else:
        print_table(
            ("TIME", "ABOUT", "WHAT"), [(when(row["at"]), label_of(row), row["text"]) for row in wanted]
        )


def subject_of(subject: str) -> dict[str, str]:
    """Return the application, deployment and replica that an event is about; "" for those that it is not."""
    deployment = DEPLOYMENT.fullmatch(subject)
    parts = (deployment["app"], deployment["deployment"]) if deployment else subject.split("#", 2)
    return dict(zip(("app", "deployment", "replica"), (*parts, "", ""), strict=False))


def label_of(event: dict[str, Any]) -> str:
    """Return who an event is about, written as the lines of logs are marked."""
    where = "/".join(part for part in (event["app"], event["deployment"]) if part)
    return f"{where} {event['replica']}".rstrip()
