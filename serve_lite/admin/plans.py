"""What a document would do, at `/api/serve/applications/diff`: asked with the document, and nothing changes.

Ours; Ray Serve has no such thing.
"""

from __future__ import annotations

from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serve_lite.admin.controls import Controls, answer, checked, read_document, refused_because, routes_for
from serve_lite.admin.documents import base_dir_of, deploy_request, is_single_app
from serve_lite.admin.endpoints import BASE_DIR, MERGE, Endpoint
from serve_lite.admin.v1 import SINGLE, whole_request
from serve_lite.admin.v2 import CONFIG, PATH, asks_for_merge
from serve_lite.exceptions import ServeLiteError
from serve_lite.policy.diff import AppPlan


class Plans(msgspec.Struct, frozen=True, kw_only=True):
    """What a document would do."""

    applications: dict[str, AppPlan]


ENDPOINTS = (
    Endpoint(
        id="diff_applications",
        method="POST",
        path=f"{PATH}/diff",
        summary="What a document would do",
        about="To each application and deployment, without doing it. Applications with new code are built to find out. "
        "Ours; Ray Serve has no such thing.",
        parameters=(MERGE, BASE_DIR),
        body={"anyOf": [CONFIG, SINGLE]},
        answer=Plans,
    ),
)


def routes(controls: Controls) -> list[BaseRoute]:
    """Return the routes, with and without the trailing slash."""

    async def post(request: Request) -> Response:
        try:
            base_dir, merge = base_dir_of(request.headers), asks_for_merge(request)
            document = await read_document(request)
            if is_single_app(document):
                wanted = await whole_request(document, controls.details(), base_dir=base_dir)
            else:
                wanted = await checked(document, partial(deploy_request, base_dir=base_dir, merge=merge))
                wanted.keeps_kind = not merge
            plans = await controls.plan(wanted)
        except ServeLiteError as error:
            return refused_because(error)
        return answer(Plans(applications=dict(plans)))

    return routes_for(f"{PATH}/diff", {"POST": post})
