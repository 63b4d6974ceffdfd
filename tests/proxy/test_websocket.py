"""WebSockets, from a real client through our front and the handover to hypercorn."""

from __future__ import annotations

import anyio
import pytest
from h2.events import DataReceived, RemoteSettingsChanged, ResponseReceived
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from serve_lite.exceptions import DeploymentUnavailableError
from serve_lite.state.ids import DeploymentId
from serve_lite.wire.messages import WsMessage
from tests.proxy.door import PATIENCE_S, Client, Door, Played
from tests.proxy.test_http2 import RawH2


def url(door: Door, path: str = "/shop/ws") -> str:
    return f"ws://{door.host}:{door.port}{path}"


def accept(played: Played) -> None:
    played.take()
    played.message(WsMessage("websocket.accept"))


def echo(played: Played) -> None:
    """Send every message back; close with 4001 on "bye"."""
    accept(played)
    answered = 0

    def answer() -> None:
        nonlocal answered
        while answered < len(played.messages):
            message = played.messages[answered]
            answered += 1
            if message.type == "websocket.disconnect":
                played.finish()
            elif message.text == "bye":
                played.message(WsMessage("websocket.close", code=4001, reason="as you wish"))
            else:
                played.message(WsMessage("websocket.send", text=message.text, data=message.data))

    played.on_change = answer
    answer()


async def test_messages_go_both_ways(door: Door) -> None:
    door.stage.apps[b"/shop/ws"] = echo
    async with connect(url(door) + "?a=1", additional_headers={"X-Request-Id": "r1"}) as socket:
        for message in ("text", b"bytes", "ü" * 50_000, b"x" * 200_000, "", b""):
            await socket.send(message)
            assert await socket.recv() == message
        assert socket.response is not None
        assert socket.response.headers["x-request-id"] == "r1"
    call = await door.stage.call()
    assert (call.head.method, call.head.target, call.head.route) == ("WEBSOCKET", b"/shop/ws?a=1", "/shop")
    assert call.head.scheme == "ws"
    await call.until(lambda: bool(call.messages) and call.messages[-1].type == "websocket.disconnect")
    assert call.messages[-1].code in (1000, 1005)


async def test_the_application_may_close_with_its_own_code(door: Door) -> None:
    door.stage.apps[b"/shop/ws"] = echo
    async with connect(url(door)) as socket:
        await socket.send("bye")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you wish")


async def test_a_subprotocol_is_agreed_on(door: Door) -> None:
    def choose(played: Played) -> None:
        assert played.head.subprotocols == ["a", "b"]
        played.take()
        played.message(WsMessage("websocket.accept", subprotocol="b", headers=[(b"x-more", b"1")]))

    door.stage.apps[b"/shop/ws"] = choose
    async with connect(url(door), subprotocols=["a", "b"]) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "b"
        assert socket.response is not None
        assert socket.response.headers["x-more"] == "1"
    (await door.stage.call()).finish()


async def refused(door: Door, path: str = "/shop/ws") -> int:
    with pytest.raises(InvalidStatus) as error:
        await connect(url(door, path))
    assert error.value.response.headers["x-request-id"]
    return error.value.response.status_code


async def test_a_handshake_that_the_application_closes_is_forbidden(door: Door) -> None:
    def close(played: Played) -> None:
        played.take()
        played.message(WsMessage("websocket.close"))
        played.finish()

    door.stage.apps[b"/shop/ws"] = close
    assert await refused(door) == 403


async def test_an_application_may_refuse_with_an_answer_of_its_own(door: Door) -> None:
    def refuse(played: Played) -> None:
        played.take()
        headers = [(b"X-Reason", b"late"), (b"x-request-id", b"mine")]
        played.message(WsMessage("websocket.http.response.start", code=402, headers=headers))
        played.message(WsMessage("websocket.http.response.body", data=b"pay ", code=1))
        played.message(WsMessage("websocket.http.response.body", data=b"first", code=0))
        played.finish()

    door.stage.apps[b"/shop/ws"] = refuse
    with pytest.raises(InvalidStatus) as error:
        await connect(url(door))
    response = error.value.response
    assert (response.status_code, response.body) == (402, b"pay first")
    assert (response.headers["x-reason"], response.headers["x-request-id"]) == ("late", "mine")
    assert door.statuses() == {402: 1}


KEY = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
VERSION = "Sec-WebSocket-Version: 13"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [KEY],
        [VERSION],
        [KEY, KEY, VERSION],
        [KEY, "Sec-WebSocket-Version: 8"],
        [VERSION, "Sec-WebSocket-Key: short"],
        [VERSION, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA=="],
        [KEY, VERSION, "Sec-WebSocket-Protocol: ch\xe4t"],
        [KEY, VERSION, "Sec-WebSocket-Extensions: \xff"],
    ],
)
async def test_a_handshake_that_is_none_is_malformed(door: Door, client: Client, headers: list[str]) -> None:
    lines = [
        "GET /shop/ws HTTP/1.1",
        "Host: a",
        "Connection: Upgrade",
        "Upgrade: websocket",
        *headers,
        "",
        "",
    ]
    answer = await client.ask("\r\n".join(lines).encode("latin-1"))
    assert answer.status == 400
    assert answer.headers["x-request-id"]
    assert await client.is_closed()
    assert door.stage.calls == []


async def test_pings_are_answered_by_the_door(door: Door) -> None:
    door.stage.apps[b"/shop/ws"] = echo
    async with connect(url(door), ping_interval=None) as socket:
        await (await socket.ping(b"are you there"))
        await socket.send("x")
        assert await socket.recv() == "x"
    assert [m.text for m in (await door.stage.call()).messages if m.type == "websocket.receive"] == ["x"]


async def test_messages_are_compressed_if_the_client_can(door: Door) -> None:
    door.stage.apps[b"/shop/ws"] = echo
    async with connect(url(door)) as socket:
        assert socket.response is not None
        assert "permessage-deflate" in socket.response.headers["sec-websocket-extensions"]
        await socket.send("again and again " * 10_000)
        assert await socket.recv() == "again and again " * 10_000
    async with connect(url(door), compression=None) as socket:
        assert socket.response is not None
        assert "sec-websocket-extensions" not in socket.response.headers
        await socket.send(b"plain")
        assert await socket.recv() == b"plain"


async def test_a_message_in_fragments_is_one_message(door: Door) -> None:
    door.stage.apps[b"/shop/ws"] = echo
    async with connect(url(door)) as socket:
        await socket.send(["one ", "two ", "three"])
        assert await socket.recv() == "one two three"
        await socket.send([b"1", b"2"])
        assert await socket.recv() == b"12"


@pytest.mark.parametrize(("code", "reason"), [(1000, "done"), (1001, ""), (4100, "b\xfcy")])
async def test_the_application_hears_with_which_code_the_client_closes(
    door: Door, code: int, reason: str
) -> None:
    door.stage.apps[b"/shop/ws"] = echo
    async with connect(url(door)) as socket:
        await socket.send("x")
        await socket.recv()
        await socket.close(code, reason)
        assert socket.close_code == code
    call = await door.stage.call()
    await call.until(lambda: call.messages[-1].type == "websocket.disconnect")
    assert (call.messages[-1].code, call.messages[-1].reason) == (code, reason)


def masked(first: int, payload: bytes) -> bytes:
    return bytes((first, 0x80 | len(payload), 0, 0, 0, 0)) + payload


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x01x", 1002),  # not masked
        (masked(0x83, b"x"), 1002),  # an opcode that nobody knows
        (masked(0xF1, b"x"), 1002),  # reserved bits
        (masked(0x80, b"x"), 1002),  # goes on with nothing
        (masked(0x81, b"\xff\xfe"), 1007),  # no UTF-8
        (masked(0x88, b"\x03\xe7"), 1002),  # closes with a code that nobody may send
    ],
)
async def test_a_client_that_breaks_the_protocol_is_told_so(
    door: Door, client: Client, data: bytes, code: int
) -> None:
    door.stage.apps[b"/shop/ws"] = echo
    head = [
        "GET /shop/ws HTTP/1.1",
        "Host: a",
        "Connection: Upgrade",
        "Upgrade: websocket",
        KEY,
        VERSION,
        "",
        "",
    ]
    client.send("\r\n".join(head).encode())
    assert (await client.head())[0] == 101
    client.send(data)
    with anyio.fail_after(PATIENCE_S):
        first, size = await client.reader.readexactly(2)
        payload = await client.reader.readexactly(size)
    assert (first, int.from_bytes(payload[:2], "big")) == (0x88, code)
    call = await door.stage.call()
    await call.until(lambda: bool(call.messages) and call.messages[-1].type == "websocket.disconnect")
    assert await client.is_closed()


async def test_a_websocket_over_http_2(door: Door, client: Client) -> None:
    door.stage.apps[b"/shop/ws"] = echo
    raw = RawH2(client)
    raw.flush()
    await raw.until(RemoteSettingsChanged)
    pseudo = [(":method", "CONNECT"), (":protocol", "websocket"), (":path", "/shop/ws"), (":scheme", "http")]
    raw.h2.send_headers(1, [*pseudo, (":authority", "a"), ("sec-websocket-version", "13")])
    raw.flush()
    answer = await raw.until(ResponseReceived)
    headers = dict(answer.headers)
    assert headers[b":status"] == b"200" and headers[b"x-request-id"]
    raw.h2.send_data(1, masked(0x81, b"hello"))
    raw.flush()
    data = b""
    while len(data) < 7:
        data += (await raw.until(DataReceived)).data
    assert data == b"\x81\x05hello"
    raw.h2.send_data(1, masked(0x88, b"\x10\x04"))
    raw.flush()
    call = await door.stage.call()
    await call.until(lambda: call.messages[-1].type == "websocket.disconnect")
    assert call.messages[-1].code == 4100


@pytest.mark.parametrize(
    "odd", [{":protocol": "masque"}, {"sec-websocket-version": "8"}, {"sec-websocket-protocol": "ch\xe4t"}]
)
async def test_any_other_connect_over_http_2_is_malformed(
    door: Door, client: Client, odd: dict[str, str]
) -> None:
    raw = RawH2(client)
    raw.h2.config.validate_outbound_headers = False
    raw.flush()
    await raw.until(RemoteSettingsChanged)
    head = {":method": "CONNECT", ":protocol": "websocket", ":path": "/shop/ws", ":scheme": "http"}
    head |= {":authority": "a", "sec-websocket-version": "13", **odd}
    raw.h2.send_headers(1, [(n.encode(), v.encode("latin-1")) for n, v in head.items()], end_stream=True)
    raw.flush()
    answer = dict((await raw.until(ResponseReceived)).headers)
    assert answer[b":status"] == b"400" and answer[b"x-request-id"]
    assert await raw.body() == b"Bad Request"


async def test_a_handshake_that_no_replica_takes_gets_the_status_of_the_failure(door: Door) -> None:
    error = DeploymentUnavailableError(DeploymentId(name="D"))
    door.stage.apps[b"/shop/ws"] = lambda played: played.fail(error)
    assert await refused(door) == 503


async def test_a_handshake_for_no_application_is_not_found(door: Door) -> None:
    door.handler.set_routes(tuple(t for t in door.handler._lanes if t.prefix != "/"))
    assert await refused(door, "/nowhere") == 404


async def test_a_failure_while_connected_closes_with_an_error_code(door: Door) -> None:
    door.stage.apps[b"/shop/ws"] = accept
    async with connect(url(door)) as socket:
        call = await door.stage.call()
        call.fail(RuntimeError("boom"))
        assert await close_code(socket) == 1011


async def test_an_application_that_just_ends_closes_normally(door: Door) -> None:
    door.stage.apps[b"/shop/ws"] = accept
    async with connect(url(door)) as socket:
        (await door.stage.call()).finish()
        assert await close_code(socket) == 1000


async def test_a_client_that_vanishes_is_told_to_the_application(door: Door) -> None:
    door.stage.apps[b"/shop/ws"] = accept
    socket = await connect(url(door))
    call = await door.stage.call()
    socket.transport.abort()
    await call.until(lambda: bool(call.messages))
    assert (call.messages[-1].type, call.messages[-1].code) == ("websocket.disconnect", 1006)
    call.finish()
    await socket.wait_closed()


async def test_a_client_that_vanishes_before_it_was_accepted_cancels_the_call(door: Door) -> None:
    client = await door.connect()
    client.send(
        b"GET /shop/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    call = await door.stage.call()
    await client.close()
    await call.until(lambda: call.is_cancelled)


async def test_an_application_that_reads_nothing_stops_the_client(door: Door) -> None:
    import asyncio

    door.stage.apps[b"/shop/ws"] = accept
    async with connect(url(door), compression=None) as socket:
        call = await door.stage.call()
        call.has_credit = False
        sent = 0
        try:
            while sent < 2000:
                await asyncio.wait_for(socket.send(b"x" * 100_000), 0.5)
                sent += 1
        except TimeoutError:
            pass
        assert sent < 2000, "messages were taken in without end"
        assert len(call.messages) < 10
        call.has_credit = True
        call.call.on_writable()
        await call.until(lambda: len(call.messages) > sent)
    call.finish()


async def test_other_requests_of_the_connection_are_answered_before_the_upgrade(native: Door) -> None:
    native.stage.apps[b"/shop/ws"] = accept
    client = await native.connect()
    client.send(
        b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n"
        b"GET /shop/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    held = await native.stage.call()
    held.take()
    held.result(200, b"", b"first")
    assert (await client.answer()).body == b"first"
    assert (await client.head())[0] == 101
    client.send(b"\x81\x85\0\0\0\0early")
    call = await native.stage.call(1)
    await call.until(lambda: bool(call.messages))
    assert call.messages[0].text == "early"
    await client.close()
    await call.until(lambda: call.messages[-1].type == "websocket.disconnect")
    call.finish()


async def close_code(socket: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        await socket.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code
