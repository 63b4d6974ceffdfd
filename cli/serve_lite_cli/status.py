"""`serve status`: how the applications are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from serve_lite.exceptions import RayServeException
from serve_lite_cli.address import control_plane
from serve_lite_cli.flags import AddressOption, JsonOption
from serve_lite_cli.output import print_json, print_table, when
from serve_lite_cli.rest import APPLICATIONS
from serve_lite_cli.yaml_text import readable, to_yaml


def command(
    address: AddressOption = "",
    name: Annotated[str, typer.Option("--name", "-n", help="Show only the status of this application.")] = "",
    as_json: JsonOption = False,
    table: Annotated[
        bool, typer.Option("--table", help="Show a table with a line for each deployment.")
    ] = False,
) -> None:
    """Print the status of all applications as YAML.

    An application is NOT_STARTED, DEPLOYING, RUNNING, DEPLOY_FAILED, UNHEALTHY or DELETING. A deployment is
    UPDATING, HEALTHY, UNHEALTHY, DEPLOY_FAILED, UPSCALING or DOWNSCALING.

    With --json: the answer of `GET /api/serve/applications/`, every replica included; with --name too, the part of
    that application.
    """
    if table and as_json:
        raise typer.BadParameter("give one of --table and --json.")
    details = control_plane(address).get(APPLICATIONS)
    if as_json:
        print_json(only(details, name))
        return
    if table:
        apps = {name: only(details, name)} if name else details["applications"]
        print_table(("NAME", "STATUS", "REPLICAS", "ROUTE", "DEPLOYED", "MESSAGE"), list(rows_of(apps)))
        return
    status = readable(status_of(details))
    if not name:
        # A blank line between the parts, as Ray prints it.
        print("\n".join(to_yaml({key: part}) for key, part in status.items()), end="")
    else:
        print(to_yaml(only(status, name)), end="")


def only(status: dict[str, Any], name: str) -> dict[str, Any]:
    """Return one application's part, or all of it without a name.

    Raises:
        RayServeException: there is no such application.
    """
    if name and name not in status["applications"]:
        raise RayServeException(f'Application "{name}" does not exist.')
    part: dict[str, Any] = status["applications"][name] if name else status
    return part


def rows_of(apps: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Return the lines of a table: each application, followed by its deployments.

    Of a message the last line is shown, which has the user's own exception; the rest is in the YAML.
    """
    for name, app in apps.items():
        deployed = when(app["last_deployed_time_s"])
        yield name, app["status"], "", app["route_prefix"] or "-", deployed, last_line(app["message"])
        for deployment, one in app["deployments"].items():
            running = sum(replica["state"] == "RUNNING" for replica in one["replicas"])
            replicas = f"{running}/{one['target_num_replicas']}"
            yield f"  {deployment}", one["status"], replicas, "", "", last_line(one["message"])


def last_line(message: str) -> str:
    """Return the last line of a message that says something."""
    return next((line.strip() for line in reversed(message.splitlines()) if line.strip()), "")


def status_of(details: dict[str, Any]) -> dict[str, Any]:
    """Return Ray Serve's `ServeStatus`, taken from the answer of REST V2."""
    return {
        "proxies": {node: proxy["status"] for node, proxy in details["proxies"].items()},
        "applications": {name: _application(app) for name, app in details["applications"].items()},
        "target_capacity": details.get("target_capacity"),
        **{key: details[key] for key in ("memory_limits",) if key in details},
    }


def _application(app: dict[str, Any]) -> dict[str, Any]:
    return {
        "status": app["status"],
        "message": app["message"],
        "last_deployed_time_s": app["last_deployed_time_s"],
        "deployments": {name: _deployment(one) for name, one in app["deployments"].items()},
    }


def _deployment(deployment: dict[str, Any]) -> dict[str, Any]:
    return {
        "status": deployment["status"],
        "status_trigger": deployment.get("status_trigger", "UNSPECIFIED"),
        "replica_states": dict(Counter(replica["state"] for replica in deployment["replicas"])),
        "message": deployment["message"],
    }
