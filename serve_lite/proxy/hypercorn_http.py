"""One HTTP request in the hands of hypercorn, as an exchange."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

import anyio

from serve_lite.proxy.answers import TEXT, declared_length, settle_length, takes_trailers
from serve_lite.proxy.exchange import SMALL_BODY_BYTES, Buffer
from serve_lite.proxy.http import RequestHandler
from serve_lite.proxy.hypercorn_bridge import OUTBOX_BYTES, Bridge, Receive
from serve_lite.proxy.hypercorn_streams import (
    Message,
    Send,
    drained,
    end_with_trailers,
    inform,
    reset,
)
from serve_lite.proxy.requests import BAD_REQUEST

_DROPPED_BODY_BYTES: Final = 1024 * 1024  #: read from an HTTP/2 client that was answered early
_TIMED_OUT: Final = (408, "Request Timeout")
_CONTINUE: Final = 100
_BODILESS: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "DELETE"))


class HttpBridge(Bridge):
    """One HTTP request."""

    _body_ended = False
    _has_told_end = False
    _is_delivering = False
    _has_started = False  #: the answer
    _takes_trailers = False

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
        for at in range(0, len(view) - OUTBOX_BYTES, OUTBOX_BYTES):
            piece = bytes(view[at : at + OUTBOX_BYTES])
            self._put({"type": "http.response.body", "body": piece, "more_body": True})
        last = bytes(view[max(0, (len(view) - 1) // OUTBOX_BYTES * OUTBOX_BYTES) :])
        self._put({"type": "http.response.body", "body": last, "more_body": False})
        self._put(None)

    def start(self, status: int, headers: bytes) -> None:
        self._takes_trailers = takes_trailers(self.headers) and (
            self._is_http2
            or (
                self.http_version == "1.1"
                and self.method != "HEAD"
                and status not in (204, 304)
                and declared_length(headers) is None
            )
        )
        self._put_start(status, headers)

    def write(self, data: Buffer) -> bool:
        message = {"type": "http.response.body", "body": bytes(data), "more_body": True}
        return self._put(message, len(data)) if len(data) else not self._is_blocked

    def inform(self, status: int, headers: bytes) -> None:
        if self.http_version != "1.0" and not self._has_started:
            self._put({"type": "inform", "status": status, "headers": _pairs(headers)})

    def finish(self, trailers: bytes = b"") -> None:
        pairs = _pairs(trailers) if self._takes_trailers else []
        if pairs and not self._is_http2:
            self._put({"type": "end", "trailers": pairs})
            self._put(None)
            return
        if pairs:
            self._start["trailers"] = True  # looked at when the body has ended
        self._put({"type": "http.response.body", "body": b"", "more_body": False})
        if pairs:
            self._put({"type": "http.response.trailers", "headers": pairs})
        self._put(None)

    def abort(self) -> None:
        self._outbox.append({"type": "abort"})
        self._has_output.set()

    def _put_start(self, status: int, headers: bytes) -> None:
        self._has_started = True
        pairs = _pairs(headers)
        if b"x-request-id:" not in headers:
            pairs.append((b"x-request-id", self.request_id or self._handler.new_request_id()))
        handler = self._handler
        closes = handler.is_retiring or handler.is_draining or not self._body_ended
        if closes and not self._is_http2 and b"connection:" not in headers:
            pairs.append((b"connection", b"close"))
        if handler.alt_svc and self._is_secure:
            pairs.append((b"alt-svc", handler.alt_svc))
        self._start: Message = {"type": "http.response.start", "status": status, "headers": pairs}
        self._put(self._start)

    async def _send_output(self) -> None:
        original = self._send

        async def send(message: Message) -> None:
            match message["type"]:
                case "abort":
                    await reset(original)
                    raise _CutAnswerError
                case "inform":
                    await inform(original, message["status"], message["headers"])
                    return
                case "end":
                    await end_with_trailers(original, message["trailers"])
                    return
            if message["type"] == "http.response.body" and not message["more_body"] and self._is_http2:
                await self._drop_rest_of_body()
            await original(message)
            if self._is_http2:
                await drained(original)

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
        refusal = None if self._is_http2 else self._entry.begin(self)
        if refusal is None and not self.is_well_formed:
            refusal = BAD_REQUEST
        if refusal is None and self._is_head_too_large():
            refusal = (431, "Request Header Fields Too Large")
        if refusal is not None:
            status, text = refusal
            request_id = self.request_id = self._handler.new_request_id()
            self._handler.count_malformed(status, request_id, self.client)
            self.respond(status, TEXT if self._is_http2 else b"connection: close\r\n" + TEXT, text.encode())
            return True
        limit = self._handler.options.max_body_bytes
        length = self._announced_length()
        if limit is not None and length is not None and length > limit:
            self.respond(413, TEXT, b"Content Too Large")
            return True
        self._prepare_to_continue()
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

    def _prepare_to_continue(self) -> None:
        """Take note that the client waits to be told to send its body; in HTTP/2, where few do, tell it at once."""
        expectation = (b"expect", b"100-continue")
        if self.expects_continue:
            self.headers.append(expectation)  # which the entry has kept from hypercorn
        elif self._is_http2 and expectation in self.headers:
            self.inform(_CONTINUE, b"")

    def _may_stream(self, length: int | None) -> bool:
        if length is not None:
            self.streams_body = length > SMALL_BODY_BYTES
        elif self._is_http2:
            self.streams_body = self.method not in _BODILESS
        else:
            self.streams_body = any(name == b"transfer-encoding" for name, _ in self.headers)
        self.streams_body = self.streams_body or self.expects_continue
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

    @property
    def holds_client(self) -> bool:
        """Whether the client waits to be told to send its body."""
        return self.expects_continue and not self._gathered

    def read_body(self) -> None:
        if self.expects_continue:
            if not self._has_started and not self._gathered and not self._body_ended:
                self.inform(_CONTINUE, b"")
            self.expects_continue = False
            self._entry.continued()
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


class _CutAnswerError(Exception):
    """Leaves the sending of an answer that is cut."""


def _pairs(headers: bytes) -> list[tuple[bytes, bytes]]:
    """Return a ready block of header lines as ASGI has them."""
    lines = (line.partition(b": ") for line in headers.split(b"\r\n"))
    return [(name, value) for name, _, value in lines if name]
