"""HTTPS: both protocols that ALPN can choose."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from serve_lite.proxy.options import ProxyOptions
from tests.proxy.door import open_door


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this machine, signed by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=door -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


@pytest.mark.parametrize(("http2", "version"), [(False, "HTTP/1.1"), (True, "HTTP/2")])
async def test_the_client_chooses_the_protocol(
    certificate: tuple[Path, Path], http2: bool, version: str
) -> None:
    cert, key = certificate
    async with open_door(ProxyOptions(ssl_certfile=str(cert), ssl_keyfile=str(key))) as door:
        context = ssl.create_default_context(cafile=cert)
        url = f"https://{door.host}:{door.port}"
        async with httpx.AsyncClient(http2=http2, verify=context, base_url=url, timeout=20) as client:
            answer = await client.get("/hello")
            assert (answer.http_version, answer.text) == (version, "hello")
            assert (await client.get("/count")).text == "one two three"
            assert len((await client.post("/echo", content=b"x" * 200_000)).json()["body"]) == 200_000
        assert (await door.stage.call()).head.scheme == "https"
