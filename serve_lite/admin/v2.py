"""REST V2: all applications of the instance in one document, at `/api/serve/applications/`.

Ray Serve's reference, "V2 REST API (Multi-application)". A PUT is checked whole, stored, and answered; what
becomes of it is seen by GET. Applications from `serve.run` are not touched by a document.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serve_lite.admin.controls import (
    Controls,
    accepted,
    answer,
    read_document,
    refused,
    refused_because,
    remove,
    routes_for,
)
from serve_lite.admin.documents import BASE_DIR_HEADER, deploy_request
from serve_lite.exceptions import ServeLiteError

PATH = "/api/serve/applications"
SOURCES = ("imperative", "declarative")


def routes(controls: Controls) -> list[BaseRoute]:
    """Return the routes, with and without the trailing slash."""

    async def put(request: Request) -> Response:
        try:
            document = await read_document(request)
            await controls.submit(deploy_request(document, base_dir=request.headers.get(BASE_DIR_HEADER)))
        except ServeLiteError as error:
            return refused_because(error)
        return accepted()

    async def get(request: Request) -> Response:
        details = controls.details()
        source = request.query_params.get("api_type", "").lower()
        if source and source not in SOURCES:
            return refused(f"Invalid 'api_type' value {source!r}; it may be one of {', '.join(SOURCES)}.")
        if source:
            apps = details["applications"]
            details["applications"] = {n: app for n, app in apps.items() if app.get("source") == source}
        return answer(details)

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
        *routes_for(PATH, {"GET": get, "PUT": put, "DELETE": delete}),
        *routes_for(f"{PATH}/{{name}}", {"DELETE": delete_one}),
    ]
