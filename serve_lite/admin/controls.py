"""What the control plane needs of a controller and of the instance, and how it answers and refuses.

`controller/desk.py` fits `Controls`; tests fit a small double. Next: `v2.py`, then `app.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from serve_lite.admin.bodies import MAX_BODY_BYTES, BodyTooLargeError, parse_object
from serve_lite.admin.mistakes import RefusedDocumentError, find_mistakes, path_of
from serve_lite.checks import wrong
from serve_lite.controller.goals import NotScalableError, StaleRevisionError, UnknownNameError
from serve_lite.controller.pulse import PulseView
from serve_lite.controller.store import EventRow
from serve_lite.exceptions import InstanceError, InvalidConfigError, ServeLiteError
from serve_lite.instruments import Family
from serve_lite.policy.diff import AppPlan
from serve_lite.schema import ServeStatus
from serve_lite.state.ids import DeploymentId
from serve_lite.state.status import RevisionSummary
from serve_lite.wire.messages import DeployReply, DeployRequest

DRAIN_WAIT_S = 30.0  #: how long a DELETE waits for replicas to end, as Ray's client does
READ_AWAY_BYTES, READ_AWAY_S = 128 * 1024 * 1024, 10.0  #: what is read of a body that is too large
LARGE_BODY_BYTES = 64 * 1024  #: from here on, a body is parsed beside the loop

#: What is not the request's own mistake (400).
STATUSES: Mapping[type[ServeLiteError], int] = {
    UnknownNameError: 404,
    StaleRevisionError: 412,
    NotScalableError: 412,
    BodyTooLargeError: 413,
    InstanceError: 503,  # could not be stored, or nothing could be started: the instance's trouble
}

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


class Controls(Protocol):
    """The controller, as seen from the door for operators."""

    async def submit(self, request: DeployRequest, /) -> DeployReply: ...
    async def plan(self, request: DeployRequest, /) -> Mapping[str, AppPlan]: ...
    async def delete(self, names: list[str], if_revisions: Collection[int] | None, /) -> object: ...
    async def clear(self, if_revisions: Collection[int] | None, /) -> list[str]: ...
    def tag(self) -> str: ...
    async def scale(
        self, deployment: DeploymentId, target: int, is_manual: bool, if_revisions: Collection[int] | None, /
    ) -> DeployReply: ...
    async def events(self, limit: int, /) -> Sequence[EventRow]: ...
    async def history(self, name: str, /) -> list[RevisionSummary]: ...
    async def rollback(
        self, name: str, revision: int | None, if_revisions: Collection[int] | None, /
    ) -> DeployReply: ...
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


def asks_for(parameter: str, request: Request) -> bool:
    """Whether the request has `?<parameter>=true`.

    Raises:
        InvalidConfigError: it has another value than true or false.
    """
    asked = request.query_params.get(parameter, "false").lower()
    if asked not in ("true", "false"):
        raise wrong(asked, parameter, "true or false")
    return asked == "true"


def refused_because(error: ServeLiteError) -> JSONResponse:
    """Return the answer to a request that asked for something wrong, or that could not be carried out.

    Of a document all mistakes are in `errors`.
    """
    status = next((code for kind, code in STATUSES.items() if isinstance(error, kind)), 400)
    if not isinstance(error, RefusedDocumentError):
        return refused(str(error), status=status, path=path_of(error))
    errors = [{"error": str(mistake), "path": path_of(mistake)} for mistake in error.mistakes]
    return JSONResponse({"error": str(error), "path": path_of(error), "errors": errors}, status)


def answer(value: object, headers: Mapping[str, str] | None = None) -> Response:
    """Return `value` as JSON; it may hold structs and enumerations, and numbers that JSON has not (as null)."""
    return Response(msgspec.json.encode(value), media_type="application/json", headers=headers)


def accepted(headers: Mapping[str, str] | None = None) -> Response:
    """Return what Ray answers to a PUT or DELETE that worked: 200 and no body."""
    return Response(status_code=200, headers=headers)


async def read_document(request: Request) -> dict[str, Any]:
    """Return the body, a JSON object.

    Raises:
        BodyTooLargeError: it is larger than `MAX_BODY_BYTES`.
        InvalidConfigError: it is no JSON object, or has something in it that cannot be kept.
    """
    body = bytearray()
    pieces = request.stream()
    async for piece in pieces:
        body += piece
        if len(body) > MAX_BODY_BYTES:
            await _read_away(pieces)
            raise BodyTooLargeError
    if len(body) < LARGE_BODY_BYTES:
        return parse_object(bytes(body))
    return await anyio.to_thread.run_sync(parse_object, bytes(body))


async def checked(document: dict[str, Any], make: Callable[[dict[str, Any]], T]) -> T:
    """Return what `make` makes of the document.

    The search for further mistakes is done in a thread, since it checks the document once for each.

    Raises:
        RefusedDocumentError: something in it is wrong.
    """
    try:
        return make(document)
    except InvalidConfigError as error:
        mistakes = await anyio.to_thread.run_sync(find_mistakes, document, make)
        raise RefusedDocumentError(mistakes or [error]) from error


async def _read_away(pieces: AsyncIterator[bytes]) -> None:
    """Read what is left of a body that is refused, within reason: many clients hear nothing while they send."""
    left = READ_AWAY_BYTES
    with anyio.move_on_after(READ_AWAY_S):
        async for piece in pieces:
            left -= len(piece)
            if left < 0:
                return


async def drained(controls: Controls, names: list[str]) -> None:
    """Return when the replicas of deleted applications have ended, or after a bounded time."""
    with anyio.move_on_after(DRAIN_WAIT_S):
        await controls.wait_apps(names)
