"""HTTP/2, by prior knowledge and by h2c upgrade, through our front and the handover to hypercorn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

import anyio
import httpx
import pytest
from h2.connection import H2Connection
from h2.events import DataReceived, Event, StreamEnded, StreamReset

from serve_lite.exceptions import ReplicaDiedError
from tests.proxy.door import PATIENCE_S, Client, Door

E = TypeVar("E", bound=Event)


@pytest.fixture
async def h2(door: Door) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(http1=False, http2=True, base_url=door.url, timeout=20) as client:
        yield client


async def test_a_request_is_answered_over_http_2(h2: httpx.AsyncClient) -> None:
    answer = await h2.get("/shop/echo?x=1", headers={"x-request-id": "r1"})
    seen = answer.json()
    assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)
    assert (seen["target"], seen["route"], seen["http_version"]) == ("/shop/echo?x=1", "/shop", "2")
    assert answer.headers["x-request-id"] == seen["request_id"] == "r1"
    assert len([h for h in seen["headers"] if h[0] == "host"]) == 1


@pytest.mark.parametrize("size", [0, 10, 65_537, 1_000_000])
async def test_bodies_arrive_whole(h2: httpx.AsyncClient, size: int) -> None:
    body = b"x" * size
    assert (await h2.post("/echo", content=body)).json()["body"] == body.decode()


async def test_a_body_of_unknown_length_is_streamed(h2: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"a", b"b" * 70_000, b"c"):
            yield piece

    assert (await h2.post("/echo", content=pieces())).json()["body"] == "a" + "b" * 70_000 + "c"


async def test_many_streams_share_one_connection(door: Door, h2: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(h2.get("/hello") for _ in range(50)))
    assert {a.text for a in answers} == {"hello"}
    assert door.server.num_connections == 1


async def test_streamed_answers_and_builtins_work_too(h2: httpx.AsyncClient) -> None:
    assert (await h2.get("/count")).text == "one two three"
    assert (await h2.get("/-/healthz")).text == "success"
    assert (await h2.head("/hello")).headers["content-length"] == "5"


class RawH2:
    """One HTTP/2 connection, event by event."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.h2 = H2Connection()
        self.h2.initiate_connection()
        self._events: list[Event] = []

    def get(self, stream: int, path: str) -> None:
        pseudo = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "a")]
        self.h2.send_headers(stream, pseudo, end_stream=True)
        self.flush()

    def flush(self) -> None:
        self.client.send(self.h2.data_to_send())

    async def body(self) -> bytes:
        """Return the body that comes next, to the end of its stream."""
        data = b""
        while not isinstance(event := await self.until(Event), StreamEnded):
            data += event.data if isinstance(event, DataReceived) else b""
        return data

    async def until(self, kind: type[E]) -> E:
        """Return the next event of this kind."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                while self._events:
                    event = self._events.pop(0)
                    if isinstance(event, kind):
                        return event
                data = await self.client.reader.read(65536)
                assert data, "the connection was closed"
                self._events += self.h2.receive_data(data)
                self.flush()


async def test_a_client_that_resets_its_stream_cancels_the_request(door: Door, client: Client) -> None:
    raw = RawH2(client)
    raw.get(1, "/held")
    call = await door.stage.call()
    call.take()
    raw.h2.reset_stream(1)
    raw.flush()
    await call.until(lambda: call.is_cancelled)


async def test_an_answer_that_fails_is_reset_and_the_connection_lives_on(door: Door, client: Client) -> None:
    raw = RawH2(client)
    raw.get(1, "/held")
    call = await door.stage.call()
    call.take()
    call.start()
    call.item(b"part")
    assert (await raw.until(DataReceived)).data == b"part"
    call.fail(ReplicaDiedError("a#D#x"))
    assert (await raw.until(StreamReset)).stream_id == 1
    raw.get(3, "/hello")
    assert (await raw.until(DataReceived)).data == b"hello"


async def test_an_early_answer_to_a_large_upload_does_not_break_the_connection(
    door: Door, h2: httpx.AsyncClient
) -> None:
    door.handler.set_routes(tuple(t for t in door.handler._lanes if t.prefix != "/"))
    assert (await h2.post("/nowhere", content=b"x" * 500_000)).status_code == 404
    assert (await h2.get("/shop/echo")).status_code == 200


async def test_h2c_by_upgrade_is_granted(native: Door) -> None:
    client = await native.connect()
    client.send(
        b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
    )
    status, headers = await client.head()
    assert (status, headers["upgrade"]) == (101, "h2c")
    await client.close()


async def test_an_upgrade_to_something_unknown_is_ignored(native: Door) -> None:
    client = await native.connect()
    answer = await client.get("/hello", "Connection: Upgrade", "Upgrade: quantum")
    assert (answer.status, answer.body) == (200, b"hello")
    await client.close()


async def test_the_preface_may_come_in_single_bytes(native: Door) -> None:
    client = await native.connect()
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0":
        client.send(bytes([byte]))
        await asyncio.sleep(0)
    assert (await client.reader.readexactly(9))[3] == 4  # a SETTINGS frame
    await client.close()
