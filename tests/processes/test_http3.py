"""HTTP/3 of a real instance: it is announced, outlives its daemon and moves to the next release."""

from __future__ import annotations

import importlib.util
import os
import signal
import ssl
from pathlib import Path

import anyio
import httpx
import pytest

from serve_lite.daemon.options import InstanceOptions
from serve_lite.daemon.sources import Layer, resolve
from serve_lite.exceptions import InvalidConfigError
from serve_lite.wire.messages import UpgradeReply, UpgradeRequest
from tests.instances import DEADLINE_S, Instance, Instances, until
from tests.proxy.quic import http3
from tests.proxy.test_tls_files import make

pytestmark = pytest.mark.anyio

FOLDER = Path(__file__).parent


@pytest.fixture
async def instance(instances: Instances, tmp_path: Path) -> Instance:
    make(tmp_path, "instance")
    files = {"ssl_certfile": str(tmp_path / "cert.pem"), "ssl_keyfile": str(tmp_path / "key.pem")}
    instance = await instances.start(instances.options(http3=True, **files))
    await instance.deploy("served:who", folder=FOLDER)
    return instance


async def ask(instance: Instance, folder: Path) -> tuple[int, bytes]:
    """Ask on a new connection."""
    async with http3(instance.info.http_host or "", instance.info.http_port, folder / "cert.pem") as client:
        return await client.get("/")


async def test_http_3_is_announced_and_served(instance: Instance, tmp_path: Path) -> None:
    announced = f'h3=":{instance.info.http_port}"; ma=86400'
    url = f"https://127.0.0.1:{instance.info.http_port}/"
    context = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    for http2 in (False, True):
        async with httpx.AsyncClient(
            verify=context, http2=http2, http1=not http2, timeout=DEADLINE_S
        ) as client:
            answer = await client.get(url)
            assert (answer.status_code, answer.headers["alt-svc"]) == (200, announced)
    status, body = await ask(instance, tmp_path)
    assert (status, body) == (200, answer.content) and b"pid" in body


async def test_http_3_is_served_again_when_the_daemon_was_killed(instance: Instance, tmp_path: Path) -> None:
    before = await ask(instance, tmp_path)
    pid = await instance.daemon_pid()
    os.kill(pid, signal.SIGKILL)
    assert await ask(instance, tmp_path) == before  # the first datagrams wait in the keeper's socket
    assert await instance.daemon_pid() != pid


async def test_an_upgrade_closes_connections_and_the_next_daemon_serves(
    instance: Instance, tmp_path: Path
) -> None:
    host, port = instance.info.http_host or "", instance.info.http_port
    async with http3(host, port, tmp_path / "cert.pem") as client:
        before = await client.get("/")
        assert before[0] == 200
        async with anyio.create_task_group() as group:
            group.start_soon(instance.ask, "upgrade", UpgradeRequest(grace_s=5), UpgradeReply)
            assert await client.is_closed() == 0x100
    assert await ask(instance, tmp_path) == before
    await until(lambda: len(instance.pids("daemon")) == 1, "the old daemon ends")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"ssl_certfile": None, "ssl_keyfile": None}, "ssl_certfile and ssl_keyfile must be given"),
        ({"ssl_ca_certs": "/dev/null"}, "ssl_ca_certs must not be given"),
        ({"proxy_processes": 2}, "proxy_processes must be 0"),
        ({}, r"pip install 'serve-lite\[http3\]'"),
    ],
)
def test_what_http_3_cannot_go_with_is_said_at_the_start(
    more: dict[str, object], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not more:  # as where the package is not installed
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    fields = {"http3": True, "ssl_certfile": "/dev/null", "ssl_keyfile": "/dev/null", **more}
    layer = Layer(fields, dict.fromkeys(fields, "a test"))
    with pytest.raises(InvalidConfigError, match=f"http_options.http3 cannot be served.*{why}"):
        resolve(str(tmp_path), home_origin="a test", given=layer, settings="", environment={})
    assert not InstanceOptions().http3
