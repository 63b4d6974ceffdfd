"""HTTP/2 connections of a daemon that leaves: their clients go elsewhere, and lose nothing on the way.

h2, which the client is made of here, takes nothing more once it has read a GOAWAY: if anything came behind one, a test
would fail for it. What is to be in one write is in one read here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import httpx
import pytest
from h2.events import ConnectionTerminated, Event, StreamEnded

from tests.proxy.door import PATIENCE_S, Door, Played
from tests.proxy.test_http2 import RawH2

NEVER_S = 1000.0


@pytest.fixture
async def raw(door: Door) -> AsyncIterator[RawH2]:
    client = await door.connect()
    yield RawH2(client)
    await client.close()


async def test_an_idle_client_may_ask_once_more_and_is_told_with_the_answer(door: Door, raw: RawH2) -> None:
    raw.get(1, "/hello")
    await raw.until(StreamEnded)
    async with anyio.create_task_group() as group:
        group.start_soon(door.server.retire, NEVER_S)
        await retiring(door)
        raw.get(3, "/hello")
        events = await whole_read(raw)
        assert [type(event) for event in events[-2:]] == [StreamEnded, ConnectionTerminated]
        assert events[-1].last_stream_id == 2**31 - 1  # type: ignore[attr-defined]  # which is what it refuses
        await raw.client.close()  # so does a client that has nothing open, and then the server is done


async def test_a_client_that_waits_for_one_answer_is_told_with_it(door: Door, raw: RawH2) -> None:
    raw.get(1, "/held")
    call = await door.stage.call()
    async with anyio.create_task_group() as group:
        group.start_soon(door.server.retire, NEVER_S)
        await retiring(door)
        answer(call)
        events = await whole_read(raw)
        assert [type(event) for event in events[-2:]] == [StreamEnded, ConnectionTerminated]
        await raw.client.close()


async def test_a_client_that_waits_for_two_is_not_told_before_it_waits_for_one(
    door: Door, raw: RawH2
) -> None:
    raw.get(1, "/held")
    raw.get(3, "/held")
    calls = [await door.stage.call(0), await door.stage.call(1)]
    async with anyio.create_task_group() as group:
        group.start_soon(door.server.retire, NEVER_S)
        await retiring(door)
        for call in calls:
            answer(call)
            events = await whole_read(raw)
            assert not any(isinstance(event, ConnectionTerminated) for event in events)
        raw.get(5, "/hello")
        assert isinstance((await whole_read(raw))[-1], ConnectionTerminated)
        await raw.client.close()


async def test_a_new_connection_is_not_told_before_it_has_an_answer(door: Door, raw: RawH2) -> None:
    """It was accepted just before the daemon left the socket to another one."""
    raw.flush()
    async with anyio.create_task_group() as group:
        group.start_soon(door.server.retire, NEVER_S)
        await retiring(door)
        raw.get(1, "/hello")
        events = await whole_read(raw)
        assert [type(event) for event in events].count(ConnectionTerminated) == 1
        assert isinstance(events[-1], ConnectionTerminated)
        await raw.client.close()


async def test_after_half_of_the_grace_a_client_is_told_whatever_is_open(door: Door, raw: RawH2) -> None:
    raw.get(1, "/held")
    call = await door.stage.call()
    call.take()
    call.start()
    async with anyio.create_task_group() as group:
        group.start_soon(door.server.retire, 1.0)
        await raw.until(ConnectionTerminated)
        await raw.client.close()


async def test_no_request_of_an_httpx_client_fails(door: Door) -> None:
    """It asks without a pause, on one connection until that is left and on another one then."""
    answered, is_over = 0, False
    async with (
        httpx.AsyncClient(http1=False, http2=True, base_url=door.url, timeout=PATIENCE_S) as http,
        anyio.create_task_group() as group,
    ):

        async def ask() -> None:
            nonlocal answered
            while not is_over:
                (await http.get("/hello")).raise_for_status()
                answered += 1

        async def more() -> None:
            seen = answered
            with anyio.fail_after(PATIENCE_S):
                while answered < seen + 30:
                    await anyio.sleep(0.001)

        group.start_soon(ask)
        for _ in range(10):
            await more()
            front = await door.server._hypercorn()
            (connection,) = front._connections
            connection.leave()
            with anyio.fail_after(PATIENCE_S):
                while connection in front._connections:
                    await anyio.sleep(0.001)
        await more()
        is_over = True


def answer(played: Played) -> None:
    played.take()
    played.result(200, b"content-type: text/plain\r\n", b"answer")


async def retiring(door: Door) -> None:
    """Return once the server retires."""
    with anyio.fail_after(PATIENCE_S):
        while not door.handler.is_retiring:
            await anyio.sleep(0)


async def whole_read(raw: RawH2) -> list[Event]:
    """Return the events of the read that brings the next end of a stream."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            data = await raw.client.reader.read(65536)
            assert data, "the connection was closed"
            events = raw.h2.receive_data(data)
            raw.flush()
            if any(isinstance(event, StreamEnded) for event in events):
                return events
