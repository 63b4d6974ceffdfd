"""The admin port: hypercorn, one connection at a time, each with the answer to who is at its other end.

The gate (`admin/auth.py`) finds that answer in the ASGI state of the connection. What clients send goes through the
same strict filter as at the door for users (`proxy/entry.py`), with its limits of size and time. Loaded when somebody
connects; `lazy_admin.py` waits for that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.abc
import anyio.to_thread
import msgspec
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Event, Updated

from serve_lite.admin.auth import IS_OWNER
from serve_lite.daemon.tcp_peer import tcp_peer_uid
from serve_lite.proxy.entry import Entry
from serve_lite.proxy.options import ProxyOptions
from serve_lite.wire.callbacks import start_soon
from serve_lite.wire.connection import unix_peer_uid
from serve_lite.wire.listener import KEEP_SOCKET_FILE

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)

#: Open connections get this long to finish when the daemon leaves.
_GRACE_S = 2.0

#: Connections at once of users that are not the instance's. Their requests need a token; that many may lack one.
_MOST_STRANGERS = 64

_MOST_KEPT_BYTES = 64 * 1024  #: of a connection, before it is known whose it is


class AdminServer:
    """Serves one application.

    Lifetime: `serve`, whose task group runs the connections.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._limits = ProxyOptions()
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

            def accept() -> _Arrival:
                return _Arrival(partial(start_soon, group, self._serve_one))

            loop = asyncio.get_running_loop()
            if sock.family == socket.AF_UNIX:
                listener = await loop.create_unix_server(accept, sock=sock, **KEEP_SOCKET_FILE)
            else:
                listener = await loop.create_server(accept, sock=sock)
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

    async def _serve_one(self, transport: asyncio.Transport, arrival: _Arrival) -> None:
        self._connections += 1
        is_stranger = False
        try:
            is_owner = await _peer_uid(transport) in self._owners
            is_stranger = not is_owner
            self._strangers += is_stranger
            if transport.is_closing() or (is_stranger and self._strangers > _MOST_STRANGERS):
                return
            entry = Entry(self._limits, "")
            writer = entry.open(transport, arrival.data)
            if arrival.has_ended:
                entry.eof_received()
            app = ASGIWrapper(cast(Any, _Filtered(self._app, entry, transport)))
            loop, state = asyncio.get_running_loop(), cast(Any, {IS_OWNER: is_owner})
            await _Connection(app, loop, self._config, self._context, state, entry.reader, writer)
        except Exception:  # boundary: one connection must not take the others down
            logger.exception("a connection of the admin port ended with an error")
        finally:
            transport.abort()  # does nothing to one that is closed
            self._strangers -= is_stranger
            self._connections -= 1
            if not self._connections:
                self._all_gone.set()
                self._all_gone = anyio.Event()


class _Arrival(asyncio.Protocol):
    """A connection whose bytes are kept, and not looked at, until it is known who sends them."""

    def __init__(self, arrived: Callable[[asyncio.Transport, _Arrival], None]) -> None:
        self._arrived = arrived
        self.data = b""
        self.has_ended = False  #: the client has said all that it had to say

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._arrived(self._transport, self)

    def data_received(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > _MOST_KEPT_BYTES:
            self._transport.pause_reading()  # `Entry.open` goes on

    def eof_received(self) -> bool:
        self.has_ended = True
        return True  # else the transport would be closed


class _Filtered:
    """The application, for the requests of one connection that its entry lets pass; it answers the others."""

    def __init__(self, app: ASGIApp, entry: Entry, transport: asyncio.Transport) -> None:
        self._app, self._entry, self._transport = app, entry, transport
        self.expects_continue = False

    @property
    def holds_client(self) -> bool:
        """Whether the client waits to be told to send its body."""
        return self.expects_continue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = None
        if scope["type"] == "http" and scope["http_version"] != "2":
            refusal = self._entry.begin(self)
        if refusal is None:
            await self._app(
                scope, partial(self._receive, receive) if self.expects_continue else receive, send
            )
        else:
            await _refuse(*refusal, send)

    async def _receive(self, receive: Receive) -> Any:
        if self.expects_continue:  # which the entry has kept from hypercorn
            self.expects_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._entry.continued()
        return await receive()

    def give_up(self, status: int, text: str) -> None:
        """End the connection: the rest of a body is malformed or does not come, and someone waits for it."""
        self._transport.abort()


async def _refuse(status: int, text: str, send: Send) -> None:
    body = msgspec.json.encode({"error": text, "path": ""})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


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


async def _peer_uid(transport: asyncio.Transport) -> int | None:
    """Return the user at the other end; None if nobody can tell."""
    sock = cast(socket.socket, transport.get_extra_info("socket"))
    if sock.family == socket.AF_UNIX:
        return unix_peer_uid(sock)
    try:  # now: in the thread, another connection may have the descriptor
        peer, own = sock.getpeername(), sock.getsockname()
    except OSError:  # it has left already
        return None
    return await anyio.to_thread.run_sync(tcp_peer_uid, peer, own)
