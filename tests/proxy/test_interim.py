"""What comes before and after an answer: 100, early hints, trailers; on both fronts."""

from __future__ import annotations

import anyio
import pytest
from h2.events import (
    DataReceived,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    TrailersReceived,
)

from serve_lite.wire.messages import HttpResponseHead
from tests.proxy.door import PATIENCE_S, Client, Door, Played, encode
from tests.proxy.test_http2 import RawH2


def inform(call: Played, status: int, headers: bytes = b"") -> None:
    call.call.on_item(encode(HttpResponseHead(status, headers)), [])


def finish(call: Played, trailers: bytes) -> None:
    call.call.outgoing = None
    call.call.on_end(trailers)


@pytest.mark.parametrize("te", [b"TE: trailers\r\n", b"TE: gzip, Trailers\r\n", b""])
async def test_trailers_reach_a_client_that_takes_them(door: Door, client: Client, te: bytes) -> None:
    client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n%b\r\n" % te)
    call = await door.stage.call()
    call.take()
    call.start()
    call.item(b"body")
    finish(call, b"x-sum: 4\r\n")
    await client.head()
    end = b"4\r\nbody\r\n0\r\nx-sum: 4\r\n\r\n" if te else b"4\r\nbody\r\n0\r\n\r\n"
    with anyio.fail_after(PATIENCE_S):
        assert (await client.reader.readexactly(len(end))).lower() == end
    assert (await client.get("/hello")).body == b"hello"


@pytest.mark.parametrize(
    ("request_head", "answer_head", "body"),
    [
        (b"HEAD /held HTTP/1.1", b"", b""),
        (b"GET /held HTTP/1.0", b"", b"body"),
        (b"GET /held HTTP/1.1", b"content-length: 4\r\n", b"body"),
    ],
)
async def test_where_an_answer_is_not_chunked_trailers_are_left_out(
    door: Door, client: Client, request_head: bytes, answer_head: bytes, body: bytes
) -> None:
    client.send(request_head + b"\r\nHost: a\r\nTE: trailers\r\nConnection: close\r\n\r\n")
    call = await door.stage.call()
    call.take()
    call.start(200, answer_head)
    call.item(b"body")
    finish(call, b"x-sum: 4\r\n")
    await client.head()
    with anyio.fail_after(PATIENCE_S):
        assert await client.reader.read() == body


async def test_early_hints_come_before_the_answer(door: Door, client: Client) -> None:
    client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
    call = await door.stage.call()
    call.take()
    inform(call, 103, b"link: </a.css>; rel=preload\r\n")
    assert await client.head() == (103, {"link": "</a.css>; rel=preload"})
    call.result(200, b"", b"late")
    assert (await client.answer()).body == b"late"
    assert door.statuses() == {200: 1}


async def test_a_client_of_http_1_0_gets_no_early_hints(door: Door, client: Client) -> None:
    client.send(b"GET /held HTTP/1.0\r\n\r\n")
    call = await door.stage.call()
    call.take()
    inform(call, 103, b"link: </a.css>; rel=preload\r\n")
    call.result(200, b"", b"late")
    assert (await client.head())[0] == 200


async def test_the_body_is_asked_for_when_the_application_reads_it(door: Door, client: Client) -> None:
    head = b"POST /held HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
    for framing, body in (
        (b"Content-Length: 3", b"abc"),
        (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n"),
    ):
        client.send(head + framing + b"\r\n\r\n")
        call = await door.stage.call(len(door.stage.calls))
        call.take()
        assert call.header(b"expect") == [b"100-continue"]
        inform(call, 103, b"link: </a.css>\r\n")
        assert (await client.head())[0] == 103  # first, so nothing was said when a replica took the call
        inform(call, 100)
        assert await client.head() == (100, {})
        client.send(body)
        await call.until(lambda call=call: call.body_ended)  # type: ignore[misc]
        assert b"".join(call.pieces) == b"abc"
        call.result(200, b"", b"ok")
        assert (await client.answer()).body == b"ok"


async def test_a_body_may_be_read_after_the_answer_has_begun(door: Door, client: Client) -> None:
    client.send(b"POST /held HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    call = await door.stage.call()
    call.take()
    call.start()
    assert (await client.head())[0] == 200  # which tells the client as much as 100 would
    client.send(b"abc")
    await call.until(lambda: call.body_ended)
    assert b"".join(call.pieces) == b"abc"
    call.finish()


async def test_a_body_that_comes_unasked_waits_for_the_application(door: Door, client: Client) -> None:
    client.send(b"POST /held HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    call = await door.stage.call()
    call.take()
    client.send(b"abc")
    inform(call, 103, b"link: </a.css>\r\n")
    assert (await client.head())[0] == 103
    assert call.pieces == []
    inform(call, 100)
    await call.until(lambda: call.body_ended)
    assert b"".join(call.pieces) == b"abc"
    call.result(200, b"", b"ok")
    while (status := (await client.head())[0]) != 200:
        assert status == 100


async def test_an_answer_without_reading_asks_for_no_body(door: Door, client: Client) -> None:
    client.send(b"POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
    call = await door.stage.call()
    call.take()
    call.result(413, b"", b"no")
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert await client.is_closed()


async def test_no_body_is_asked_for_that_nobody_will_read(door: Door, client: Client) -> None:
    door.handler.set_routes(())
    client.send(b"POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
    assert (await client.head())[0] == 404


async def test_hints_100_and_trailers_in_http_2(door: Door, client: Client) -> None:
    raw = RawH2(client)
    pseudo = [(":method", "POST"), (":path", "/held"), (":scheme", "http"), (":authority", "a")]
    raw.h2.send_headers(1, [*pseudo, ("te", "trailers"), ("expect", "100-continue")])
    raw.flush()
    assert (b":status", b"100") in (await raw.until(InformationalResponseReceived)).headers
    call = await door.stage.call()
    call.take()
    inform(call, 103, b"link: </a.css>\r\n")
    hints = await raw.until(InformationalResponseReceived)
    assert {(b":status", b"103"), (b"link", b"</a.css>")} <= {(bytes(n), bytes(v)) for n, v in hints.headers}
    raw.h2.send_data(1, b"abc", end_stream=True)
    raw.flush()
    await call.until(lambda: call.body_ended)
    call.start()  # it announces no trailers
    call.item(b"body")
    finish(call, b"x-sum: 4\r\n")
    await raw.until(ResponseReceived)
    assert (await raw.until(DataReceived)).data == b"body"
    trailers = await raw.until(TrailersReceived)
    assert [(bytes(n), bytes(v)) for n, v in trailers.headers] == [(b"x-sum", b"4")]
    await raw.until(StreamEnded)
    raw.get(3, "/hello")
    assert (await raw.until(DataReceived)).data == b"hello"
