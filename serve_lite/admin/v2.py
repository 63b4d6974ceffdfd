"""REST V2: all applications of the instance in one document, at `/api/serve/applications/`.

Ray Serve's reference, "V2 REST API (Multi-application)". A PUT is checked whole, stored, and answered; what
becomes of it is seen by GET. Applications from `serve.run` are not touched by a document.

Ours: the `ETag` of a GET names the revision of the configuration (not the statuses, which change by themselves). A PUT
with it in `If-Match` is refused with 412 if somebody else has changed the configuration meanwhile. With `?merge=true`,
or as a PATCH, the applications of the document are added or replaced, and the others stay.
"""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serve_lite.admin.controls import (
    Controls,
    accepted,
    answer,
    checked,
    read_document,
    refused,
    refused_because,
    remove,
    routes_for,
)
from serve_lite.admin.documents import BASE_DIR_HEADER, deploy_request
from serve_lite.admin.notices import log_notice
from serve_lite.checks import wrong
from serve_lite.controller.goals import StaleRevisionError
from serve_lite.exceptions import ServeLiteError

PATH = "/api/serve/applications"
SOURCES = ("imperative", "declarative")


def routes(controls: Controls) -> list[BaseRoute]:
    """Return the routes, with and without the trailing slash."""

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
            base_dir = request.headers.get(BASE_DIR_HEADER)
            wanted = await checked(document, partial(deploy_request, base_dir=base_dir, merge=merge))
            wanted.if_revisions = revisions_in(request.headers.get("if-match"), controls.tag())
            reply = await controls.submit(wanted)
            log_notice(document)
        except StaleRevisionError as error:
            return refused(str(error), status=412)
        except ServeLiteError as error:
            return refused_because(error)
        return accepted({"etag": f'"{tag_of(controls.tag(), reply.revision)}"'})

    async def get(request: Request) -> Response:
        details, tag = controls.details(), controls.tag()
        source = request.query_params.get("api_type", "").lower()
        if source and source not in SOURCES:
            return refused(f"Invalid 'api_type' value {source!r}; it may be one of {', '.join(SOURCES)}.")
        if source:
            apps = details["applications"]
            details["applications"] = {n: app for n, app in apps.items() if app.get("source") == source}
        return answer(details, {"etag": f'"{tag}"'})

    async def delete(request: Request) -> Response:
        await remove(controls, list(controls.status().applications))
        return accepted()

    async def delete_one(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in controls.status().applications:
            return refused(f"There is no application {name!r}.", status=404)
        await remove(controls, [name])
        return accepted()

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


def tag_of(tag: str, revision: int) -> str:
    """Return the tag that this instance had or has at another revision."""
    return f"{tag.rpartition('-')[0]}-{revision}"


def revisions_in(if_match: str | None, tag: str) -> list[int] | None:
    """Return the revisions that an `If-Match` header takes; None if it takes all. `tag` is the present one's.

    Tags of other instances, and what is no tag of ours, match nothing.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    instance = tag.rpartition("-")[0]
    found = []
    for entry in if_match.split(","):
        named, _, revision = entry.strip().strip('"').rpartition("-")
        if named == instance and revision.isdecimal():
            found.append(int(revision))
    return found
