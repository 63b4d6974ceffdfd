"""How a deploy goes, told as it happens: phases of applications, deployments and replicas."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from serve_lite.exceptions import RayServeException
from serve_lite_cli.rest import APPLICATIONS, RestClient

#: The control plane is asked this often; REST has no way to be told.
LOOK_EVERY_S = 0.1

FAILED = ("DEPLOY_FAILED", "UNHEALTHY")


def follow_deploy(
    client: RestClient, names: Collection[str], show: Callable[[str], None], *, timeout_s: float | None = None
) -> dict[str, Any]:
    """Show each new phase until none of the applications is being deployed; return their details.

    Raises:
        RayServeException: one failed, was deleted meanwhile, or the time is over; what was deployed stays.
    """
    give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
    shown: dict[str, str] = {}
    while True:  # ends with the deploy, which the instance brings to an end, or with the time
        apps = client.get(APPLICATIONS)["applications"]
        wanted = {name: apps[name] for name in names if name in apps}
        for who, phase in phases(wanted).items():
            if shown.get(who) != phase:
                shown[who] = phase
                show(f"{who}: {phase}")
        if missing := [name for name in names if name not in apps or apps[name]["status"] == "DELETING"]:
            raise RayServeException(f"Deleted by somebody else meanwhile: {', '.join(missing)}.")
        if not any(app["status"] == "DEPLOYING" for app in wanted.values()):
            check(wanted)
            return wanted
        if give_up_at is not None and time.monotonic() > give_up_at:
            waiting = [name for name, app in wanted.items() if app["status"] == "DEPLOYING"]
            raise RayServeException(
                f"Not ready after {timeout_s:g} s: {', '.join(waiting)}. The deploy goes on."
            )
        time.sleep(LOOK_EVERY_S)


def phases(apps: dict[str, Any]) -> dict[str, str]:
    """Return where each application, deployment and replica stands, by what it is called."""
    found = {}
    for name, app in apps.items():
        found[name] = app["status"]
        for deployment, details in app["deployments"].items():
            found[f"{name}/{deployment}"] = details["status"]
            for replica in (*details["recent_dead_replicas"], *details["replicas"]):
                found[f"{name}/{deployment} {replica['replica_id']}"] = replica["state"]
    return found


def check(apps: dict[str, Any]) -> None:
    """Raise if an application failed.

    Raises:
        RayServeException: with what each of them says.
    """
    failed = {name: app for name, app in apps.items() if app["status"] in FAILED}
    if failed:
        said = [f"Application '{name}' is {app['status']}: {app['message']}" for name, app in failed.items()]
        raise RayServeException("\n".join(said))
