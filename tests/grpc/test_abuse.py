"""Clients that mean harm: the daemon's memory is bounded, others are served, and they are told to go away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import grpc
import psutil
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, RemoteSettingsChanged, StreamReset
from h2.settings import SettingCodes
from hpack import Encoder

from serve_lite.proxy import h2_wire as wire
from tests.grpc.raw import SAY, framed, raw
from tests.grpc.test_calls import WAIT, failed
from tests.instances import Instance, Instances

MiB = 1024 * 1024


async def rss(door: Instance) -> int:
    return int(psutil.Process(await door.daemon_pid()).memory_info().rss)


def header_frame(stream: int, *more: tuple[str, str]) -> bytes:
    """A whole request without an end of its body, its fields not in any table."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", SAY), (":authority", "a")]
    fields += [("content-type", "application/grpc"), *more]
    block = b"".join(wire.field(name.encode(), value.encode()) for name, value in fields)
    return wire.head(len(block), wire.HEADERS, wire.END_HEADERS, stream) + block


def reset_flood() -> bytes:
    return b"".join(header_frame(n) + wire.rst_stream(n, wire.CANCEL) for n in range(1, 20_001, 2))


def bomb() -> bytes:
    """One small block after the other, each of which stands for a quarter of a megabyte."""
    field = b"\x40" + wire.text(b"bomb") + wire.text(b"x" * 3000)
    block = Encoder().encode([(":method", "POST")]) + field + b"\xbe" * 60_000
    return wire.head(len(block), wire.HEADERS, wire.END_HEADERS, 1) + block


def endless_block() -> bytes:
    start = wire.head(0, wire.HEADERS, 0, 1)
    return start + (wire.head(16_000, wire.CONTINUATION, 0, 1) + bytes(16_000)) * 1000


ATTACKS = {
    "streams that are opened and reset": (reset_flood, "too many requests were reset"),
    "a small block that is large": (bomb, "a header list is too large"),
    "a header block without end": (endless_block, "a header block does not end"),
    "pings": (lambda: (wire.head(8, wire.PING, 0, 0) + bytes(8)) * 20_000, "too_many_pings"),
    "settings": (lambda: wire.settings({}) * 20_000, "too many SETTINGS"),
    "priorities": (
        lambda: (wire.head(5, wire.PRIORITY, 0, 3) + bytes(5)) * 20_000,
        "too many frames without effect",
    ),
    "empty DATA": (
        lambda: header_frame(1) + wire.head(0, wire.DATA, 0, 1) * 20_000,
        "too many empty DATA frames",
    ),
}


async def test_floods_end_their_connection_and_harm_nobody(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(door)
    echo = client(door).echo
    assert (await echo.Say(pb.Said(text="before"), **WAIT)).text == "before"
    before, ended = await rss(door), {}

    async def attack(name: str, data: bytes) -> None:
        async with raw(door) as enemy:
            await enemy.until(RemoteSettingsChanged)
            enemy.send(data)
            told = await enemy.until_closed()
            assert enemy.is_closed
            if told is not None:
                assert told.error_code == ErrorCodes.ENHANCE_YOUR_CALM
                ended[name] = (told.additional_data or b"").decode()

    for _ in range(3):
        async with asyncio.TaskGroup() as group:
            for name, (make, _reason) in ATTACKS.items():
                group.create_task(attack(name, make()))
            for number in range(20):
                assert (await echo.Say(pb.Said(text=str(number)), **WAIT)).text == str(number)
    # Who is cut off while still sending may see the connection reset before it has read why.
    assert all(ended[name] == ATTACKS[name][1] for name in ended)
    assert ended
    assert (await echo.Say(pb.Said(text="after"), **WAIT)).text == "after"
    assert await rss(door) - before < 64 * MiB


async def test_too_many_requests_at_once_are_refused_for_another_try(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(door)
    async with raw(door) as many:
        settings = await many.until(RemoteSettingsChanged)
        limit = settings.changed_settings[wire.MAX_CONCURRENT_STREAMS].new_value
        assert limit == 10_000
        for number in range(1, 2 * limit + 3, 2):
            many.send(header_frame(number))
            if number % 1000 == 1:
                await many.writer.drain()
        data = b""
        refused = wire.rst_stream(2 * limit + 1, wire.REFUSED_STREAM)
        while refused not in data:
            piece = await asyncio.wait_for(many.reader.read(65536), 30)
            assert piece
            data += piece
        assert (await client(door).echo.Say(pb.Said(text="others"), **WAIT)).text == "others"


async def test_a_large_message_that_does_not_fit_is_refused_and_small_ones_are_not(
    instances: Instances, given: Any, deploy: Any, client: Any, pb: Any
) -> None:
    """Many clients begin a large message and end none: what is kept of them has a bound."""
    door = await instances.start(given())
    await deploy(door)
    echo = client(door).echo
    await echo.Say(pb.Said(), **WAIT)
    memory = psutil.virtual_memory().total
    async with raw(door) as slow:
        await slow.until(RemoteSettingsChanged)
        stream = slow.begin(SAY)
        announced = b"\0" + (2**31 - 2).to_bytes(4, "big")
        slow.h2.send_data(stream, announced)
        slow.flush()
        before = await rss(door)
        assert (await echo.Say(pb.Said(text="small"), **WAIT)).text == "small"
        assert await rss(door) - before < min(64 * MiB, memory // 8)  # to announce much costs nothing


async def test_tiny_frames_of_many_unfinished_messages_cost_little(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(door)
    echo = client(door).echo
    await echo.Say(pb.Said(), **WAIT)
    before = await rss(door)
    async with raw(door) as tiny:
        await tiny.until(RemoteSettingsChanged)
        for number in range(1, 201, 2):
            tiny.send(header_frame(number) + wire.head(5, wire.DATA, 0, number) + b"\0\0\0\xff\xff")
            tiny.send((wire.head(1, wire.DATA, 0, number) + b"x") * 2000)
            await tiny.writer.drain()
        for number in range(10):  # after each the others have had their turn
            assert (await echo.Say(pb.Said(text=str(number)), **WAIT)).text == str(number)
    assert await rss(door) - before < 32 * MiB


async def test_a_client_that_reads_nothing_stops_its_own_answers_only(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(door)
    echo = client(door).echo
    await echo.Say(pb.Said(), **WAIT)
    before = await rss(door)
    message = pb.Said(count=200_000, data=b"x" * 5_000).SerializeToString()  # a gigabyte to come, ten times
    async with raw(door) as deaf:
        deaf.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
        deaf.h2.increment_flow_control_window(2**31 - 1 - 65_535)
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(10):
            deaf.request("/serve_lite.echo.Echo/Repeat", message)
        await deaf.writer.drain()
        for number in range(20):
            assert (await echo.Say(pb.Said(text=str(number)), **WAIT)).text == str(number)
        assert await rss(door) - before < 64 * MiB
    assert (await echo.Say(pb.Said(text="after"), **WAIT)).text == "after"


async def test_a_stream_that_nobody_reads_does_not_stop_the_others_of_its_connection(
    door: Instance, deploy: Any, pb: Any, tmp_path: Path
) -> None:
    await deploy(door)
    async with raw(door) as both:
        await both.until(RemoteSettingsChanged)
        stuck = both.begin("/serve_lite.echo.Behave/Ignore")
        data = framed(pb.Said(text=str(tmp_path)).SerializeToString())
        data += framed(pb.Said(data=bytes(50_000)).SerializeToString()) * 100
        sent = 0
        while (room := min(both.h2.local_flow_control_window(stuck), 16_384, len(data) - sent)) > 0:
            both.h2.send_data(stuck, data[sent : sent + room])
            both.flush()
            sent += room
            if not both.h2.local_flow_control_window(stuck):
                with anyio.move_on_after(1):  # what the replica takes ahead makes room a few times
                    await both.read()
        assert sent < len(data)
        assert await both.status(both.request(SAY, pb.Said(text="free").SerializeToString())) == "0"
        (tmp_path / "go").touch()
        while sent < len(data):
            room = min(both.h2.local_flow_control_window(stuck), 16_384, len(data) - sent)
            if room > 0:
                both.h2.send_data(stuck, data[sent : sent + room])
                both.flush()
                sent += room
            else:
                assert await both.read()
        both.h2.end_stream(stuck)
        both.flush()
        assert await both.status(stuck) == "0"


async def test_connections_beyond_the_limit_are_turned_away(
    instances: Instances, given: Any, deploy: Any, client: Any, pb: Any
) -> None:
    door = await instances.start(given(grpc_max_connections=2))
    await deploy(door)
    first = client(door)
    assert (await first.echo.Say(pb.Said(text="first"), **WAIT)).text == "first"
    async with raw(door) as second:
        await second.until(RemoteSettingsChanged)
        async with raw(door) as third:
            told = await third.until_closed()
            assert told is not None and told.additional_data == b"too_many_connections"
        error = await failed(client(door).echo.Say(pb.Said(), timeout=2))
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert (await first.echo.Say(pb.Said(text="again"), **WAIT)).text == "again"
    late = client(door).echo.Say(pb.Said(text="late"), wait_for_ready=True, **WAIT)
    assert (await late).text == "late"


async def test_a_malformed_request_ends_alone(door: Instance, deploy: Any, pb: Any) -> None:
    await deploy(door)
    async with raw(door) as client:
        await client.until(RemoteSettingsChanged)
        for more in (
            ("Upper", "1"),
            ("connection", "close"),
            ("te", "gzip"),
            ("content-length", "x"),
            ("a b", "1"),
        ):
            stream = client.begin(SAY, more)
            reset = await client.until(StreamReset, lambda event, stream=stream: event.stream_id == stream)
            assert reset.error_code == ErrorCodes.PROTOCOL_ERROR
        assert await client.status(client.request(SAY)) == "0"
        assert not any(isinstance(event, ConnectionTerminated) for event in client.events)
