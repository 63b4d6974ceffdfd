"""Deadlines, cancels, limits, drains and deaths on the gRPC door."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

import serve_lite as serve
from serve_lite.exceptions import InstanceError
from tests.grpc.conftest import HERE, SERVICERS
from tests.grpc.test_calls import WAIT, failed
from tests.instances import Instance, Instances, until


async def test_a_client_that_cancels_cancels_the_handler_and_what_it_called(
    door: Instance, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    await deploy(door, "parent")
    call = client(door).behave.Hold(pb.Said(text=str(tmp_path)), **WAIT)
    await until((tmp_path / "child-entered").exists)
    call.cancel()
    await until((tmp_path / "child-cancelled").exists)


async def test_a_client_that_cancels_a_stream_ends_the_generator(
    door: Instance, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    await deploy(door)
    stream = client(door).behave.HoldStream(pb.Said(text=str(tmp_path)), **WAIT)
    assert (await stream.read()).text == "first"
    stream.cancel()
    await until((tmp_path / "stream-ended").exists)


async def test_the_client_s_deadline_ends_the_work(
    door: Instance, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    await deploy(door, "parent")
    error = await failed(client(door).behave.Hold(pb.Said(text=str(tmp_path)), timeout=1.0))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until((tmp_path / "child-cancelled").exists)


async def test_the_instance_s_time_limit_ends_the_work(
    instances: Instances, given: Any, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    door = await instances.start(given(grpc_request_timeout_s=0.5))
    await deploy(door, "parent")
    error = await failed(client(door).behave.Hold(pb.Said(text=str(tmp_path)), **WAIT))
    assert (error.code().name, error.details()) == ("DEADLINE_EXCEEDED", "Request timed out after 0.5s.")
    assert dict(error.trailing_metadata())["request_id"]
    await until((tmp_path / "child-cancelled").exists)


async def test_what_finds_neither_room_nor_a_place_in_the_queue_is_refused(
    door: Instance, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    await deploy(door, "narrow")
    behave = client(door).behave
    held = asyncio.ensure_future(behave.Hold(pb.Said(text=str(tmp_path)), **WAIT))
    await until((tmp_path / "entered-0").exists)
    two = [asyncio.ensure_future(behave.SaySync(pb.Said(), **WAIT)) for _ in range(2)]
    done, waiting = await asyncio.wait(two, return_when=asyncio.FIRST_COMPLETED)
    assert [(await failed(call)).code().name for call in done] == ["RESOURCE_EXHAUSTED"]
    (tmp_path / "go").touch()
    assert [await call for call in waiting] == [pb.Said()]
    assert (await held).text == "held"
    assert (await behave.SaySync(pb.Said(text="again"), **WAIT)).text == "again"


async def test_a_replica_never_has_more_requests_than_it_takes_and_those_that_wait_are_answered(
    door: Instance, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    await deploy(door, "one_at_a_time")
    here = client(door)
    held = [
        asyncio.ensure_future(here.behave.Hold(pb.Said(text=str(tmp_path), count=n), **WAIT))
        for n in range(3)
    ]
    await until(lambda: list(tmp_path.glob("entered-*")))
    streamed = asyncio.ensure_future(here.echo.Gather(iter([pb.Said(text="a"), pb.Said(text="b")]), **WAIT))
    (tmp_path / "go").touch()
    assert [said.count for said in await asyncio.gather(*held)] == [1, 1, 1]
    assert (await streamed).text == "a,b"


async def test_a_shutdown_lets_requests_finish_and_refuses_new_ones(
    door: Instance, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    await deploy(door)
    behave = client(door).behave
    held = asyncio.ensure_future(behave.Hold(pb.Said(text=str(tmp_path)), **WAIT))
    await until((tmp_path / "entered-0").exists)
    os.kill(door.keeper_pid, signal.SIGTERM)

    async def is_refused() -> bool:
        try:
            await behave.SaySync(pb.Said(), **WAIT)
        except grpc.aio.AioRpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            return True
        return False

    while not await is_refused():  # ends with the refusal; pytest has a deadline
        await asyncio.sleep(0.01)
    (tmp_path / "go").touch()
    assert (await held).text == "held"
    await door.gone()


async def test_a_killed_daemon_comes_back_with_its_services_even_if_their_module_is_gone(
    instances: Instances, given: Any, deploy: Any, client: Any, pb: Any, generated: Path, tmp_path: Path
) -> None:
    for file in generated.glob("*.py"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    door = await instances.start(given(grpc_sys_path=(str(tmp_path),)))
    await deploy(door)
    before = await client(door).behave.Pid(pb.Said(), **WAIT)
    for file in tmp_path.glob("*.py"):
        file.unlink()
    os.kill(await door.daemon_pid(), signal.SIGKILL)
    after = await client(door).behave.Pid(pb.Said(), wait_for_ready=True, **WAIT)
    assert after.count == before.count  # the same replica


async def test_a_replica_that_dies_fails_what_it_had_accepted_and_the_next_one_answers(
    door: Instance, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    await deploy(door)
    behave = client(door).behave
    pid = (await behave.Pid(pb.Said(), **WAIT)).count
    held = asyncio.ensure_future(behave.Hold(pb.Said(text=str(tmp_path)), **WAIT))
    await until((tmp_path / "entered-0").exists)
    os.kill(pid, signal.SIGKILL)
    error = await failed(held)
    assert (error.code().name, "died" in error.details()) == ("INTERNAL", True)
    assert (await behave.Pid(pb.Said(), **WAIT)).count != pid


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("no_such_module:add", "There is no module 'no_such_module'"),
        (f"{SERVICERS[0]}x", "Did you mean 'add_EchoServicer_to_server'"),
        ("json:dumps", "cannot be called with a servicer and a server"),
        ("json:decoder", "no servicer function"),
    ],
)
async def test_a_servicer_function_that_is_none_ends_the_start_with_the_reason(
    instances: Instances, given: Any, function: str, told: str
) -> None:
    with pytest.raises(InstanceError) as caught:
        await instances.start(given(grpc_servicer_functions=(function,)))
    assert told in str(caught.value)


async def test_a_service_class_of_grpclib_will_do(
    instances: Instances, given: Any, deploy: Any, client: Any, pb: Any, generated: Path
) -> None:
    paths = (str(HERE), str(generated))
    door = await instances.start(
        given(grpc_servicer_functions=("grpclib_services:EchoBase",), grpc_sys_path=paths)
    )
    await deploy(door)
    echo = client(door).echo
    assert (await echo.Say(pb.Said(text="x"), **WAIT)).text == "x"
    talked = [said.text async for said in echo.Converse(iter([pb.Said(text="a"), pb.Said(text="b")]), **WAIT)]
    assert talked == ["A", "B"]
    assert (await failed(echo.Gather(iter([]), **WAIT))).code().name == "UNIMPLEMENTED"


async def test_a_missing_grpcio_is_told_with_what_to_install(
    instances: Instances, given: Any, tmp_path: Path
) -> None:
    (tmp_path / "needs_it.py").write_text("import grpc_not_there\n")
    (tmp_path / "grpc_blocked.py").write_text("raise ModuleNotFoundError('no grpc', name='grpc')\n")
    for module, told in (("grpc_blocked", "pip install 'serve-lite[grpc]'"), ("needs_it", "grpc_not_there")):
        options = given(grpc_servicer_functions=(f"{module}:add",), grpc_sys_path=(str(tmp_path),))
        with pytest.raises(InstanceError) as caught:
            await instances.start(options)
        assert told in str(caught.value)


async def test_there_is_no_door_without_servicer_functions(daemon: Instance) -> None:
    assert (daemon.info.grpc_host, daemon.info.grpc_port) == (None, 0)


async def test_a_script_s_start_opens_the_door(
    instances: Instances, generated: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = instances.options()
    monkeypatch.setenv("SERVE_LITE_HOME", options.home)
    monkeypatch.setenv("SERVE_LITE_ADMIN_PORT", "0")
    grpc_options = {"port": 0, "grpc_servicer_functions": list(SERVICERS)}
    await asyncio.to_thread(serve.start, http_options={"port": 0}, grpc_options=grpc_options)
    door = await instances.join(options)
    shown = (await door.admin.get("/api/serve/applications/")).json()["grpc_options"]
    assert shown["port"] == door.info.grpc_port
    assert shown["grpc_servicer_functions"] == list(SERVICERS)
    channel = client(door).channel
    assert (
        await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", **WAIT) == b"\x08\x02"
    )  # NOT_SERVING
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError):
        serve.start(grpc_options={"grpc_servicer_functions": ["no_such_module:add"]})
    await asyncio.to_thread(serve.shutdown)
