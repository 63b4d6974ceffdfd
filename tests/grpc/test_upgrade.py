"""`serve upgrade` under gRPC load: no call fails, and streams that are open go on."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import grpc

from tests.cli.commands import Cli
from tests.grpc.conftest import HERE
from tests.grpc.test_calls import WAIT
from tests.instances import Instance, is_running, until


async def test_no_call_fails(door: Instance, deploy: Any, client: Any, pb: Any) -> None:
    await deploy(door)
    old = await door.daemon_pid()
    busy, now_and_then, talking = client(door), client(door), client(door)
    answered, failed, is_over = 0, [], False

    async def repeat() -> None:
        nonlocal answered
        while not is_over:
            try:
                assert (await busy.echo.Say(pb.Said(text="a"), **WAIT)).text
                answered += 1
            except grpc.aio.AioRpcError as error:
                failed.append(f"{error.code()}: {error.details()}")

    conversation = talking.echo.Converse(**WAIT)
    await conversation.write(pb.Said(text="before"))
    first = await conversation.read()
    await now_and_then.echo.Say(pb.Said(text="a"), **WAIT)
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(repeat())
        await until(lambda: answered > 50 or failed, "calls are answered")
        done = await Cli(door.home, HERE)("upgrade", "--grace-period", "8")
        assert done.code == 0, done
        seen = answered
        await until(lambda: answered > seen + 50 or failed, "calls are answered")
        await now_and_then.echo.Say(pb.Said(text="a"), **WAIT)  # its connection was idle
        assert is_running(old)
        await conversation.write(pb.Said(text="after"))
        assert (await conversation.read()).text == first.text.replace("BEFORE", "AFTER")
        await conversation.done_writing()
        assert await conversation.read() is grpc.aio.EOF
        # The busy connection goes over while it is busy: its client keeps to the protocol.
        await until(lambda: not is_running(old) or failed, "the old daemon ends")
        is_over = True
    assert not failed


async def test_an_open_call_is_answered_by_the_old_daemon(
    door: Instance, deploy: Any, client: Any, pb: Any, tmp_path: Any
) -> None:
    await deploy(door)
    stub = client(door)
    pid = (await stub.behave.Pid(pb.Said(), **WAIT)).count
    stream = stub.behave.HoldStream(pb.Said(text=str(tmp_path)), **WAIT)
    assert (await stream.read()).text == "first"
    assert (await Cli(door.home, HERE)("upgrade")).code == 0
    assert (await stub.behave.Pid(pb.Said(), **WAIT)).count == pid  # same connection, same replica
    stream.cancel()
    await until((tmp_path / "stream-ended").exists)
    os.kill(pid, 0)
