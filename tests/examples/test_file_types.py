"""`examples/file_types.py` identifies real files with a real model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio

from serve_lite.schema import ApplicationStatus
from tests.instances import Instance

ROOT = Path(__file__).resolve().parents[2]


async def test_it_names_the_types_of_several_uploads_in_their_order(daemon: Instance) -> None:
    await deploy(daemon)
    answer = await identify(daemon, "Makefile", "examples/file_types.py", "pyproject.toml")
    assert [(found["filename"], found["label"]) for found in answer] == [
        ("Makefile", "makefile"),
        ("examples/file_types.py", "python"),
        ("pyproject.toml", "toml"),
    ]


async def test_requests_that_come_together_each_get_their_own_answer(daemon: Instance) -> None:
    await deploy(daemon)
    expected = {"Makefile": "makefile", "examples/text_ml.py": "python", "pyproject.toml": "toml"}
    seen: list[tuple[str, str]] = []

    async def ask(name: str) -> None:
        [found] = await identify(daemon, name)
        seen.append((name, found["label"]))

    async with anyio.create_task_group() as group:
        for name in [*expected] * 8:
            group.start_soon(ask, name)
    assert sorted(seen) == sorted([*expected.items()] * 8)


async def test_an_upload_without_a_file_is_refused_by_name(daemon: Instance) -> None:
    await deploy(daemon)
    response = await daemon.http.post("/identify", data={"other": "field"})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "files"]


async def deploy(daemon: Instance) -> None:
    status = await daemon.deploy("examples.file_types:app", folder=ROOT)
    application = status.applications["default"]
    assert application.status == ApplicationStatus.RUNNING, application.message


async def identify(daemon: Instance, *names: str) -> list[dict[str, Any]]:
    uploads = [("files", (name, (ROOT / name).read_bytes())) for name in names]
    response = await daemon.http.post("/identify", files=uploads)
    assert response.status_code == 200, response.text
    answer: list[dict[str, Any]] = response.json()
    return answer
