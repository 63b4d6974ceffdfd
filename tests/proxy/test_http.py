"""What every front must do, over real sockets; each test runs against ours and against hypercorn."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from serve_lite.exceptions import (
    BackPressureError,
    DeploymentNotFoundError,
    DeploymentUnavailableError,
    ReplicaDiedError,
)
from serve_lite.proxy.options import ProxyOptions
from serve_lite.state.ids import DeploymentId
from serve_lite.wire.messages import ErrorHead, HttpResponseHead
from tests.proxy.corpus import MALFORMED
from tests.proxy.door import Client, Door, Played, encode, open_door

BOTH = pytest.mark.parametrize("server", ["native", "hypercorn"])


# --- a request and its answer ---------------------------------------------------------------------


async def test_a_request_arrives_as_it_was_sent(client: Client) -> None:
    seen = (await client.get("/shop/echo?a=1&b=%20", "X-Thing: Some Value")).json()
    assert (seen["method"], seen["target"], seen["route"]) == ("GET", "/shop/echo?a=1&b=%20", "/shop")
    assert ["x-thing", "Some Value"] in seen["headers"]
    assert (seen["body"], seen["http_version"]) == ("", "1.1")


async def test_an_answer_arrives_as_it_was_given(client: Client) -> None:
    answer = await client.get("/hello")
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["content-length"] == "5"
    assert "date" in answer.headers


async def test_many_requests_use_one_connection(client: Client) -> None:
    assert [(await client.get("/hello")).body for _ in range(20)] == [b"hello"] * 20


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1_000_000])
async def test_bodies_of_all_sizes_arrive_whole(client: Client, size: int) -> None:
    body = bytes(i % 251 for i in range(size))
    answer = await client.ask(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (size, body), "POST"
    )
    assert answer.json()["body"].encode("latin-1") == body
    assert (await client.get("/hello")).status == 200


async def test_chunked_bodies_arrive_whole(client: Client) -> None:
    client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in (b"abc", b"d" * 70_000, b"e"):
        client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    answer = await client.ask(b"0\r\n\r\n", "POST")
    assert answer.json()["body"] == "abc" + "d" * 70_000 + "e"
    assert (await client.get("/hello")).status == 200


async def test_bytes_may_come_one_at_a_time(client: Client) -> None:
    for byte in b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc":
        client.send(bytes([byte]))
        await asyncio.sleep(0)
    assert (await client.answer("POST")).json()["body"] == "abc"


async def test_a_client_that_asks_is_told_to_continue(door: Door, client: Client) -> None:
    client.send(b"POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    call = await door.stage.call()
    call.take()
    assert call.header(b"expect") == [b"100-continue"]
    call.call.on_item(encode(HttpResponseHead(100, b"")), [])  # the application reads
    assert (await client.head())[0] == 100
    client.send(b"abc")
    await call.until(lambda: call.body_ended)
    call.result(200, b"", b"ok")
    assert (await client.answer()).body == b"ok"


async def test_head_gets_the_headers_and_no_body(client: Client) -> None:
    answer = await client.get("/hello", method="HEAD")
    assert (answer.status, answer.headers["content-length"]) == (200, "5")
    assert (await client.get("/hello")).body == b"hello"


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body_have_none(door: Door, client: Client, status: int) -> None:
    def none(played: Played) -> None:
        played.take()
        played.result(status, b"", b"")

    door.stage.apps[b"/none"] = none
    answer = await client.get("/none")
    assert answer.status == status
    assert "transfer-encoding" not in answer.headers
    assert (await client.get("/hello")).body == b"hello"


async def test_a_length_that_is_not_the_bodys_is_never_sent(door: Door, client: Client) -> None:
    def lies(played: Played) -> None:
        played.take()
        played.result(200, b"content-length: 3\r\n", b"hello")

    door.stage.apps[b"/lies"] = lies
    answer = await client.get("/lies")
    assert (answer.status, answer.body) == (500, b"Internal Server Error")


async def test_a_request_in_http_1_0_is_answered_and_closed(client: Client) -> None:
    answer = await client.ask(b"GET /count HTTP/1.0\r\nHost: a\r\n\r\n")
    assert (answer.status, answer.body) == (200, b"one two three")
    assert await client.is_closed()


async def test_connection_close_is_obeyed_and_repeated(client: Client) -> None:
    answer = await client.get("/hello", "Connection: close")
    assert (answer.body, answer.headers["connection"]) == (b"hello", "close")
    assert await client.is_closed()


# --- streams ----------------------------------------------------------------------------------------


async def test_a_streamed_answer_arrives_in_pieces_as_they_are_made(door: Door, client: Client) -> None:
    client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
    call = await door.stage.call()
    call.take()
    call.start()
    assert (await client.head())[0] == 200
    chunks = client.chunks()
    for piece in (b"one", b"two", b"three"):
        call.item(piece)
        assert await anext(chunks) == piece
    call.finish()
    assert [c async for c in chunks] == []
    assert (await client.get("/hello")).body == b"hello"


async def test_a_stream_of_known_length_is_not_chunked(door: Door, client: Client) -> None:
    def known(played: Played) -> None:
        played.take()
        played.start(200, b"content-length: 6\r\n")
        played.item(b"abc")
        played.item(b"def")
        played.finish()

    door.stage.apps[b"/known"] = known
    answer = await client.get("/known")
    assert answer.body == b"abcdef"
    assert "transfer-encoding" not in answer.headers
    assert (await client.get("/hello")).body == b"hello"


@pytest.mark.parametrize("pieces", [(b"abc",), (b"abc", b"defgh")], ids=["too short", "too long"])
async def test_a_stream_of_another_length_than_announced_is_cut(
    door: Door, client: Client, pieces: tuple[bytes, ...]
) -> None:
    client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
    call = await door.stage.call()
    call.take()
    call.start(200, b"content-length: 6\r\n")
    assert (await client.head())[0] == 200
    for piece in pieces:
        call.item(piece)
    if not call.is_cancelled:
        call.finish()
    rest = await client.reader.read()
    assert b"".join(pieces).startswith(rest)


async def test_request_and_answer_may_stream_at_the_same_time(door: Door, client: Client) -> None:
    client.send(b"POST /held HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    call = await door.stage.call()
    call.take()
    await call.until(lambda: call.pieces == [b"a"])
    call.start()
    await client.head()
    chunks = client.chunks()
    call.item(b"A")
    assert await anext(chunks) == b"A"
    client.send(b"1\r\nb\r\n0\r\n\r\n")
    await call.until(lambda: call.body_ended)
    assert b"".join(call.pieces) == b"ab"
    call.item(b"B")
    assert await anext(chunks) == b"B"
    call.finish()
    assert [c async for c in chunks] == []


async def test_a_client_that_does_not_read_stops_the_application(door: Door, client: Client) -> None:
    client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
    call = await door.stage.call()
    call.take()
    call.start()
    await client.head()
    piece, sent = b"x" * 100_000, 0
    while call.consumed_bytes >= sent and sent < 500_000_000:
        call.item(piece)
        sent += len(piece)
        for _ in range(3):  # hypercorn's front writes in a task of its own
            await asyncio.sleep(0)
            if call.consumed_bytes >= sent:
                break
        else:
            await asyncio.sleep(0.01)
    assert sent < 500_000_000, "the answer was taken in without end"
    chunks = client.chunks()
    received = 0
    while received < sent:
        received += len(await anext(chunks))
    await call.until(lambda: call.consumed_bytes >= sent)
    call.finish()
    assert [c async for c in chunks] == []


async def test_an_application_that_does_not_read_stops_the_client(door: Door, client: Client) -> None:
    total = 64 * 1024 * 1024
    client.send(b"POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % total)
    call = await door.stage.call()
    call.has_credit = False
    call.take()
    piece, sent = b"x" * 65_536, 0
    try:
        while sent < total:
            client.send(piece)
            await asyncio.wait_for(client.writer.drain(), 0.5)
            sent += len(piece)
    except TimeoutError:
        pass
    assert sent < total, "the body was taken in without end"
    assert sum(map(len, call.pieces)) <= 1024 * 1024
    call.has_credit = True
    call.call.on_writable()
    while sent < total:
        client.send(piece)
        await client.writer.drain()
        sent += len(piece)
    await call.until(lambda: call.body_ended)
    call.result(200, b"", b"%d" % sum(map(len, call.pieces)))
    assert int((await client.answer()).body) >= total


async def test_a_refused_body_is_sent_again_to_the_next_replica(door: Door, client: Client) -> None:
    client.send(b"POST /held HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    call = await door.stage.call()
    call.take()
    await call.until(lambda: call.pieces == [b"abc"])
    call.refuse()
    call.take()
    client.send(b"3\r\ndef\r\n0\r\n\r\n")
    await call.until(lambda: call.body_ended)
    assert b"".join(call.pieces) == b"abcdef"
    assert call.call.retryable
    call.result(200, b"", b"ok")
    assert (await client.answer()).body == b"ok"


# --- request ids and other headers of ours --------------------------------------------------------------


async def test_a_request_id_is_made_told_to_the_application_and_echoed(client: Client) -> None:
    first, second = await client.get("/echo"), await client.get("/echo")
    ids = [a.headers["x-request-id"] for a in (first, second)]
    assert ids == [a.json()["request_id"] for a in (first, second)]
    assert [["x-request-id", ids[0]]] == [h for h in first.json()["headers"] if h[0] == "x-request-id"]
    assert len(set(ids)) == 2
    assert all(len(i) == 36 for i in ids)


async def test_a_given_request_id_is_kept(client: Client) -> None:
    answer = await client.get("/echo", "X-Request-ID: order-66/a+b=")
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "order-66/a+b="


@pytest.mark.parametrize("bad", ["a b", "a,b", "<script>", "x" * 300, "é"])
async def test_an_unsafe_request_id_is_replaced(client: Client, bad: str) -> None:
    answer = await client.ask(f"GET /echo HTTP/1.1\r\nHost: a\r\nX-Request-Id: {bad}\r\n\r\n".encode())
    assert answer.headers["x-request-id"] != bad
    ids = [v for k, v in answer.json()["headers"] if k == "x-request-id"]
    assert ids == [answer.headers["x-request-id"]]


async def test_every_answer_carries_a_request_id(door: Door, client: Client) -> None:
    for path in ("/hello", "/count", "/-/healthz", "/-/routes"):
        assert "x-request-id" in (await client.get(path)).headers
    door.handler.set_routes(())
    answer = await client.get("/nowhere", "X-Request-Id: mine")
    assert (answer.status, answer.headers["x-request-id"]) == (404, "mine")


async def test_model_and_session_are_read_from_their_headers(client: Client) -> None:
    seen = (await client.get("/echo", "Serve-Multiplexed-Model-ID: m1", "X-Session-Id: s1")).json()
    assert (seen["model_id"], seen["session_id"]) == ("m1", "s1")


# --- builtins and errors --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_health_and_routes_answer_any_method(client: Client, method: str) -> None:
    health = await client.get("/-/healthz", "Content-Length: 0", method=method)
    assert (health.status, health.body) == (200, b"success")
    routes = await client.get("/-/routes?x", "Content-Length: 0", method=method)
    assert (routes.status, routes.json()) == (200, {"/": "main", "/shop": "shop"})
    assert routes.headers["content-type"] == "application/json"


@BOTH
async def test_before_the_first_routes_the_door_says_so(server: str) -> None:
    async with open_door(ProxyOptions(server=server), routes=()) as door:  # type: ignore[arg-type]
        client = await door.connect()
        for path in ("/-/healthz", "/-/routes"):
            answer = await client.get(path)
            assert (answer.status, answer.body) == (503, b"Route table is not populated yet.")
        door.handler.set_routes(())
        assert (await client.get("/-/healthz")).status == 503
        await client.close()


async def test_after_the_last_application_is_gone_the_door_is_still_healthy(
    door: Door, client: Client
) -> None:
    door.handler.set_routes(())
    assert (await client.get("/-/healthz")).status == 200
    assert (await client.get("/-/routes")).json() == {}


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/-/healthz", 503, b"This node is being drained."),
        ("/-/routes", 503, b"This node is being drained."),
        ("/hello", 200, b"hello"),
    ],
)
async def test_while_draining_the_door_says_so(door: Door, path: str, status: int, body: bytes) -> None:
    client = await door.connect()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: door.server.drain(20, linger_s=20))
        while not door.server.is_draining:
            await asyncio.sleep(0)
        answer = await client.get(path)
        assert (answer.status, answer.body, answer.headers["connection"]) == (status, body, "close")
        assert await client.is_closed()
    await client.close()


async def test_a_path_of_no_application_is_not_found(door: Door, client: Client) -> None:
    door.handler.set_routes(tuple(t for t in door.handler._lanes if t.prefix != "/"))
    answer = await client.get("/sh%C3%B6p?x")
    assert answer.status == 404
    assert answer.body.decode() == "Path '/shöp' not found. Ping http://.../-/routes for available routes."
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


D = DeploymentId(name="D", app_name="main")


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (
            BackPressureError(7, 5),
            503,
            "Request dropped due to backpressure (num_queued_requests=7, max_queued_requests=5).",
        ),
        (DeploymentUnavailableError(D), 503, DeploymentUnavailableError(D).message),
        (DeploymentNotFoundError(D), 503, DeploymentNotFoundError(D).message),
        (ReplicaDiedError("a#D#x"), 500, "Internal Server Error"),
        (RuntimeError("/etc/passwd pid 7"), 500, "Internal Server Error"),
    ],
)
async def test_a_call_that_fails_is_answered_by_its_kind(
    door: Door, client: Client, error: Exception, status: int, body: str
) -> None:
    door.stage.apps[b"/fails"] = lambda played: played.fail(error)
    answer = await client.get("/fails")
    assert (answer.status, answer.body.decode()) == (status, body)
    assert "retry-after" not in answer.headers


async def test_back_pressure_may_be_429_and_say_when_to_retry(door: Door, client: Client) -> None:
    door.stage.apps[b"/full"] = lambda played: played.fail(BackPressureError(1, 1, 429, 1.2))
    answer = await client.get("/full")
    assert (answer.status, answer.headers["retry-after"]) == (429, "2")


@BOTH
@pytest.mark.parametrize("debug", [False, True])
async def test_an_exception_of_the_application_shows_only_with_debug(server: str, debug: bool) -> None:
    async with open_door(ProxyOptions(server=server, debug=debug)) as door:  # type: ignore[arg-type]

        def raises(played: Played) -> None:
            played.take()
            played.call.outgoing = None
            played.call.on_error(encode(ErrorHead("ValueError", "secret", "Traceback: secret")), [])

        door.stage.apps[b"/raises"] = raises
        client = await door.connect()
        answer = await client.get("/raises")
        assert answer.status == 500
        assert answer.body == (b"Traceback: secret" if debug else b"Internal Server Error")
        await client.close()


async def test_a_failure_after_the_start_cuts_the_answer(door: Door, client: Client) -> None:
    client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
    call = await door.stage.call()
    call.take()
    call.start()
    call.item(b"part")
    await client.head()
    chunks = client.chunks()
    assert await anext(chunks) == b"part"
    call.fail(ReplicaDiedError("a#D#x"))
    assert await client.is_closed()


# --- timeouts and clients that leave --------------------------------------------------------------------


@BOTH
async def test_a_request_that_takes_too_long_is_cancelled_and_answered_408(server: str) -> None:
    options = ProxyOptions(server=server, request_timeout_s=0.05)  # type: ignore[arg-type]
    async with open_door(options) as door:
        client = await door.connect()
        answer = await client.get("/held", "X-Request-Id: r1")
        assert (answer.status, answer.body) == (408, b"Request r1 timed out after 0.05s.")
        call = await door.stage.call()
        assert call.is_cancelled
        assert call.head.deadline > 0
        assert (await client.get("/hello")).status == 200
        await client.close()


async def test_a_request_may_bring_its_own_timeout(door: Door, client: Client) -> None:
    answer = await client.get("/held", "X-Request-Timeout-Seconds: 0.05")
    assert answer.status == 408
    assert (await door.stage.call()).is_cancelled


@pytest.mark.parametrize("value", ["soon", "nan", "-1", "0"])
async def test_a_timeout_that_is_no_time_is_no_limit(door: Door, client: Client, value: str) -> None:
    await client.get("/echo", f"X-Request-Timeout-Seconds: {value}")
    assert (await door.stage.call()).head.deadline == 0


async def test_a_timeout_after_the_start_cuts_the_answer(door: Door, client: Client) -> None:
    client.send(b"GET /held HTTP/1.1\r\nHost: a\r\nX-Request-Timeout-Seconds: 0.1\r\n\r\n")
    call = await door.stage.call()
    call.take()
    call.start()
    call.item(b"x")
    await client.head()
    assert await anext(client.chunks()) == b"x"
    assert await client.is_closed()
    assert call.is_cancelled


@pytest.mark.parametrize("is_streaming", [False, True])
async def test_a_client_that_leaves_cancels_its_request(
    door: Door, client: Client, is_streaming: bool
) -> None:
    client.send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
    call = await door.stage.call()
    call.take()
    if is_streaming:
        call.start()
        call.item(b"x")
        await client.head()
    await client.close()
    await call.until(lambda: call.is_cancelled)
    assert door.statuses() == {499: 1}


async def test_a_client_that_leaves_in_the_middle_of_its_body_cancels_its_request(
    door: Door, client: Client
) -> None:
    client.send(b"POST /held HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc")
    call = await door.stage.call()
    call.take()
    await call.until(lambda: call.pieces == [b"abc"])
    await client.close()
    await call.until(lambda: call.is_cancelled)


async def test_a_client_may_ask_that_its_leaving_be_ignored(door: Door, client: Client) -> None:
    client.send(b"GET /held HTTP/1.1\r\nHost: a\r\nX-Request-Disconnect-Disabled: ?1\r\n\r\n")
    call = await door.stage.call()
    call.take()
    call.start()
    await client.head()
    await client.close()
    other = await door.connect()
    while door.server.num_connections > 1:
        await other.get("/hello")
    assert not call.is_cancelled
    call.item(b"x" * 1000)
    assert call.consumed_bytes >= 1000
    call.finish()
    await other.close()


# --- malformed requests, by both ----------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in MALFORMED if case != "data after Connection: close"])
async def test_a_malformed_request_gets_an_error_and_a_closed_connection(
    door: Door, client: Client, case: str
) -> None:
    client.send(MALFORMED[case])
    status = 0
    while status < 400:  # what came before the malformed part may be answered first
        answer = await client.answer()
        status = answer.status
    assert 400 <= status <= 505
    assert answer.headers["connection"] == "close"
    client.writer.write_eof()
    assert await client.is_closed()
    for call in door.stage.calls:  # begun before its body turned out to be malformed
        await call.until(lambda call=call: call.is_cancelled)  # type: ignore[misc]
