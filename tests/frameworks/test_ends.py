"""How an application ends: background tasks first, then its lifespan."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from serve_lite.schema import ApplicationStatus
from tests.frameworks.conftest import deploy
from tests.frameworks.menu import MENU, Framework
from tests.instances import Instance, until

pytestmark = pytest.mark.anyio

WITH_LIFESPAN = [f for f in MENU if not f.lacks & {"lifespan", "end"} and not f.is_older]


@pytest.mark.parametrize("framework", WITH_LIFESPAN, ids=lambda f: f.name)
async def test_background_tasks_are_waited_for_before_the_application_shuts_down(
    instance: Instance, framework: Framework, tmp_path: Path
) -> None:
    served = await deploy(instance, framework, tmp_path / "kitchen")
    assert (await served.http.get(f"{served.prefix}/background")).status_code == 200

    async def is_deleting() -> bool:
        status = (await instance.status()).applications[framework.name].status
        return status is ApplicationStatus.DELETING

    async with anyio.create_task_group() as group:
        group.start_soon(instance.delete, framework.name)
        while not await is_deleting():
            await anyio.sleep(0.01)
        assert served.diary() == ["started"]
        served.open("background")
    assert served.diary() == ["started", "washed up", "stopped"]


async def test_a_background_task_holds_no_place(instance: Instance, tmp_path: Path) -> None:
    """The answer frees the request's place, although the work behind it goes on."""
    framework = Framework("narrow", "starlette_app", entry="narrow")
    served = await deploy(instance, framework, tmp_path / "kitchen")
    assert (await served.http.get(f"{served.prefix}/background")).text == "served"
    assert (await served.http.get(f"{served.prefix}/json")).status_code == 200
    assert served.diary() == ["started"]
    served.open("background")
    await until(lambda: "washed up" in served.diary(), "the task ends")
    await instance.delete(framework.name)
