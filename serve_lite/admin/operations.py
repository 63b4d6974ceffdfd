"""What operators do beside deploying: scale one deployment, look back, go back.

`POST /api/v1/applications/{app}/deployments/{deployment}/scale` is Ray Serve's door for external scalers, with its
answers; `?manual=true` lets the user do it who runs no scaler. Events, history and rollback are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serve_lite.admin.bodies import BodyTooLargeError
from serve_lite.admin.conditions import revisions_wanted, tagged
from serve_lite.admin.controls import Controls, answer, read_document, refused, refused_because, routes_for
from serve_lite.admin.endpoints import APPLICATION, DEPLOYMENT, Endpoint, Parameter
from serve_lite.admin.v2 import NO_SUCH_APP, PATH
from serve_lite.checks import check_fields, fields_schema, integer, wrong
from serve_lite.controller.goals import UnknownNameError
from serve_lite.controller.store import EventRow
from serve_lite.exceptions import InvalidConfigError, ServeLiteError
from serve_lite.state.ids import DeploymentId
from serve_lite.state.status import RevisionSummary
from serve_lite.wire.messages import DeployReply

SCALE = "/api/v1/applications/{name}/deployments/{deployment}/scale"
EVENTS = "/api/serve/events"
MOST_EVENTS = 2000  #: as many as the store keeps
MOST_REPLICAS = 10_000  #: far above what one machine can run: a slip of the finger

#: What the bodies may hold.
SCALE_FIELDS = {"target_num_replicas": integer(at_least=0, at_most=MOST_REPLICAS)}
ROLLBACK_FIELDS = {"revision": integer(at_least=1, none=True)}


class Scaled(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a scale request that is stored."""

    message: str = "Scaling request received. Deployment will get scaled asynchronously."


class Events(msgspec.Struct, frozen=True, kw_only=True):
    """What happened on the instance."""

    events: Sequence[EventRow]  #: newest first


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What an application was."""

    revisions: list[RevisionSummary]  #: newest first


ENDPOINTS = (
    Endpoint(
        id="scale_deployment",
        method="POST",
        path=SCALE,
        summary="Set how many replicas a deployment has",
        about="Until the next deploy. For scalers outside: the application has to have `external_scaler_enabled`, "
        "unless `manual` says that its user asks.",
        parameters=(
            APPLICATION,
            DEPLOYMENT,
            Parameter(
                name="manual",
                place="query",
                about="`true`: the user asks, not a scaler. Ours.",
                shape={"enum": ["true", "false"], "default": "false"},
            ),
        ),
        body=fields_schema(SCALE_FIELDS, required=list(SCALE_FIELDS)),
        answer=Scaled,
        is_tagged=True,
        is_conditional=True,
        refusals={
            404: "There is no such application or deployment.",
            412: "It is being deleted or built, scales by itself, or takes no external scaler.",
        },
    ),
    Endpoint(
        id="get_events",
        method="GET",
        path=EVENTS,
        summary="What happened on the instance, newest first",
        about="Ours; Ray Serve has no such thing.",
        parameters=(
            Parameter(
                name="limit",
                place="query",
                about="How many at most.",
                shape={"type": "integer", "minimum": 1, "maximum": MOST_EVENTS, "default": 100},
            ),
        ),
        answer=Events,
    ),
    Endpoint(
        id="get_history",
        method="GET",
        path=f"{PATH}/{{name}}/history",
        summary="The revisions of an application that can be gone back to, newest first",
        about="Ours; Ray Serve has no such thing.",
        parameters=(APPLICATION,),
        answer=History,
        refusals={404: NO_SUCH_APP},
    ),
    Endpoint(
        id="rollback_application",
        method="POST",
        path=f"{PATH}/{{name}}/rollback",
        summary="Make an earlier revision of an application the goal again",
        about="Configuration and arguments; files are imported as they are today. Without a `revision`, the one "
        "before. Ours; Ray Serve has no such thing.",
        parameters=(APPLICATION,),
        body=fields_schema(ROLLBACK_FIELDS),
        answer=DeployReply,
        is_tagged=True,
        is_conditional=True,
        refusals={404: "There is no such application or revision."},
    ),
)


def routes(controls: Controls) -> list[BaseRoute]:
    """Return the routes, with and without the trailing slash."""

    async def scale(request: Request) -> Response:
        deployment = DeploymentId(request.path_params["deployment"], request.path_params["name"])
        try:
            is_manual = asks_manually(request)
            target = target_in(await read_document(request))
        except BodyTooLargeError as error:
            return refused_because(error)
        except InvalidConfigError as error:
            return refused(f"Invalid request body: {error}", path=getattr(error, "path", "") or "")
        try:
            wanted = revisions_wanted(request, controls.tag())
            reply = await controls.scale(deployment, target, is_manual, wanted)
        except UnknownNameError:
            return refused("Application or Deployment not found", status=404)
        except ServeLiteError as error:
            return refused_because(error)
        return answer(Scaled(), tagged(controls.tag(), reply.revision))

    async def events(request: Request) -> Response:
        try:
            limit = integer(at_least=1, at_most=MOST_EVENTS)(
                request.query_params.get("limit", 100), "limit", True
            )
        except InvalidConfigError as error:
            return refused_because(error)
        return answer(Events(events=await controls.events(limit)))

    async def history(request: Request) -> Response:
        found = await controls.history(request.path_params["name"])
        if not found:
            return refused(f"There is no application {request.path_params['name']!r}.", status=404)
        return answer(History(revisions=found))

    async def rollback(request: Request) -> Response:
        try:
            document = await read_document(request)
            fields: dict[str, Any] = check_fields(document, ROLLBACK_FIELDS, "", False, thing="a rollback")
            wanted = revisions_wanted(request, controls.tag())
            reply = await controls.rollback(request.path_params["name"], fields.get("revision"), wanted)
        except ServeLiteError as error:
            return refused_because(error)
        return answer(reply, tagged(controls.tag(), reply.revision))

    return [
        *routes_for(SCALE, {"POST": scale}),
        *routes_for(EVENTS, {"GET": events}),
        *routes_for(f"{PATH}/{{name}}/history", {"GET": history}),
        *routes_for(f"{PATH}/{{name}}/rollback", {"POST": rollback}),
    ]


def asks_manually(request: Request) -> bool:
    """Whether the request has `?manual=true`.

    Raises:
        InvalidConfigError: it has another value than true or false.
    """
    asked = request.query_params.get("manual", "false").lower()
    if asked not in ("true", "false"):
        raise wrong(asked, "manual", "true or false")
    return asked == "true"


def target_in(document: dict[str, Any]) -> int:
    """Return the number of replicas that a scale request asks for.

    Raises:
        InvalidConfigError: it has none, or not a whole number of at least 0.
    """
    given = check_fields(
        document, SCALE_FIELDS, "", False, thing="a scale request", required=tuple(SCALE_FIELDS)
    )
    return int(given["target_num_replicas"])
