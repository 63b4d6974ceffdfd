"""gRPC over TLS, with grpcio as the client."""

from __future__ import annotations

import ast
import importlib
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.grpc.test_calls import WAIT, failed
from tests.instances import Instance, Instances
from tests.proxy.test_tls_files import make


def channel(
    door: Instance, ca: bytes, key: bytes | None = None, cert: bytes | None = None
) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(ca, key, cert)
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(f"{door.info.grpc_host}:{door.info.grpc_port}", credentials, options)


def stubs(channel: grpc.aio.Channel) -> Any:
    module = importlib.import_module("serve_lite_echo_pb2_grpc")
    return module.EchoStub(channel), module.BehaveStub(channel)


async def start(instances: Instances, given: Any, folder: Path, **more: Any) -> Instance:
    make(folder, "door")
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    return await instances.start(given(ssl_certfile=cert, ssl_keyfile=key, **more))


async def test_every_kind_of_call_goes_over_tls_and_plain_ones_do_not(
    instances: Instances, given: Any, deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    door = await start(instances, given, tmp_path)
    await deploy(door)
    async with channel(door, (tmp_path / "cert.pem").read_bytes()) as secure:
        echo, _ = stubs(secure)
        large = bytes(range(256)) * 4096 * 3  # 3 MiB
        assert (await echo.Say(pb.Said(data=large), **WAIT)).data == large
        assert [said.count async for said in echo.Repeat(pb.Said(count=50), **WAIT)] == list(range(50))
        assert (await echo.Gather(iter([pb.Said(text="a"), pb.Said(text="b")]), **WAIT)).text == "a,b"
        talked = [said.text async for said in echo.Converse(iter([pb.Said(text="x")]), **WAIT)]
        assert talked == ["X"]
    error = await failed(client(door).echo.Say(pb.Said(), **WAIT))
    assert error.code() == grpc.StatusCode.UNAVAILABLE


async def test_who_does_not_know_the_certificate_does_not_speak_to_it(
    instances: Instances, given: Any, pb: Any, tmp_path: Path
) -> None:
    door = await start(instances, given, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    make(other, "other")
    async with channel(door, (other / "cert.pem").read_bytes()) as suspicious:
        error = await failed(stubs(suspicious)[0].Say(pb.Said(), **WAIT))
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert "certificate" in error.details().lower() or "ssl" in error.details().lower()


async def test_alpn_names_h2_and_versions_before_1_2_are_refused(
    instances: Instances, given: Any, generated: Path, tmp_path: Path
) -> None:
    door = await start(instances, given, tmp_path)
    command = [
        "openssl",
        "s_client",
        "-connect",
        f"{door.info.grpc_host}:{door.info.grpc_port}",
        "-alpn",
        "h2",
    ]
    told = subprocess.run(command, input=b"", capture_output=True, timeout=30).stdout.decode()
    assert "ALPN protocol: h2" in told
    old = subprocess.run([*command, "-tls1_1"], input=b"", capture_output=True, timeout=30)
    assert old.returncode != 0 or "Cipher is (NONE)" in old.stdout.decode()


async def test_clients_without_a_certificate_are_refused_where_one_is_asked_for(
    instances: Instances, given: Any, deploy: Any, pb: Any, tmp_path: Path
) -> None:
    door = await start(instances, given, tmp_path, ssl_ca_certs=str(tmp_path / "cert.pem"))
    await deploy(door)
    ca, key = (tmp_path / "cert.pem").read_bytes(), (tmp_path / "key.pem").read_bytes()
    async with channel(door, ca) as unknown, channel(door, ca, key, ca) as known:
        assert (await failed(stubs(unknown)[0].Say(pb.Said(), **WAIT))).code() == grpc.StatusCode.UNAVAILABLE
        assert (await stubs(known)[0].Say(pb.Said(text="me"), **WAIT)).text == "me"


async def test_a_handler_hears_whose_certificate_came(
    instances: Instances, given: Any, deploy: Any, pb: Any, tmp_path: Path
) -> None:
    door = await start(instances, given, tmp_path, ssl_ca_certs=str(tmp_path / "cert.pem"))
    await deploy(door)
    ca, key = (tmp_path / "cert.pem").read_bytes(), (tmp_path / "key.pem").read_bytes()
    async with channel(door, ca, key, ca) as known:
        told = ast.literal_eval((await stubs(known)[1].Who(pb.Said(), **WAIT)).text)
    names = {
        "transport_security_type": [b"ssl"],
        "x509_common_name": [b"door"],
        "x509_subject_alternative_name": [b"127.0.0.1"],
    }
    assert told == (names, [b"127.0.0.1"], "x509_subject_alternative_name")


async def test_without_a_certificate_a_handler_hears_of_nobody(
    door: Instance, deploy: Any, client: Any, pb: Any
) -> None:
    await deploy(door)
    told = ast.literal_eval((await client(door).behave.Who(pb.Said(), **WAIT)).text)
    assert told == ({}, None, None)


async def test_changed_certificates_are_taken_and_open_connections_go_on(
    instances: Instances, given: Any, deploy: Any, pb: Any, tmp_path: Path
) -> None:
    door = await start(instances, given, tmp_path)
    await deploy(door)
    async with channel(door, (tmp_path / "cert.pem").read_bytes()) as old:
        stream = stubs(old)[0].Converse(**WAIT)
        await stream.write(pb.Said(text="before"))
        assert (await stream.read()).text == "BEFORE"
        make(tmp_path, "new")
        os.kill(await door.daemon_pid(), signal.SIGHUP)

        async def is_new() -> bool:
            try:
                async with channel(door, (tmp_path / "cert.pem").read_bytes()) as new:
                    return bool((await stubs(new)[0].Say(pb.Said(text="new"), timeout=10)).text)
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE
                return False

        while not await is_new():  # ends with the new certificate; pytest has a deadline
            continue
        await stream.write(pb.Said(text="after"))
        assert (await stream.read()).text == "AFTER"
        await stream.done_writing()
        assert await stream.code() == grpc.StatusCode.OK


@pytest.mark.parametrize("size", [0, 100])
async def test_a_client_that_never_shakes_hands_does_no_harm(
    instances: Instances, given: Any, deploy: Any, pb: Any, tmp_path: Path, size: int
) -> None:
    door = await start(instances, given, tmp_path)
    await deploy(door)
    sockets = []
    for _ in range(50):
        sock = socket.create_connection((door.info.grpc_host, door.info.grpc_port))
        sock.sendall(bytes(size))
        sockets.append(sock)
    async with channel(door, (tmp_path / "cert.pem").read_bytes()) as secure:
        assert (await stubs(secure)[0].Say(pb.Said(text="me"), **WAIT)).text == "me"
    for sock in sockets:
        sock.close()
