"""HTTP/3: the third front. QUIC and its frames are aioquic's; an exchange is what it is in `http1`.

Imported only where the option `http3` is on. Everything is a callback on the event loop. A datagram socket is one for
all connections, so they are told apart here, and there is one process that serves them.

What a client may make us hold is bounded: of bodies that nobody takes `_HELD_BYTES` a connection, beyond which its
datagrams are dropped, and QUIC sends them again; of heads what `max_header_bytes` says. QPACK's table is left out,
because a few bytes of a head could stand for many there. Next: `http3_server`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import pylsqpack
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import ErrorCode, H3Connection, Setting
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.events import (
    ConnectionTerminated,
    ProtocolNegotiated,
    QuicEvent,
    StopSendingReceived,
    StreamReset,
)

from serve_lite.proxy.answers import TEXT, settle_length, takes_trailers
from serve_lite.proxy.exchange import NOTED, Buffer, Exchange, is_valid_host
from serve_lite.proxy.h2_frames import Allowance
from serve_lite.proxy.requests import BAD_REQUEST, METHODS

if TYPE_CHECKING:
    from serve_lite.proxy.http import RequestHandler
    from serve_lite.wire.messages import Headers

_HELD_BYTES: Final = 1024 * 1024
_UNSENT_BYTES: Final = 256 * 1024  #: of one answer; more stops the application
_MAX_STREAMS: Final = 128  #: requests at once on one connection
_RESETS_AT_ONCE, _RESETS_PER_S = 500, 100
_CONTINUE: Final = 100
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_PATH: Final = re.compile(rb"/[\x21\x22\x24-\x7e]*")
_TOO_LARGE: Final = (413, "Content Too Large")

Pairs = list[tuple[bytes, bytes]]


class _Frames(H3Connection):
    """aioquic's HTTP/3, without a dynamic table for heads and without WebSockets."""

    def __init__(self, quic: Any) -> None:
        super().__init__(quic)
        self._decoder = pylsqpack.Decoder(0, 0)

    def _get_local_settings(self) -> dict[int, int]:
        settings = super()._get_local_settings()
        settings[Setting.QPACK_MAX_TABLE_CAPACITY] = settings[Setting.QPACK_BLOCKED_STREAMS] = 0
        settings.pop(Setting.ENABLE_CONNECT_PROTOCOL, None)
        return settings

    def most_held_bytes(self) -> int:
        """Return how much is held of the frame that has most to come: a head, which must be whole to be read."""
        return max((len(stream.buffer) for stream in self._stream.values()), default=0)


class Http3Exchange(Exchange):
    """One request of a connection, on a stream of its own."""

    http_version = "3"
    scheme = "https"
    has_started = False
    waiting_since: float | None = None  #: loop time since which more of the body is awaited
    blocked_since: float | None = None  #: loop time since which the client takes nothing
    _wants_body = _has_ended = False
    _body_bytes = 0
    _sends_body = True

    def __init__(self, connection: Http3Connection, stream_id: int) -> None:
        self._connection: Http3Connection | None = connection  #: None once answered, or the client is gone
        self._stream_id = stream_id
        self.pieces: list[bytes] = []

    # --- answering ------------------------------------------------------------------------------

    def respond(self, status: int, headers: bytes, body: Buffer) -> None:
        status, headers, length, body = settle_length(self.method, status, headers, body)
        self._send_head(status, headers + length, ends=not body)
        if body and self._connection is not None:
            self._connection.send_data(self._stream_id, bytes(body), ends=True)
        self._answered()

    def start(self, status: int, headers: bytes) -> None:
        self._sends_body = not (status in (204, 304) or self.method == "HEAD")
        self._send_head(status, headers)

    def write(self, data: Buffer) -> bool:
        connection = self._connection
        if connection is None or not data or not self._sends_body:
            return True
        connection.send_data(self._stream_id, bytes(data))
        if self.blocked_since is None and connection.unsent_bytes(self._stream_id) >= _UNSENT_BYTES:
            self.blocked_since = connection.now()
        return self.blocked_since is None

    def inform(self, status: int, headers: bytes) -> None:
        if self._connection is not None and not self.has_started:
            self._connection.send_head(self._stream_id, status, _pairs(headers))

    def finish(self, trailers: bytes = b"") -> None:
        connection = self._connection
        if connection is None:
            return
        pairs = _pairs(trailers) if trailers and takes_trailers(self.headers) else []
        if pairs:
            connection.send_trailers(self._stream_id, pairs)
        else:
            connection.send_data(self._stream_id, b"", ends=True)
        self._answered()

    def abort(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.cut(self._stream_id, ErrorCode.H3_INTERNAL_ERROR)

    def _send_head(self, status: int, headers: bytes, *, ends: bool = False) -> None:
        if self._connection is None:
            return
        self.has_started = True
        pairs = _pairs(headers)
        if b"x-request-id:" not in headers:
            pairs.append((b"x-request-id", self.request_id))
        self._connection.send_head(self._stream_id, status, pairs, ends=ends)

    def _answered(self) -> None:
        connection, self._connection = self._connection, None
        self.pieces.clear()
        if connection is not None:
            connection.answered(self._stream_id, is_sending=not self._has_ended)

    # --- request body ---------------------------------------------------------------------------

    def read_body(self) -> None:
        self._wants_body = True
        if self._connection is not None:
            self.waiting_since = self._connection.now()
        self.deliver()

    def pause_body(self) -> None:
        self._wants_body = False

    def take(self, data: bytes, limit: int | None) -> None:
        """A piece of the body has come."""
        self._body_bytes += len(data)
        if limit is not None and self._body_bytes > limit:
            self.give_up(*_TOO_LARGE)
        elif data and self._connection is not None:
            self.pieces.append(data)
            self.waiting_since = self._connection.now()

    def end(self) -> None:
        """The body is complete."""
        self._has_ended = True

    def deliver(self) -> None:
        """Pass on the body that has come, if it is wanted."""
        while self._wants_body and self.work is not None and self.streams_body:
            if self.pieces:
                data = b"".join(self.pieces)
                self.pieces.clear()
                self.work.on_body(data)
            elif self._has_ended:
                self._wants_body = False
                self.work.on_body_end()
            else:
                return

    @property
    def waits_for_client(self) -> bool:
        """Whether more of the body is wanted and has not come."""
        return self._wants_body and not self._has_ended

    def give_up(self, status: int, text: str) -> None:
        """End the request because the rest of its body does not come, or is too much."""
        work, self.work = self.work, None
        if work is not None:
            work.on_disconnect()
        if self.has_started:
            self.abort()
        else:
            self.respond(status, TEXT, text.encode())

    def client_took(self) -> None:
        """What was written has gone out."""
        self.blocked_since = None
        if self.work is not None:
            self.work.on_client_writable()

    def client_gone(self) -> None:
        """The client has reset the stream, or is gone with its connection."""
        self._connection = None
        self.pieces.clear()
        if self.work is not None:
            self.work.on_disconnect()


class Http3Connection(QuicConnectionProtocol):
    """One client: its streams, and the exchanges on them.

    Lifetime: made by the server with a client's first datagram; ends when QUIC says so: by `close`, by the client, or
    after `keep_alive_timeout_s` of silence.
    """

    def __init__(
        self,
        quic: Any,
        handler: RequestHandler,
        server_address: tuple[str, int],
        on_end: Callable[[Http3Connection], None],
    ) -> None:
        super().__init__(quic)
        self._clock = asyncio.get_running_loop()
        self._handler = handler
        self._options = handler.options
        self._server_address = server_address
        self._client_address = ("", 0)
        self._on_end = on_end
        self._frames: _Frames | None = None
        self._exchanges: dict[int, Http3Exchange] = {}
        self._resets = Allowance(_RESETS_AT_ONCE, _RESETS_PER_S, self._clock.time())
        self._is_leaving = self._is_transmitting_soon = False
        self._patience_s = min(self._options.read_timeout_s, self._options.write_timeout_s)
        self._patience = self._clock.call_later(self._patience_s, self._check_patience)
        self._alive = self._clock.call_later(self._options.keep_alive_timeout_s / 3, self._keep_alive)

    def now(self) -> float:
        """Return the loop's time."""
        return self._clock.time()

    # --- from the network -----------------------------------------------------------------------

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        if self._held_bytes() > _HELD_BYTES:
            return  # lost, as far as the client can tell: it slows down and sends it again
        self._client_address = (addr[0], addr[1])
        super().datagram_received(data, addr)
        for stream_id, exchange in tuple(self._exchanges.items()):
            if exchange.blocked_since is not None and self.unsent_bytes(stream_id) < _UNSENT_BYTES // 2:
                exchange.client_took()
        if self._frames is not None and self._frames.most_held_bytes() > 2 * self._options.max_header_bytes:
            self.close(
                error_code=ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase="the head of a request is too large"
            )

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self._frames = _Frames(self._quic)
        elif isinstance(event, ConnectionTerminated):
            self._end()
            return
        if self._frames is None:
            return
        for http_event in self._frames.handle_event(event):
            self._take(http_event)
        if isinstance(event, StreamReset | StopSendingReceived):
            self._reset_by_client(event.stream_id)

    def _take(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            if event.stream_id not in self._exchanges:
                self._begin(event)
                return
            exchange: Http3Exchange | None = self._exchanges[event.stream_id]  # trailers, which are dropped
            ended = event.stream_ended
        elif isinstance(event, DataReceived):
            exchange, ended = self._exchanges.get(event.stream_id), event.stream_ended
            if exchange is not None:
                exchange.take(event.data, self._options.max_body_bytes)
        else:
            return
        if exchange is not None:
            if ended:
                exchange.end()
            exchange.deliver()

    def _begin(self, event: HeadersReceived) -> None:
        if self._is_leaving or len(self._exchanges) >= _MAX_STREAMS:
            self.cut(event.stream_id, ErrorCode.H3_REQUEST_REJECTED)
            return
        exchange = Http3Exchange(self, event.stream_id)
        self._exchanges[event.stream_id] = exchange
        exchange.client, exchange.server = self._client_address, self._server_address
        refusal = _read_head(exchange, event.headers, self._options)
        if event.stream_ended:
            exchange.end()
        else:
            exchange.streams_body = True
        if refusal is not None:
            exchange.request_id = self._handler.new_request_id()
            self._handler.count_malformed(refusal[0], exchange.request_id, exchange.client)
            exchange.respond(refusal[0], TEXT, refusal[1].encode())
            return
        if self._handler.forwarding.trusts(self._client_address[0]):
            self._handler.forwarding.apply(exchange)
        if exchange.streams_body and (b"expect", b"100-continue") in exchange.headers:
            exchange.inform(_CONTINUE, b"")
        self._handler.handle(exchange)

    def _reset_by_client(self, stream_id: int) -> None:
        exchange = self._exchanges.pop(stream_id, None)
        if exchange is not None:
            exchange.client_gone()
            self.cut(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
        if not self._resets.take(1, self.now()):
            self.close(
                error_code=ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase="too many requests were cancelled"
            )

    def _held_bytes(self) -> int:
        return sum(len(piece) for exchange in self._exchanges.values() for piece in exchange.pieces)

    # --- for exchanges --------------------------------------------------------------------------

    def send_head(self, stream_id: int, status: int, headers: Pairs, *, ends: bool = False) -> None:
        """Send the head of an answer, or of an interim one."""
        if self._frames is not None:
            self._frames.send_headers(stream_id, [(b":status", b"%d" % status), *headers], end_stream=ends)
            self._flush_soon()

    def send_data(self, stream_id: int, data: bytes, *, ends: bool = False) -> None:
        """Send a piece of a body."""
        if self._frames is not None:
            self._frames.send_data(stream_id, data, ends)
            self._flush_soon()

    def send_trailers(self, stream_id: int, trailers: Pairs) -> None:
        """End a body with trailers."""
        if self._frames is not None:
            self._frames.send_headers(stream_id, trailers, end_stream=True)
            self._flush_soon()

    def unsent_bytes(self, stream_id: int) -> int:
        """Return how much of an answer the client has not acknowledged."""
        stream = self._quic._streams.get(stream_id)
        return 0 if stream is None else len(stream.sender._buffer)

    def answered(self, stream_id: int, *, is_sending: bool) -> None:
        """The answer is complete. A client that is still sending is asked to stop."""
        self._exchanges.pop(stream_id, None)
        if is_sending and stream_id in self._quic._streams:
            self._quic.stop_stream(stream_id, ErrorCode.H3_NO_ERROR)
        self._leave_if_idle()

    def cut(self, stream_id: int, error_code: int) -> None:
        """End a stream in both directions, so that the client sees that it is not complete."""
        self._exchanges.pop(stream_id, None)
        stream = self._quic._streams.get(stream_id)
        if stream is not None:
            if not stream.sender.is_finished:
                self._quic.reset_stream(stream_id, error_code)
            if not stream.receiver.is_finished:
                self._quic.stop_stream(stream_id, error_code)
        self._flush_soon()
        self._leave_if_idle()

    def _flush_soon(self) -> None:
        if not self._is_transmitting_soon:
            self._is_transmitting_soon = True
            self._clock.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_transmitting_soon = False
        self.transmit()

    # --- time and the end -----------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether no request is being read or answered."""
        return not self._exchanges

    def leave(self) -> None:
        """Take no more requests, and close once those that run are answered."""
        self._is_leaving = True
        self._leave_if_idle()

    def _leave_if_idle(self) -> None:
        if self._is_leaving and not self._exchanges:
            # In a later pass: the end of the last answer goes out before.
            self._clock.call_soon(self.close, ErrorCode.H3_NO_ERROR)

    def _keep_alive(self) -> None:
        """Show a client that waits for an answer that we are here; its silence would end the connection."""
        if self._exchanges:
            self._quic.send_ping(0)
            self._flush_soon()
        self._alive = self._clock.call_later(self._options.keep_alive_timeout_s / 3, self._keep_alive)

    def _check_patience(self) -> None:
        """Give up requests whose body does not come, and answers that nobody takes; look again later."""
        now = self.now()
        for stream_id, exchange in tuple(self._exchanges.items()):
            if (
                exchange.waits_for_client
                and exchange.waiting_since is not None
                and now - exchange.waiting_since >= self._options.read_timeout_s
            ):
                exchange.give_up(408, "Request Timeout")
            elif (
                exchange.blocked_since is not None
                and now - exchange.blocked_since >= self._options.write_timeout_s
            ):
                exchange.client_gone()
                self.cut(stream_id, ErrorCode.H3_REQUEST_CANCELLED)
        self._patience = self._clock.call_later(self._patience_s, self._check_patience)

    def abandon(self) -> None:
        """Have done with it at once; the client was told, or finds out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._end()

    def _end(self) -> None:
        self._patience.cancel()
        self._alive.cancel()
        self._frames = None
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            exchange.client_gone()
        self._on_end(self)


def _read_head(exchange: Http3Exchange, headers: Pairs, options: Any) -> tuple[int, str] | None:
    """Fill in an exchange from a head that aioquic has found well-formed; return status and text to refuse it with."""
    told: dict[bytes, bytes] = {}
    fields: Headers = []
    noted: dict[bytes, bytes] = {}
    for name, value in headers:
        if name.startswith(b":"):
            told[name] = value
            continue
        if name == b"host" and value == told.get(b":authority"):
            continue  # a client may send both, alike
        fields.append((name, value))
        watched = NOTED.get(name)
        if watched is not None:
            noted[watched] = noted[watched] + b", " + value if watched in noted else value
    if b":authority" in told:
        fields.insert(0, (b"host", told[b":authority"]))
    exchange.headers, exchange.noted = fields, noted
    exchange.target = told.get(b":path", b"")
    if (
        len(fields) > options.max_headers
        or sum(len(n) + len(v) + 4 for n, v in headers) > options.max_header_bytes
    ):
        return 431, "Request Header Fields Too Large"
    method = METHODS.get(told.get(b":method", b""))
    if method is None:
        return 501, "Not Implemented"
    exchange.method = method
    hosts = [value for name, value in fields if name == b"host"]
    lengths = [value for name, value in fields if name == b"content-length"]
    if (
        len(hosts) != 1
        or not is_valid_host(hosts[0])
        or not _PATH.fullmatch(exchange.target)
        or any(_CONTROL.search(value) for _, value in fields)
        or len(lengths) > 1
        or not all(length.isdigit() for length in lengths)
        or any(name == b"transfer-encoding" for name, _ in fields)
    ):
        return BAD_REQUEST
    if lengths and options.max_body_bytes is not None and int(lengths[0]) > options.max_body_bytes:
        return _TOO_LARGE
    return None


def _pairs(headers: bytes) -> Pairs:
    lines = (line.partition(b": ") for line in headers.split(b"\r\n"))
    return [(name, value) for name, _, value in lines if name]
