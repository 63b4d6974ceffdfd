"""Streams: back-pressure both ways, deadlines and cancels wherever a call just is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import grpc
import psutil
import pytest

from tests.grpc.test_calls import WAIT, failed
from tests.instances import Instance, until

MiB = 1024 * 1024


async def test_a_client_that_does_not_read_stops_the_handler(
    door: Instance, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    await deploy(door)
    behave = client(door).behave
    stream = behave.Flood(pb.Said(text=str(tmp_path), data=bytes(50_000)), **WAIT)
    assert (await stream.read()).count == 0
    count, seen = tmp_path / "count", -1
    with anyio.fail_after(20):
        while (now := int(count.read_text() or 0)) != seen:  # until it has come to a stop
            seen = now
            await anyio.sleep(0.5)
    assert seen < 1000  # of a million; how many depends on the buffers of the kernel and of grpcio
    for expected in range(1, seen + 500):
        assert (await stream.read()).count == expected
    stream.cancel()


async def test_a_handler_that_does_not_read_stops_the_client(
    door: Instance, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    await deploy(door)
    daemon = psutil.Process(await door.daemon_pid())
    call = client(door).behave.Ignore(**WAIT)
    await call.write(pb.Said(text=str(tmp_path)))
    before, sent = daemon.memory_info().rss, 0
    piece = pb.Said(data=bytes(100_000))
    while True:
        writing = asyncio.ensure_future(call.write(piece))
        done, _ = await asyncio.wait([writing], timeout=2)
        if not done:
            break
        sent += 1
    assert 0 < sent < 500
    assert daemon.memory_info().rss - before < 32 * MiB
    (tmp_path / "go").touch()
    await writing
    await call.done_writing()
    assert (await call).count == sent + 1


async def test_a_deadline_holds_for_a_call_that_waits_for_its_turn(
    door: Instance, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    await deploy(door, "one_at_a_time")
    behave = client(door).behave
    held = asyncio.ensure_future(behave.Hold(pb.Said(text=str(tmp_path), count=1), **WAIT))
    await until((tmp_path / "entered-1").exists)
    error = await failed(behave.Hold(pb.Said(text=str(tmp_path), count=2), timeout=0.3))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    (tmp_path / "go").touch()
    await held
    assert (await behave.SaySync(pb.Said(text="next"), **WAIT)).text == "next"
    assert not (tmp_path / "entered-2").exists()  # it was never run


async def test_a_call_that_waits_for_its_turn_may_be_cancelled(
    door: Instance, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    await deploy(door, "one_at_a_time")
    behave = client(door).behave
    held = asyncio.ensure_future(behave.Hold(pb.Said(text=str(tmp_path), count=1), **WAIT))
    await until((tmp_path / "entered-1").exists)
    waiting = behave.Hold(pb.Said(text=str(tmp_path), count=2), **WAIT)
    with anyio.move_on_after(0.3):
        await waiting.code()
    waiting.cancel()
    (tmp_path / "go").touch()
    await held
    assert (await behave.SaySync(pb.Said(text="next"), **WAIT)).text == "next"
    assert not (tmp_path / "entered-2").exists()


async def test_a_handler_sees_the_deadline_of_its_client(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(door)
    behave = client(door).behave
    left = float((await behave.TimeLeft(pb.Said(), timeout=20)).text)
    assert 0 < left <= 20
    assert (await behave.TimeLeft(pb.Said())).text == "None"


async def test_a_deadline_that_is_over_already_runs_nothing(
    door: Instance, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    await deploy(door)
    (tmp_path / "go").touch()
    for timeout in (0.0, 1e-9):
        error = await failed(client(door).behave.Hold(pb.Said(text=str(tmp_path), count=7), timeout=timeout))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await client(door).behave.SaySync(pb.Said(text="x"), **WAIT)).text == "x"
    assert not (tmp_path / "entered-7").exists()


async def test_a_client_that_cancels_while_it_sends_ends_the_handler(
    door: Instance, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    await deploy(door)
    call = client(door).behave.Listen(**WAIT)
    await call.write(pb.Said(text=str(tmp_path)))
    await until((tmp_path / "listening").exists)
    call.cancel()
    await until((tmp_path / "gone").exists)


@pytest.mark.parametrize("count", [1, 300])
async def test_many_conversations_share_one_connection(
    door: Instance, deploy: Any, client: Any, pb: Any, count: int
) -> None:
    await deploy(door, "wide")
    echo = client(door).echo

    async def talk(number: int) -> None:
        stream = echo.Converse(**WAIT)
        for turn in range(5):
            await stream.write(pb.Said(text=f"a{number}-{turn}"))
            assert (await stream.read()).text == f"A{number}-{turn}"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF

    await asyncio.gather(*(talk(number) for number in range(count)))
