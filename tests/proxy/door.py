"""A door on a free port with scripted applications behind it, and a client that sees every byte.

`Stage` stands in for the routers: it answers calls by the functions in `apps`, by path. The real proxy
code does everything between the socket and there.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec

from serve_lite.proxy.access_log import AccessLog
from serve_lite.proxy.guard import Doorkeeper
from serve_lite.proxy.http import RequestHandler
from serve_lite.proxy.options import ProxyOptions
from serve_lite.proxy.server import HttpServer, serve_http
from serve_lite.routing.router import PendingCall
from serve_lite.wire.messages import HttpHead, HttpResponseHead, RouteTarget, WsMessage

PATIENCE_S = 20.0  #: only a broken run waits this long

_head = msgspec.msgpack.Decoder(HttpHead).decode
_message = msgspec.msgpack.Decoder(WsMessage).decode
encode = msgspec.msgpack.encode


class Played:
    """One call on stage: what arrived, and the means to answer it."""

    def __init__(self, call: PendingCall) -> None:
        self.call = call
        self.head = _head(call.envelope)
        self.body = b"".join(bytes(b) for b in call.buffers)
        self.pieces: list[bytes] = []
        self.messages: list[WsMessage] = []
        self.body_ended = False
        self.consumed_bytes = 0
        self.is_cancelled = False
        self.has_credit = True  #: False: the replica takes no more body
        self.on_change: Callable[[], None] = lambda: None
        self._change = asyncio.Event()

    @property
    def path(self) -> bytes:
        return self.head.target.partition(b"?")[0]

    def header(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.head.headers if key == name]

    async def until(self, claim: Callable[[], bool]) -> None:
        """Wait until something holds."""
        with anyio.fail_after(PATIENCE_S):
            while not claim():
                await self._change.wait()

    def _changed(self) -> None:
        self._change.set()
        self._change = asyncio.Event()
        self.on_change()

    # --- what the router and a replica's connection would do ----------------------------------------

    def take(self) -> None:
        """Accept the call, as a replica does."""
        self.call.outgoing = self  # type: ignore[assignment]  # we play the outgoing call as well
        self.call.on_sent("replica")

    def refuse(self) -> None:
        """Refuse the call, as a full replica does, so that it goes to another one."""
        self.call.outgoing = None
        self.pieces, self.body_ended = [], False

    def result(self, status: int, headers: bytes, body: bytes) -> None:
        self.call.outgoing = None
        self.call.on_result(encode(HttpResponseHead(status, headers)), [memoryview(body)])

    def start(self, status: int = 200, headers: bytes = b"content-type: text/plain\r\n") -> None:
        self.call.on_item(encode(HttpResponseHead(status, headers)), [])

    def item(self, data: bytes) -> None:
        self.call.on_item(b"", [memoryview(data)])

    def end(self) -> None:  # both: of the answer for a test, of the request for the proxy
        if self.call.streams_body and not self.body_ended:
            self.body_ended = True
            self._changed()
        else:
            self.finish()

    def finish(self) -> None:
        self.call.outgoing = None
        self.call.on_end(b"")

    def message(self, message: WsMessage) -> None:
        self.call.on_item(encode(message), [])

    def fail(self, error: Exception) -> None:
        self.call.outgoing = None
        self.call.on_failed(error)

    # --- OutgoingCall -------------------------------------------------------------------------------

    def send_item(self, envelope: bytes, *buffers: Any) -> bool:
        if envelope:
            self.messages.append(_message(envelope))
        self.pieces.append(b"".join(bytes(b) for b in buffers))
        self._changed()
        return self.has_credit

    def consumed(self, payload_bytes: int) -> None:
        self.consumed_bytes += payload_bytes
        self._changed()

    def cancelled(self) -> None:
        self.is_cancelled = True
        self._changed()


class Stage:
    """The routers' double. A path without an app is held: the test answers it."""

    def __init__(self) -> None:
        self.apps: dict[bytes, Callable[[Played], None]] = {}
        self.calls: list[Played] = []
        self._arrived = asyncio.Event()

    def get(self, app: str, deployment: str) -> Stage:
        return self

    def submit(self, call: PendingCall) -> None:
        played = Played(call)
        self.calls.append(played)
        self._arrived.set()
        app = self.apps.get(played.path)
        if app is not None:
            app(played)

    def cancel(self, call: PendingCall) -> None:
        next(p for p in self.calls if p.call is call).cancelled()

    async def call(self, number: int = 0) -> Played:
        """Return the n-th call, once it is there."""
        with anyio.fail_after(PATIENCE_S):
            while len(self.calls) <= number:
                self._arrived.clear()
                await self._arrived.wait()
        return self.calls[number]


def echo(played: Played) -> None:
    """Answer with what arrived, as JSON."""

    def answer() -> None:
        head = played.head
        seen = {
            "method": head.method,
            "target": head.target.decode(),
            "route": head.route,
            "headers": [[k.decode("latin-1"), v.decode("latin-1")] for k, v in head.headers],
            "body": (played.body + b"".join(played.pieces)).decode("latin-1"),
            "request_id": head.request_id,
            "model_id": head.model_id,
            "session_id": head.session_id,
            "http_version": head.http_version,
        }
        played.result(200, b"content-type: application/json\r\n", msgspec.json.encode(seen))

    if played.call.streams_body:
        played.on_change = lambda: answer() if played.body_ended else None
        played.take()
    else:
        played.take()
        answer()


def hello(played: Played) -> None:
    played.take()
    played.result(200, b"content-type: text/plain\r\n", b"hello")


def count(played: Played) -> None:
    """Stream three pieces."""
    played.take()
    played.start()
    for piece in (b"one ", b"two ", b"three"):
        played.item(piece)
    played.finish()


class Door:
    """A running server and what stands behind it."""

    def __init__(
        self, stage: Stage, handler: RequestHandler, server: HttpServer, address: tuple[str, int]
    ) -> None:
        self.stage, self.handler, self.server = stage, handler, server
        self.host, self.port = address

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def connect(self) -> Client:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        return Client(reader, writer)

    def statuses(self) -> dict[int, int]:
        """Return how often each status was counted, on all routes."""
        totals: dict[int, int] = {}
        for route in self.handler.accounts:
            for (_, status), cell in route.cells.items():
                totals[status] = totals.get(status, 0) + cell.count
        return totals


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Client:
    """An HTTP/1 client that adds nothing of its own, and sees to it that every answer has a request id."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> tuple[int, dict[str, str]]:
        with anyio.fail_after(PATIENCE_S):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for line in filter(None, lines[1:]):
            name, _, value = line.partition(": ")
            name = name.lower()
            assert name not in headers, f"{name} twice"
            headers[name] = value
        status = int(lines[0].split()[1])
        assert status < 200 or headers.get("x-request-id"), f"an answer {status} without a request id"
        return status, headers

    async def answer(self, method: str = "GET") -> Answer:
        with anyio.fail_after(PATIENCE_S):
            status, headers = await self.head()
            body = b""
            if method == "HEAD" or status in (204, 304) or status < 200:
                pass
            elif "content-length" in headers:
                body = await self.reader.readexactly(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked":
                body = b"".join([chunk async for chunk in self.chunks()])
            else:
                body = await self.reader.read()
        return Answer(status, headers, body)

    async def chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        assert await self.reader.readexactly(2) == b"\r\n"

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        self.send(data)
        return await self.answer(method)

    async def get(self, path: str, *headers: str, method: str = "GET") -> Answer:
        lines = [f"{method} {path} HTTP/1.1", "Host: door", *headers, "", ""]
        return await self.ask("\r\n".join(lines).encode(), method)

    async def is_closed(self) -> bool:
        """Wait for the server to close; False if it sends something more instead."""
        with anyio.fail_after(PATIENCE_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass


@asynccontextmanager
async def open_door(
    options: ProxyOptions,
    *,
    routes: tuple[RouteTarget, ...] | None = None,
    keeper: Doorkeeper | None = None,
    log: AccessLog | None = None,
) -> AsyncIterator[Door]:
    """Serve until the block ends. Two applications by default, at `/` and `/shop`."""
    stage = Stage()
    stage.apps = {b"/hello": hello, b"/count": count, b"/echo": echo, b"/shop/echo": echo}
    handler = RequestHandler(stage, options, keeper, log)
    if routes is None:
        routes = (
            RouteTarget(prefix="/", app="main", deployment="D"),
            RouteTarget(prefix="/shop", app="shop", deployment="D", is_asgi=True),
        )
    if routes:
        handler.set_routes(routes)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        async with anyio.create_task_group() as group:
            server = await group.start(
                lambda *, task_status: serve_http(sock, handler, task_status=task_status)
            )
            yield Door(stage, handler, server, sock.getsockname())
            group.cancel_scope.cancel()
    if log is not None:
        await log.aclose()
    assert handler.accounts.ongoing == 0, "a request was not booked at its end"
