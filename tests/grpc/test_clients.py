"""Other clients than grpc.aio's: grpclib, grpcio's threads, its reflection and health clients, and keepalive."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

import anyio
import grpc
import grpclib.client
import grpclib.exceptions
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.grpc.test_calls import WAIT
from tests.instances import Instance


async def test_grpclib_as_a_client(door: Instance, deploy: Any, pb: Any) -> None:
    await deploy(door)
    assert door.info.grpc_host is not None
    channel = grpclib.client.Channel(door.info.grpc_host, door.info.grpc_port)
    try:
        say = grpclib.client.UnaryUnaryMethod(channel, "/serve_lite.echo.Echo/Say", pb.Said, pb.Said)
        assert (await say(pb.Said(text="x", data=bytes(300_000)), timeout=20)).text == "x"
        repeat = grpclib.client.UnaryStreamMethod(channel, "/serve_lite.echo.Echo/Repeat", pb.Said, pb.Said)
        assert [said.count for said in await repeat(pb.Said(count=20), timeout=20)] == list(range(20))
        gather = grpclib.client.StreamUnaryMethod(channel, "/serve_lite.echo.Echo/Gather", pb.Said, pb.Said)
        assert (await gather([pb.Said(text="a"), pb.Said(text="b")], timeout=20)).text == "a,b"
        talk = grpclib.client.StreamStreamMethod(channel, "/serve_lite.echo.Echo/Converse", pb.Said, pb.Said)
        assert [said.text for said in await talk([pb.Said(text="a")], timeout=20)] == ["A"]
        fail = grpclib.client.UnaryUnaryMethod(channel, "/serve_lite.echo.Behave/Fail", pb.Said, pb.Said)
        with pytest.raises(grpclib.exceptions.GRPCError) as caught:
            await fail(pb.Said(text="code", count=9), timeout=20)
        assert (caught.value.status.name, caught.value.message) == ("FAILED_PRECONDITION", "as set")
    finally:
        channel.close()


async def test_grpcio_with_threads_as_a_client(door: Instance, deploy: Any, pb: Any) -> None:
    await deploy(door)
    stubs = importlib.import_module("serve_lite_echo_pb2_grpc")

    def talk() -> tuple[str, list[int], list[str]]:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"{door.info.grpc_host}:{door.info.grpc_port}", options) as channel:
            echo = stubs.EchoStub(channel)
            said = echo.Say(pb.Said(text="x"), **WAIT).text
            counts = [answer.count for answer in echo.Repeat(pb.Said(count=5), **WAIT)]
            talked = [a.text for a in echo.Converse(iter([pb.Said(text="a"), pb.Said(text="b")]), **WAIT)]
            return said, counts, talked

    assert await asyncio.to_thread(talk) == ("x", [0, 1, 2, 3, 4], ["A", "B"])


async def test_grpcio_s_reflection_client_finds_services_and_messages(door: Instance) -> None:
    def look() -> tuple[list[str], list[str]]:
        with grpc.insecure_channel(f"{door.info.grpc_host}:{door.info.grpc_port}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            services = list(database.get_services())
            found = DescriptorPool(database).FindServiceByName("serve_lite.echo.Echo")
            return services, [method.name for method in found.methods]

    services, methods = await asyncio.to_thread(look)
    assert services == ["serve_lite.echo.Echo", "serve_lite.echo.Behave"]
    assert methods == ["Say", "Repeat", "Gather", "Converse"]


async def test_grpcio_s_health_client_checks_and_watches(door: Instance, deploy: Any, client: Any) -> None:
    health = health_pb2_grpc.HealthStub(client(door).channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=""), **WAIT)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await deploy(door)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    told = await health.Check(health_pb2.HealthCheckRequest(service="serve_lite.echo.Echo"), **WAIT)
    assert told.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_client_s_keepalive_is_answered(door: Instance, deploy: Any, pb: Any, tmp_path: Any) -> None:
    await deploy(door)
    options = [
        ("grpc.keepalive_time_ms", 100), ("grpc.keepalive_timeout_ms", 5000),
        ("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]  # fmt: skip
    address = f"{door.info.grpc_host}:{door.info.grpc_port}"
    async with grpc.aio.insecure_channel(address, options) as channel:
        behave = importlib.import_module("serve_lite_echo_pb2_grpc").BehaveStub(channel)
        held = asyncio.ensure_future(behave.Hold(pb.Said(text=str(tmp_path)), **WAIT))
        states = []
        with anyio.move_on_after(2):  # twenty pings
            state = channel.get_state()
            while True:
                states.append(state)
                await channel.wait_for_state_change(state)
                state = channel.get_state()
        assert states[-1] == grpc.ChannelConnectivity.READY and not held.done()
        (tmp_path / "go").touch()
        assert (await held).text == "held"
