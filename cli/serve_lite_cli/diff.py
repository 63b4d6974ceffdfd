"""`serve diff`: what deploying a config file would do."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from serve_lite.exceptions import InvalidConfigError, RayServeException
from serve_lite_cli.address import control_plane
from serve_lite_cli.flags import AddressOption, JsonOption
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
    """
    given = read_submission(config_file_name)
    given.tell_notice()
    try:
        plans = control_plane(address).post(
            f"{APPLICATIONS}diff", given.document, given.headers, timeout_s=BUILD_TIMEOUT_S
        )["applications"]
    except InvalidConfigError as error:
        raise given.config.explain(error) from error
    print(json.dumps(plans, indent=2) if as_json else "\n".join(lines_of(plans)))
    failed = [name for name, app in plans.items() if app["action"] == "fail"]
    if failed:
        raise RayServeException("\n".join(f"Cannot build {name}: {plans[name]['error']}" for name in failed))


def lines_of(plans: dict[str, Any]) -> list[str]:
    """Return the plans for people."""
    lines = []
    for name, app in plans.items():
        lines.append(f"{name}: {app['action']}")
        lines += [f"  {deployment}: {_words(plan)}" for deployment, plan in app["deployments"].items()]
    return lines or ["Nothing runs, and the file has no applications."]


def _words(plan: dict[str, Any]) -> str:
    before, after = plan["replicas_before"], plan["replicas_after"]
    noun = "replica" if after == 1 else "replicas"
    number = f"{before} -> {after} {noun}" if before != after else f"{after} {noun}"
    changed = f"; changed: {', '.join(plan['changed'])}" if plan["changed"] else ""
    return f"{plan['action']} ({MEANINGS[plan['action']]}); {number}{changed}"
