"""HTTP requests and WebSockets to an ASGI application inside a replica.

An answer that comes in one piece goes out as one frame; a streamed one as items under flow control.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

import anyio.to_thread
import msgspec

from serve_lite.replica.answers import render_headers
from serve_lite.wire.calls import IncomingCall
from serve_lite.wire.messages import HttpHead, HttpResponseHead, WsMessage

log = logging.getLogger("serve_lite.replica")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
AsgiApp = Callable[
    [Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_ONE_FRAME_BYTES = 1024 * 1024  #: a larger body would wait in the daemon's memory for a slow client
_PIECE_BYTES = 128 * 1024
_LAST_WORDS_S = 1.0  #: how long a lifespan that has told how it ended may take to return

_CONTINUE, _EARLY_HINTS = 100, 103
#: what says how an answer is to be read, which it must say before (RFC 9110, section 6.5.1)
_NO_TRAILERS = frozenset(
    (b"content-length", b"content-type", b"content-encoding", b"content-range", b"trailer", b"host")
)

_encode = msgspec.msgpack.Encoder().encode
_decode_ws = msgspec.msgpack.Decoder(WsMessage).decode


def make_scope(head: HttpHead, state: dict[str, Any]) -> Scope:
    """Return the ASGI scope of a request: the whole path, with the route prefix in `root_path`."""
    raw_path, _, query = head.target.partition(b"?")
    root = head.root_path
    text = raw_path.decode("latin-1")
    path = unquote(text) if "%" in text else text
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": head.http_version,
        "method": head.method,
        "scheme": head.scheme,
        "path": root + path,
        "raw_path": root.encode() + raw_path if root else raw_path,
        "query_string": query,
        "root_path": root + head.route if head.route != "/" else root,
        "headers": head.headers,
        "client": (head.client_host, head.client_port) if head.client_host else None,
        "server": (head.server_host, head.server_port),
        "state": state.copy(),
        "extensions": {"http.response.trailers": {}, "http.response.early_hint": {}},
    }


class RequestBody:
    """The request's body as ASGI messages, whether it came whole or streams in."""

    _is_held = False  #: the client sends nothing before it hears that somebody reads

    def __init__(self, call: IncomingCall, head: HttpHead) -> None:
        self._call = call
        self._pieces: deque[bytes] = deque()
        self._complete = not head.streams_body
        self._told_end = False
        self._changed: asyncio.Event | None = None
        if call.buffers:
            self._pieces.append(bytes(call.buffers[0]))
            call.buffers = []
        if head.streams_body:
            self._is_held = any(name == b"expect" for name, _ in head.headers)
            call.listen(self._on_item, self._on_end)

    async def receive(self) -> Message:
        """ASGI's `receive`: body pieces, then, once the caller is gone, a disconnect."""
        while True:
            if self._pieces:
                piece = self._pieces.popleft()
                self._call.consumed(len(piece))
                more = bool(self._pieces) or not self._complete
                self._told_end = not more
                return {"type": "http.request", "body": piece, "more_body": more}
            if self._complete and not self._told_end:
                self._told_end = True
                return {"type": "http.request", "body": b"", "more_body": False}
            if not self._call.alive:
                return {"type": "http.disconnect"}
            if self._is_held:
                self._is_held = False
                self._call.item(_encode(HttpResponseHead(_CONTINUE, b"")))
            if self._changed is None:
                self._changed = asyncio.Event()
            self._changed.clear()
            await self._changed.wait()  # ends with a piece, the end, or the cancel of this request

    def wake(self) -> None:
        """Something changed; also called when the request is abandoned."""
        if self._changed is not None:
            self._changed.set()

    def _on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self._pieces.extend(bytes(b) for b in buffers)
        self.wake()

    def _on_end(self) -> None:
        self._complete = True
        self.wake()


class HttpAnswer:
    """Takes ASGI's response messages and answers the call.

    Args:
        before_end: called right before the last frame is sent.
        on_failure: called if the application answers with a status from 500.
    """

    def __init__(
        self,
        call: IncomingCall,
        before_end: Callable[[], None],
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        self.started = False
        self.complete = False
        self.status = 0  #: once it has started
        self._call = call
        self._before_end = before_end
        self._on_failure = on_failure
        self._head: HttpResponseHead | None = None
        self._streaming = False
        self._awaits_trailers = self._body_complete = False
        self._trailers = b""

    async def send(self, message: Message) -> None:
        """ASGI's `send`; waits while the client is slow."""
        kind = message["type"]
        if kind == "http.response.start":
            if self.started:
                raise RuntimeError("the application sent http.response.start twice")
            self.started = True
            status = self.status = message["status"]
            if status >= 500 and self._on_failure is not None:
                self._on_failure()
            self._head = HttpResponseHead(status, render_headers(message.get("headers", ())))
            self._awaits_trailers = message.get("trailers", False)
        elif kind == "http.response.body":
            await self._send_body(message.get("body", b""), message.get("more_body", False))
        elif kind == "http.response.trailers":
            self._send_trailers(message)
        elif kind == "http.response.early_hint" and not self.started:
            links = [(b"link", bytes(link).strip()) for link in message["links"]]
            self._call.item(_encode(HttpResponseHead(_EARLY_HINTS, render_headers(links))))

    async def _send_body(self, body: bytes, more: bool) -> None:
        head, call = self._head, self._call
        if head is None:
            raise RuntimeError("the application sent a body before http.response.start")
        if self.complete or self._body_complete:
            raise RuntimeError("the application sent a body after the last one")
        if not self._streaming:
            if not more and not self._awaits_trailers:
                await self.send_whole(head, body)
                return
            self._streaming = True
            call.item(_encode(head))
        if body:
            call.item(b"", body)
        if not more:
            self._body_complete = True
            if not self._awaits_trailers:
                self.complete = True
                self._before_end()
                call.end()
        elif not call.has_credit:
            await writable(call)

    def _send_trailers(self, message: Message) -> None:
        if not self._body_complete or self.complete:
            raise RuntimeError(
                "the application sent trailers that it had not announced, or before the end of the body"
            )
        self._trailers += render_headers(
            pair for pair in message["headers"] if pair[0].lower() not in _NO_TRAILERS
        )
        if not message.get("more_trailers", False):
            self.complete = True
            self._before_end()
            self._call.end(self._trailers)

    async def send_whole(self, head: HttpResponseHead, body: bytes) -> None:
        """Answer with a body that is known whole: in one frame, or under flow control if it is large."""
        call = self._call
        self.started = True
        self.status = head.status
        head = _with_length(head, len(body))
        if len(body) <= _ONE_FRAME_BYTES:
            self.complete = True
            self._before_end()
            call.result(_encode(head), body)
            return
        call.item(_encode(head))
        view = memoryview(body)
        for at in range(0, len(body), _PIECE_BYTES):
            if not call.item(b"", view[at : at + _PIECE_BYTES]):
                await writable(call)
        self.complete = True
        self._before_end()
        call.end()


SERVICE_RESTART = 1012  #: the close code that asks a client to connect again (RFC 6455's registry)


class WebSocketSession:
    """One WebSocket: ASGI messages <-> `WsMessage` items.

    When its replica stops it is closed with 1012 as soon as the application waits for the client, so that the
    client connects again, elsewhere; `close` does so whatever the application is at.
    """

    def __init__(self, call: IncomingCall) -> None:
        self._call = call
        self._inbox: deque[Message] = deque([{"type": "websocket.connect"}])
        self._changed = asyncio.Event()
        self._disconnected = False
        self._is_open = False  #: accepted by the application, and closed by neither side
        self._was_closed = False  #: by us
        self._is_leaving = False
        self._is_waiting = False  #: the application waits for the client
        call.listen(self._on_item, self.disconnect)

    async def receive(self) -> Message:
        """ASGI's `receive`."""
        while not self._inbox:
            if self._is_leaving and not self._disconnected:
                self.close()
                break
            self._changed.clear()
            self._is_waiting = True
            try:
                await self._changed.wait()  # ends with a message or a disconnect
            finally:
                self._is_waiting = False
        return self._inbox.popleft()

    async def send(self, message: Message) -> None:
        """ASGI's `send`; waits while the client is slow.

        Raises:
            OSError: the client is gone, as the ASGI specification (2.4) asks; an application that only sends
                would otherwise never end.
        """
        if not self._call.alive or self._was_closed:
            raise OSError("the WebSocket client has disconnected")
        kind = message["type"]
        self._is_open = kind == "websocket.accept" or (self._is_open and kind != "websocket.close")
        self._call.item(_encode(_as_ws_message(message)))
        if not self._call.has_credit:
            await writable(self._call)

    def leave(self) -> None:
        """The replica stops: close it as soon as the application waits for the client, which may be now."""
        self._is_leaving = True
        if self._is_waiting and not self._inbox:
            self.close()

    def close(self) -> None:
        """Close it for a restart. The application hears of it as if the client had closed."""
        if self._is_open and self._call.alive:
            self._is_open = False
            self._was_closed = True
            reason = "the replica stops; connect again"
            self._call.item(_encode(WsMessage("websocket.close", code=SERVICE_RESTART, reason=reason)))
        self.disconnect(SERVICE_RESTART)

    def disconnect(self, code: int = 1006) -> None:
        """The client is gone without a close message."""
        if not self._disconnected:
            self._disconnected = True
            self._inbox.append({"type": "websocket.disconnect", "code": code, "reason": ""})
            self._changed.set()

    def _on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        message = _decode_ws(envelope)
        self._call.consumed(len(envelope))
        if message.type == "websocket.disconnect":
            self.disconnect(message.code)
            return
        self._inbox.append({"type": message.type, "text": message.text, "bytes": message.data})
        self._changed.set()


async def writable(call: IncomingCall) -> None:
    """Wait until the caller takes more; ends with credit or with the cancel of the call's task."""
    event = asyncio.Event()
    call.on_writable = event.set
    if not call.has_credit and call.alive:
        await event.wait()


def _with_length(head: HttpResponseHead, n_bytes: int) -> HttpResponseHead:
    """Return the head with a content-length, unless it has one or may not have one (RFC 9110, section 8.6)."""
    if head.status < 200 or head.status in (204, 304) or b"\ncontent-length:" in b"\n" + head.headers:
        return head
    return HttpResponseHead(head.status, head.headers + b"content-length: %d\r\n" % n_bytes)


class Lifespan:
    """Runs the application's lifespan once per replica.

    Lifetime: `startup` starts its task, `shutdown` ends it; the replica calls both.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._started: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        self._was_asked = False  #: the application has taken the message to start up
        self._error: Exception | None = None
        self.state: dict[str, Any] = {}

    async def startup(self) -> None:
        """Return once the application has started, or has shown that it has no lifespan.

        Raises:
            RuntimeError: it said that it failed, or raised; then with its exception as the cause.
        """
        self._task = asyncio.get_running_loop().create_task(self._run())
        await self._inbox.put({"type": "lifespan.startup"})
        told = await self._started  # as long as the application takes
        if told is None:
            return
        await asyncio.wait([self._task], timeout=_LAST_WORDS_S)  # it ends with the exception it told of
        if self._error is not None:
            told = f"{type(self._error).__name__}: {self._error}"
        raise RuntimeError(f"ASGI lifespan startup failed: {told}") from self._error

    async def shutdown(self) -> None:
        """Return once the application has shut down; what goes wrong is logged."""
        if self._task is None or self._task.done():
            return
        await self._inbox.put({"type": "lifespan.shutdown"})
        # As long as it takes: the daemon ends a process that takes too long to stop.
        await asyncio.wait([self._stopped, self._task], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([self._task], timeout=_LAST_WORDS_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            self._tell("it was cancelled")
            raise
        except Exception as error:  # boundary: the application's own code
            self._error = error
            if not self._was_asked:  # no fault, says the ASGI specification
                log.info("the application takes no lifespan events (%s: %s)", type(error).__name__, error)
            elif not self._tell(str(error)) and self._started.result() is None:
                log.exception("the lifespan of the application failed")
        finally:
            self._tell(None)  # it returned without a word: it has no lifespan

    async def _receive(self) -> Message:
        message = await self._inbox.get()  # ends with the shutdown or the cancel of this task
        self._was_asked = True
        return message

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._tell(None)
        elif kind == "lifespan.startup.failed":
            self._tell(message.get("message", ""))
        elif kind == "lifespan.shutdown.failed":
            log.error("the application failed to shut down: %s", message.get("message", ""))
        if kind.startswith("lifespan.shutdown") and not self._stopped.done():
            self._stopped.set_result(None)

    def _tell(self, failure: str | None) -> bool:
        """Say once how the start went; False if it was said before."""
        if self._started.done():
            return False
        self._started.set_result(failure)
        return True


def limit_threads(threads: int) -> None:
    """Let an application's sync endpoints, which frameworks run through anyio, use at most this many threads."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = threads


def _as_ws_message(message: Message) -> WsMessage:
    kind = message["type"]
    if kind == "websocket.http.response.start":  # a refusal with a status of its own
        return WsMessage(kind, code=message["status"], headers=list(message.get("headers", ())))
    if kind == "websocket.http.response.body":
        return WsMessage(kind, data=message.get("body", b""), code=int(message.get("more_body", False)))
    return WsMessage(
        kind,
        text=message.get("text"),
        data=message.get("bytes"),
        code=message.get("code") or 1000,
        reason=message.get("reason") or "",
        subprotocol=message.get("subprotocol"),
        headers=[(bytes(n), bytes(v)) for n, v in message.get("headers") or ()],
    )
