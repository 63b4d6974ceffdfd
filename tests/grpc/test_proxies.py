"""gRPC with `proxy_processes`: answered outside the daemon, through kills and upgrades of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tests.cli.commands import Cli
from tests.grpc.conftest import HERE
from tests.grpc.test_calls import WAIT
from tests.instances import Instance, Instances, until


@pytest.fixture
async def behind(instances: Instances, given: Callable[..., Any]) -> Instance:
    """An instance with a gRPC door in two proxies."""
    return await instances.start(given(proxy_processes=2))


async def test_calls_are_answered_while_the_daemon_stands_still(
    behind: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(behind)
    assert (await client(behind).echo.Say(pb.Said(text="a"), **WAIT)).text  # there is a proxy
    daemon = await behind.daemon_pid()
    os.kill(daemon, signal.SIGSTOP)
    try:
        assert (await client(behind).echo.Say(pb.Said(text="a"), **WAIT)).text
        assert (await client(behind).behave.Pid(pb.Said(), **WAIT)).count in behind.pids("replica")
    finally:
        os.kill(daemon, signal.SIGCONT)


async def test_no_call_fails_when_the_daemon_is_killed_and_upgraded(
    behind: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(behind)
    proxies, busy = behind.pids("proxy"), client(behind)
    answered, failed, is_over = 0, [], False

    async def repeat() -> None:
        nonlocal answered
        while not is_over:
            try:
                assert (await busy.echo.Say(pb.Said(text="a"), **WAIT)).text
                answered += 1
            except grpc.aio.AioRpcError as error:
                failed.append(f"{error.code()}: {error.details()}")

    async def more() -> None:
        seen = answered
        await until(lambda: answered > seen + 50 or failed, "calls are answered")

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(repeat())
        await more()
        os.kill(await behind.daemon_pid(), signal.SIGKILL)
        await more()
        done = await Cli(behind.home, HERE)("upgrade", "--grace-period", "8")
        assert done.code == 0, done
        await more()
        await until(lambda: not behind.pids("proxy") & proxies or failed, "the old proxies end")
        is_over = True
    assert not failed


async def test_a_service_that_cannot_be_imported_ends_the_start(
    instances: Instances, given: Callable[..., Any]
) -> None:
    with pytest.raises(Exception, match="no_such_module"):
        await instances.start(
            given(proxy_processes=1, grpc_servicer_functions=("no_such_module:add_X_to_server",))
        )
