"""Fixtures for tests with real processes: `daemon`, one instance; `instances`, as many as a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import uvloop

from tests.instances import Instance, Instances

# libuv opens a pipe for signals with the first loop of a process and keeps it: no test shall be blamed for that.
uvloop.new_event_loop().close()

#: Fixtures that start processes; tests that use one carry the marker `processes`.
_STARTS_PROCESSES = {"daemon", "instances"}
#: Packages in which every test starts some.
_PROCESS_ROOMS = {"api", "chaos", "examples", "processes", "replica"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in _PROCESS_ROOMS or _STARTS_PROCESSES.intersection(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker(pytest.mark.processes)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def instances(anyio_backend: str) -> AsyncIterator[Instances]:
    """A factory of instances. Ends them and fails the test if one leaves anything behind."""
    factory = Instances()
    yield factory
    await factory.close()


@pytest.fixture
async def daemon(instances: Instances, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """One instance on free ports, which `serve.run` in the test uses too."""
    instance = await instances.start()
    monkeypatch.setenv("SERVE_LITE_HOME", instance.home)
    return instance
