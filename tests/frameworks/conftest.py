"""Fixtures: two instances for all frameworks, and on them one framework's application after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_lite.schema import ApplicationStatus
from tests.frameworks import kitchen
from tests.frameworks.menu import MENU, OLDER, Framework
from tests.instances import Instance, Instances

ROOT = Path(__file__).parents[2]
FILE = bytes(range(256)) * 400


class Served:
    """One framework's application behind a door."""

    def __init__(self, instance: Instance, framework: Framework, folder: Path) -> None:
        self.instance, self.framework, self.folder = instance, framework, folder
        self.prefix = framework.prefix
        self.http = instance.http
        self.url = instance.http_url + self.prefix

    def diary(self) -> list[str]:
        path = self.folder / "diary"
        return path.read_text().splitlines() if path.exists() else []

    def open(self, gate: str) -> None:
        (self.folder / gate).touch()

    def log(self) -> str:
        """What its replicas have printed."""
        logs = Path(self.instance.paths.logs)
        return "".join(f.read_text(errors="replace") for f in logs.glob(f"*{self.framework.name}*"))


async def deploy(instance: Instance, framework: Framework, folder: Path) -> Served:
    """Deploy a framework's application, whose diary, gates and file are in `folder`."""
    folder.mkdir()
    (folder / "file.bin").write_bytes(FILE)
    status = await instance.deploy(
        f"tests.frameworks.apps.{framework.module}:{framework.entry}",
        name=framework.name,
        route_prefix=framework.prefix or "/",
        folder=ROOT,
        also=[OLDER] if framework.is_older else [],
        env_vars={kitchen.FOLDER: str(folder)},
    )
    application = status.applications[framework.name]
    assert application.status is ApplicationStatus.RUNNING, application.message
    return Served(instance, framework, folder)


@pytest.fixture(scope="module")
async def instance(anyio_backend: str) -> AsyncIterator[Instance]:
    factory = Instances()
    yield await factory.start()
    await factory.close()


@pytest.fixture(scope="module", params=MENU, ids=[framework.name for framework in MENU])
async def served(
    request: pytest.FixtureRequest, instance: Instance, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    """Each framework in turn."""
    framework: Framework = request.param
    if framework.is_older and not (OLDER / ".installed").exists():
        pytest.skip(f"no older release in {OLDER}; `make test` installs it")
    served = await deploy(instance, framework, tmp_path_factory.mktemp(framework.name) / "kitchen")
    yield served
    await instance.delete(framework.name)
