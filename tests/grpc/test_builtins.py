"""What the gRPC door answers itself, asked with the messages of protobuf."""

from __future__ import annotations

import importlib
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpclib.reflection.v1.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from serve_lite.proxy import grpc_builtins
from tests.grpc.test_calls import WAIT, failed
from tests.instances import Instance, Instances

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


async def test_ray_s_service_tells_applications_and_health(door: Instance, deploy: Any, client: Any) -> None:
    ray = importlib.import_module("ray_serve_pb2")
    stub = importlib.import_module("ray_serve_pb2_grpc").RayServeAPIServiceStub(client(door).channel)
    assert (await failed(stub.Healthz(ray.HealthzRequest(), **WAIT))).code().name == "UNAVAILABLE"
    await deploy(door, name="one", route_prefix="/one")
    await deploy(door, name="two", route_prefix="/two")
    told = await stub.ListApplications(ray.ListApplicationsRequest(), **WAIT)
    assert sorted(told.application_names) == ["one", "two"]
    assert (await stub.Healthz(ray.HealthzRequest(), **WAIT)).message == "success"


async def test_the_standard_health_check_follows_what_is_deployed(
    door: Instance, deploy: Any, client: Any
) -> None:
    channel = client(door).channel
    messages = HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
    check = channel.unary_unary("/grpc.health.v1.Health/Check", *messages)
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch", *messages)
    seen = watch(HealthCheckRequest(service="serve_lite.echo.Echo"), **WAIT)
    assert (await seen.read()).status == NOT_SERVING
    assert (await check(HealthCheckRequest(), **WAIT)).status == NOT_SERVING
    await deploy(door)
    assert (await seen.read()).status == SERVING
    assert (await check(HealthCheckRequest(service="serve_lite.echo.Behave"), **WAIT)).status == SERVING
    assert (await failed(check(HealthCheckRequest(service="no.Such"), **WAIT))).code().name == "NOT_FOUND"
    unknown = watch(HealthCheckRequest(service="no.Such"), **WAIT)
    assert (await unknown.read()).status == HealthCheckResponse.SERVICE_UNKNOWN


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_tells_the_users_services_and_their_files(
    door: Instance, client: Any, pb: Any, version: str
) -> None:
    ask = client(door).channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        ServerReflectionRequest.SerializeToString,
        ServerReflectionResponse.FromString,
    )
    asked = [
        ServerReflectionRequest(host="h", list_services=""),
        ServerReflectionRequest(file_containing_symbol="serve_lite.echo.Echo"),
        ServerReflectionRequest(file_containing_symbol="serve_lite.echo.Said"),
        ServerReflectionRequest(file_by_filename="serve_lite_echo.proto"),
        ServerReflectionRequest(file_containing_symbol="no.Such"),
    ]
    listed, *files, missing = [answer async for answer in ask(iter(asked), **WAIT)]
    names = [service.name for service in listed.list_services_response.service]
    assert names == ["serve_lite.echo.Echo", "serve_lite.echo.Behave"]
    assert (listed.valid_host, listed.original_request) == ("h", asked[0])
    expected = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(expected)
    for answer in files:
        (content,) = answer.file_descriptor_response.file_descriptor_proto
        assert FileDescriptorProto.FromString(content) == expected
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_reflection_can_be_turned_off(instances: Instances, given: Any, client: Any) -> None:
    door = await instances.start(given(grpc_enable_reflection=False))
    # As a unary call: a streaming client that is answered while it still sends may call that an error of its own.
    ask = client(door).channel.unary_unary("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    error = await failed(ask(b"", **WAIT))
    assert error.code().name == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    "message", [b"\x0a", b"\x0a\x05abc", b"\xff\xff", b"\x0b", b"\x80" * 12, b"\x09\x00"]
)
def test_what_is_no_protobuf_message_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError):
        grpc_builtins.asked_service(message)


def test_fields_that_are_not_known_are_passed_over() -> None:
    service = HealthCheckRequest(service="s" * 300).SerializeToString()
    others = b"\x10\x96\x01" + b"\x19" + bytes(8) + b"\x25" + bytes(4)  # a varint, a fixed64, a fixed32
    assert grpc_builtins.asked_service(others + service + others) == "s" * 300
