"""Certificates: versions, reading them again, asking clients for theirs, and files that are none."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from serve_lite.exceptions import InvalidConfigError
from serve_lite.proxy.options import ProxyOptions
from serve_lite.proxy.tls import Certificates
from tests.proxy.door import Client, Door, open_door

if shutil.which("openssl") is None:
    raise RuntimeError("these tests need the openssl command")


def make(folder: Path, name: str) -> None:
    """Write cert.pem and key.pem, for this machine, signed by itself."""
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN={name} -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)


def options(folder: Path, **more: str) -> ProxyOptions:
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    return ProxyOptions(ssl_certfile=cert, ssl_keyfile=key, **more)  # type: ignore[arg-type]


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=folder / "cert.pem")


async def connect(door: Door, context: ssl.SSLContext) -> Client:
    return Client(*await asyncio.open_connection(door.host, door.port, ssl=context))


async def test_certificates_are_read_again_and_open_connections_stay(tmp_path: Path) -> None:
    make(tmp_path, "old")
    async with open_door(options(tmp_path)) as door:
        old = trusting(tmp_path)
        first = await connect(door, old)
        assert (await first.get("/hello")).body == b"hello"
        make(tmp_path, "new")
        assert door.server.reload_certificates()
        second = await connect(door, trusting(tmp_path))
        assert (await second.get("/hello")).body == b"hello"
        assert (await first.get("/hello")).body == b"hello"
        with pytest.raises(ssl.SSLError):
            await connect(door, old)
        (tmp_path / "key.pem").write_text("no key")
        with pytest.raises(InvalidConfigError, match=r"key\.pem"):
            door.server.reload_certificates()
        third = await connect(door, trusting(tmp_path))
        assert (await third.get("/hello")).body == b"hello"
        for client in (first, second, third):
            await client.close()


async def test_versions_before_1_2_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "door")
    assert Certificates(options(tmp_path), ["h2"]).context.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_a_client_without_a_certificate_is_refused_where_one_is_asked_for(tmp_path: Path) -> None:
    make(tmp_path, "door")
    async with open_door(options(tmp_path, ssl_ca_certs=str(tmp_path / "cert.pem"))) as door:
        context = trusting(tmp_path)
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            client = await connect(door, context)
            await client.get("/hello")
        context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        client = await connect(door, context)
        assert (await client.get("/hello")).body == b"hello"
        await client.close()


@pytest.mark.parametrize("what", ["no file", "no certificate", "no authorities"])
def test_files_that_cannot_be_used_are_named(tmp_path: Path, what: str) -> None:
    make(tmp_path, "door")
    authorities = tmp_path / "ca.pem"
    more = {}
    if what == "no file":
        (tmp_path / "cert.pem").unlink()
    elif what == "no certificate":
        (tmp_path / "cert.pem").write_text("nothing")
    else:
        authorities.write_text("nothing")
        more = {"ssl_ca_certs": str(authorities)}
    with pytest.raises(InvalidConfigError, match=r"ca\.pem" if more else r"cert\.pem"):
        Certificates(options(tmp_path, **more), ["h2"])
