"""Serves HTTP on an inherited listening socket: own front first, hypercorn for what it hands over.

Nothing here looks into a request. Start reading at `serve_http`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.abc
import anyio.to_thread

from serve_lite.proxy.http import RequestHandler
from serve_lite.proxy.http1 import Http1Connection
from serve_lite.proxy.options import ProxyOptions
from serve_lite.wire.callbacks import start_soon
from serve_lite.wire.listener import KEEP_SOCKET_FILE

if TYPE_CHECKING:
    from serve_lite.proxy import hypercorn_front

_CLOSE_S = 1.0  #: cut connections end in the next pass of the loop; a bound all the same

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
        self._tls: ssl.SSLContext | None = None
        self._front: hypercorn_front.Front | None = None
        self._front_lock = anyio.Lock()
        self._handed_over: set[asyncio.StreamWriter] = set()
        self._ended = anyio.Event()  #: a connection has ended; replaced each time

    @property
    def num_connections(self) -> int:
        """Connections of clients now."""
        return len(self.open) + len(self._handed_over)

    async def listen(self, sock: socket.socket) -> None:
        """Begin to accept."""
        loop, options = self._loop, self._handler.options
        sock.setblocking(False)
        tls = self._tls = _tls_context(options)
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
            await self._front.retire()
        with anyio.move_on_after(grace_s / 2):
            await self._wait_until_empty()
            return
        if self._front is not None:
            await self._front.hurry()
        with anyio.move_on_after(grace_s / 2):
            await self._wait_until_empty()
            return
        for connection in tuple(self.open):
            connection.close()
        if self._front is not None:
            self._front.close_websockets()
            await self._front.terminate()
        with anyio.move_on_after(_CLOSE_S):
            await self._wait_until_empty()

    def reload_certificates(self) -> bool:
        """Read certificate and key again, for connections that come from now on; return whether there are any.

        Blocks for a moment, and may run in a thread.

        Raises:
            OSError, ssl.SSLError: they cannot be used, and those that were read before stay.
        """
        options = self._handler.options
        if self._tls is None or options.ssl_certfile is None:
            return False
        _tls_context(options)  # a trial: half of a pair must not get into the context that is in use
        self._tls.load_cert_chain(options.ssl_certfile, options.ssl_keyfile, options.ssl_keyfile_password)
        return True

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

    def hand_over(self, transport: asyncio.Transport, data: bytes) -> None:
        """Give a connection to hypercorn, with the bytes already read from it."""
        loop = self._loop
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if data:
            reader.feed_data(data)
        if not transport.is_reading():
            transport.resume_reading()
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._handed_over.add(writer)
        start_soon(self._group, self._run_handed_over, reader, writer)

    async def _run_handed_over(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            front = await self._hypercorn()
            await front.run(reader, writer)
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
                    await self._front.retire()
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
        self._server.hand_over(cast(asyncio.Transport, transport), b"")


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
            handler.accounts.flush()


def _import_front() -> partial[hypercorn_front.Front] | type[hypercorn_front.Front]:
    from serve_lite.proxy.hypercorn_front import Front  # heavy, and rarely needed

    return Front


def check_certificates(options: ProxyOptions) -> None:
    """Raise OSError or ssl.SSLError if HTTP could not be served with these options' certificates. Blocks."""
    _tls_context(options)


def _tls_context(options: ProxyOptions) -> ssl.SSLContext | None:
    if options.ssl_certfile is None or options.ssl_keyfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.ssl_certfile, options.ssl_keyfile, options.ssl_keyfile_password)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if options.ssl_ca_certs is not None:
        context.load_verify_locations(options.ssl_ca_certs)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
