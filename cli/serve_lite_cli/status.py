"""`serve status`: how the applications are."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from serve_lite.exceptions import RayServeException
from serve_lite_cli.address import control_plane
from serve_lite_cli.flags import AddressOption
from serve_lite_cli.rest import APPLICATIONS
from serve_lite_cli.yaml_text import readable, to_yaml


def command(
    address: AddressOption = "",
    name: Annotated[str, typer.Option("--name", "-n", help="Show only the status of this application.")] = "",
) -> None:
    """Print the status of all applications as YAML.

    An application is NOT_STARTED, DEPLOYING, RUNNING, DEPLOY_FAILED, UNHEALTHY or DELETING. A deployment is
    UPDATING, HEALTHY, UNHEALTHY, DEPLOY_FAILED, UPSCALING or DOWNSCALING.
    """
    status = readable(status_of(control_plane(address).get(APPLICATIONS)))
    if not name:
        # A blank line between the parts, as Ray prints it.
        print("\n".join(to_yaml({key: part}) for key, part in status.items()), end="")
    elif name in status["applications"]:
        print(to_yaml(status["applications"][name]), end="")
    else:
        raise RayServeException(f'Application "{name}" does not exist.')


def status_of(details: dict[str, Any]) -> dict[str, Any]:
    """Return Ray Serve's `ServeStatus`, taken from the answer of REST V2."""
    return {
        "proxies": {node: proxy["status"] for node, proxy in details["proxies"].items()},
        "applications": {name: _application(app) for name, app in details["applications"].items()},
        "target_capacity": details.get("target_capacity"),
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
