"""What takes user code without running it here: an importer child imports it and answers with data."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import msgspec

from serve_lite.controller.child import Child, ExitInfo
from serve_lite.controller.spawner import Spawner
from serve_lite.exceptions import InstanceError, RayServeException
from serve_lite.state.goal import BuildRequest, BuildResult, CodeEnvironment
from serve_lite.wire.spawning import (
    LENGTH_BYTES,
    BuildFailure,
    BuildReply,
    GrpcServices,
    ServicersReply,
    ServicersRequest,
)

R = TypeVar("R")

_LAST_WORDS = 10  #: lines of output that are told with an importer's death


class BuildError(RayServeException):
    """An application could not be built; the message is for its author."""

    def __init__(self, type_name: str, text: str, traceback: str = "", where: str = "") -> None:
        super().__init__(type_name, text, traceback, where)
        self.type_name = type_name  #: class of the user's exception; "" where the text says it all
        self.text = text
        self.traceback = traceback  #: the user's frames only
        self.where = where  #: `file:line`, "" if no user code ran

    def __str__(self) -> str:
        at = f" (at {self.where})" if self.where else ""
        return f"{self.exception}{at}"

    @property
    def exception(self) -> str:
        """Class and text, as the last line of a traceback has them."""
        return f"{self.type_name}: {self.text}" if self.type_name else self.text


class Importer:
    """Builds applications and reads gRPC services, each time in a child of its own."""

    def __init__(self, spawner: Spawner) -> None:
        self._spawner = spawner

    async def build(self, request: BuildRequest, environment: CodeEnvironment) -> BuildResult:
        """Return the deployments of an application.

        Has no deadline: an import may take as long as it takes. On cancel the child is killed.

        Raises:
            BuildError: there is no such application, its code raised, or the importer died.
            InstanceError: no process could be started.
        """
        log_path = self._spawner.log_path("importer", request.app_name)
        reply = await _ask_child(
            lambda work: self._spawner.spawn_importer(request.app_name, environment, work, log_path),
            request,
            BuildReply,
            "the process that imported the application",
        )
        if reply.failure is not None:
            raise _build_error(reply.failure)
        if reply.result is None:
            raise BuildError("ImporterError", "the importer answered with neither a result nor a failure")
        return reply.result

    async def read_servicers(self, paths: tuple[str, ...], environment: CodeEnvironment) -> GrpcServices:
        """Return what gRPC servicer functions offer. No deadline; on cancel the child is killed.

        Raises:
            InstanceError: one of them cannot be imported or is none.
        """
        log_path = self._spawner.log_path("importer", "grpc")
        try:
            reply = await _ask_child(
                lambda work: self._spawner.spawn_servicers(environment, work, log_path),
                ServicersRequest(paths=paths),
                ServicersReply,
                "the process that imported the gRPC servicer functions",
            )
        except BuildError as error:
            raise InstanceError(str(error)) from error
        if reply.failure is not None or reply.services is None:
            why = _build_error(reply.failure) if reply.failure is not None else "nothing was answered"
            raise InstanceError(f"gRPC cannot be served: {why}")
        return reply.services


async def _ask_child(
    spawn: Callable[[socket.socket], Awaitable[Child]], request: msgspec.Struct, reply_type: type[R], who: str
) -> R:
    """Start a child, ask it one thing, and end it."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            child = await spawn(theirs)
    except BaseException:
        ours.close()
        raise
    try:
        reply = await _ask(ours, request, reply_type)
        if reply is None:
            raise _death(who, await child.wait(), child.tail(_LAST_WORDS))
        return reply
    finally:
        child.kill()  # it has answered, or nobody waits for its answer
        with anyio.move_on_after(2.0, shield=True):
            await child.wait()


async def _ask(sock: socket.socket, request: msgspec.Struct, reply_type: type[R]) -> R | None:
    """Send the request and return the reply, None if the importer ended without one. Closes `sock`."""
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        body = msgspec.msgpack.encode(request)
        writer.write(len(body).to_bytes(LENGTH_BYTES, "big") + body)
        size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
        return msgspec.msgpack.decode(await reader.readexactly(size), type=reply_type)
    except (ConnectionError, asyncio.IncompleteReadError):
        return None
    finally:
        writer.close()


def _build_error(failure: BuildFailure) -> BuildError:
    return BuildError(failure.type_name, failure.text, failure.traceback, failure.where)


def _death(who: str, exited: ExitInfo, last_lines: list[str]) -> BuildError:
    said = "; the last lines it printed:\n" + "\n".join(last_lines) if last_lines else ""
    return BuildError("ImporterDied", f"{who} {exited}{said}")
