"""What a document would do, at `/api/serve/applications/diff`: asked with the document, and nothing changes.

Ours; Ray Serve has no such thing.
"""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serve_lite.admin.controls import Controls, answer, checked, read_document, refused_because, routes_for
from serve_lite.admin.documents import BASE_DIR_HEADER, deploy_request, is_single_app, single_app_request
from serve_lite.admin.v1 import APP, check_no_multi_app_config, check_same_listener
from serve_lite.admin.v2 import PATH, asks_for_merge
from serve_lite.exceptions import ServeLiteError


def routes(controls: Controls) -> list[BaseRoute]:
    """Return the routes, with and without the trailing slash."""

    async def post(request: Request) -> Response:
        base_dir = request.headers.get(BASE_DIR_HEADER)
        removed: list[str] = []
        try:
            document = await read_document(request)
            if is_single_app(document):
                check_same_listener(document, controls.details().get("http_options") or {})
                check_no_multi_app_config(controls.details())
                wanted = await checked(document, partial(single_app_request, base_dir=base_dir))
                removed = [name for name in controls.status().applications if name != APP]
            else:
                merge = asks_for_merge(request)
                wanted = await checked(document, partial(deploy_request, base_dir=base_dir, merge=merge))
            plans = await controls.plan(wanted, removed)
        except ServeLiteError as error:
            return refused_because(error)
        return answer({"applications": plans})

    return routes_for(f"{PATH}/diff", {"POST": post})
