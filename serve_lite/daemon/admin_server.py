"""The admin port: hypercorn, one connection at a time, each with the answer to who is at its other end.

The gate (`admin/auth.py`) finds that answer in the ASGI state of the connection. Loaded when somebody connects;
`lazy_admin.py` waits for that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.abc
import anyio.to_thread
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, Updated

from serve_lite.admin.auth import IS_OWNER
from serve_lite.daemon.tcp_peer import tcp_peer_uid
from serve_lite.wire.callbacks import start_soon
from serve_lite.wire.connection import unix_peer_uid
from serve_lite.wire.listener import KEEP_SOCKET_FILE

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

#: Open connections get this long to finish when the daemon leaves.
_GRACE_S = 2.0

#: Connections at once of users that are not the instance's. Their requests need a token; that many may lack one.
_MOST_STRANGERS = 64


class AdminServer:
    """Serves one application.

    Lifetime: `serve`, whose task group runs the connections.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = ASGIWrapper(cast(Any, app))  # hypercorn's types name each ASGI message, starlette's none
        self._config = config = Config()
        config.accesslog = None
        config.errorlog = logging.getLogger("hypercorn.error")
        config.include_server_header = False
        self._context = WorkerContext(None)
        self._owners = frozenset((os.geteuid(), 0))
        self._connections = 0
        self._strangers = 0
        self._all_gone = anyio.Event()

    async def serve(self, sock: socket.socket, until: Callable[[], Awaitable[object]]) -> None:
        """Accept on a listening socket, which is closed in the end, until `until` returns; then finish what runs."""
        async with anyio.create_task_group() as group:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                start_soon(group, self._serve_one, reader, writer)

            if sock.family == socket.AF_UNIX:
                listener = await asyncio.start_unix_server(accept, sock=sock, **KEEP_SOCKET_FILE)
            else:
                listener = await asyncio.start_server(accept, sock=sock)
            try:
                await until()
            finally:
                listener.close()
            await self._context.terminate.set()
            await self._context.terminated.set()
            if self._connections:
                with anyio.move_on_after(_GRACE_S):
                    await self._all_gone.wait()
            group.cancel_scope.cancel()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        is_stranger = False
        try:
            is_owner = await _peer_uid(writer) in self._owners
            is_stranger = not is_owner
            self._strangers += is_stranger
            if is_stranger and self._strangers > _MOST_STRANGERS:
                writer.transport.abort()
                return
            loop, state = asyncio.get_running_loop(), cast(Any, {IS_OWNER: is_owner})
            await _Connection(self._app, loop, self._config, self._context, state, reader, writer)
        except Exception:  # boundary: one connection must not take the others down
            logger.exception("a connection of the admin port ended with an error")
        finally:
            writer.transport.abort()  # does nothing to one that is closed
            self._strangers -= is_stranger
            self._connections -= 1
            if not self._connections:
                self._all_gone.set()
                self._all_gone = anyio.Event()


class _Connection(TCPServer):
    """hypercorn's connection; one that ends with its client, and not with the time allowed for silence."""

    _has_client_left = False

    async def _read_data(self) -> None:
        await super()._read_data()
        self._has_client_left = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if not (self._has_client_left and isinstance(event, Updated)):  # else silence would be allowed again
            await super().protocol_send(event)


async def _peer_uid(writer: asyncio.StreamWriter) -> int | None:
    """Return the user at the other end; None if nobody can tell."""
    sock = cast(socket.socket, writer.get_extra_info("socket"))
    if sock.family == socket.AF_UNIX:
        return unix_peer_uid(sock)
    try:  # now: in the thread, another connection may have the descriptor
        peer, own = sock.getpeername(), sock.getsockname()
    except OSError:  # it has left already
        return None
    return await anyio.to_thread.run_sync(tcp_peer_uid, peer, own)
