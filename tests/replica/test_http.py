"""HTTP requests and WebSockets in real replicas, sent as the proxy sends them."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serve_lite.config import DeploymentConfig
from serve_lite.exceptions import BackPressureError
from serve_lite.routing.router import PendingCall
from serve_lite.wire.frames import Kind
from serve_lite.wire.messages import (
    Empty,
    ErrorHead,
    HttpHead,
    HttpResponseHead,
    MetricsReply,
    ReplicaReport,
    StopRequest,
    WsMessage,
)
from tests.replica.conftest import Stage

pytestmark = pytest.mark.anyio
DEADLINE_S = 20.0


class Http(PendingCall):
    """One HTTP request or WebSocket; collects the answer."""

    kind = Kind.CALL_HTTP

    def __init__(self, method: str = "GET", target: bytes = b"/", body: bytes = b"", **fields: Any) -> None:
        head = HttpHead(
            method, target, fields.pop("headers", []), "req-1", fields.pop("route", "/"), **fields
        )
        self.envelope = msgspec.msgpack.encode(head)
        self.buffers = [body] if body else []
        self.streams_body = head.streams_body
        self.head: HttpResponseHead | None = None
        self.body = b""
        self.pieces: list[bytes] = []
        self.messages: asyncio.Queue[WsMessage] = asyncio.Queue()
        self.error: ErrorHead | None = None
        self.end = asyncio.Event()
        self._is_ws = method == "WEBSOCKET"

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self.head = msgspec.msgpack.decode(envelope, type=HttpResponseHead)
        self.body = b"".join(buffers)
        self.end.set()

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        assert self.outgoing is not None
        if self._is_ws:
            self.messages.put_nowait(msgspec.msgpack.decode(envelope, type=WsMessage))
        elif self.head is None:
            self.head = msgspec.msgpack.decode(envelope, type=HttpResponseHead)
        else:
            self.pieces.append(b"".join(buffers))
        self.outgoing.consumed(sum(map(len, buffers)))

    def on_end(self, envelope: bytes) -> None:
        self.body = b"".join(self.pieces)
        self.end.set()

    def on_error(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self.error = msgspec.msgpack.decode(envelope, type=ErrorHead)
        self.end.set()

    def on_failed(self, error: Exception) -> None:
        self.error = ErrorHead(type(error).__name__, str(error))
        self.end.set()

    def send_ws(self, message: WsMessage) -> None:
        assert self.outgoing is not None
        self.outgoing.send_item(msgspec.msgpack.encode(message))

    @property
    def headers(self) -> dict[str, str]:
        assert self.head is not None
        lines = self.head.headers.decode("latin-1").split("\r\n")[:-1]
        return dict(line.split(": ", 1) for line in lines)


async def ask(stage: Stage, call: Http) -> Http:
    stage.router.submit(call)
    async with asyncio.timeout(DEADLINE_S):
        await call.end.wait()
    return call


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    when: Any = None


class Plain:
    """Returns what the query asks for."""

    async def __call__(self, request: Any) -> Any:
        import datetime
        import uuid

        from starlette.responses import JSONResponse, StreamingResponse

        what = request.query_params.get("what", "str")
        if what == "echo":
            return {
                "path": request.url.path,
                "root": request.scope["root_path"],
                "body": (await request.body()).decode(),
            }
        if what == "stream":
            return StreamingResponse(iter([b"a", b"b"]), media_type="text/x", headers={"connection": "close"})
        if what == "response":
            return JSONResponse({"a": 1}, status_code=418)
        if what == "generator":
            return self.pieces()
        if what == "async_generator":
            return self.async_pieces()
        if what == "refuse":
            raise BackPressureError(3, 2, 429, 1.5)
        if what == "fail":
            raise ValueError("secret detail")
        return {
            "str": "héllo",
            "bytes": b"\x00\x01",
            "none": None,
            "dict": {"a": [1, 2.5, None, True], "é": "ü"},
            "rich": [Color.RED, Point(1, datetime.datetime(2026, 1, 2)), uuid.UUID(int=1), {1}, (1, 2)],
            "keys": {Color.RED: 1, uuid.UUID(int=1): 2},
            "object": object(),
        }[what]

    def pieces(self) -> Iterator[Any]:
        yield "text "
        yield {"n": 1}

    async def async_pieces(self) -> AsyncIterator[Any]:
        yield b"raw "
        yield [1, 2]


@pytest.mark.parametrize(
    ("what", "content_type", "body"),
    [
        ("str", "text/plain; charset=utf-8", "héllo".encode()),
        ("bytes", "text/plain", b"\x00\x01"),
        ("none", "text/plain", b""),
        ("dict", "application/json", b'{"a":[1,2.5,null,true],"\\u00e9":"\\u00fc"}'),
        (
            "rich",
            "application/json",
            b'["red",{"x":1,"when":"2026-01-02T00:00:00"},"00000000-0000-0000-0000-000000000001",[1],[1,2]]',
        ),
        ("keys", "application/json", b'{"red":1,"00000000-0000-0000-0000-000000000001":2}'),
    ],
)
async def test_returned_values_become_answers(
    stage: Stage, what: str, content_type: str, body: bytes
) -> None:
    await stage.start(Plain)
    answer = await ask(stage, Http(target=b"/?what=" + what.encode()))
    assert answer.head is not None
    assert (answer.head.status, answer.headers["content-type"], answer.body) == (200, content_type, body)
    assert answer.headers["content-length"] == str(len(body))


async def test_numpy_values_become_json(stage: Stage) -> None:
    numpy = pytest.importorskip("numpy")

    def arrays() -> Any:
        return {"a": numpy.arange(3), "f": numpy.float32(1.5)}

    await stage.start(arrays)
    assert (await ask(stage, Http())).body == b'{"a":[0,1,2],"f":1.5}'


async def test_responses_and_streams_go_as_they_are(stage: Stage) -> None:
    await stage.start(Plain)
    whole = await ask(stage, Http(target=b"/?what=response"))
    assert whole.head is not None
    assert (whole.head.status, whole.body) == (418, b'{"a":1}')
    streamed = await ask(stage, Http(target=b"/?what=stream"))
    assert streamed.pieces == [b"a", b"b"]
    assert "connection" not in streamed.headers
    assert "content-length" not in streamed.headers


@pytest.mark.parametrize(
    ("what", "pieces"), [("generator", [b"text ", b'{"n":1}\n']), ("async_generator", [b"raw ", b"[1,2]\n"])]
)
async def test_generators_are_streamed(stage: Stage, what: str, pieces: list[bytes]) -> None:
    await stage.start(Plain)
    assert (await ask(stage, Http(target=b"/?what=" + what.encode()))).pieces == pieces


async def test_the_handler_sees_path_prefix_and_body(stage: Stage) -> None:
    await stage.start(Plain)
    answer = await ask(stage, Http("POST", b"/pre/a%20b?what=echo", b"hello", route="/pre"))
    assert msgspec.json.decode(answer.body) == {"path": "/pre/a b", "root": "/pre", "body": "hello"}


async def test_a_streamed_body_arrives_whole(stage: Stage) -> None:
    await stage.start(Plain)
    call = Http("POST", b"/?what=echo", streams_body=True)
    sent = asyncio.Event()
    call.on_sent = lambda replica_id: sent.set()  # type: ignore[method-assign]
    stage.router.submit(call)
    async with asyncio.timeout(DEADLINE_S):
        await sent.wait()
        assert call.outgoing is not None
        for piece in (b"one ", b"two ", b"three"):
            call.outgoing.send_item(b"", piece)
        call.outgoing.end()
        await call.end.wait()
    assert msgspec.json.decode(call.body)["body"] == "one two three"


async def test_a_large_answer_is_slowed_by_a_slow_client(stage: Stage) -> None:
    def large() -> bytes:
        return bytes(range(256)) * 40_000

    await stage.start(large)
    call = Http()
    held: list[bytes] = []

    def take(envelope: bytes, buffers: list[memoryview]) -> None:
        held.append(b"".join(buffers))

    call.on_item = take  # type: ignore[method-assign]  # takes, and gives no credit
    stage.router.submit(call)
    async with asyncio.timeout(DEADLINE_S):
        while sum(map(len, held)) < 256 * 1024:  # the window of flow control
            await asyncio.sleep(0.005)
    probe = await ask(stage, Http("HEAD"))
    assert probe.head is not None  # and whatever could be sent before it has been
    assert sum(map(len, held)) < 512 * 1024
    outgoing, used = call.outgoing, 0
    assert outgoing is not None
    async with asyncio.timeout(DEADLINE_S):
        while not call.end.is_set():
            while used < len(held):
                outgoing.consumed(len(held[used]))
                used += 1
            await asyncio.sleep(0.001)
    assert b"".join(held) == bytes(range(256)) * 40_000


async def test_errors_are_told_apart_from_answers(stage: Stage) -> None:
    await stage.start(Plain)
    failed = await ask(stage, Http(target=b"/?what=fail"))
    assert failed.error is not None
    assert failed.error.type_name == "ValueError"
    unencodable = await ask(stage, Http(target=b"/?what=object"))
    assert unencodable.error is not None
    assert "'object'" in unencodable.error.text
    refused = await ask(stage, Http(target=b"/?what=refuse"))
    assert refused.head is not None
    assert (refused.head.status, refused.headers["retry-after"]) == (429, "2")
    assert refused.body.startswith(b"Request dropped due to backpressure")


async def test_a_handler_without_parameters_gets_no_request(stage: Stage) -> None:
    def ping() -> str:
        return "pong"

    await stage.start(ping)
    assert (await ask(stage, Http("POST", b"/any/path", b"ignored"))).body == b"pong"


class WithApp:
    """What `@serve.ingress` makes of a class, by hand: this room knows only these two names."""

    _serve_is_asgi_ingress = True

    def __init__(self, note: str = "") -> None:
        self.note = note
        self._serve_asgi_app = self.app

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["made"] = "by lifespan"
            await send({"type": "lifespan.startup.complete"})
            await receive()
            Path(self.note).touch()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "websocket":
            await self.talk(receive, send)
        elif scope["path"] == "/incomplete":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        elif scope["path"] == "/smuggle":
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nset-cookie: b")]}
            )
        else:
            body = (await receive())["body"]
            await send(
                {
                    "type": "http.response.start",
                    "status": 201,
                    "headers": [(b"X-State", scope["state"]["made"].encode())],
                }
            )
            await send({"type": "http.response.body", "body": body})

    async def talk(self, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", "subprotocol": "chat"})
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                Path(self.note + ".disconnected").write_text(str(message["code"]))
                return
            if message["text"] == "flood":
                while True:  # ends only because `send` says that nobody is there
                    try:
                        await send({"type": "websocket.send", "text": "drop"})
                    except OSError:
                        Path(self.note + ".flood-ended").touch()
                        return
                    await asyncio.sleep(0)
            if message["text"] == "work":
                await send({"type": "websocket.send", "text": "begun"})
                while not Path(self.note + ".go").exists():
                    await asyncio.sleep(0.005)
                await send({"type": "websocket.send", "text": "done"})
                continue
            if message["text"] == "bye":
                await send({"type": "websocket.close", "code": 4001, "reason": "said bye"})
                return
            await send({"type": "websocket.send", "text": message["text"].upper()})


async def test_an_asgi_application_answers_and_its_lifespan_runs_once(stage: Stage, tmp_path: Path) -> None:
    from serve_lite.wire.messages import Empty, StopRequest

    replica = await stage.start(WithApp, str(tmp_path / "shut"))
    answer = await ask(stage, Http("PUT", b"/x", b"payload"))
    assert answer.head is not None
    assert (answer.head.status, answer.headers["x-state"], answer.body) == (201, "by lifespan", b"payload")
    assert answer.headers["content-length"] == "7"
    await replica.control.control("stop", StopRequest(), Empty, timeout_s=DEADLINE_S)
    assert (tmp_path / "shut").exists()


@pytest.mark.parametrize(
    ("path", "message"), [(b"/incomplete", "without completing"), (b"/smuggle", "line break")]
)
async def test_an_application_that_breaks_the_rules_is_an_error(
    stage: Stage, path: bytes, message: str
) -> None:
    await stage.start(WithApp, "/dev/null")
    answer = await ask(stage, Http(target=path))
    assert answer.error is not None
    assert message in answer.error.text


async def test_a_websocket_talks_both_ways_and_closes_with_its_code(stage: Stage, tmp_path: Path) -> None:
    await stage.start(WithApp, str(tmp_path / "note"), config=DeploymentConfig(max_ongoing_requests=3))
    call = Http("WEBSOCKET", b"/ws", streams_body=True, scheme="ws", subprotocols=["chat"])
    stage.router.submit(call)
    async with asyncio.timeout(DEADLINE_S):
        accepted = await call.messages.get()
        assert (accepted.type, accepted.subprotocol) == ("websocket.accept", "chat")
        call.send_ws(WsMessage("websocket.receive", text="hey"))
        assert (await call.messages.get()).text == "HEY"
        call.send_ws(WsMessage("websocket.receive", text="bye"))
        closed = await call.messages.get()
        assert (closed.type, closed.code, closed.reason) == ("websocket.close", 4001, "said bye")
        await call.end.wait()


async def test_a_websocket_client_that_vanishes_is_a_disconnect(stage: Stage, tmp_path: Path) -> None:
    await stage.start(WithApp, str(tmp_path / "note"))
    call = Http("WEBSOCKET", b"/ws", streams_body=True)
    stage.router.submit(call)
    async with asyncio.timeout(DEADLINE_S):
        await call.messages.get()
        stage.router.cancel(call)
        while not (tmp_path / "note.disconnected").exists():
            await asyncio.sleep(0.005)


async def test_an_application_that_only_sends_hears_that_its_client_is_gone(
    stage: Stage, tmp_path: Path
) -> None:
    await stage.start(WithApp, str(tmp_path / "note"))
    call = Http("WEBSOCKET", b"/ws", streams_body=True)
    stage.router.submit(call)
    async with asyncio.timeout(DEADLINE_S):
        await call.messages.get()
        call.send_ws(WsMessage("websocket.receive", text="flood"))
        assert (await call.messages.get()).text == "drop"
        stage.router.cancel(call)
        while not (tmp_path / "note.flood-ended").exists():
            await asyncio.sleep(0.005)


async def test_a_websocket_that_waits_for_its_client_is_closed_for_a_restart_when_its_replica_stops(
    stage: Stage, tmp_path: Path
) -> None:
    """Else it would hold the replica for its whole grace, which is never over here."""
    replica = await stage.start(WithApp, str(tmp_path / "note"))
    call = Http("WEBSOCKET", b"/ws", streams_body=True)
    stage.router.submit(call)
    async with asyncio.timeout(DEADLINE_S):
        await call.messages.get()
        await replica.control.control("stop", StopRequest(), MetricsReply, timeout_s=None)
        closed = await call.messages.get()
        assert (closed.type, closed.code, closed.reason) == (
            "websocket.close",
            1012,
            "the replica stops; connect again",
        )
        await call.end.wait()
        await asyncio.to_thread(replica.process.wait)
    assert (tmp_path / "note.disconnected").read_text() == "1012"


async def test_a_websocket_that_is_worked_for_is_closed_when_the_work_is_done(
    stage: Stage, tmp_path: Path
) -> None:
    replica = await stage.start(WithApp, str(tmp_path / "note"))
    call = Http("WEBSOCKET", b"/ws", streams_body=True)
    stage.router.submit(call)
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        await call.messages.get()
        call.send_ws(WsMessage("websocket.receive", text="work"))
        assert (await call.messages.get()).text == "begun"
        stop = replica.control.control("stop", StopRequest(), MetricsReply, timeout_s=None)
        stopping = group.create_task(stop)
        while not (await replica.control.control("report", Empty(), ReplicaReport, timeout_s=None)).draining:
            await asyncio.sleep(0.005)
        call.send_ws(WsMessage("websocket.receive", text="last"))
        (tmp_path / "note.go").touch()
        assert (await call.messages.get()).text == "done"
        assert (await call.messages.get()).text == "LAST"  # the client had sent it before it heard
        assert (await call.messages.get()).code == 1012
        await stopping


async def test_a_websocket_that_only_sends_is_closed_for_a_restart_when_the_grace_is_over(
    stage: Stage, tmp_path: Path
) -> None:
    replica = await stage.start(WithApp, str(tmp_path / "note"))
    call = Http("WEBSOCKET", b"/ws", streams_body=True)
    stage.router.submit(call)
    async with asyncio.timeout(DEADLINE_S):
        await call.messages.get()
        call.send_ws(WsMessage("websocket.receive", text="flood"))
        assert (await call.messages.get()).text == "drop"
        await replica.control.control("stop", StopRequest(timeout_s=0.2), MetricsReply, timeout_s=None)
        while (message := await call.messages.get()).text == "drop":
            pass
        assert (message.type, message.code) == ("websocket.close", 1012)
