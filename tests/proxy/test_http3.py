"""HTTP/3 by a real client, with scripted applications behind the door."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import msgspec
import pytest
from aioquic.quic.events import StreamReset

from serve_lite.proxy.http3_server import Http3Server, serve_http3
from serve_lite.proxy.options import ProxyOptions
from serve_lite.wire.messages import HttpResponseHead
from tests.proxy.door import Door, encode, open_door
from tests.proxy.quic import PATIENCE_S, Http3Client, http3
from tests.proxy.test_tls_files import make


class Http3Door:
    """A door with its third front, and a way in."""

    def __init__(self, door: Door, server: Http3Server, authority: Path) -> None:
        self.door, self.stage, self.server, self.authority = door, door.stage, server, authority

    def connect(self) -> AbstractAsyncContextManager[Http3Client]:
        return http3(self.door.host, self.door.port, self.authority)


@asynccontextmanager
async def open_http3(folder: Path, **more: object) -> AsyncIterator[Http3Door]:
    files = {"ssl_certfile": str(folder / "cert.pem"), "ssl_keyfile": str(folder / "key.pem")}
    options = ProxyOptions(http3=True, **files, **more)  # type: ignore[arg-type]
    async with open_door(options) as door:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((door.host, door.port))
            async with anyio.create_task_group() as group:
                server: Http3Server = await group.start(partial(serve_http3, sock, door.handler))
                yield Http3Door(door, server, folder / "cert.pem")
                group.cancel_scope.cancel()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make(folder, "door")
    return folder


@pytest.fixture
async def door(folder: Path) -> AsyncIterator[Http3Door]:
    async with open_http3(folder) as door:
        yield door


@pytest.fixture
async def client(door: Http3Door) -> AsyncIterator[Http3Client]:
    async with door.connect() as client:
        yield client


async def test_a_request_arrives_as_it_was_sent(client: Http3Client) -> None:
    status, body = await client.get("/shop/echo?x=1", ("x-request-id", "r1"), ("x-mine", "ü"))
    seen = msgspec.json.decode(body)
    assert status == 200
    assert (seen["target"], seen["route"], seen["http_version"]) == ("/shop/echo?x=1", "/shop", "3")
    assert seen["headers"] == [["host", "a"], ["x-request-id", "r1"], ["x-mine", "ü"]]


@pytest.mark.parametrize("size", [0, 10, 65_537, 2_000_000])
async def test_bodies_arrive_whole(client: Http3Client, size: int) -> None:
    status, body = await client.post("/echo", b"x" * size)
    assert (status, len(msgspec.json.decode(body)["body"])) == (200, size)


async def test_streamed_answers_builtins_and_errors_work_too(client: Http3Client) -> None:
    assert await client.get("/count") == (200, b"one two three")
    assert await client.get("/-/healthz") == (200, b"success")
    assert await client.get("/count", method="HEAD") == (200, b"")  # aioquic's client takes no length with it


async def test_requests_of_one_connection_run_side_by_side(door: Http3Door, client: Http3Client) -> None:
    streams = [client.send("GET", "/held") for _ in range(20)]
    calls = [await door.stage.call(n) for n in range(20)]
    for n, call in reversed(list(enumerate(calls))):
        call.take()
        call.result(200, b"", b"%d" % n)
    assert [await client.body(stream) for stream in streams] == [b"%d" % n for n in range(20)]


async def test_interim_answers_and_trailers(door: Http3Door, client: Http3Client) -> None:
    stream = client.send("POST", "/held", ("expect", "100-continue"), ("te", "trailers"), ends=False)
    assert (await client.head(stream))[0] == 100
    call = await door.stage.call()
    call.take()
    call.call.on_item(encode(HttpResponseHead(103, b"link: </a.css>\r\n")), [])
    assert await client.head(stream) == (103, {"link": "</a.css>"})
    client.send_body(stream, b"abc")
    await call.until(lambda: call.body_ended)
    call.start()
    call.item(b"body")
    call.call.outgoing = None
    call.call.on_end(b"x-sum: 4\r\n")
    assert (await client.head(stream))[0] == 200
    assert (await client.head(stream))[1] == {"x-sum": "4"}
    assert await client.body(stream) == b"body"


async def test_a_client_that_resets_its_stream_cancels_the_request(
    door: Http3Door, client: Http3Client
) -> None:
    stream = client.send("POST", "/held", ends=False)
    call = await door.stage.call()
    call.take()
    client._quic.reset_stream(stream, 0x10C)
    client.transmit()
    await call.until(lambda: call.is_cancelled)
    assert door.door.statuses() == {499: 1}
    assert await client.get("/hello") == (200, b"hello")


async def test_a_client_that_leaves_cancels_its_requests(door: Http3Door) -> None:
    async with door.connect() as client:
        client.send("GET", "/held")
        call = await door.stage.call()
        call.take()
    await call.until(lambda: call.is_cancelled)


async def test_a_failure_after_the_start_resets_the_stream(door: Http3Door, client: Http3Client) -> None:
    stream = client.send("GET", "/held", ("x-request-timeout-seconds", "0.2"))
    call = await door.stage.call()
    call.take()
    call.start()
    call.item(b"x")
    assert (await client.event(StreamReset, stream)).error_code == 0x102
    assert call.is_cancelled
    assert await client.get("/hello") == (200, b"hello")


async def test_a_client_that_does_not_read_stops_the_application(
    door: Http3Door, client: Http3Client
) -> None:
    client._quic._write_stream_limits = lambda **_: None  # type: ignore[method-assign]  # gives no more window
    client._quic._write_connection_limits = lambda **_: None  # type: ignore[method-assign]
    stream = client.send("GET", "/held")
    call = await door.stage.call()
    call.take()
    call.start()
    written = 0
    before = -1
    while call.consumed_bytes != before or written < 1_500_000:  # more than windows and buffers hold
        before = call.consumed_bytes
        call.item(b"x" * 50_000)
        written += 50_000
        await anyio.sleep(0)
    assert call.consumed_bytes < written
    client._quic.reset_stream(stream, 0x10C)
    client._quic.stop_stream(stream, 0x10C)
    client.transmit()
    await call.until(lambda: call.is_cancelled)


async def test_a_body_that_nobody_takes_is_not_hoarded(door: Http3Door, client: Http3Client) -> None:
    stream = client.send("POST", "/held", ends=False)
    call = await door.stage.call()
    call.has_credit = False
    call.take()
    client.send_body(stream, b"x" * 4_000_000)
    await call.until(lambda: len(b"".join(call.pieces)) > 0)
    (connection,) = door.server._open
    with anyio.fail_after(PATIENCE_S):
        while connection._held_bytes() <= 1024 * 1024:
            await anyio.sleep(0.005)
    assert connection._held_bytes() < 1_200_000
    call.has_credit = True
    call.call.on_writable()
    await call.until(lambda: call.body_ended)
    assert len(b"".join(call.pieces)) == 4_000_000
    call.result(200, b"", b"ok")
    assert await client.body(stream) == b"ok"


@pytest.mark.parametrize(
    ("send", "status"),
    [
        (lambda c: c.send("GET", "/\xff"), 400),
        (lambda c: c.send("GET", "*"), 400),
        (lambda c: c.send("GET", "/a#b"), 400),
        (lambda c: c.send("GET", "/", authority="a/b"), 400),
        (lambda c: c.send("GET", "/", ("host", "other")), 400),
        (lambda c: c.send("get", "/"), 501),
        (lambda c: c.send("SETUP", "/"), 501),
        (lambda c: c.send("GET", "/", *((f"x-{n}", "1") for n in range(200))), 431),
        (lambda c: c.send("GET", "/", *((f"x-{n}", "y" * 14_000) for n in range(5))), 431),
        (lambda c: c.send("POST", "/", ("content-length", "2000001"), ends=False), 413),
        (lambda c: c.send("GET", "/-/nowhere"), 404),
    ],
)
async def test_what_cannot_be_served_is_refused_and_the_connection_lives_on(
    folder: Path, send: Callable[[Http3Client], int], status: int
) -> None:
    async with open_http3(folder, max_body_bytes=2_000_000) as door:
        door.door.handler.set_routes(tuple(t for t in door.door.handler._lanes if t.prefix == "/shop"))
        async with door.connect() as client:
            stream = send(client)
            told, headers = await client.head(stream)
            assert told == status and headers["x-request-id"]
            await client.body(stream)
            assert (await client.get("/shop/echo"))[0] == 200


async def test_a_body_beyond_its_limit_is_refused_in_its_middle(folder: Path) -> None:
    async with open_http3(folder, max_body_bytes=10) as door, door.connect() as client:
        assert (await client.post("/echo", b"x" * 1000))[0] == 413


async def test_a_head_without_end_closes_the_connection(door: Http3Door, client: Http3Client) -> None:
    stream = client._quic.get_next_available_stream_id()
    client._quic.send_stream_data(stream, b"\x01" + (1 << 31 | 1 << 62 | 1 << 63).to_bytes(8, "big"))
    client._quic.send_stream_data(stream, b"x" * 400_000)
    client.transmit()
    assert await client.is_closed() == 0x107


async def test_a_body_that_stops_coming_is_answered_408(folder: Path) -> None:
    async with open_http3(folder, read_timeout_s=0.1) as door, door.connect() as client:
        stream = client.send("POST", "/held", ends=False)
        call = await door.stage.call()
        call.take()
        assert (await client.head(stream))[0] == 408
        assert call.is_cancelled


async def test_draining_answers_what_runs_and_closes(door: Http3Door) -> None:
    async with door.connect() as idle, door.connect() as busy:
        stream = busy.send("GET", "/held")
        call = await door.stage.call()
        call.take()
        async with anyio.create_task_group() as group:
            group.start_soon(door.server.drain)
            assert await idle.is_closed() == 0x100
            late = busy.send("GET", "/hello")
            assert (await busy.event(StreamReset, late)).error_code == 0x10B
            call.result(200, b"", b"late")
            assert await busy.body(stream) == b"late"
        assert await busy.is_closed() == 0x100


async def test_connections_beyond_the_limit_are_left_out_and_others_go_on(folder: Path) -> None:
    async with open_http3(folder, max_connections=1) as door, door.connect() as first:
        with pytest.raises(TimeoutError), anyio.fail_after(0.3):
            async with door.connect():
                raise AssertionError("there was no room for it")
        assert await first.get("/hello") == (200, b"hello")


async def test_certificates_are_read_again_for_new_connections(tmp_path: Path) -> None:
    make(tmp_path, "old")
    async with open_http3(tmp_path) as door, door.connect() as first:
        make(tmp_path, "new")
        door.server.reload_certificates()
        async with door.connect() as second:
            assert await second.get("/hello") == (200, b"hello")
        assert await first.get("/hello") == (200, b"hello")


async def test_garbage_harms_nobody(door: Http3Door, client: Http3Client) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for data in (
            b"",
            b"x",
            b"\xc0",
            b"\xc0\0\0\0\1\x14" + b"x" * 30,
            b"\xc0" + b"\xff" * 1300,
            b"\x40" * 1400,
        ):
            sock.sendto(data, (door.door.host, door.door.port))
    assert await client.get("/hello") == (200, b"hello")
