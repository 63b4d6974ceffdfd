"""Generated modules, and an instance with a gRPC door."""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_tools import protoc

from tests.instances import Instance, Instances

HERE = Path(__file__).parent
PROTOS = HERE / "protos"
NAME = "serve_lite_echo"
SERVICERS = (f"{NAME}_pb2_grpc:add_EchoServicer_to_server", f"{NAME}_pb2_grpc.add_BehaveServicer_to_server")


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what protoc makes of the test's services, importable here too."""
    folder = tmp_path_factory.mktemp("generated")
    arguments = [
        "protoc",
        f"-I{PROTOS}",
        f"--python_out={folder}",
        f"--grpc_python_out={folder}",
        f"{NAME}.proto",
        "ray_serve.proto",
    ]
    assert protoc.main(arguments) == 0
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
async def instances(generated: Path, anyio_backend: str) -> AsyncIterator[Instances]:
    """A factory of instances, made when grpcio has opened the descriptors that this process keeps for its sake."""
    async with grpc.aio.insecure_channel("unix:/nowhere") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/no.Such/Method")(b"")
        factory = Instances()
        yield factory
        await factory.close()


@pytest.fixture
def pb(generated: Path) -> Any:
    return importlib.import_module(f"{NAME}_pb2")


@pytest.fixture
def given(instances: Instances, generated: Path) -> Callable[..., Any]:
    """Return options of an instance that serves the test's services."""

    def options(**more: Any) -> Any:
        standard = {"grpc_port": 0, "grpc_servicer_functions": SERVICERS, "grpc_sys_path": (str(generated),)}
        return instances.options(**{**standard, **more})

    return options


@pytest.fixture
async def door(instances: Instances, given: Callable[..., Any]) -> Instance:
    """An instance with a gRPC door and nothing deployed."""
    return await instances.start(given())


@pytest.fixture
async def deploy(generated: Path) -> Callable[..., Any]:
    """Deploy an application of `echo_app` on an instance."""

    async def deploy(instance: Instance, app: str = "app", **more: Any) -> None:
        status = await instance.deploy(f"echo_app:{app}", folder=HERE, also=[generated], **more)
        told = status.applications[more.get("name", "default")]
        assert told.status == "RUNNING", told

    return deploy


@pytest.fixture
async def client(generated: Path) -> AsyncIterator[Callable[[Instance], Any]]:
    """Return stubs of both services, as `.echo` and `.behave`, with their `.channel`."""
    stubs = importlib.import_module(f"{NAME}_pb2_grpc")
    channels = []

    def connect(instance: Instance) -> SimpleNamespace:
        assert instance.info.grpc_host is not None
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
        ]
        channel = grpc.aio.insecure_channel(f"{instance.info.grpc_host}:{instance.info.grpc_port}", options)
        channels.append(channel)
        return SimpleNamespace(
            channel=channel, echo=stubs.EchoStub(channel), behave=stubs.BehaveStub(channel)
        )

    yield connect
    for channel in channels:
        await channel.close()
