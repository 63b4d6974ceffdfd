"""Frameworks behind another server, which strips a path and tells who the client is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.frameworks.conftest import deploy
from tests.frameworks.menu import MENU, OLDER, Framework
from tests.instances import Instance, Instances

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def instance(anyio_backend: str) -> AsyncIterator[Instance]:
    factory = Instances()
    yield await factory.start(factory.options(root_path="/outer", forwarded_allow_ips=("127.0.0.1",)))
    await factory.close()


@pytest.mark.parametrize("framework", [f for f in MENU if not f.is_at_root], ids=lambda f: f.name)
async def test_the_application_sees_the_client_and_writes_urls_for_it(
    instance: Instance, framework: Framework, tmp_path: Path
) -> None:
    if framework.is_older and not (OLDER / ".installed").exists():
        pytest.skip(f"no older release in {OLDER}; `make test` installs it")
    served = await deploy(instance, framework, tmp_path / "kitchen")
    headers = {
        "host": "shop.example",
        "x-forwarded-for": "198.51.100.1, 203.0.113.7",
        "x-forwarded-proto": "https",
    }
    seen = await served.http.get(f"{served.prefix}/where", headers=headers)
    assert seen.json() == {
        "client": "203.0.113.7",
        "scheme": "https",
        "path": f"/outer{served.prefix}/where",
        "url": f"https://shop.example/outer{served.prefix}/json",
    }
    moved = await served.http.get(f"{served.prefix}/redirect", headers=headers)
    assert moved.headers["location"].endswith(f"/outer{served.prefix}/json")
    assert (await served.http.get(f"{served.prefix}/sub/hello/ann")).json() == {"hello": "ann"}
    await instance.delete(framework.name)
