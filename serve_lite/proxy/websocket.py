"""One WebSocket, from its front to the router and back.

The handshake travels as an `HttpHead` with the method WEBSOCKET; afterwards each message is an item with a
`WsMessage` in its envelope, in either direction. Only the hypercorn front speaks WebSocket to clients.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import msgspec

from serve_lite.proxy.answers import INTERNAL_ERROR, TEXT
from serve_lite.proxy.guard import refuse_http
from serve_lite.proxy.http import Lane, Noted, RequestHandler, refusal_of
from serve_lite.routing.router import PendingCall
from serve_lite.wire.frames import Kind
from serve_lite.wire.messages import HttpHead, WsMessage

if TYPE_CHECKING:
    from serve_lite.proxy.exchange import Exchange

SWITCHING: int = 101
REFUSAL_START, REFUSAL_BODY = "websocket.http.response.start", "websocket.http.response.body"
INTERNAL: int = 1011

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(WsMessage).decode


class Socket(Protocol):
    """The client's side, as a front offers it."""

    def send_message(self, message: WsMessage) -> bool:
        """Pass on a message of the application; False: stop until `on_client_writable`."""

    def refuse(self, status: int, text: str, headers: bytes = TEXT) -> None:
        """Answer the handshake with an HTTP error; `headers` are lines as of any answer."""

    def pause_messages(self) -> None:
        """Take no more messages from the client until `resume_messages`."""

    def resume_messages(self) -> None:
        """Take messages from the client (again)."""


class WebSocketCall(PendingCall):
    """One WebSocket that an application serves.

    The client's messages go to `on_message`; its leaving to `on_close`. After it was accepted the
    application hears of the leaving by a message and may finish; before, the call is cancelled.
    """

    kind = Kind.CALL_HTTP
    streams_body = True
    _status = 0
    _is_over = False

    def __init__(
        self, handler: RequestHandler, exchange: Exchange, socket: Socket, lane: Lane, noted: Noted
    ) -> None:
        self._handler = handler
        self._exchange = exchange
        self._socket = socket
        self._lane = lane
        self._noted = noted
        self._started = time.monotonic()
        self._early: list[bytes] = []  #: messages of the client sent so far, until the first answer
        self._unreturned: list[int] = []
        self._sent_bytes = 0  #: to the client
        self.model_id, self.session_id = noted.model_id, noted.session_id

    # --- from the router ------------------------------------------------------------------------

    def on_sent(self, replica_id: str) -> None:
        assert self.outgoing is not None
        for envelope in self._early:
            self.outgoing.send_item(envelope)
        self._socket.resume_messages()

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        message = _decode(envelope)
        size = len(envelope) + sum(map(len, buffers))
        self.retryable, self._early = False, []
        if message.type == "websocket.accept":
            self._status = SWITCHING
        elif message.type == REFUSAL_START:
            self._status = message.code
        elif message.type == "websocket.close":
            self._status = self._status or 403
        elif message.type == "websocket.send":
            self._sent_bytes += len(message.text or message.data or b"")
        if not self._socket.send_message(message):
            self._unreturned.append(size)
        elif self.outgoing is not None:
            self.outgoing.consumed(size)

    def on_end(self, envelope: bytes) -> None:
        self._over(self._status or 403)
        self._socket.send_message(WsMessage("websocket.close"))  # does nothing after a close

    def on_error(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self._fail(500, INTERNAL_ERROR)

    def on_failed(self, error: Exception) -> None:
        status, text, _ = refusal_of(error, self._noted.request_id)
        self._fail(status, text)

    def on_writable(self) -> None:
        self._socket.resume_messages()

    # --- from the front -------------------------------------------------------------------------

    def on_message(self, message: WsMessage) -> None:
        """A message of the client."""
        envelope = _encode(message)
        if self.retryable:
            self._early.append(envelope)
        if self.outgoing is None or not self.outgoing.send_item(envelope):
            self._socket.pause_messages()

    def on_client_writable(self) -> None:
        """The client took what was sent."""
        sizes, self._unreturned = self._unreturned, []
        if self.outgoing is not None:
            for size in sizes:
                self.outgoing.consumed(size)

    def on_close(self, code: int, reason: str) -> None:
        """The client has left."""
        if self._is_over:
            return
        outgoing = self.outgoing
        if self._status != SWITCHING or outgoing is None:
            self._lane.router.cancel(self)
            self._over(499)
        else:
            outgoing.send_item(_encode(WsMessage("websocket.disconnect", code=code, reason=reason)))
            outgoing.end()

    def cancel(self) -> None:
        """Stop the work: the front itself is ending."""
        if not self._is_over:
            self._lane.router.cancel(self)
            self._over(self._status or 499)

    def _fail(self, status: int, text: str) -> None:
        self._over(self._status or status)
        if self._status:
            self._socket.send_message(WsMessage("websocket.close", code=INTERNAL))
        else:
            self._socket.refuse(status, text)

    def _over(self, status: int) -> None:
        if not self._is_over:
            self._is_over = True
            self._handler.accounts.ongoing -= 1
            account, latency_s = self._lane.account, time.monotonic() - self._started
            account.count("WS", status, latency_s)
            if (log := self._handler.log) is not None:
                log.note_http(self._exchange, account.app, "WS", status, latency_s, self._sent_bytes)


def open_websocket(
    handler: RequestHandler, exchange: Exchange, socket: Socket, subprotocols: list[str]
) -> WebSocketCall | None:
    """Send a WebSocket on its way; None if it was refused at once.

    Only an ASGI application can serve one; the timeout of requests does not apply to it.
    """
    lane = handler.find_lane(exchange)
    noted = handler.note(exchange)
    if lane is None:
        socket.refuse(*handler.refuse_unrouted(exchange))
        return None
    if lane.guard is not None and (refused := refuse_http(lane.guard, exchange)) is not None:
        handler.book(lane.account, exchange, "WS", refused[0])
        socket.refuse(*refused)
        return None
    call = WebSocketCall(handler, exchange, socket, lane, noted)
    client, server = exchange.client, exchange.server
    call.envelope = _encode(
        HttpHead(
            "WEBSOCKET",
            exchange.target,
            exchange.headers,
            noted.request_id,
            lane.route,
            handler.options.root_path,
            app=lane.app,
            model_id=noted.model_id,
            session_id=noted.session_id,
            traceparent=noted.traceparent,
            client_host=client[0],
            client_port=client[1],
            server_host=server[0],
            server_port=server[1],
            scheme=exchange.scheme,
            http_version=exchange.http_version,
            streams_body=True,
            subprotocols=subprotocols,
        )
    )
    handler.accounts.ongoing += 1
    lane.router.submit(call)
    return call
