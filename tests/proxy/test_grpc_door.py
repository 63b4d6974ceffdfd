"""The gRPC door on a port of its own, with a scripted application behind it: patience, ends, and what is kept."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, PingReceived, RemoteSettingsChanged, StreamReset
from h2.settings import SettingCodes

from serve_lite.proxy import h2_wire as wire
from serve_lite.proxy.grpc import GrpcDoor, GrpcOptions, serve_grpc
from serve_lite.proxy.grpc_connection import Patience
from serve_lite.routing.router import PendingCall
from serve_lite.wire.messages import GrpcHead, GrpcStatus, RouteTarget
from serve_lite.wire.spawning import GrpcMethod, GrpcServices
from tests.grpc.raw import Raw, connect, framed
from tests.instances import until

SAY, TALK = "/a.B/Say", "/a.B/Talk"
SERVICES = GrpcServices(
    methods=(
        GrpcMethod(name=SAY, servicer="m:f", client_streaming=False, server_streaming=False),
        GrpcMethod(name=TALK, servicer="m:f", client_streaming=True, server_streaming=True),
    ),
    files=(),
)
#: Nobody waits for long in these tests.
HURRIED = Patience(midst_s=0.2, silence_s=0.2, answer_s=0.2, look_s=0.05)


class Stage:
    """Stands in for the routers: keeps calls, and answers those to `Say` with what was said."""

    def __init__(self) -> None:
        self.calls: list[PendingCall] = []
        self.cancelled: list[PendingCall] = []
        self.is_open = True

    def get(self, app: str, deployment: str) -> Stage:
        return self

    def submit(self, call: PendingCall) -> None:
        self.calls.append(call)
        head = msgspec.msgpack.decode(call.envelope, type=GrpcHead)
        if head.method == SAY and self.is_open:
            call.on_result(msgspec.msgpack.encode(GrpcStatus()), [memoryview(bytes(b)) for b in call.buffers])

    def cancel(self, call: PendingCall) -> None:
        self.cancelled.append(call)


@asynccontextmanager
async def open_door(
    options: GrpcOptions = GrpcOptions(), patience: Patience = Patience()
) -> AsyncIterator[tuple[GrpcDoor, Stage, int]]:
    stage = Stage()
    door = GrpcDoor(stage, SERVICES, options, patience=patience)
    door.set_routes((RouteTarget(prefix="/", app="app", deployment="D"),))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        async with anyio.create_task_group() as group:
            await group.start(serve_grpc, sock, door)
            yield door, stage, sock.getsockname()[1]
            group.cancel_scope.cancel()
    assert not door.accounts.ongoing and not door._connections and not door._larder.held_bytes


async def test_a_client_that_says_nothing_is_asked_for_a_sign_of_life_and_then_cut_off() -> None:
    async with open_door(patience=HURRIED) as (_, _stage, port), connect("127.0.0.1", port) as client:
        await client.until(RemoteSettingsChanged)
        await client.until(PingReceived)  # h2 answers it with the next read
        await client.until(PingReceived, lambda event: client.events.count(event) > 1)
        client.flush = lambda: None  # type: ignore[method-assign]  # from now on it does not
        assert await client.until_closed() is None


@pytest.mark.parametrize("said", [b"", b"PRI * HTT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
async def test_a_client_that_never_begins_is_cut_off(said: bytes) -> None:
    patience = HURRIED._replace(silence_s=60.0)
    async with open_door(patience=patience) as (door, _, port):
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            if said:
                await client.send(said)
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)), anyio.fail_after(20):
                while True:
                    await client.receive()
        await until(lambda: not door._connections)


async def test_a_frame_that_comes_drop_by_drop_is_cut_off_and_a_slow_stream_is_not() -> None:
    patience = Patience(midst_s=1.0, silence_s=60.0, answer_s=60.0, look_s=0.1)
    async with open_door(patience=patience) as (_, _stage, port), connect("127.0.0.1", port) as slow:
        async with connect("127.0.0.1", port) as dripping:
            await dripping.until(RemoteSettingsChanged)
            await slow.until(RemoteSettingsChanged)
            stream = slow.begin(TALK)
            dripping.send(b"\0\x40\0\0\0\0\0\0\x01")  # DATA of 16 KiB
            with anyio.move_on_after(20) as scope:
                async with anyio.create_task_group() as group:

                    async def drip() -> None:
                        while True:
                            dripping.send(b"x")
                            slow.h2.send_data(stream, b"\0")
                            slow.flush()
                            await anyio.sleep(0.05)

                    group.start_soon(drip)
                    assert await dripping.until_closed() is None
                    group.cancel_scope.cancel()
            assert not scope.cancelled_caught
        slow.h2.ping(b"12345678")
        slow.flush()
        assert await slow.read()  # it is still served


async def test_a_client_that_reads_nothing_is_cut_off_although_it_goes_on_sending() -> None:
    patience = Patience(midst_s=60.0, silence_s=60.0, answer_s=60.0, write_s=0.5, look_s=0.1)
    async with open_door(patience=patience) as (door, stage, port), connect("127.0.0.1", port) as client:
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
        client.h2.increment_flow_control_window(2**31 - 1 - 65_535)
        client.begin(TALK)
        await until(lambda: stage.calls)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(200):
            stage.calls[0].on_item(b"", [memoryview(bytes(100_000))])
        with anyio.fail_after(20):
            while door._connections:
                client.h2.ping(b"12345678")
                try:
                    client.flush()
                except ConnectionError:
                    break
                await anyio.sleep(0.02)
        await until(lambda: not door._connections)
        assert stage.cancelled == stage.calls


async def test_what_comes_behind_too_many_messages_is_not_kept() -> None:
    async with open_door() as (door, _, port), connect("127.0.0.1", port) as client:
        await client.until(RemoteSettingsChanged)
        stream = client.begin(SAY)
        data = framed(b"") * 2 + framed(bytes(300_000))[:-1]
        client.send(wire.head(60_000, wire.DATA, 0, stream) + data[:60_000])
        assert await client.status(stream) == "12"
        assert not door._larder.held_bytes


async def test_large_messages_that_do_not_fit_are_refused_and_small_ones_pass() -> None:
    async with open_door(GrpcOptions(max_held_bytes=1_000_000)) as (door, _, port):
        async with connect("127.0.0.1", port) as first, connect("127.0.0.1", port) as second:
            streams = []
            for client in (first, second):
                await client.until(RemoteSettingsChanged)
                streams.append(client.begin(SAY))
            message = framed(bytes(800_000))
            await send(first, streams[0], message[:-1])
            await until(lambda: door._larder.held_bytes > 700_000)
            await send(second, streams[1], message[:-1], until_refused=True)
            assert await second.status(streams[1]) == "8"
            assert await second.status(second.request(SAY, bytes(10_000))) == "0"
            first.h2.send_data(streams[0], message[-1:], end_stream=True)
            first.flush()
            assert await first.status(streams[0]) == "0"
            assert not door._larder.held_bytes
            again = second.begin(SAY)
            await send(second, again, message)
            second.h2.end_stream(again)
            second.flush()
            assert await second.status(again) == "0"


async def send(client: Raw, stream: int, data: bytes, *, until_refused: bool = False) -> None:
    """Send a part of a request as fast as the windows allow."""
    while data:
        room = min(client.h2.local_flow_control_window(stream), 16_384)
        if room > 0:
            client.h2.send_data(stream, data[:room])
            client.flush()
            data = data[room:]
        elif not await client.read() or (
            until_refused and any(isinstance(e, StreamReset) for e in client.events)
        ):
            return
        if until_refused and len(data) % 5 == 0:
            with anyio.move_on_after(0.01):
                await client.read()
            if any(isinstance(e, StreamReset) for e in client.events):
                return


async def test_a_drain_answers_what_runs_refuses_what_comes_and_says_goodbye() -> None:
    async with open_door() as (door, stage, port), connect("127.0.0.1", port) as client:
        await client.until(RemoteSettingsChanged)
        stage.is_open = False
        running = client.request(SAY, b"x")
        await until(lambda: stage.calls)
        async with anyio.create_task_group() as group:
            group.start_soon(door.drain)
            await until(lambda: door.why_unavailable())
            assert await client.status(client.request(SAY)) == "14"
            stage.calls[0].on_result(msgspec.msgpack.encode(GrpcStatus()), [memoryview(b"late")])
            assert await client.status(running) == "0"
        told = await client.until_closed()
        assert told is not None and told.error_code == ErrorCodes.NO_ERROR
        assert told.last_stream_id >= running


async def test_a_retiring_door_asks_idle_clients_to_leave_and_others_when_they_are() -> None:
    async with open_door() as (door, stage, port):
        async with connect("127.0.0.1", port) as idle, connect("127.0.0.1", port) as busy:
            await idle.until(RemoteSettingsChanged)
            stage.is_open = False
            running = busy.request(SAY, b"x")
            await until(lambda: stage.calls)
            async with anyio.create_task_group() as group:
                group.start_soon(door.retire, 60.0)
                left = await idle.until(ConnectionTerminated)
                assert left.error_code == ErrorCodes.NO_ERROR and left.last_stream_id == 2**31 - 1
                stage.calls[0].on_result(msgspec.msgpack.encode(GrpcStatus()), [memoryview(b"late")])
                assert await busy.status(running) == "0"
                await busy.until(ConnectionTerminated)
                for client in (idle, busy):
                    client.writer.close()  # as clients do that are told so


async def test_who_watches_health_is_told_of_a_retirement_and_watches_elsewhere() -> None:
    async with open_door() as (door, _, port), connect("127.0.0.1", port) as client:
        client.request("/grpc.health.v1.Health/Watch")
        told = await client.until(DataReceived)
        assert told.data == framed(b"\x08\x01")
        async with anyio.create_task_group() as group:
            group.start_soon(door.retire, 60.0)
            told_bytes = b""  # the library would read nothing after a GOAWAY
            bye = wire.goaway(2**31 - 1, 0)
            while (end := wire.field(b"grpc-status", b"14")) not in told_bytes:
                told_bytes += await client.reader.read(65536)
            assert 0 <= told_bytes.find(bye) < told_bytes.find(end)
            client.writer.close()


async def test_a_client_that_leaves_cancels_its_calls() -> None:
    async with open_door() as (door, stage, port):
        async with connect("127.0.0.1", port) as client:
            await client.until(RemoteSettingsChanged)
            client.begin(TALK)
            await until(lambda: stage.calls)
            client.writer.transport.abort()  # type: ignore[attr-defined]
            await until(lambda: stage.cancelled == stage.calls)
        await until(lambda: not door.accounts.ongoing)
        (account,) = (account for account in door.accounts if account.route == "app")
        assert {key: cell.count for key, cell in account.cells.items()} == {(TALK, "CANCELLED"): 1}
