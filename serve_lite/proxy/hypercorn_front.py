"""The other front: hypercorn, for WebSocket and HTTP/2, and for everything if the options say so.

Imported only when first needed. Each connection arrives with a reader that already holds what was read
from it. hypercorn calls `Front` as an ASGI application; each call becomes an exchange, as in `http1`, and
ends in the same request function. This front is made of coroutines, so a bridge stands between them and
the callbacks: an outbox for what goes to the client, and one task that takes what comes from it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any, Final, cast

import anyio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from wsproto.events import CloseConnection

from serve_lite.proxy.answers import TEXT, settle_length, takes_trailers
from serve_lite.proxy.entry import ENTRY, Entry
from serve_lite.proxy.exchange import NOTED, SMALL_BODY_BYTES, Buffer, Exchange, is_valid_host
from serve_lite.proxy.http import RequestHandler
from serve_lite.proxy.hypercorn_connection import Connection
from serve_lite.proxy.requests import BAD_REQUEST
from serve_lite.proxy.websocket import WebSocketCall, open_websocket
from serve_lite.wire.messages import Headers, WsMessage

Message = MutableMapping[str, Any]  # ASGI's, whose values are of many types
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_OUTBOX_BYTES: Final = 64 * 1024  #: written and not yet taken by the client; more stops the application
_DROPPED_BODY_BYTES: Final = 1024 * 1024  #: read from an HTTP/2 client that was answered early
_TIMED_OUT: Final = (408, "Request Timeout")
_EARLY_HINTS: Final = 103
_H2_INTERNAL_ERROR: Final = 2
_LAST_WORDS_S: Final = 2.0
_HELD_MESSAGES: Final = 16
_SERVICE_RESTART, _RESTARTS = 1012, "Service Restart"
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BODILESS: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "DELETE"))


class Front:
    """hypercorn, serving one connection at a time in the caller's task.

    Args:
        handler: where every request ends.
    """

    def __init__(self, handler: RequestHandler) -> None:
        options = handler.options
        self._handler = handler
        self._context = WorkerContext(None)
        self._is_retiring = False
        self._connections: set[Connection] = set()
        self._websockets: set[WebSocketBridge] = set()
        self._config = config = Config()
        config.keep_alive_timeout = options.keep_alive_timeout_s
        config.keep_alive_max_requests = 1_000_000_000
        config.h11_max_incomplete_size = 2 * options.max_header_bytes  # counted already, as they came
        config.h2_max_header_list_size = options.max_header_bytes
        config.max_app_queue_size = 2  # messages read ahead, each of up to 16 MB for a WebSocket
        config.include_server_header = False
        config.accesslog = None  # ours is written by the accounts
        config.errorlog = logging.getLogger("serve_lite.proxy.hypercorn")

    async def run(self, entry: Entry, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        ENTRY.set(entry)  # hypercorn's tasks for this connection begin with a copy of our context
        loop = asyncio.get_running_loop()
        app = ASGIWrapper(cast(Any, self._serve))
        connection = Connection(app, loop, self._config, self._context, cast(Any, {}), entry.reader, writer)
        if self._is_retiring:
            connection.leave()
        self._connections.add(connection)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_end_with_client, entry, group.cancel_scope)
                await connection
                group.cancel_scope.cancel()
        finally:
            self._connections.discard(connection)

    async def terminate(self) -> None:
        """Let connections end after the answers they are giving."""
        await self._context.terminate.set()
        await self._context.terminated.set()

    def retire(self) -> None:
        """Have HTTP/2 clients open their next streams on new connections, each when no stream is open on its own.

        `hypercorn_connection` tells why then. A connection that is idle may bring one more request.
        """
        self._is_retiring = True
        for connection in tuple(self._connections):
            connection.leave()

    async def hurry(self) -> None:
        """Have the others do so although streams are open."""
        async with anyio.create_task_group() as group:  # a client that reads nothing makes its own wait
            for connection in tuple(self._connections):
                group.start_soon(connection.hurry)

    def close_websockets(self) -> None:
        """Tell both ends of every WebSocket that the service restarts."""
        for bridge in tuple(self._websockets):
            bridge.restart()

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await HttpBridge(self._handler, scope, receive, send).run()
        elif scope["type"] == "websocket":
            bridge = WebSocketBridge(self._handler, scope, receive, send)
            self._websockets.add(bridge)
            try:
                await bridge.run()
            finally:
                self._websockets.discard(bridge)


async def _end_with_client(entry: Entry, serving: anyio.CancelScope) -> None:
    """End the serving of a connection that is gone, should hypercorn not do so: it may wait for an application to
    take a body, and then does not see the client leave."""
    await entry.left.wait()
    await anyio.sleep(_LAST_WORDS_S)  # what has come is still worked through
    for bridge in tuple(entry.bridges):
        bridge.client_gone()
    serving.cancel()


class _Bridge(Exchange):
    """What both kinds of exchange have: the request's fields, and an outbox."""

    def __init__(self, handler: RequestHandler, scope: Message, receive: Receive, send: Send) -> None:
        self._handler = handler
        self._receive, self._send = receive, send
        self._original_send = send
        #: for one message, where the client can hold up one stream; the entry sees to the connection
        self._write_timeout_s = handler.options.write_timeout_s if scope["http_version"] == "2" else None
        self.method = scope.get("method", "GET")
        self.target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        self.headers, self.noted = _read_headers(scope["headers"])
        self.http_version = scope["http_version"]
        self.scheme = scope["scheme"]
        self.client = _address(scope["client"])
        self.server = _address(scope["server"])
        if handler.forwarding.trusts(self.client[0]):
            handler.forwarding.apply(self)
        self._outbox: deque[Message | None] = deque()  #: None ends the exchange
        self._outbox_bytes = 0
        self._is_blocked = False  #: the writer was told to stop
        self._has_output = asyncio.Event()
        self._wants_input = asyncio.Event()
        self._is_over = False

    @property
    def is_well_formed(self) -> bool:
        """Whether what hypercorn lets pass is good enough for us."""
        names = [name for name, _ in self.headers]
        hosts = [value for name, value in self.headers if name == b"host"]
        return (
            (len(hosts) == 1 or (not hosts and self.http_version == "1.0"))
            and all(map(is_valid_host, hosts))
            and self.target.startswith(b"/")
            and b"#" not in self.target
            and self.http_version in ("1.0", "1.1", "2")
            and not (
                b"transfer-encoding" in names and (b"content-length" in names or self.http_version == "1.0")
            )
            and not any(_CONTROL.search(value) for _, value in self.headers)
        )

    async def run(self) -> None:
        """Serve the exchange to its end."""
        bridges = ENTRY.get().bridges
        bridges.add(self)
        async with anyio.create_task_group() as group:
            try:
                if await self._begin():
                    group.start_soon(self._take_input)
                    await self._send_output()
            except asyncio.CancelledError:
                _forget(self._original_send)
                raise
            finally:
                bridges.discard(self)
                self._is_over = True
                group.cancel_scope.cancel()
                self._ended()

    def client_gone(self) -> None:
        """The connection has ended, and hypercorn does not tell."""
        self._leave()
        self._put(None)
        _forget(self._original_send)

    async def _begin(self) -> bool:
        raise NotImplementedError

    async def _take_input(self) -> None:
        raise NotImplementedError

    def _ended(self) -> None:
        """The exchange is over, one way or the other."""

    def _writable(self) -> None:
        """The client took what was put."""

    def _leave(self) -> None:
        """The client has left, or is taken to have."""

    def _put(self, message: Message | None, size: int = 0) -> bool:
        if self._is_over:
            return True
        self._outbox.append(message)
        self._outbox_bytes += size
        self._has_output.set()
        if self._outbox_bytes >= _OUTBOX_BYTES:
            self._is_blocked = True
        return not self._is_blocked

    async def _send_output(self) -> None:
        while True:
            while self._outbox:
                message = self._outbox.popleft()
                if message is None:
                    return
                with anyio.move_on_after(self._write_timeout_s) as scope:
                    await self._send(message)
                if scope.cancelled_caught:
                    self._leave()
                    if not ENTRY.get().takes_nothing:  # else the entry ends all of the connection
                        await _reset(self._original_send)
                    return
            self._outbox_bytes = 0
            if self._is_blocked:
                self._is_blocked = False
                self._writable()
            if not self._outbox:
                self._has_output.clear()
                await self._has_output.wait()


class HttpBridge(_Bridge):
    """One HTTP request."""

    _body_ended = False
    _has_told_end = False
    _is_delivering = False
    _has_started = False  #: the answer
    _has_trailers = False

    def __init__(self, handler: RequestHandler, scope: Message, receive: Receive, send: Send) -> None:
        super().__init__(handler, scope, receive, send)
        self._is_http2 = scope["http_version"] == "2"
        self._gathered: list[bytes] = []
        self._body_bytes = 0
        self._dropped_bytes = 0
        self._has_dropped = asyncio.Event()
        limit = handler.options.max_body_bytes
        self._body_limit = sys.maxsize if limit is None else limit
        #: until more of the body comes, while it is wanted; in HTTP/1 the entry sees to that
        self._read_timeout_s = handler.options.read_timeout_s if self._is_http2 else None

    # --- answering ------------------------------------------------------------------------------

    def respond(self, status: int, headers: bytes, body: Buffer) -> None:
        status, headers, length, body = settle_length(self.method, status, headers, body)
        self._put_start(status, headers + length)
        view = memoryview(body)  # in pieces, so that a slow client is seen to take them
        for at in range(0, len(view) - _OUTBOX_BYTES, _OUTBOX_BYTES):
            piece = bytes(view[at : at + _OUTBOX_BYTES])
            self._put({"type": "http.response.body", "body": piece, "more_body": True})
        last = bytes(view[max(0, (len(view) - 1) // _OUTBOX_BYTES * _OUTBOX_BYTES) :])
        self._put({"type": "http.response.body", "body": last, "more_body": False})
        self._put(None)

    def start(self, status: int, headers: bytes) -> None:
        announces = headers.startswith(b"trailer:") or b"\ntrailer:" in headers
        self._has_trailers = self._is_http2 and announces and takes_trailers(self.headers)
        self._put_start(status, headers)

    def write(self, data: Buffer) -> bool:
        message = {"type": "http.response.body", "body": bytes(data), "more_body": True}
        return self._put(message, len(data)) if len(data) else not self._is_blocked

    def inform(self, status: int, headers: bytes) -> None:
        if status == _EARLY_HINTS and self._is_http2:  # all that hypercorn can
            links = [value for name, value in _pairs(headers) if name == b"link"]
            self._put({"type": "http.response.early_hint", "links": links})

    def finish(self, trailers: bytes = b"") -> None:
        self._put({"type": "http.response.body", "body": b"", "more_body": False})
        if self._has_trailers:
            self._put({"type": "http.response.trailers", "headers": _pairs(trailers)})
        self._put(None)

    def abort(self) -> None:
        self._outbox.append({"type": "abort"})
        self._has_output.set()

    def _put_start(self, status: int, headers: bytes) -> None:
        self._has_started = True
        pairs = _pairs(headers)
        if b"x-request-id:" not in headers:
            pairs.append((b"x-request-id", self.request_id or self._handler.new_request_id()))
        if self._handler.is_retiring and not self._is_http2 and b"connection:" not in headers:
            pairs.append((b"connection", b"close"))
        start = {"type": "http.response.start", "status": status, "headers": pairs}
        self._put({**start, "trailers": True} if self._has_trailers else start)

    async def _send_output(self) -> None:
        original = self._send

        async def send(message: Message) -> None:
            if message["type"] == "abort":
                await _reset(original)
                raise _CutAnswerError
            if message["type"] == "http.response.body" and not message["more_body"] and self._is_http2:
                await self._drop_rest_of_body()
            await original(message)
            if self._is_http2:
                await _drained(original)

        self._send = send
        try:
            await super()._send_output()
        except _CutAnswerError:
            pass  # returning before the answer is complete makes hypercorn cut the connection

    async def _drop_rest_of_body(self) -> None:
        """Read what an HTTP/2 client still sends: hypercorn fails if it comes after the answer."""
        self.work = None
        self.streams_body = True
        self.read_body()
        if not self._body_ended:
            await self._has_dropped.wait()  # the client has sent all, or enough, or left

    # --- the request ----------------------------------------------------------------------------

    async def _begin(self) -> bool:
        refusal = None if self._is_http2 else ENTRY.get().begin(self)
        if refusal is None and not self.is_well_formed:
            refusal = BAD_REQUEST
        if refusal is None and self._is_head_too_large():
            refusal = (431, "Request Header Fields Too Large")
        if refusal is not None:
            status, text = refusal
            request_id = self.request_id = self._handler.new_request_id()
            self._handler.count_malformed(status, request_id)
            self.respond(status, TEXT if self._is_http2 else b"connection: close\r\n" + TEXT, text.encode())
            return True
        limit = self._handler.options.max_body_bytes
        length = self._announced_length()
        if limit is not None and length is not None and length > limit:
            self.respond(413, TEXT, b"Content Too Large")
            return True
        if not self._may_stream(length):
            with anyio.move_on_after(self._read_timeout_s) as scope:
                if not await self._gather():
                    return False
            if scope.cancelled_caught:
                self._has_dropped.set()  # nothing of the body is waited for any more
                self.give_up(*_TIMED_OUT)
                return True
        self._handler.handle(self)
        return True

    def _is_head_too_large(self) -> bool:
        options, headers = self._handler.options, self.headers
        return len(headers) > options.max_headers or (
            self._is_http2  # else counted by the entry
            and len(self.target) + sum(len(n) + len(v) + 4 for n, v in headers) > options.max_header_bytes
        )

    def _announced_length(self) -> int | None:
        value = next((value for name, value in self.headers if name == b"content-length"), b"")
        return int(value) if value.isdigit() else None

    def _may_stream(self, length: int | None) -> bool:
        if length is not None:
            self.streams_body = length > SMALL_BODY_BYTES
        elif self._is_http2:
            self.streams_body = self.method not in _BODILESS
        else:
            self.streams_body = any(name == b"transfer-encoding" for name, _ in self.headers)
        return self.streams_body

    async def _gather(self) -> bool:
        """Read a small body whole; one that turns out not to be small is streamed. False: the client has left."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return False
            self._gathered.append(message.get("body", b""))
            if not message.get("more_body", False):
                self._body_ended = True
                self.body = b"".join(self._gathered)
                return True
            if sum(map(len, self._gathered)) > SMALL_BODY_BYTES:
                self.streams_body = True
                return True

    def give_up(self, status: int, text: str) -> None:
        """End the request because the rest of its body is malformed or does not come."""
        work, self.work = self.work, None
        self._wants_input.clear()
        if work is not None:
            work.on_disconnect()
        if self._has_started:
            self.abort()
        else:
            self.respond(status, TEXT if self._is_http2 else b"connection: close\r\n" + TEXT, text.encode())

    def read_body(self) -> None:
        self._wants_input.set()
        self._deliver()

    def pause_body(self) -> None:
        self._wants_input.clear()

    async def _take_input(self) -> None:
        """Take the body, a little ahead of what is wanted, then wait for the client to leave."""
        while True:
            if sum(map(len, self._gathered)) >= SMALL_BODY_BYTES:
                await self._wants_input.wait()
                self._deliver()
                continue
            is_awaited = self._wants_input.is_set() and not self._body_ended
            with anyio.move_on_after(self._read_timeout_s if is_awaited else None) as scope:
                message = await self._receive()
            if scope.cancelled_caught:
                if self._wants_input.is_set():
                    self._has_dropped.set()  # nothing of the body is waited for any more
                    self.give_up(*_TIMED_OUT)
                continue
            if message["type"] == "http.disconnect":
                self._body_ended = True
                self._has_dropped.set()
                self._leave()
                return
            if not self._body_ended:
                self._gathered.append(message.get("body", b""))
                self._body_ended = not message.get("more_body", False)
                self._deliver()

    def _deliver(self) -> None:
        """Pass on the body that has come, if it is wanted."""
        work = self.work
        if self._is_delivering or not self._wants_input.is_set() or not self.streams_body:
            return
        self._is_delivering = True  # passing a piece on may ask for the next
        while self._gathered and self._wants_input.is_set():
            data = b"".join(self._gathered)
            self._gathered.clear()
            self._body_bytes += len(data)
            if work is None:
                self._drop(len(data))
            elif self._body_bytes > self._body_limit:
                self.give_up(413, "Content Too Large")
                work = None
            elif data:
                work.on_body(data)
        self._is_delivering = False
        if self._body_ended and not self._gathered and not self._has_told_end:
            self._has_told_end = True
            self._has_dropped.set()
            if work is not None:
                work.on_body_end()

    def _drop(self, size: int) -> None:
        self._dropped_bytes += size
        if self._dropped_bytes > _DROPPED_BODY_BYTES:
            self._has_dropped.set()

    def _leave(self) -> None:
        if self.work is not None:
            self.work.on_disconnect()
        self._put(None)

    def _ended(self) -> None:
        if self.work is not None:
            self.work.on_disconnect()

    def _writable(self) -> None:
        if self.work is not None:
            self.work.on_client_writable()


class WebSocketBridge(_Bridge):
    """One WebSocket."""

    _call: WebSocketCall | None = None
    _client_close: tuple[int, str] | None = None
    _has_closed = False

    def __init__(self, handler: RequestHandler, scope: Message, receive: Receive, send: Send) -> None:
        super().__init__(handler, scope, receive, send)
        self._held: deque[WsMessage] = deque()  #: of the client, not wanted yet
        self._subprotocols: list[str] = list(scope["subprotocols"])

    async def _send_output(self) -> None:
        original = self._send

        async def send(message: Message) -> None:
            await original(message)
            if message["type"] == "websocket.accept":
                _watch_close(original, self._note_close)

        self._send = send
        await super()._send_output()

    def _note_close(self, code: int, reason: str) -> None:
        self._client_close = (code, reason)

    def send_message(self, message: WsMessage) -> bool:
        if self._has_closed:
            return True
        if message.type == "websocket.accept":
            headers = [*message.headers, (b"x-request-id", self.request_id)]
            return self._put({"type": message.type, "subprotocol": message.subprotocol, "headers": headers})
        if message.type == "websocket.send":
            size = len(message.text or message.data or b"")
            return self._put({"type": message.type, "text": message.text, "bytes": message.data}, size)
        self._has_closed = True
        self._put({"type": "websocket.close", "code": message.code, "reason": message.reason})
        return self._put(None)

    def refuse(self, status: int, text: str) -> None:
        """Answer the handshake with an HTTP error."""
        self._has_closed = True
        body = text.encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", self.request_id or self._handler.new_request_id()),
        ]
        self._put({"type": "websocket.http.response.start", "status": status, "headers": headers})
        self._put({"type": "websocket.http.response.body", "body": body, "more_body": False})
        self._put(None)

    def restart(self) -> None:
        """Close it with the code that tells the client to connect again."""
        if self._call is not None and not self._has_closed:
            self._call.on_close(_SERVICE_RESTART, _RESTARTS)
        self.send_message(WsMessage("websocket.close", code=_SERVICE_RESTART, reason=_RESTARTS))

    def pause_messages(self) -> None:
        self._wants_input.clear()

    def resume_messages(self) -> None:
        self._wants_input.set()
        self._deliver()

    def _deliver(self) -> None:
        while self._held and self._wants_input.is_set() and self._call is not None:
            self._call.on_message(self._held.popleft())

    async def _begin(self) -> bool:
        message = await self._receive()
        if message["type"] != "websocket.connect":
            return False
        if not self.is_well_formed:
            self.refuse(400, "Bad Request")
        else:
            self._call = open_websocket(self._handler, self, self, self._subprotocols)
        return True

    def _held_bytes(self) -> int:
        return sum(len(message.text or message.data or b"") for message in self._held)

    async def _take_input(self) -> None:
        """Take messages, a few ahead of what is wanted, until the client leaves."""
        while self._call is not None:
            if len(self._held) >= _HELD_MESSAGES or self._held_bytes() >= SMALL_BODY_BYTES:
                await self._wants_input.wait()
                self._deliver()
                continue
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self.resume_messages()
                self._call.on_close(*(self._client_close or (message.get("code", 1005), "")))
                self._put(None)
                return
            text, data = message.get("text"), message.get("bytes")
            self._held.append(WsMessage("websocket.receive", text=text, data=data))
            self._deliver()

    def _ended(self) -> None:
        if self._call is not None:
            self._call.on_close(1000 if self._has_closed else 1006, "")

    def _writable(self) -> None:
        if self._call is not None:
            self._call.on_client_writable()


class _CutAnswerError(Exception):
    """Leaves the sending of an answer that is cut."""


def _pairs(headers: bytes) -> list[tuple[bytes, bytes]]:
    """Return a ready block of header lines as ASGI has them."""
    lines = (line.partition(b": ") for line in headers.split(b"\r\n"))
    return [(name, value) for name, _, value in lines if name]


def _read_headers(pairs: list[tuple[bytes, bytes]]) -> tuple[Headers, dict[bytes, bytes]]:
    """Return the headers for the application, and those that Serve looks at."""
    headers: Headers = []
    noted: dict[bytes, bytes] = {}
    for name, value in pairs:
        if name == b":authority":
            name = b"host"
        elif name.startswith(b":"):
            continue
        if name == b"host" and (name, value) in headers:
            continue  # HTTP/2 clients may send both, alike
        headers.append((name, value))
        watched = NOTED.get(name)
        if watched is not None:
            noted[watched] = noted[watched] + b", " + value if watched in noted else value
    return headers, noted


def _address(pair: tuple[str, int] | None) -> tuple[str, int]:
    return (pair[0], pair[1]) if pair else ("", 0)


# --- what hypercorn has no way to ask for: taken from its stream objects, of which ASGI's `send` is a method


async def _reset(send: Send) -> None:
    """Reset the HTTP/2 stream that `send` belongs to; one left unfinished would stay open for ever.

    For HTTP/1.1 there is nothing to do: hypercorn closes the connection.
    """
    stream: Any = getattr(send, "__self__", None)
    protocol: Any = getattr(getattr(stream, "send", None), "__self__", None)
    connection: Any = getattr(protocol, "connection", None)
    if hasattr(connection, "reset_stream"):
        connection.reset_stream(stream.stream_id, error_code=_H2_INTERNAL_ERROR)
        await protocol._flush()


async def _drained(send: Send) -> None:
    """Wait until little is held for the HTTP/2 stream that `send` belongs to.

    hypercorn's own waiting ends as soon as it looks whether there is room, also if there is none.
    """
    stream: Any = getattr(send, "__self__", None)
    protocol: Any = getattr(getattr(stream, "send", None), "__self__", None)
    buffer: Any = getattr(protocol, "stream_buffers", {}).get(getattr(stream, "stream_id", None))
    if buffer is not None and len(buffer.buffer) >= _OUTBOX_BYTES:
        await buffer.drain()


def _forget(send: Send) -> None:
    """Have nothing more sent on the stream that `send` belongs to.

    hypercorn would answer for an application that was cancelled, and wait for the sending by a task that was too.
    """
    stream: Any = getattr(send, "__self__", None)
    if hasattr(stream, "closed"):
        stream.closed = True


def _watch_close(send: Send, note: Callable[[int, str], None]) -> None:
    """Have `note` told the code and reason with which the client closes the WebSocket that `send` belongs to."""
    connection: Any = getattr(getattr(send, "__self__", None), "connection", None)
    if connection is None:
        return
    events = connection.events

    def noting() -> Iterator[object]:
        for event in events():
            if isinstance(event, CloseConnection):
                note(int(event.code), event.reason or "")
            yield event

    connection.events = noting
