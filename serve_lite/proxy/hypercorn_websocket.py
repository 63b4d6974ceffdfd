"""One WebSocket in the hands of hypercorn: the client's side for `websocket`."""

from __future__ import annotations

from collections import deque
from typing import Final

from serve_lite.proxy.answers import TEXT
from serve_lite.proxy.exchange import SMALL_BODY_BYTES
from serve_lite.proxy.http import RequestHandler
from serve_lite.proxy.hypercorn_bridge import Bridge, Receive
from serve_lite.proxy.hypercorn_streams import (
    Message,
    Send,
    watch_close,
)
from serve_lite.proxy.websocket import REFUSAL_BODY, REFUSAL_START, WebSocketCall, open_websocket
from serve_lite.wire.messages import Headers, WsMessage

_HELD_MESSAGES: Final = 16
_SERVICE_RESTART, _RESTARTS = 1012, "Service Restart"


class WebSocketBridge(Bridge):
    """One WebSocket."""

    _call: WebSocketCall | None = None
    _client_close: tuple[int, str] | None = None
    _has_closed = False
    _was_accepted = _has_refused = False

    def __init__(self, handler: RequestHandler, scope: Message, receive: Receive, send: Send) -> None:
        super().__init__(handler, scope, receive, send)
        self._held: deque[WsMessage] = deque()  #: of the client, not wanted yet
        self._subprotocols: list[str] = list(scope["subprotocols"])

    async def _send_output(self) -> None:
        original = self._send

        async def send(message: Message) -> None:
            await original(message)
            if message["type"] == "websocket.accept":
                watch_close(original, self._note_close)

        self._send = send
        await super()._send_output()

    def _note_close(self, code: int, reason: str) -> None:
        self._client_close = (code, reason)

    def send_message(self, message: WsMessage) -> bool:
        if self._has_closed:
            return True
        if message.type == "websocket.accept":
            self._was_accepted = True
            headers = [*message.headers, (b"x-request-id", self.request_id)]
            return self._put({"type": message.type, "subprotocol": message.subprotocol, "headers": headers})
        if message.type == "websocket.send":
            size = len(message.text or message.data or b"")
            return self._put({"type": message.type, "text": message.text, "bytes": message.data}, size)
        if message.type == REFUSAL_START:
            self._put_refusal(message.code, message.headers)
            return True
        if message.type == REFUSAL_BODY:
            return self._put_refusal_body(message.data or b"", more=message.code == 1)
        if self._has_refused:
            return self._put_refusal_body(b"", more=False)  # the application has not ended it
        if not self._was_accepted:
            self.refuse(403, "Forbidden")
            return True
        self._has_closed = True
        self._put({"type": "websocket.close", "code": message.code, "reason": message.reason})
        return self._put(None)

    def refuse(self, status: int, text: str, headers: bytes = TEXT) -> None:
        """Answer the handshake with an HTTP error; `headers` are lines as of any answer."""
        self._has_closed = True
        body = text.encode()
        length = (b"content-length", b"%d" % len(body))
        lines = (line.partition(b": ") for line in headers.split(b"\r\n"))
        self._put_refusal(status, [*((name, value) for name, _, value in lines if name), length])
        self._put_refusal_body(body, more=False)

    def _put_refusal(self, status: int, headers: Headers) -> None:
        self._has_refused = True
        pairs = [(name.lower(), value) for name, value in headers]
        if not any(name == b"x-request-id" for name, _ in pairs):
            pairs.append((b"x-request-id", self.request_id or self._handler.new_request_id()))
        if self.http_version == "1.1":
            pairs.append((b"connection", b"close"))
        self._put({"type": REFUSAL_START, "status": status, "headers": pairs})

    def _put_refusal_body(self, body: bytes, *, more: bool) -> bool:
        is_writable = self._put({"type": REFUSAL_BODY, "body": body, "more_body": more}, len(body))
        if not more:
            self._has_closed = True
            self._put(None)
        return is_writable

    def restart(self) -> None:
        """Close it with the code that tells the client to connect again."""
        if self._call is not None and not self._has_closed:
            self._call.on_close(_SERVICE_RESTART, _RESTARTS)
        if not self._was_accepted and not self._has_refused:
            self.refuse(503, _RESTARTS)
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
