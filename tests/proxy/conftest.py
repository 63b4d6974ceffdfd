"""Fixtures for the HTTP door: `door` runs each test against both fronts, `native` against ours alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_lite.proxy.options import ProxyOptions
from tests.proxy.door import Client, Door, open_door


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}  # as in the daemon


@pytest.fixture(params=["native", "hypercorn"])
async def door(request: pytest.FixtureRequest) -> AsyncIterator[Door]:
    async with open_door(ProxyOptions(server=request.param)) as door:
        yield door


@pytest.fixture
async def native() -> AsyncIterator[Door]:
    async with open_door(ProxyOptions()) as door:
        yield door


@pytest.fixture
async def client(door: Door) -> AsyncIterator[Client]:
    client = await door.connect()
    yield client
    await client.close()
