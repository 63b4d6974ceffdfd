"""REST V1: one application, called "default", at `/api/serve/deployments/`. As Ray Serve 2.7 had it.

Ray Serve's reference, "V1 REST API (Single-application)". Statuses that 2.7 did not know are told in its
three words.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serve_lite.admin.controls import (
    Controls,
    accepted,
    answer,
    checked,
    read_document,
    refused_because,
    remove,
    routes_for,
)
from serve_lite.admin.documents import BASE_DIR_HEADER, single_app_request
from serve_lite.admin.notices import log_notice
from serve_lite.checks import invalid
from serve_lite.exceptions import InvalidConfigError, ServeLiteError
from serve_lite.schema import (
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
)

PATH = "/api/serve/deployments"
APP = "default"
EMPTY_APP: dict[str, Any] = {"import_path": "", "runtime_env": {}, "deployments": []}
NOT_STARTED: dict[str, Any] = {
    "app_status": {"status": "NOT_STARTED", "message": "", "deployment_timestamp": 0},
    "deployment_statuses": [],
}


def routes(controls: Controls) -> list[BaseRoute]:
    """Return the routes, with and without the trailing slash."""

    async def put(request: Request) -> Response:
        try:
            document = await read_document(request)
            check_same_listener(document, controls.details().get("http_options") or {})
            check_no_multi_app_config(controls.details())
            base_dir = request.headers.get(BASE_DIR_HEADER)
            await controls.submit(await checked(document, partial(single_app_request, base_dir=base_dir)))
            log_notice(document)
            # In 2.7 a single-application document describes everything that runs.
            others = [name for name in controls.status().applications if name != APP]
            if others:
                await controls.delete(others)
        except ServeLiteError as error:
            return refused_because(error)
        return accepted()

    async def get(request: Request) -> Response:
        app = controls.details()["applications"].get(APP) or {}
        return answer(app.get("deployed_app_config") or EMPTY_APP)

    async def status(request: Request) -> Response:
        overview = controls.status().applications.get(APP)
        return answer(NOT_STARTED if overview is None else as_2_7(APP, overview))

    async def delete(request: Request) -> Response:
        await remove(controls, list(controls.status().applications))
        return accepted()

    return [
        *routes_for(f"{PATH}/status", {"GET": status}),
        *routes_for(PATH, {"GET": get, "PUT": put, "DELETE": delete}),
    ]


def check_same_listener(document: dict[str, Any], running: dict[str, Any]) -> None:
    """Refuse a document that names another host or port than the instance listens on.

    Raises:
        InvalidConfigError: with the path "host" or "port".
    """
    for key in ("host", "port"):
        if key in document and key in running and document[key] != running[key]:
            raise invalid(
                key,
                f"Serve is already running with HTTP {key} {running[key]!r}, and the request asks for "
                f"{document[key]!r}. Remove it from the document, or run `serve shutdown` and start Serve with it.",
            )


def check_no_multi_app_config(details: dict[str, Any]) -> None:
    """Refuse to mix the two kinds of documents, as 2.7 does.

    Raises:
        InvalidConfigError: a multi-application document is in force.
    """
    is_in_force = any(
        app.get("source") == "declarative" and app.get("status") != "DELETING"
        for app in details["applications"].values()
    )
    if is_in_force and details.get("deploy_mode") == "MULTI_APP":
        raise InvalidConfigError(
            "You are trying to deploy a single-application config, however a multi-application config has been "
            "deployed to the current Serve instance already. Mixing single-app and multi-app is not allowed: "
            "use PUT /api/serve/applications/, or delete the applications first."
        )


def as_2_7(name: str, overview: ApplicationStatusOverview) -> dict[str, Any]:
    """Return an application's status in 2.7's shape and words."""
    return {
        "name": name,
        "app_status": {
            "status": str(overview.status),
            "message": overview.message,
            "deployment_timestamp": overview.last_deployed_time_s,
        },
        "deployment_statuses": [
            {"name": deployment, "status": three_words(one), "message": one.message}
            for deployment, one in overview.deployments.items()
        ],
    }


def three_words(overview: DeploymentStatusOverview) -> str:
    """Return UPDATING, HEALTHY or UNHEALTHY. In 2.7 autoscaling did not change a deployment's status."""
    match overview.status:
        case DeploymentStatus.UNHEALTHY | DeploymentStatus.DEPLOY_FAILED:
            return "UNHEALTHY"
        case DeploymentStatus.UPSCALING | DeploymentStatus.DOWNSCALING:
            is_automatic = overview.status_trigger is DeploymentStatusTrigger.AUTOSCALING
            return "HEALTHY" if is_automatic else "UPDATING"
        case DeploymentStatus.HEALTHY:
            return "HEALTHY"
        case DeploymentStatus.UPDATING:
            return "UPDATING"
