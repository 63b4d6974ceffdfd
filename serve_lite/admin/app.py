"""The control plane as one ASGI application: the gate, V2, V1, and what clients ask first.

The daemon imports this module only when somebody connects to the admin port: applications that are
deployed through Python or the control socket never pay for it.
"""

from __future__ import annotations

import http
import logging
from typing import Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from serve_lite.admin import health, instance, openapi, operations, plans, prometheus, v1, v2
from serve_lite.admin.auth import Gate, Tokens, check_listener
from serve_lite.admin.controls import Controls, answer, refused, refused_because
from serve_lite.admin.endpoints import Endpoint
from serve_lite.exceptions import ServeLiteError
from serve_lite.wire.messages import InstanceSettings

#: The release of Ray whose REST answers ours look like; Ray's own clients refuse anything older than 1.12.
RAY_VERSION = "2.60.0"

NO_SETTINGS = InstanceSettings(settings=())

logger = logging.getLogger(__name__)


class RayVersion(msgspec.Struct, frozen=True, kw_only=True):
    """What clients of Ray ask first."""

    version: str = "4"
    ray_version: str = RAY_VERSION
    ray_commit: str = "serve-lite"


#: Everything the control plane answers. A test compares it with the routes.
ENDPOINTS: tuple[Endpoint, ...] = (
    *v2.ENDPOINTS,
    *plans.ENDPOINTS,
    *operations.ENDPOINTS,
    *v1.ENDPOINTS,
    *prometheus.ENDPOINTS,
    *instance.ENDPOINTS,
    *health.ENDPOINTS,
    *openapi.ENDPOINTS,
    Endpoint(
        id="get_ray_version",
        method="GET",
        path="/api/ray/version",
        summary="The release of Ray that the answers look like",
        about="Ray's clients ask for it before anything else.",
        answer=RayVersion,
        has_slash=False,
    ),
    Endpoint(
        id="get_health",
        method="GET",
        path="/-/healthz",
        summary="Whether the control plane answers",
        about="`success`. The door for users has one of its own.",
        answer={"type": "string"},
        media_type="text/plain",
        has_slash=False,
    ),
)


class AdminOptions(Protocol):
    """What the control plane needs to know of the instance."""

    @property
    def admin_host(self) -> str: ...


def build_app(
    controller: Controls,
    options: AdminOptions,
    *,
    address: str = "",
    tokens: Tokens | None = None,
    settings: InstanceSettings = NO_SETTINGS,
) -> ASGIApp:
    """Return the control plane of `controller`, gate included.

    Args:
        address: where it really listens; "": where the options say.
        tokens: that are asked of those who are not the instance's owner; None: of nobody.
        settings: what it tells of the instance.

    Raises:
        InvalidConfigError: other machines reach the address, and there are no tokens.
    """
    address = address or options.admin_host
    check_listener(address, tokens)
    routes = [
        *operations.routes(controller),
        *plans.routes(controller),
        *v2.routes(controller, settings),
        *v1.routes(controller),
        *prometheus.routes(controller),
        *instance.routes(settings),
        *openapi.routes(ENDPOINTS),
        *health.routes(controller),
        Route("/api/ray/version", ray_version, methods=["GET"]),
        Route("/-/healthz", healthz, methods=["GET"]),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: refuse_unknown,
            ServeLiteError: refuse_trouble,
            Exception: answer_failure,
        },
    )
    app.router.redirect_slashes = False
    return Gate(app, host=options.admin_host, address=address, tokens=tokens)


async def ray_version(request: Request) -> Response:
    """Tell Ray's clients that they may talk to us; they ask before anything else."""
    return answer(RayVersion())


async def healthz(request: Request) -> Response:
    """Say that the control plane answers. The door for users has its own."""
    return PlainTextResponse("success")


async def refuse_unknown(request: Request, error: Exception) -> Response:
    """Answer an unknown path or method."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    said = refused(f"{http.HTTPStatus(error.status_code).phrase}: {where}", status=error.status_code)
    said.headers.update(error.headers or {})
    return said


async def refuse_trouble(request: Request, error: Exception) -> Response:
    """Answer what no handler has expected, such as a store that cannot be read."""
    assert isinstance(error, ServeLiteError)
    return refused_because(error)


async def answer_failure(request: Request, error: Exception) -> Response:
    """Answer a mistake of ours without telling paths or values; the log has them."""
    logger.error("Control plane failed on %s %s", request.method, request.url.path, exc_info=error)
    return refused("Internal Server Error", status=500)
