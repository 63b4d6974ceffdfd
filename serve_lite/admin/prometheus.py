"""`GET /metrics`: everything the instance measures, for Prometheus.

Metric names are Ray's without the `ray_` in front; `/metrics?prefix=ray_` puts it back, for dashboards that exist.
Next: `exposition.py` writes the page, `controller/metrics.py` has what is on it.
"""

from __future__ import annotations

import re

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from serve_lite.admin.controls import Controls, refused
from serve_lite.admin.endpoints import Endpoint, Parameter
from serve_lite.instruments import Family

PATH = "/metrics"

_PREFIX = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?")

ENDPOINTS = (
    Endpoint(
        id="get_metrics",
        method="GET",
        path=PATH,
        summary="Everything the instance measures, for Prometheus",
        about="Prometheus text, or OpenMetrics for whoever accepts it. docs/metrics.md lists the metrics.",
        parameters=(
            Parameter(
                name="prefix",
                place="query",
                about="Stands in front of every name; `ray_` gives Ray's names.",
                shape={"type": "string", "pattern": f"^{_PREFIX.pattern}$", "default": ""},
            ),
        ),
        answer={"type": "string"},
        media_type="text/plain",
        has_slash=False,
    ),
)


def routes(controls: Controls) -> list[BaseRoute]:
    """Return the route of `/metrics`."""
    warned: set[str] = set()

    async def metrics(request: Request) -> Response:
        prefix = request.query_params.get("prefix", "")
        if _PREFIX.fullmatch(prefix) is None:
            return refused(
                f"'prefix' must be what a metric's name may begin with (letters, digits, '_', ':'), not {prefix!r}.",
                path="prefix",
            )
        families = await controls.metrics()
        accept = ",".join(request.headers.getlist("accept"))
        # In a thread: a page of a hundred thousand lines must not hold requests up.
        page, kind = await anyio.to_thread.run_sync(_render, families, accept, prefix, warned)
        return Response(page, headers={"content-type": kind})

    return [Route(PATH, metrics, methods=["GET"])]


def _render(families: list[Family], accept: str, prefix: str, warned: set[str]) -> tuple[bytes, str]:
    from serve_lite.admin.exposition import render  # lazily: most instances are never scraped

    return render(families, accept, prefix, warned)
