"""Serves HTTP on an inherited listening socket: own front first, hypercorn for what it hands over.

Nothing here looks into a request. Start reading at `serve_http`.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.abc
import anyio.to_thread

from serve_lite.proxy.entry import Entry
from serve_lite.proxy.http import RequestHandler
from serve_lite.proxy.http1 import Http1Connection
from serve_lite.proxy.options import ProxyOptions
from serve_lite.proxy.tls import Certificates, certificates_of
from serve_lite.wire.callbacks import start_soon
from serve_lite.wire.listener import KEEP_SOCKET_FILE

if TYPE_CHECKING:
    from serve_lite.proxy import hypercorn_front

_CLOSE_S = 1.0  #: cut connections end in the next pass of the loop; a bound all the same

_MAX_REFUSED = 64  #: connections beyond the limit that are told so, at once
_TURNED_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-type: text/plain; "
    b"charset=utf-8\r\nx-request-id: %b\r\ncontent-length: 20\r\n\r\nToo many connections"
)

ALPN = ("h2", "http/1.1")  #: spoken over TLS, the preferred one first

_log = logging.getLogger("serve_lite.proxy")


class HttpServer:
    """The connections of one listening socket, whichever front has them.

    Lifetime: `serve_http`, whose task group runs the connections that hypercorn has.
    """

    def __init__(self, handler: RequestHandler, group: anyio.abc.TaskGroup) -> None:
        self.open: set[Http1Connection] = set()  #: connections of our own front
        self.is_draining = False
        self._handler = handler
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._to_flush: list[Http1Connection] = []
        self._listener: asyncio.Server | None = None
        self._front: hypercorn_front.Front | None = None
        self._front_lock = anyio.Lock()
        self._handed_over: set[asyncio.StreamWriter] = set()
        self._max_connections = handler.options.max_connections or affordable_connections()
        self._certificates: Certificates | None = None
        self._ended = anyio.Event()  #: a connection has ended; replaced each time

    def reload_certificates(self) -> bool:
        """Read the certificates again, for new connections; return whether there are any.

        Raises:
            InvalidConfigError: they cannot be used; the old ones stay in force.
        """
        if self._certificates is None:
            return False
        self._certificates.reload()
        return True

    @property
    def is_full(self) -> bool:
        """Whether there are more connections than may be."""
        return self.num_connections > self._max_connections

    @property
    def is_turning_away(self) -> bool:
        """Whether one connection more would be too many."""
        return self.num_connections >= self._max_connections

    def count_turned_away(self) -> bytes:
        """Count the refusal of a connection; return the id of its answer."""
        request_id = self._handler.new_request_id()
        self._handler.count_malformed(503, request_id)
        return request_id

    @property
    def is_overrun(self) -> bool:
        """Whether there are so many that even refusing them properly is too much."""
        return self.num_connections > self._max_connections + _MAX_REFUSED

    @property
    def num_connections(self) -> int:
        """Connections of clients now."""
        return len(self.open) + len(self._handed_over)

    async def listen(self, sock: socket.socket) -> None:
        """Begin to accept."""
        loop, options = self._loop, self._handler.options
        sock.setblocking(False)
        self._certificates = certificates_of(options, ALPN)
        tls = self._certificates.context if self._certificates is not None else None
        create: Callable[..., Awaitable[asyncio.Server]] = loop.create_server
        more: dict[str, Any] = {}
        if sock.family == socket.AF_UNIX:
            create, more = loop.create_unix_server, KEEP_SOCKET_FILE
        self._listener = await create(self._new_protocol, sock=sock, backlog=options.backlog, ssl=tls, **more)

    async def drain(self, timeout_s: float = float("inf"), *, linger_s: float = 0.0) -> bool:
        """Accept nothing more and wait until every request is answered; return whether all were in time.

        The health check answers 503 and each answer closes its connection. Idle connections are left open
        for `linger_s` seconds, so that a client that is just sending on one still gets its answer.
        """
        self.is_draining = self._handler.is_draining = True
        if self._listener is not None:
            self._listener.close()
        with anyio.move_on_after(timeout_s) as scope:
            if linger_s:
                with anyio.move_on_after(linger_s):
                    await self._wait_until_empty()
            for connection in tuple(self.open):
                connection.close()
            if self._front is not None:
                await self._front.terminate()
            await self._wait_until_empty()
        return not scope.cancelled_caught

    async def retire(self, grace_s: float) -> None:
        """Leave the socket to another daemon that accepts on it: finish what there is, and return.

        Every answer is given, the health check's too, and ends its connection; idle connections may bring one more
        request. After `grace_s` seconds WebSockets are closed with 1012 and what is left is for `close` to cut.
        """
        self.is_draining = self._handler.is_retiring = True
        if self._listener is not None:
            self._listener.close()
        if self._front is not None:
            self._front.retire()
        with anyio.move_on_after(grace_s / 2):
            await self._wait_until_empty()
            return
        with anyio.move_on_after(grace_s / 2):
            if self._front is not None:
                await self._front.hurry()
            await self._wait_until_empty()
            return
        for connection in tuple(self.open):
            connection.close()
        if self._front is not None:
            self._front.close_websockets()
            await self._front.terminate()
        with anyio.move_on_after(_CLOSE_S):
            await self._wait_until_empty()

    async def close(self) -> None:
        """Stop accepting, cut every connection, and return when the requests on them are booked."""
        self.is_draining = True
        if self._listener is not None:
            self._listener.close()
        for connection in tuple(self.open):
            connection.abort()
        for writer in self._handed_over:
            writer.transport.abort()
        with anyio.move_on_after(_CLOSE_S, shield=True):
            while self.open:
                await self._ended.wait()

    def lost(self, connection: Http1Connection) -> None:
        """Forget a connection that has ended or was handed over."""
        self.open.discard(connection)
        if self.is_draining:
            self._tell_ended()

    def flush_soon(self, connection: Http1Connection) -> None:
        """Let a connection write what it gathers in this pass of the loop."""
        if not self._to_flush:
            self._loop.call_soon(self._flush)
        self._to_flush.append(connection)

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            connection.flush()

    def hand_over(self, transport: asyncio.Transport, protocol: str, data: bytes) -> None:
        """Give a connection to hypercorn, with the bytes already read from it.

        Args:
            protocol: what the bytes are: `h2`, the head of an upgrade to `h2c` or `websocket`, or "" for whatever
                the client begins with.
        """
        entry = Entry(self._handler.options, protocol)
        writer = entry.open(transport, data)
        self._handed_over.add(writer)
        start_soon(self._group, self._run_handed_over, entry, writer)

    async def _run_handed_over(self, entry: Entry, writer: asyncio.StreamWriter) -> None:
        try:
            front = await self._hypercorn()
            await front.run(entry, writer)
        except Exception:
            _log.exception("a connection served by hypercorn ended with an error")
        finally:
            writer.transport.abort()  # does nothing to one that is closed
            self._handed_over.discard(writer)
            self._tell_ended()

    async def _hypercorn(self) -> hypercorn_front.Front:
        """Return the other front; imported, in a thread, when first needed: many instances never do."""
        async with self._front_lock:
            if self._front is None:
                make_front = await anyio.to_thread.run_sync(_import_front)
                self._front = make_front(self._handler)
                if self._handler.is_retiring:
                    self._front.retire()
                elif self.is_draining:
                    await self._front.terminate()
            return self._front

    def _new_protocol(self) -> asyncio.BaseProtocol:
        if self._handler.options.server == "hypercorn":
            return _HandsOver(self)
        return Http1Connection(self._handler, self)

    async def _wait_until_empty(self) -> None:
        while self.num_connections:
            await self._ended.wait()

    def _tell_ended(self) -> None:
        self._ended.set()
        self._ended = anyio.Event()


class _HandsOver(asyncio.Protocol):
    """A connection that is hypercorn's from the start."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        is_h2 = tls is not None and tls.selected_alpn_protocol() == "h2"
        if self._server.is_turning_away:
            if not is_h2:
                cast(asyncio.Transport, transport).write(_TURNED_AWAY % self._server.count_turned_away())
            transport.close()
            return
        self._server.hand_over(cast(asyncio.Transport, transport), "h2" if is_h2 else "", b"")


async def serve_http(
    sock: socket.socket,
    handler: RequestHandler,
    *,
    task_status: anyio.abc.TaskStatus[HttpServer] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP on a bound socket until cancelled. Reports the server through `task_status` once it accepts.

    Lifetime: the caller's task group. A graceful end is `await server.drain(...)`, then cancel; cancelled
    without it, every connection is cut.
    """
    async with anyio.create_task_group() as group:
        server = HttpServer(handler, group)
        try:
            await server.listen(sock)
            task_status.started(server)
            await anyio.sleep_forever()
        finally:
            await server.close()


def _import_front() -> partial[hypercorn_front.Front] | type[hypercorn_front.Front]:
    from serve_lite.proxy.hypercorn_front import Front  # heavy, and rarely needed

    return Front


def affordable_connections() -> int:
    """Return how many connections leave a tenth of the open files for everything else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft * 9 // 10


def check_certificates(options: ProxyOptions) -> None:
    """Raise InvalidConfigError if HTTP could not be served with these options' certificates. Blocks."""
    certificates_of(options, ALPN)
