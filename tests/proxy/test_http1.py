"""What only our own front does: order of pipelined answers, timers, closing, draining, limits on what it holds."""

from __future__ import annotations

import asyncio
import gc
import weakref

import anyio
import pytest

from serve_lite.proxy.accounts import Accounts
from serve_lite.proxy.options import ProxyOptions
from serve_lite.wire.messages import RouteTarget
from tests.proxy.door import Door, Played, open_door

BOTH = pytest.mark.parametrize("server", ["native", "hypercorn"])
HELLO = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
HELD = b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n"


# --- pipelining ---------------------------------------------------------------------------------------


async def test_pipelined_requests_are_answered_in_order(door: Door) -> None:
    client = await door.connect()
    client.send(
        HELD
        + HELLO
        + b"GET /count HTTP/1.1\r\nHost: a\r\n\r\n"
        + b"GET /-/healthz HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    call = await door.stage.call()
    call.take()
    call.result(200, b"", b"first")
    bodies = [(await client.answer()).body for _ in range(4)]
    assert bodies == [b"first", b"hello", b"one two three", b"success"]
    await client.close()


async def test_pipelined_requests_start_one_after_the_other(door: Door) -> None:
    client = await door.connect()
    client.send(HELD + HELD)
    first = await door.stage.call()
    assert len(door.stage.calls) == 1
    first.take()
    first.result(200, b"", b"1")
    second = await door.stage.call(1)
    second.take()
    second.result(200, b"", b"2")
    assert [(await client.answer()).body for _ in range(2)] == [b"1", b"2"]
    await client.close()


async def test_a_flood_of_pipelined_requests_is_answered_and_not_hoarded(native: Door) -> None:
    client = await native.connect()
    number = 20_000
    client.send(HELD + HELLO * number)
    call = await native.stage.call()
    (connection,) = native.server.open
    with anyio.fail_after(20):
        while connection._unfed is None:
            await asyncio.sleep(0)
    assert len(connection._ahead) < 1000
    call.take()
    call.result(200, b"", b"first")
    assert (await client.answer()).body == b"first"
    for _ in range(number):
        assert (await client.answer()).body == b"hello"
    await client.close()


async def test_a_malformed_request_is_refused_after_the_answers_before_it(door: Door) -> None:
    client = await door.connect()
    client.send(HELD + HELLO + b"GET / HTTP/1.1\nHost: a\r\n\r\n" + HELLO)
    call = await door.stage.call()
    call.take()
    call.result(200, b"", b"first")
    assert [(await client.answer()).status for _ in range(3)] == [200, 200, 400]
    assert await client.is_closed()
    await client.close()


async def test_a_body_that_becomes_malformed_cancels_its_request(door: Door) -> None:
    client = await door.connect()
    client.send(b"POST /held HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    call = await door.stage.call()
    call.take()
    await call.until(lambda: call.pieces == [b"a"])
    client.send(b"nonsense")
    assert (await client.answer()).status == 400
    assert call.is_cancelled
    await client.close()


async def test_what_follows_a_request_that_closes_is_not_answered(door: Door) -> None:
    client = await door.connect()
    client.send(HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + HELLO)
    answer = await client.answer()
    assert (answer.body, answer.headers["connection"]) == (b"hello", "close")
    assert await client.is_closed()
    assert len(door.stage.calls) == 1
    await client.close()


async def test_keep_alive_in_http_1_0_is_granted_and_said(native: Door) -> None:
    client = await native.connect()
    for _ in range(2):
        answer = await client.ask(b"GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (answer.body, answer.headers["connection"]) == (b"hello", "keep-alive")
    await client.close()


# --- refusing while the client is still sending ----------------------------------------------------------


async def test_a_client_sees_the_refusal_although_it_is_still_sending(door: Door) -> None:
    client = await door.connect()
    door.handler.set_routes(())
    total = 4_000_000
    client.send(b"POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % total)
    for _ in range(20):
        client.send(b"x" * 100_000)
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (404, "close")
    assert await client.is_closed()
    await client.close()


# --- time ---------------------------------------------------------------------------------------------


@BOTH
async def test_an_idle_connection_is_closed_in_time(server: str) -> None:
    async with open_door(ProxyOptions(server=server, keep_alive_timeout_s=0.05)) as door:  # type: ignore[arg-type]
        client, used = await door.connect(), await door.connect()
        assert (await used.get("/hello")).status == 200
        assert await client.is_closed()
        assert await used.is_closed()
        await client.close()
        await used.close()


@BOTH
async def test_a_busy_connection_is_not_idle(server: str) -> None:
    async with open_door(ProxyOptions(server=server, keep_alive_timeout_s=0.02, read_timeout_s=0.02)) as door:  # type: ignore[arg-type]
        client = await door.connect()
        client.send(HELD)
        call = await door.stage.call()
        idle = await door.connect()
        assert await idle.is_closed()  # so the time has passed
        call.take()
        call.result(200, b"", b"ok")
        assert (await client.answer()).body == b"ok"
        await client.close()
        await idle.close()


@BOTH
@pytest.mark.parametrize(
    "begun", [b"G", b"P", b"GET /", HELLO[:-2], b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"]
)
async def test_a_request_that_does_not_come_to_its_end_is_refused(server: str, begun: bytes) -> None:
    async with open_door(ProxyOptions(server=server, read_timeout_s=0.05, keep_alive_timeout_s=0.3)) as door:  # type: ignore[arg-type]
        client = await door.connect()
        client.send(begun)
        if begun == b"G":  # too little to tell it from silence
            assert await client.is_closed()
        else:
            assert (await client.answer()).status == 408
        await client.close()


@BOTH
async def test_a_body_that_stops_coming_cancels_its_request(server: str) -> None:
    async with open_door(ProxyOptions(server=server, read_timeout_s=0.05)) as door:  # type: ignore[arg-type]
        client = await door.connect()
        client.send(b"POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nab")
        call = await door.stage.call()
        call.take()
        assert (await client.answer()).status == 408
        assert call.is_cancelled
        await client.close()


# --- draining -----------------------------------------------------------------------------------------


async def test_draining_waits_for_answers_and_closes_each_connection_after_its_own(door: Door) -> None:
    idle, busy = await door.connect(), await door.connect()
    assert (await idle.get("/hello")).status == 200
    busy.send(HELD)
    call = await door.stage.call(1)
    call.take()
    results: list[bool] = []
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: _keep(results, door.server.drain(20)))
        assert await idle.is_closed()
        with pytest.raises(ConnectionError):
            while True:
                await (await door.connect()).close()
        call.result(200, b"", b"late")
        answer = await busy.answer()
    assert (answer.body, answer.headers["connection"]) == (b"late", "close")
    assert await busy.is_closed()
    assert results == [True]
    for client in (idle, busy):
        await client.close()


async def test_while_draining_idle_clients_may_linger_and_are_told_to_close(door: Door) -> None:
    client = await door.connect()
    assert (await client.get("/hello")).status == 200
    results: list[bool] = []
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: _keep(results, door.server.drain(20, linger_s=20)))
        while not door.server.is_draining:
            await asyncio.sleep(0)
        answer = await client.get("/-/healthz")
    assert (answer.status, answer.headers["connection"]) == (503, "close")
    assert results == [True]
    await client.close()


async def test_draining_gives_up_at_its_deadline(door: Door) -> None:
    client = await door.connect()
    client.send(HELD)
    call = await door.stage.call()
    call.take()
    assert await door.server.drain(0.02) is False
    await client.close()
    await call.until(lambda: call.is_cancelled)


async def _keep(results: list[bool], work: object) -> None:
    results.append(await work)  # type: ignore[misc]


# --- what is left behind, counted and logged ------------------------------------------------------------


async def test_a_closed_connection_leaves_nothing_behind(native: Door) -> None:
    client = await native.connect()
    assert (await client.get("/hello")).status == 200
    gc.disable()
    try:
        connection = weakref.ref(next(iter(native.server.open)))
        await client.close()
        with anyio.fail_after(20):
            while native.server.num_connections:
                await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        gc.collect()
        assert connection() is None
    finally:
        gc.enable()


async def test_requests_are_counted_by_route_method_and_status(native: Door) -> None:
    client = await native.connect()
    for path in ("/hello", "/hello", "/shop/echo", "/-/healthz"):
        await client.get(path)
    native.handler.set_routes((RouteTarget(prefix="/shop", app="shop", deployment="D"),))
    await client.get("/hello")
    counted = {
        (account.route, account.app, *key): cell.count
        for account in native.handler.accounts
        for key, cell in account.cells.items()
    }
    assert counted == {
        ("/", "main", "GET", 200): 2,
        ("/shop", "shop", "GET", 200): 1,
        ("", "", "GET", 404): 1,
    }
    await client.close()


def test_latencies_fall_into_their_buckets() -> None:
    account = Accounts().route("/", "a", "D")
    for seconds in (0.0005, 0.001, 0.0015, 0.3, 10_000):
        account.count("GET", 200, seconds)
    cell = account.cells["GET", 200]
    assert cell.count == 5
    assert cell.buckets[0] == 2
    assert cell.buckets[1] == 1
    assert cell.buckets[-1] == 1
    assert sum(cell.buckets) == 5


async def test_an_answer_given_at_once_within_many_does_not_nest(native: Door) -> None:
    """Ten thousand answers, each given inside the call that asks for it, must not use up the stack."""
    client = await native.connect()

    def at_once(played: Played) -> None:
        played.take()
        played.result(200, b"", b"")

    native.stage.apps[b"/once"] = at_once
    client.send(b"GET /once HTTP/1.1\r\nHost: a\r\n\r\n" * 10_000)
    for _ in range(10_000):
        assert (await client.answer()).status == 200
    await client.close()
