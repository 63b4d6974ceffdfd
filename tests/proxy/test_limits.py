"""Limits of the door: connections, heads, bodies, and how long everybody may be silent."""

from __future__ import annotations

import asyncio
import socket

import anyio
import pytest

from serve_lite.proxy.options import ProxyOptions
from serve_lite.proxy.stalls import WriteWatch
from tests.proxy.door import PATIENCE_S, Client, open_door

HELD = b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n"
BOTH = pytest.mark.parametrize("server", ["native", "hypercorn"])


# --- silence of the application ----------------------------------------------------------------------


@BOTH
async def test_an_answer_that_does_not_begin_in_time_is_given_up(server: str) -> None:
    async with open_door(ProxyOptions(server=server, first_byte_timeout_s=0.05)) as door:  # type: ignore[arg-type]
        client = await door.connect()
        client.send(HELD)
        call = await door.stage.call()
        call.take()
        answer = await client.answer()
        assert (answer.status, answer.body[-20:]) == (408, b"timed out after 0.05s."[-20:])
        assert call.is_cancelled
        await client.close()


@BOTH
async def test_a_stream_that_falls_silent_is_cut(server: str) -> None:
    async with open_door(ProxyOptions(server=server, idle_timeout_s=0.05)) as door:  # type: ignore[arg-type]
        client = await door.connect()
        client.send(HELD)
        call = await door.stage.call()
        call.take()
        call.start()
        call.item(b"x")
        assert (await client.head())[0] == 200
        assert await anext(client.chunks()) == b"x"
        assert await client.is_closed()
        assert call.is_cancelled
        await client.close()


@BOTH
async def test_a_stream_that_goes_on_may_take_longer_than_its_pieces(server: str) -> None:
    options = ProxyOptions(server=server, idle_timeout_s=0.5, first_byte_timeout_s=0.5)  # type: ignore[arg-type]
    async with open_door(options) as door:
        client = await door.connect()
        client.send(HELD)
        call = await door.stage.call()
        call.take()
        call.start()
        for _ in range(8):
            await asyncio.sleep(0.1)  # the time itself is the matter: 0.8 s in all
            call.item(b"x")
        call.finish()
        assert (await client.answer()).body == b"x" * 8
        await client.close()


@BOTH
async def test_a_slow_upload_is_not_the_applications_silence(server: str) -> None:
    async with open_door(ProxyOptions(server=server, first_byte_timeout_s=0.1)) as door:  # type: ignore[arg-type]
        client = await door.connect()
        client.send(b"POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        call = await door.stage.call()
        call.take()
        for _ in range(5):
            client.send(b"x" * 20_000)
            await asyncio.sleep(0.05)
        await call.until(lambda: call.body_ended)
        call.result(200, b"", b"ok")
        assert (await client.answer()).body == b"ok"
        await client.close()


# --- silence of the client ---------------------------------------------------------------------------


async def connect_narrow(host: str, port: int) -> Client:
    """Connect with little room in the kernel, so that what is not read is soon felt."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    return Client(reader, writer)


@BOTH
@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])
async def test_a_client_that_takes_nothing_is_cut_off(server: str, is_streamed: bool) -> None:
    async with open_door(ProxyOptions(server=server, write_timeout_s=0.1)) as door:  # type: ignore[arg-type]
        client = await connect_narrow(door.host, door.port)
        client.send(HELD)
        call = await door.stage.call()
        call.take()
        if is_streamed:
            call.start()
            for _ in range(200):
                call.item(b"x" * 65_536)
        else:
            call.result(200, b"", b"x" * 20_000_000)
        if is_streamed:
            await call.until(lambda: call.is_cancelled)
        with anyio.fail_after(PATIENCE_S):
            while door.server.num_connections:
                await asyncio.sleep(0.01)
        client.writer.transport.abort()


@BOTH
async def test_a_client_that_takes_its_time_gets_everything(server: str) -> None:
    size = 12_000_000
    async with open_door(ProxyOptions(server=server, write_timeout_s=0.5)) as door:  # type: ignore[arg-type]
        client = await connect_narrow(door.host, door.port)
        client.send(HELD)
        call = await door.stage.call()
        call.take()
        call.result(200, b"", b"x" * size)
        await client.head()
        received = 0
        for _ in range(12):
            received += len(await client.reader.readexactly(200_000))
            await asyncio.sleep(0.1)  # slower than the time-out in all, never as long without a byte
        received += len(await client.reader.readexactly(size - received))
        assert received == size
        await client.close()


def test_only_what_stays_the_same_for_long_is_a_stall() -> None:
    watch = WriteWatch(10)
    assert not watch.is_stalled(100, 0, may_grow=False)
    assert not watch.is_stalled(100, 9, may_grow=False)
    assert not watch.is_stalled(90, 15, may_grow=False)  # a little has gone out
    assert not watch.is_stalled(90, 24, may_grow=False)
    assert watch.is_stalled(90, 25, may_grow=False)
    watch.progressed()
    assert not watch.is_stalled(90, 60, may_grow=False)
    assert not watch.is_stalled(90, 80, may_grow=True)  # it may be another ninety
    assert not watch.is_stalled(0, 200, may_grow=False)


# --- numbers and sizes -------------------------------------------------------------------------------


@BOTH
async def test_connections_beyond_the_limit_are_told_so(server: str) -> None:
    async with open_door(ProxyOptions(server=server, max_connections=2)) as door:  # type: ignore[arg-type]
        first, second = await door.connect(), await door.connect()
        for client in (first, second):
            assert (await client.get("/hello")).status == 200
        third = await door.connect()
        answer = await third.answer()
        assert (answer.status, answer.headers["connection"], answer.headers["retry-after"]) == (
            503,
            "close",
            "1",
        )
        assert await third.is_closed()
        assert (await first.get("/hello")).status == 200
        await second.close()
        await third.close()
        with anyio.fail_after(PATIENCE_S):
            while True:
                fourth = await door.connect()
                if (await fourth.get("/hello")).status == 200:
                    break
                await fourth.close()
        await fourth.close()
        await first.close()


@BOTH
@pytest.mark.parametrize(
    "head", ["X: 1\r\n" * 21, "X: " + "y" * 3000 + "\r\n"], ids=["too many", "too large"]
)
async def test_a_head_beyond_its_limits_is_refused(server: str, head: str) -> None:
    options = ProxyOptions(server=server, max_headers=20, max_header_bytes=2048)  # type: ignore[arg-type]
    async with open_door(options) as door:
        client = await door.connect()
        assert (await client.ask(f"GET /hello HTTP/1.1\r\nHost: a\r\n{head}\r\n".encode())).status == 431
        assert await client.is_closed()
        assert not door.stage.calls
        await client.close()


@BOTH
@pytest.mark.parametrize("framing", ["Content-Length: 11", "Transfer-Encoding: chunked"])
async def test_a_body_beyond_its_limit_is_refused(server: str, framing: str) -> None:
    async with open_door(ProxyOptions(server=server, max_body_bytes=10)) as door:  # type: ignore[arg-type]
        client = await door.connect()
        body = "b\r\nhello world\r\n0\r\n\r\n" if "chunked" in framing else "hello world"
        request = f"POST /echo HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}"
        assert (await client.ask(request.encode())).status == 413
        assert await client.is_closed()
        await client.close()
