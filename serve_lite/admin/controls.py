"""What the control plane needs of a controller and of the instance, and how it answers and refuses.

`controller/controller.py` fits `Controls`; tests fit a small double. Next: `v2.py`, then `app.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from serve_lite.controller.pulse import PulseView
from serve_lite.exceptions import InvalidConfigError, ServeLiteError
from serve_lite.instruments import Family
from serve_lite.policy.diff import AppPlan
from serve_lite.schema import ServeStatus
from serve_lite.state.ids import DeploymentId
from serve_lite.wire.messages import DeployReply, DeployRequest

MAX_BODY_BYTES = 16 * 1024 * 1024  #: far above any document; payloads do not come this way
DRAIN_WAIT_S = 30.0  #: how long a DELETE waits for replicas to end, as Ray's client does

Handler = Callable[[Request], Awaitable[Response]]


class Controls(Protocol):
    """The controller, as seen from the door for operators."""

    async def submit(self, request: DeployRequest, /) -> DeployReply: ...
    async def plan(self, request: DeployRequest, removed: list[str], /) -> Mapping[str, AppPlan]: ...
    async def delete(self, names: list[str], /) -> object: ...
    def tag(self) -> str: ...
    async def scale(self, deployment: DeploymentId, target: int, is_manual: bool, /) -> None: ...
    async def events(self, limit: int, /) -> Sequence[msgspec.Struct]: ...
    async def history(self, name: str, /) -> list[dict[str, Any]]: ...
    async def rollback(self, name: str, revision: int | None, /) -> DeployReply: ...
    async def wait_apps(self, names: list[str], /) -> ServeStatus: ...
    def status(self) -> ServeStatus: ...
    def details(self) -> dict[str, Any]: ...
    async def metrics(self) -> list[Family]: ...
    def pulse(self) -> PulseView: ...


def routes_for(path: str, handlers: Mapping[str, Handler]) -> list[BaseRoute]:
    """Return routes that call `handlers` by method, for `path` with and without a slash at the end."""

    async def dispatch(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return [Route(one, dispatch, methods=list(handlers)) for one in (path, f"{path}/")]


def refused(message: str, *, status: int = 400, path: str = "") -> JSONResponse:
    """Return an error answer; `path` says which part of the document is meant."""
    return JSONResponse({"error": message, "path": path}, status)


def refused_because(error: ServeLiteError) -> JSONResponse:
    """Return the answer to a request that asked for something wrong."""
    return refused(str(error), path=getattr(error, "path", "") or "")


def answer(value: object, headers: Mapping[str, str] | None = None) -> Response:
    """Return `value` as JSON; it may hold structs and enumerations, and numbers that JSON has not (as null)."""
    return Response(msgspec.json.encode(value), media_type="application/json", headers=headers)


def accepted(headers: Mapping[str, str] | None = None) -> Response:
    """Return what Ray answers to a PUT or DELETE that worked: 200 and no body."""
    return Response(status_code=200, headers=headers)


async def read_document(request: Request) -> dict[str, Any]:
    """Return the body, a JSON object.

    Raises:
        InvalidConfigError: it is too large, no JSON, or not an object.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise InvalidConfigError(f"The body is larger than {MAX_BODY_BYTES} bytes.")
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidConfigError(f"The body is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise InvalidConfigError('The body must be a JSON object, like {"applications": [...]}.')
    return document


async def remove(controls: Controls, names: list[str]) -> None:
    """Delete applications and wait until their replicas have ended, for a bounded time."""
    if not names:
        return
    await controls.delete(names)
    with anyio.move_on_after(DRAIN_WAIT_S):
        await controls.wait_apps(names)
