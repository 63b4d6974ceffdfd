"""Serves HTTP/3 on an inherited datagram socket; the connections are in `http3`."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import anyio
import anyio.abc
from aioquic.asyncio.server import QuicServer
from aioquic.h3.connection import H3_ALPN, ErrorCode
from aioquic.quic.configuration import QuicConfiguration

from serve_lite.proxy.http import RequestHandler
from serve_lite.proxy.http3 import Http3Connection
from serve_lite.proxy.options import ProxyOptions

_MAX_CONNECTIONS = 10_000  #: they take no descriptors, but memory
_ALT_SVC_S = 86400  #: how long a client may remember that HTTP/3 is there


class Http3Server(QuicServer):
    """The connections of one datagram socket.

    Lifetime: `serve_http3`. The socket outlives it; what comes meanwhile waits there.
    """

    def __init__(self, handler: RequestHandler, address: tuple[str, int]) -> None:
        super().__init__(configuration=_configuration(handler.options), create_protocol=self._new_connection)
        self._handler = handler
        self._address = address
        self._max_connections = handler.options.max_connections or _MAX_CONNECTIONS
        self._open: set[Http3Connection] = set()
        self._is_leaving = False
        self._ended = asyncio.Event()

    def reload_certificates(self) -> None:
        """Read the certificates again, for new connections. Call it when they were found usable."""
        fresh = _configuration(self._handler.options)
        self._configuration.certificate = fresh.certificate
        self._configuration.certificate_chain = fresh.certificate_chain
        self._configuration.private_key = fresh.private_key

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        is_full = self._is_leaving or len(self._open) >= self._max_connections
        if is_full and not self._is_known(data):
            return  # the client goes on without HTTP/3
        super().datagram_received(data, addr)

    async def drain(self, timeout_s: float = float("inf")) -> None:
        """Take no more requests, and return when all are answered, or after `timeout_s` seconds."""
        self._is_leaving = True
        for connection in tuple(self._open):
            connection.leave()
        with anyio.move_on_after(timeout_s):
            while any(not connection.is_idle for connection in self._open):
                self._ended.clear()
                await self._ended.wait()

    def end(self) -> None:
        """Close every connection, and stop reading the socket."""
        for connection in tuple(self._open):
            connection.close(error_code=ErrorCode.H3_NO_ERROR, reason_phrase="the server goes away")
            connection.abandon()
        if self._transport is not None:
            self._transport.close()

    def _new_connection(self, quic: Any, **_: Any) -> Http3Connection:
        connection = Http3Connection(quic, self._handler, self._address, self._lost)
        self._open.add(connection)
        return connection

    def _is_known(self, data: bytes | str) -> bool:
        """Whether a datagram belongs to a connection that is open; its id stands in the first bytes."""
        assert isinstance(data, bytes)
        if not data:
            return False
        if data[0] & 0x80:  # a long header: version, then the length of the id
            return len(data) > 6 and data[6 : 6 + data[5]] in self._protocols
        return data[1 : 1 + self._configuration.connection_id_length] in self._protocols

    def _lost(self, connection: Http3Connection) -> None:
        self._open.discard(connection)
        self._ended.set()


async def serve_http3(
    sock: socket.socket,
    handler: RequestHandler,
    *,
    task_status: anyio.abc.TaskStatus[Http3Server] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP/3 on a bound datagram socket until cancelled, and announce it in answers of the other fronts.

    Lifetime: the caller's task group. A graceful end is `await server.drain(...)`, then cancel.
    """
    host, port = sock.getsockname()[:2]
    server = Http3Server(handler, (host, port))
    own = sock.dup()  # the transport closes it
    own.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: server, sock=own)
    handler.alt_svc = b'h3=":%d"; ma=%d' % (port, _ALT_SVC_S)
    try:
        task_status.started(server)
        await anyio.sleep_forever()
    finally:
        handler.alt_svc = b""
        server.end()


def _configuration(options: ProxyOptions) -> QuicConfiguration:
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=H3_ALPN, idle_timeout=options.keep_alive_timeout_s
    )
    assert options.ssl_certfile is not None
    configuration.load_cert_chain(options.ssl_certfile, options.ssl_keyfile, options.ssl_keyfile_password)
    return configuration
