"""REST V2: all applications of the instance in one document, at `/api/serve/applications/`.

Ray Serve's reference, "V2 REST API (Multi-application)". A PUT is checked whole, stored, and answered; what
becomes of it is seen by GET. Applications from `serve.run` are not touched by a document.

DELETE is Ray's "shuts down Serve", as far as a client can see it: all applications end, scripts' too, and the document
is forgotten. The instance itself and this door stay, as Ray's own REST server does, so that the next PUT needs no
start; `serve shutdown` ends it.

Ours: with its `ETag` in `If-Match`, a change is refused with 412 if somebody else has changed the configuration
meanwhile (`conditions.py`). With `?merge=true`, or as a PATCH, the applications of the document are added or replaced,
and the others stay.
"""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serve_lite.admin.conditions import answer_unless_known, revisions_wanted, tagged
from serve_lite.admin.controls import (
    Controls,
    accepted,
    checked,
    drained,
    read_document,
    refused,
    refused_because,
    routes_for,
)
from serve_lite.admin.documents import base_dir_of, deploy_request
from serve_lite.admin.endpoints import APPLICATION, BASE_DIR, MERGE, Endpoint, Parameter
from serve_lite.admin.instance import not_applied_header
from serve_lite.admin.notices import log_notice
from serve_lite.checks import invalid, wrong
from serve_lite.exceptions import ServeLiteError
from serve_lite.schema import ServeInstanceDetails
from serve_lite.wire.messages import InstanceSettings

PATH = "/api/serve/applications"
SOURCES = ("imperative", "declarative")
API_TYPE = Parameter(
    name="api_type",
    place="query",
    about="Show only applications from a document (`declarative`) or from scripts (`imperative`).",
    shape={"enum": list(SOURCES)},
)
CONFIG = {"$ref": "#/components/schemas/Config"}
NO_SUCH_APP = "There is no such application."

ENDPOINTS = (
    Endpoint(
        id="get_applications",
        method="GET",
        path=PATH,
        summary="Everything that is known of the instance",
        about="Instance, proxies, applications, deployments and replicas. In Ray Serve's reference: V2.",
        parameters=(API_TYPE,),
        answer=ServeInstanceDetails,
        is_tagged=True,
    ),
    Endpoint(
        id="put_applications",
        method="PUT",
        path=PATH,
        summary="Make a document the goal",
        about="Applications of earlier documents that it does not list are removed; those of scripts stay. The "
        "document is checked whole before anything changes. 200 means that it is stored; what "
        "becomes of it is seen by GET. Refused while a single-application document is in force.",
        parameters=(MERGE, BASE_DIR),
        body=CONFIG,
        is_tagged=True,
        is_conditional=True,
    ),
    Endpoint(
        id="patch_applications",
        method="PATCH",
        path=PATH,
        summary="Add or replace the applications that a document lists",
        about="The same as PUT with `merge=true`. Ours; Ray Serve has no such thing.",
        parameters=(BASE_DIR,),
        body=CONFIG,
        is_tagged=True,
        is_conditional=True,
    ),
    Endpoint(
        id="delete_applications",
        method="DELETE",
        path=PATH,
        summary="Remove all applications and the document",
        about="Those of scripts too. Answered when their replicas have ended, or after 30 seconds. The instance stays "
        "and takes the next document; `serve shutdown` ends it.",
        is_tagged=True,
        is_conditional=True,
    ),
    Endpoint(
        id="delete_application",
        method="DELETE",
        path=f"{PATH}/{{name}}",
        summary="Remove one application",
        about="Answered when its replicas have ended, or after 30 seconds. Ours; Ray Serve has no such thing.",
        parameters=(APPLICATION,),
        is_tagged=True,
        is_conditional=True,
        refusals={404: NO_SUCH_APP},
    ),
)


def routes(controls: Controls, settings: InstanceSettings) -> list[BaseRoute]:
    """Return the routes, with and without the trailing slash. `settings` are the instance's own options."""

    async def put(request: Request) -> Response:
        try:
            merge = asks_for_merge(request)
        except ServeLiteError as error:
            return refused_because(error)
        return await store(request, merge=merge)

    async def patch(request: Request) -> Response:
        return await store(request, merge=True)

    async def store(request: Request, *, merge: bool) -> Response:
        try:
            document = await read_document(request)
            base_dir = base_dir_of(request.headers)
            wanted = await checked(document, partial(deploy_request, base_dir=base_dir, merge=merge))
            wanted.keeps_kind = not merge
            wanted.if_revisions = revisions_wanted(request, controls.tag())
            reply = await controls.submit(wanted)
            log_notice(document)
        except ServeLiteError as error:
            return refused_because(error)
        headers = not_applied_header(document, settings)
        return accepted({**tagged(controls.tag(), reply.revision), **headers})

    async def get(request: Request) -> Response:
        try:
            source = source_wanted(request)
        except ServeLiteError as error:
            return refused_because(error)
        details, tag = controls.details(), controls.tag()
        if source:
            apps = details["applications"]
            details["applications"] = {n: app for n, app in apps.items() if app.get("source") == source}
        return answer_unless_known(request, details, tag)

    async def delete(request: Request) -> Response:
        try:
            gone = await controls.clear(revisions_wanted(request, controls.tag()))
        except ServeLiteError as error:
            return refused_because(error)
        tag = controls.tag()
        await drained(controls, gone)
        return accepted({"etag": f'"{tag}"'})

    async def delete_one(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in controls.status().applications:
            return refused(f"There is no application {name!r}.", status=404)
        try:
            await controls.delete([name], revisions_wanted(request, controls.tag()))
        except ServeLiteError as error:
            return refused_because(error)
        tag = controls.tag()
        await drained(controls, [name])
        return accepted({"etag": f'"{tag}"'})

    return [
        *routes_for(PATH, {"GET": get, "PUT": put, "PATCH": patch, "DELETE": delete}),
        *routes_for(f"{PATH}/{{name}}", {"DELETE": delete_one}),
    ]


def asks_for_merge(request: Request) -> bool:
    """Whether the request has `?merge=true`.

    Raises:
        InvalidConfigError: it has another value than true or false.
    """
    asked = request.query_params.get("merge", "false").lower()
    if asked not in ("true", "false"):
        raise wrong(asked, "merge", "true or false")
    return asked == "true"


def source_wanted(request: Request) -> str:
    """Return the `?api_type=` of a request in lower case; "" if it has none.

    Raises:
        InvalidConfigError: it has another value than those of `SOURCES`.
    """
    given = request.query_params.get("api_type", "")
    if given and given.lower() not in SOURCES:
        raise invalid(
            "api_type", f"Invalid 'api_type' value {given!r}; it must be one of {', '.join(SOURCES)}."
        )
    return given.lower()
