"""One question to a child process that is started for it, and its answer. The words are in `wire/spawning.py`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import msgspec

from serve_lite.controller.child import Child, ExitInfo
from serve_lite.exceptions import RayServeException
from serve_lite.wire.spawning import LENGTH_BYTES

R = TypeVar("R")

_LAST_WORDS = 10  #: lines of output that are told with a child's death
_END_S = 2.0  #: for a child to end when it is told to


class ChildDiedError(RayServeException):
    """A child ended without an answer; the message has its last words."""


async def ask_child(
    spawn: Callable[[socket.socket], Awaitable[Child]],
    request: msgspec.Struct,
    reply_type: type[R],
    who: str,
    *,
    has_children: bool = False,
) -> R:
    """Start a child, ask it one thing, and end it. No deadline; on cancel the child is ended.

    Args:
        who: what errors call the child.
        has_children: it ends those when it is told to end, so it is not killed at once.

    Raises:
        ChildDiedError: it ended without an answer.
        InstanceError: no process could be started.
    """
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
    finally:  # it has answered, or nobody waits for its answer
        if has_children:
            child.terminate()
            with anyio.move_on_after(_END_S, shield=True):
                await child.wait()
        child.kill()
        with anyio.move_on_after(_END_S, shield=True):
            await child.wait()


async def _ask(sock: socket.socket, request: msgspec.Struct, reply_type: type[R]) -> R | None:
    """Send the request and return the reply, None if the child ended without one. Closes `sock`."""
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


def _death(who: str, exited: ExitInfo, last_lines: list[str]) -> ChildDiedError:
    said = "; the last lines it printed:\n" + "\n".join(last_lines) if last_lines else ""
    return ChildDiedError(f"{who} {exited}{said}")
