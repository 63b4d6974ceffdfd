"""`serve diff`: what deploying a config file would do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from serve_lite.exceptions import InvalidConfigError, RayServeException
from serve_lite_cli.address import control_plane
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.output import print_json, print_table
from serve_lite_cli.rest import APPLICATIONS
from serve_lite_cli.submission import read_submission

#: An application with new code is built to know what would come of it, and imports take their time.
BUILD_TIMEOUT_S = 600.0

#: What each action does, for people.
MEANINGS = {
    "nothing": "stays as it is",
    "update": "other limits or periods, no replica is touched",
    "scale": "more or fewer replicas",
    "reconfigure": "replicas are told, and go on",
    "restart": "replicas are replaced, new before old",
    "create": "is new",
    "remove": "is removed",
}


def command(
    config_file_name: Annotated[
        str, typer.Argument(metavar="FILE", help="Config file, as for `serve deploy`.")
    ],
    address: AddressOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show what `serve deploy FILE` would do to each deployment that runs. Nothing is deployed.

    Applications with other code than the running ones are imported, in a process of their own. Ends with 1 if one
    of them cannot be.

    With --json: {NAME: {"action", "error", "deployments": {NAME: {"action", "changed": [OPTION, ...],
    "replicas_before", "replicas_after"}}}}.
    """
    given = read_submission(config_file_name)
    given.tell_notice()
    try:
        plans = control_plane(address).post(
            f"{APPLICATIONS}diff", given.document, given.headers, timeout_s=BUILD_TIMEOUT_S
        )["applications"]
    except InvalidConfigError as error:
        raise given.config.explain(error) from error
    if as_json:
        print_json(plans)
    elif plans:
        print_table(("NAME", "ACTION", "REPLICAS", "CHANGED", "WHAT HAPPENS"), list(rows_of(plans)))
    else:
        print("Nothing runs, and the file has no applications.")
    failed = [name for name, app in plans.items() if app["action"] == "fail"]
    if failed:
        raise RayServeException("\n".join(f"Cannot build {name}: {plans[name]['error']}" for name in failed))


def rows_of(plans: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Return the lines of a table: each application, followed by its deployments."""
    for name, app in plans.items():
        yield name, app["action"], "", "", ""
        for deployment, plan in app["deployments"].items():
            before, after = plan["replicas_before"], plan["replicas_after"]
            number = f"{before} -> {after}" if before != after else str(after)
            changed = ", ".join(plan["changed"])
            yield f"  {deployment}", plan["action"], number, changed, MEANINGS[plan["action"]]
