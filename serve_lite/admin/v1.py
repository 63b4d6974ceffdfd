"""REST V1: one application, called "default", at `/api/serve/deployments/`. As Ray Serve 2.7 had it.

Ray Serve's reference, "V1 REST API (Single-application)". Statuses that 2.7 did not know are told in its
three words. DELETE means here what it means in `v2.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serve_lite.admin.conditions import answer_unless_known, revisions_wanted, tagged
from serve_lite.admin.controls import (
    Controls,
    accepted,
    answer,
    checked,
    drained,
    read_document,
    refused_because,
    routes_for,
)
from serve_lite.admin.documents import base_dir_of, single_app_request
from serve_lite.admin.endpoints import BASE_DIR, Endpoint
from serve_lite.admin.notices import log_notice
from serve_lite.checks import invalid
from serve_lite.exceptions import ServeLiteError
from serve_lite.schema import (
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    ServeStatusSchema,
)
from serve_lite.wire.messages import DeployRequest

PATH = "/api/serve/deployments"
APP = "default"
EMPTY_APP: dict[str, Any] = {"import_path": "", "runtime_env": {}, "deployments": []}
NOT_STARTED: dict[str, Any] = {
    "app_status": {"status": "NOT_STARTED", "message": "", "deployment_timestamp": 0},
    "deployment_statuses": [],
}
SINGLE = {"$ref": "#/components/schemas/SingleApplicationConfig"}

ENDPOINTS = (
    Endpoint(
        id="get_deployments",
        method="GET",
        path=PATH,
        summary='The document of the application "default"',
        about="As it was put, with the values of environment variables hidden; empty if nothing is deployed so. In Ray "
        "Serve's reference: V1.",
        answer={
            "anyOf": [
                SINGLE,
                {"type": "object", "const": EMPTY_APP, "description": "Nothing is deployed."},
            ]
        },
        is_tagged=True,
    ),
    Endpoint(
        id="put_deployments",
        method="PUT",
        path=PATH,
        summary="Make one application the goal, and nothing beside it",
        about='It is called "default"; every other application is removed. `host` and `port` have to be those that the '
        "instance has. Refused while a document with several applications is in force.",
        parameters=(BASE_DIR,),
        body=SINGLE,
        is_tagged=True,
        is_conditional=True,
    ),
    Endpoint(
        id="delete_deployments",
        method="DELETE",
        path=PATH,
        summary="Remove all applications and the document",
        about="The same as `DELETE /api/serve/applications/`.",
        is_tagged=True,
        is_conditional=True,
    ),
    Endpoint(
        id="get_deployments_status",
        method="GET",
        path=f"{PATH}/status",
        summary='How the application "default" is',
        about="Deployments are UPDATING, HEALTHY or UNHEALTHY. `name` is left out if nothing is deployed.",
        answer=ServeStatusSchema,
    ),
)


def routes(controls: Controls) -> list[BaseRoute]:
    """Return the routes, with and without the trailing slash."""

    async def put(request: Request) -> Response:
        try:
            document = await read_document(request)
            wanted = await whole_request(document, controls.details(), base_dir=base_dir_of(request.headers))
            wanted.if_revisions = revisions_wanted(request, controls.tag())
            reply = await controls.submit(wanted)
            log_notice(document)
        except ServeLiteError as error:
            return refused_because(error)
        return accepted(tagged(controls.tag(), reply.revision))

    async def get(request: Request) -> Response:
        app = controls.details()["applications"].get(APP) or {}
        return answer_unless_known(request, app.get("deployed_app_config") or EMPTY_APP, controls.tag())

    async def status(request: Request) -> Response:
        overview = controls.status().applications.get(APP)
        return answer(NOT_STARTED if overview is None else as_2_7(APP, overview))

    async def delete(request: Request) -> Response:
        try:
            gone = await controls.clear(revisions_wanted(request, controls.tag()))
        except ServeLiteError as error:
            return refused_because(error)
        tag = controls.tag()
        await drained(controls, gone)
        return accepted({"etag": f'"{tag}"'})

    return [
        *routes_for(f"{PATH}/status", {"GET": status}),
        *routes_for(PATH, {"GET": get, "PUT": put, "DELETE": delete}),
    ]


async def whole_request(
    document: dict[str, Any], details: dict[str, Any], *, base_dir: str | None
) -> DeployRequest:
    """Return the request that makes a single-application document everything that runs, as in 2.7.

    Raises:
        InvalidConfigError: something in it is wrong, or it does not fit the instance that has these `details`.
    """
    wanted = await checked(document, partial(single_app_request, base_dir=base_dir))
    check_same_listener(document, details.get("http_options") or {})
    wanted.replace_all = wanted.keeps_kind = True
    return wanted


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
