"""What operators do beside deploying: scale one deployment, look back, go back.

`POST /api/v1/applications/{app}/deployments/{deployment}/scale` is Ray Serve's door for external scalers, with its
answers; `?manual=true` lets the user do it who runs no scaler. Events, history and rollback are ours.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from serve_lite.admin.controls import Controls, answer, read_document, refused, refused_because, routes_for
from serve_lite.admin.v2 import PATH
from serve_lite.checks import check_fields, integer
from serve_lite.controller.goals import NotScalableError, UnknownNameError
from serve_lite.exceptions import InvalidConfigError, ServeLiteError
from serve_lite.state.ids import DeploymentId

SCALE = "/api/v1/applications/{name}/deployments/{deployment}/scale"
EVENTS = "/api/serve/events"
MOST_EVENTS = 2000  #: as many as the store keeps

ACCEPTED = {"message": "Scaling request received. Deployment will get scaled asynchronously."}


def routes(controls: Controls) -> list[BaseRoute]:
    """Return the routes, with and without the trailing slash."""

    async def scale(request: Request) -> Response:
        deployment = DeploymentId(request.path_params["deployment"], request.path_params["name"])
        is_manual = request.query_params.get("manual", "").lower() == "true"
        try:
            target = target_in(await read_document(request))
        except InvalidConfigError as error:
            return JSONResponse({"error": f"Invalid request body: {error}"}, 400)
        try:
            await controls.scale(deployment, target, is_manual)
        except UnknownNameError:
            return JSONResponse({"error": "Application or Deployment not found"}, 404)
        except NotScalableError as error:
            return JSONResponse({"error": str(error)}, 412)
        return answer(ACCEPTED)

    async def events(request: Request) -> Response:
        try:
            limit = integer(at_least=1, at_most=MOST_EVENTS)(
                request.query_params.get("limit", 100), "limit", True
            )
        except InvalidConfigError as error:
            return refused_because(error)
        return answer({"events": await controls.events(limit)})

    async def history(request: Request) -> Response:
        found = await controls.history(request.path_params["name"])
        if not found:
            return refused(f"There is no application {request.path_params['name']!r}.", status=404)
        return answer({"revisions": found})

    async def rollback(request: Request) -> Response:
        try:
            document = await read_document(request)
            fields: dict[str, Any] = check_fields(
                document, {"revision": integer(at_least=1, none=True)}, "", False, thing="a rollback"
            )
            reply = await controls.rollback(request.path_params["name"], fields.get("revision"))
        except UnknownNameError as error:
            return refused(str(error), status=404)
        except ServeLiteError as error:
            return refused_because(error)
        return answer(reply)

    return [
        *routes_for(SCALE, {"POST": scale}),
        *routes_for(EVENTS, {"GET": events}),
        *routes_for(f"{PATH}/{{name}}/history", {"GET": history}),
        *routes_for(f"{PATH}/{{name}}/rollback", {"POST": rollback}),
    ]


def target_in(document: dict[str, Any]) -> int:
    """Return the number of replicas that a scale request asks for.

    Raises:
        InvalidConfigError: it has none, or not a whole number of at least 0.
    """
    fields = {"target_num_replicas": integer(at_least=0)}
    given = check_fields(document, fields, "", False, thing="a scale request", required=tuple(fields))
    return int(given["target_num_replicas"])
