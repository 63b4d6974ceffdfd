"""WebSockets, from a real client through our front and the handover to hypercorn."""

from __future__ import annotations

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from serve_lite.exceptions import DeploymentUnavailableError
from serve_lite.state.ids import DeploymentId
from serve_lite.wire.messages import WsMessage
from tests.proxy.door import Door, Played


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
    assert "x-request-id" in error.value.response.headers or error.value.response.status_code == 403
    return error.value.response.status_code


async def test_a_handshake_that_the_application_closes_is_forbidden(door: Door) -> None:
    def close(played: Played) -> None:
        played.take()
        played.message(WsMessage("websocket.close"))
        played.finish()

    door.stage.apps[b"/shop/ws"] = close
    assert await refused(door) == 403


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
