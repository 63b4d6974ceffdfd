"""Our own HTTP/1.1 connection: the fast front.

One `asyncio.Protocol` per connection, driven by callbacks; no task, and no timer unless a timeout is
configured, per request. Requests of one connection are answered one after the other, in order; those that
a client has sent ahead wait. `requests` reads them. What turns out to be another protocol (an upgrade,
HTTP/2 by prior knowledge or ALPN) is handed over with the bytes that were read.

Writes: a whole answer leaves at once, as one write unless it is large. Streamed pieces, and answers to
requests sent ahead, are gathered and leave once per pass of the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from typing import Final, Protocol, cast

from serve_lite.proxy.answers import TEXT, date_line, declared_length, settle_length, takes_trailers
from serve_lite.proxy.exchange import Buffer, Exchange
from serve_lite.proxy.http import RequestHandler
from serve_lite.proxy.requests import SLICE_BYTES, Http1Request, RequestReader
from serve_lite.proxy.stalls import WriteWatch

_MAX_AHEAD: Final = 32  #: requests read ahead of the one being answered
_UNTAKEN_BODY_BYTES: Final = 64 * 1024  #: body held for a replica that does not take it
_JOIN_BYTES: Final = 64 * 1024  #: larger bodies are written beside the head instead of copied
_LINGER_S: Final = 2.0  #: how long a refused client may go on sending, so that it sees the answer
_H2_PREFACE: Final = b"PRI * HTTP/2.0"
_CLOSE: Final = b"connection: close\r\n"

_STATUS_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


class Connections(Protocol):
    """What a connection needs of the server that it belongs to."""

    open: set[Http1Connection]
    is_draining: bool

    @property
    def is_full(self) -> bool:
        """Whether there are more connections than may be, the newest one counted."""

    @property
    def is_overrun(self) -> bool:
        """Whether there are so many that not even a refusal can be afforded."""

    def lost(self, connection: Http1Connection) -> None:
        """Take note that a connection has ended."""

    def flush_soon(self, connection: Http1Connection) -> None:
        """Call `connection.flush` later in this pass of the loop."""

    def hand_over(self, transport: asyncio.Transport, protocol: str, data: bytes) -> None:
        """Take a connection that is not for us: `h2`, `h2c` or `websocket`, with the bytes read from it."""


class Http1Exchange(Http1Request):
    """One request of a connection, and the way to answer it."""

    has_started = False
    _is_chunked = False
    _sends_body = True
    _wants_body = False
    _length_left: int | None = None  #: of a streamed answer that has announced its length

    def __init__(self, connection: Http1Connection) -> None:
        self._connection: Http1Connection | None = connection  #: None once answered, or the client is gone
        self.client = connection.client
        self.server = connection.server
        self.scheme = connection.scheme

    # --- answering ------------------------------------------------------------------------------

    def respond(self, status: int, headers: bytes, body: Buffer) -> None:
        connection = self._connection
        if connection is None:
            return
        status, headers, length, body = settle_length(self.method, status, headers, body)
        head = b"".join(
            (
                _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status,
                b"" if b"date:" in headers else date_line(),
                self._own_headers(connection, headers),
                headers,
                length,
                b"\r\n",
            )
        )
        if len(body) >= _JOIN_BYTES:
            connection.push(head)
            connection.push(body)
        elif connection.gathers:
            connection.push(head + body)
        else:
            connection.transport.write(head + body)
        self._connection = None
        connection.answered(self)

    def start(self, status: int, headers: bytes) -> None:
        connection = self._connection
        if connection is None:
            return
        self.has_started = True
        framing = b""
        self._length_left = declared_length(headers)
        if status < 200 or status in (204, 304) or self.method == "HEAD":
            self._sends_body, self._length_left = False, None
        elif self._length_left is None:
            if self.http_version == "1.1":
                self._is_chunked = True
                framing = b"transfer-encoding: chunked\r\n"
            else:
                self.keeps_alive = False  # the end of the body is the end of the connection
        connection.push(
            b"".join(
                (
                    _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status,
                    b"" if b"date:" in headers else date_line(),
                    self._own_headers(connection, headers),
                    headers,
                    framing,
                    b"\r\n",
                )
            )
        )

    def write(self, data: Buffer) -> bool:
        connection = self._connection
        if connection is None:
            return True  # nobody listens: let it run on
        size = len(data)
        if not size or not self._sends_body:
            return True
        if self._is_chunked:
            if size < _JOIN_BYTES:
                connection.push(b"".join((b"%x\r\n" % size, data, b"\r\n")))
            else:
                connection.push(b"%x\r\n" % size)
                connection.push(data)
                connection.push(b"\r\n")
        else:
            if self._length_left is not None:
                self._length_left -= size
                if self._length_left < 0:
                    self.abort()  # more than announced: it would be read as the next answer
                    return True
            connection.push(data)
        return not connection.is_write_paused

    def inform(self, status: int, headers: bytes) -> None:
        if self._connection is not None and self.http_version == "1.1":
            line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
            self._connection.push(b"%b%b\r\n" % (line, headers))

    def finish(self, trailers: bytes = b"") -> None:
        connection = self._connection
        if connection is None:
            return
        if self._length_left:
            self.abort()
            return
        if self._is_chunked:
            if trailers and not takes_trailers(self.headers):
                trailers = b""
            connection.push(b"0\r\n%b\r\n" % trailers)
        self._connection = None
        connection.answered(self)

    def abort(self) -> None:
        connection = self._connection
        if connection is None:
            return
        self._connection = None
        if self._is_chunked or self._length_left is not None:
            connection.end_transport()  # what was written still arrives; the missing end tells the rest
        else:
            connection.transport.abort()

    # --- request body ---------------------------------------------------------------------------

    def read_body(self) -> None:
        connection = self._connection
        if connection is None:
            return
        self._wants_body = True
        if self.expects_continue and not self.has_started and not self.body_bytes and not self.is_complete:
            connection.push(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.expects_continue = False
        self.deliver()
        connection.adjust_reading()

    def pause_body(self) -> None:
        self._wants_body = False

    def deliver(self) -> None:
        """Pass on the body pieces that have come, if they are wanted."""
        while self._wants_body and self.work is not None:
            if self.pieces:
                data = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
                self.pieces.clear()
                self.work.on_body(data)
            elif self.is_complete:
                self._wants_body = False
                self.work.on_body_end()
            else:
                return

    @property
    def waits_for_client(self) -> bool:
        """Whether the application has asked for body that has not come."""
        return self._wants_body and not self.is_complete

    def untaken_bytes(self) -> int:
        """Return how much of the body is held here."""
        return sum(map(len, self.pieces))

    def client_gone(self) -> None:
        """The connection has ended."""
        self._connection = None
        if self.work is not None:
            self.work.on_disconnect()

    def _own_headers(self, connection: Http1Connection, headers: bytes) -> bytes:
        """Return the header lines that the proxy adds, and settle whether the connection stays open."""
        if not self.keeps_alive or not self.is_complete or connection.is_draining:
            self.keeps_alive = False
            line = _CLOSE
        elif self.http_version == "1.0":
            line = b"connection: keep-alive\r\n"
        else:
            line = b""
        if b"x-request-id:" in headers:
            return line
        return b"x-request-id: %b\r\n%b" % (self.request_id, line)


class AnnouncingExchange(Http1Exchange):
    """One request of a connection that tells its client where HTTP/3 is served."""

    def _own_headers(self, connection: Http1Connection, headers: bytes) -> bytes:
        return b"%balt-svc: %b\r\n" % (super()._own_headers(connection, headers), connection.alt_svc)


class Http1Connection(asyncio.Protocol):
    """One connection of a client.

    Lifetime: made by the server's listener; ends when the client leaves, after an answer that closes,
    after `keep_alive_timeout_s` of silence, or by `close`. It is in `server.open` as long as it lives.
    """

    transport: asyncio.Transport

    def __init__(self, handler: RequestHandler, server: Connections) -> None:
        self._loop = asyncio.get_running_loop()
        self._handler = handler
        self._server = server
        self._options = handler.options
        #: None until the first bytes have told the protocol
        self._reader: RequestReader[Http1Exchange] | None = None
        self._first_bytes = b""
        self._current: Http1Exchange | None = None  #: the one being answered
        self._ahead: deque[Http1Exchange] = deque()
        self._unfed: memoryview | None = None  #: read, but not parsed while too much waits
        self._is_pumping = False
        self._out: list[Buffer] = []  #: to be written in this pass of the loop
        self._out_bytes = 0
        self._is_ending = False  #: nothing that comes now is of interest
        self._is_reading = True
        self._timer: asyncio.TimerHandle | None = None
        self.is_write_paused = False
        self._writes = WriteWatch(self._options.write_timeout_s)
        self._handle = handler.handle
        self._quiet_since = 0.0  #: loop time of the last answer
        self._waiting_since: float | None = None  #: loop time since which the rest of a request is awaited
        self.client = self.server = ("", 0)
        self.scheme = "http"

    @property
    def is_draining(self) -> bool:
        """Whether the next answer is this connection's last."""
        return self._server.is_draining

    @property
    def alt_svc(self) -> bytes:
        """Where HTTP/3 is served; "" if it is not."""
        return self._handler.alt_svc

    @property
    def is_idle(self) -> bool:
        """Whether no request is being read or answered."""
        reader = self._reader
        return self._current is None and (reader is None or not (reader.has_partial_head or reader.current))

    # --- from the transport ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.client = _address(transport.get_extra_info("peername"))
        self.server = _address(transport.get_extra_info("sockname"))
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self.scheme = "https"
            if ssl_object.selected_alpn_protocol() == "h2":
                self._server.hand_over(self.transport, "h2", b"")
                return
        self._server.open.add(self)
        self._quiet_since = self._loop.time()
        if self._server.is_full:
            if self._server.is_overrun:
                self.transport.abort()
            else:
                self._refuse(503, "Too many connections", b"retry-after: 1\r\n")
            return
        if self._handler.forwarding.trusts(self.client[0]):
            self._handle = self._handle_forwarded
        self._timer = self._loop.call_later(self._patience_s(), self._check_patience)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            reader = self._first(data)
            if reader is None:
                return
            data, self._first_bytes = self._first_bytes, b""
        if self._is_ending:
            return
        if len(data) <= SLICE_BYTES or reader.takes_whole(len(data)):
            reader.feed(data)
            self._take(reader)
        else:
            self._feed_slices(reader, memoryview(data))

    def eof_received(self) -> None:
        return  # the transport closes itself: a client that stops sending has left

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.lost(self)
        self._is_ending = True
        if self._timer is not None:
            self._timer.cancel()
        if self._reader is not None:
            self._reader.close()
        self._ahead.clear()
        self._out.clear()
        current, self._current = self._current, None
        if current is not None:
            current.client_gone()

    def pause_writing(self) -> None:
        self.is_write_paused = True

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self._writes.progressed()
        current = self._current
        if current is not None and current.work is not None:
            current.work.on_client_writable()

    # --- writing --------------------------------------------------------------------------------

    @property
    def gathers(self) -> bool:
        """Whether what is written now should wait for more in the same pass of the loop."""
        return self._is_pumping or bool(self._out)

    def push(self, data: Buffer) -> None:
        """Write at the end of this pass of the loop, or as soon as there is much."""
        if not self._out:
            self._server.flush_soon(self)
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes > _JOIN_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was pushed."""
        out = self._out
        if not out:
            return
        self._out = []
        if self._out_bytes < _JOIN_BYTES:
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))
        else:
            self.transport.writelines(out)
        self._out_bytes = 0

    def end_transport(self) -> None:
        """Close after everything pushed has gone out."""
        self.flush()
        self._is_ending = True
        self._close()

    # --- reading --------------------------------------------------------------------------------

    def _first(self, data: bytes) -> RequestReader[Http1Exchange] | None:
        """Look at a connection's first bytes; return a reader once it is clear that they are HTTP/1."""
        if self._is_ending:
            return None  # turned away
        self._first_bytes += data
        start = self._first_bytes[: len(_H2_PREFACE)]
        if start == _H2_PREFACE:
            self._leave("h2", self._first_bytes)
            return None
        if _H2_PREFACE.startswith(start):
            return None  # still could be either
        exchange = AnnouncingExchange if self.alt_svc and self.scheme == "https" else Http1Exchange
        self._reader = RequestReader(lambda: exchange(self), self._options)
        return self._reader

    def _take(self, reader: RequestReader[Http1Exchange]) -> None:
        """See what the bytes just fed have brought."""
        ready = reader.ready
        if ready:
            reader.ready = []
            self._waiting_since = None
            if self._current is None and not self._ahead and len(ready) == 1:
                self._begin(ready[0])
            else:
                self._ahead.extend(ready)
                self._pump()
        elif self._waiting_since is None:
            self._waiting_since = self._loop.time()
        current = self._current
        if current is not None and current.streams_body:
            self._waiting_since = self._loop.time()
            current.deliver()
            self.adjust_reading()
        if reader.refusal is not None:
            if current is not None and not current.is_complete:
                self._give_up(current, *reader.refusal)
            else:
                self._pump()
        elif reader.handover is not None:
            self._pump()

    def _feed_slices(self, reader: RequestReader[Http1Exchange], data: memoryview) -> None:
        for at in range(0, len(data), SLICE_BYTES):
            if len(self._ahead) >= _MAX_AHEAD:
                self._unfed = data[at:]
                break
            reader.feed(data[at : at + SLICE_BYTES])
            self._take(reader)
            if self._is_ending or reader.is_over:
                break
        self.adjust_reading()

    def adjust_reading(self) -> None:
        """Read from the client only while there is room for what it sends."""
        reader = self._reader
        partial = reader.current if reader is not None else None
        wants = (
            self._unfed is None
            and len(self._ahead) < _MAX_AHEAD
            and (partial is None or not partial.streams_body or partial.untaken_bytes() < _UNTAKEN_BODY_BYTES)
        )
        if wants is not self._is_reading and not self.transport.is_closing():
            self._is_reading = wants
            if wants:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    # --- one request after the other ------------------------------------------------------------

    def _begin(self, exchange: Http1Exchange) -> None:
        self._current = exchange
        self._handle(exchange)

    def _handle_forwarded(self, exchange: Exchange) -> None:
        """Begin a request of a trusted peer, which tells who has sent it."""
        self._handler.forwarding.apply(exchange)
        self._handler.handle(exchange)

    def _begin_waiting(self, exchange: Http1Exchange) -> None:
        if not exchange.is_complete and self._reader is not None and self._reader.refusal is not None:
            self._after_last()  # the rest of its body was malformed
        else:
            self._begin(exchange)

    def answered(self, exchange: Http1Exchange) -> None:
        """The answer to the current request is written."""
        self._current = None
        self._quiet_since = self._loop.time()
        if not exchange.keeps_alive:
            self._end(is_sending=not exchange.is_complete)
        elif self._ahead or self._unfed is not None or self._reader is None or self._reader.is_over:
            self._pump()

    def _pump(self) -> None:
        """Begin the requests that wait, then do what was left for when none does."""
        if self._is_pumping:
            return  # an answer given at once: the loop below goes on
        self._is_pumping = True
        try:
            while self._current is None and not self._is_ending:
                if self._ahead:
                    self._begin_waiting(self._ahead.popleft())
                elif self._unfed is not None:
                    data, self._unfed = self._unfed, None
                    assert self._reader is not None
                    self._feed_slices(self._reader, data)
                else:
                    self._after_last()
                    break
        finally:
            self._is_pumping = False
        self.adjust_reading()

    def _after_last(self) -> None:
        reader = self._reader
        if reader is None:
            return
        if reader.refusal is not None:
            self._refuse(*reader.refusal)
        elif reader.handover is not None:
            self._leave(reader.upgrade, reader.handover)

    # --- ending ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Close now if no request is being answered, else after its answer (the server is draining)."""
        if self.is_idle:
            self.end_transport()

    def abort(self) -> None:
        """Close at once, whatever is going on."""
        self.transport.abort()

    def _give_up(self, exchange: Http1Exchange, status: int, text: str) -> None:
        """End the request being answered because the rest of its body is malformed or does not come."""
        self._current = None
        has_started = exchange.has_started
        exchange.client_gone()
        if has_started:
            self._is_ending = True
            self.transport.abort()
        else:
            self._refuse(status, text)

    def _refuse(self, status: int, text: str, headers: bytes = b"") -> None:
        """Answer what is no proper request, and close."""
        request_id = self._handler.new_request_id()
        self._handler.count_malformed(status, request_id, self.client)
        body = text.encode()
        self.push(
            b"%b%bx-request-id: %b\r\n%b%bcontent-length: %d\r\n\r\n%b"
            % (_STATUS_LINES[status], date_line(), request_id, _CLOSE + headers, TEXT, len(body), body)
        )
        self._end(is_sending=True)

    def _end(self, *, is_sending: bool) -> None:
        """Close after what was written has gone out.

        A client that is still sending would have our answer torn away by a reset if we just closed, so
        its bytes are read and dropped for a while.
        """
        self._is_ending = True
        self._ahead.clear()
        self._unfed = None
        self.flush()
        transport = self.transport
        if not is_sending or not transport.can_write_eof():
            self._close()
            return
        transport.write_eof()
        if not self._is_reading:
            self._is_reading = True
            transport.resume_reading()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_LINGER_S, self._close)

    def _close(self) -> None:
        """Close when all that was written has gone out, or the client takes nothing of it."""
        self.transport.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.transport.get_write_buffer_size():
            self._timer = self._loop.call_later(self._options.write_timeout_s, self._check_patience)

    def _leave(self, protocol: str, data: bytes) -> None:
        """Give the transport away."""
        self.flush()
        self._server.lost(self)
        self._is_ending = True
        if self._timer is not None:
            self._timer.cancel()
        self._server.hand_over(self.transport, protocol, data)

    # --- silence --------------------------------------------------------------------------------

    def _patience_s(self) -> float:
        options = self._options
        return min(options.keep_alive_timeout_s, options.read_timeout_s, options.write_timeout_s)

    def _takes_nothing(self) -> bool:
        """Whether nothing of what was written has gone out for as long as a client may take."""
        unsent, now = self.transport.get_write_buffer_size(), self._loop.time()
        return self._writes.is_stalled(
            unsent, now, may_grow=not self.is_write_paused and self._current is not None
        )

    def _check_patience(self) -> None:
        """Close an idle connection, refuse a request that does not come to its end, cut off a client that takes
        nothing; look again later.

        One timer per connection, not moved by requests: it wakes when the limit could first be reached.
        """
        self._timer = None
        wait_s = self._patience_s()
        current = self._current
        if self._takes_nothing():
            self.transport.abort()
            return
        if self._is_ending:
            if self.transport.get_write_buffer_size():
                self._timer = self._loop.call_later(self._options.write_timeout_s, self._check_patience)
            return
        if current is None and self.is_idle and not self._first_bytes:
            wait_s = self._quiet_since + self._options.keep_alive_timeout_s - self._loop.time()
            if wait_s <= 0:
                self.end_transport()
                return
        elif current is None or current.waits_for_client:
            since = self._quiet_since if self._waiting_since is None else self._waiting_since
            wait_s = since + self._options.read_timeout_s - self._loop.time()
            if wait_s <= 0:
                if current is None:
                    self._refuse(408, "Request Timeout")
                else:
                    self._give_up(current, 408, "Request Timeout")
                return
        if self.transport.get_write_buffer_size():
            wait_s = min(wait_s, self._options.write_timeout_s)
        self._timer = self._loop.call_later(wait_s, self._check_patience)


def _address(name: object) -> tuple[str, int]:
    """Return host and port of a socket name; a Unix socket has neither."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else ("", 0)
