"""Fifty applications in one file: they run, a wrong one disturbs nobody, and asleep they cost next to nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio
import psutil

from tests.instances import Instance

COUNT = 50
CODE = """
import serve_lite as serve


@serve.deployment
class Small:
    def __init__(self, number):
        self.number = number

    def __call__(self, request):
        return f"I am {self.number}"


def build(args):
    if args["number"] == "wrong":
        raise LookupError("this one cannot be built")
    return Small.bind(args["number"])
"""
PATH = "/api/serve/applications/"
#: Fifty processes are started by two processors.
DEADLINE_S = 100.0


def document(folder: Path, *, wrong: frozenset[int] = frozenset(), **options: Any) -> dict[str, Any]:
    listed = [{"name": "Small", **options}] if options else []
    return {
        "applications": [
            {
                "name": f"app{i}",
                "route_prefix": f"/app{i}",
                "import_path": "small:build",
                "args": {"number": "wrong" if i in wrong else i},
                "runtime_env": {"working_dir": str(folder)},
                "deployments": listed,
            }
            for i in range(COUNT)
        ]
    }


async def put(daemon: Instance, wanted: dict[str, Any]) -> None:
    answer = await daemon.admin.put(PATH, json=wanted)
    assert answer.status_code == 200, answer.text


async def until_none(daemon: Instance, status: str) -> dict[str, str]:
    """Return the applications' statuses once none has this one."""
    give_up_at = time.monotonic() + DEADLINE_S
    while True:
        apps = (await daemon.status()).applications
        if len(apps) == COUNT and all(app.status != status for app in apps.values()):
            return {name: str(app.status) for name, app in apps.items()}
        assert time.monotonic() < give_up_at, {name: app.status for name, app in apps.items()}
        await anyio.sleep(0.1)


def processor_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def test_fifty_applications_run_and_a_wrong_one_disturbs_none(daemon: Instance, tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(CODE)
    await put(daemon, document(tmp_path, wrong=frozenset({17})))
    statuses = await until_none(daemon, "DEPLOYING")
    assert {name for name, status in statuses.items() if status != "RUNNING"} == {"app17"}
    assert statuses["app17"] == "DEPLOY_FAILED"
    answers = [await daemon.http.get(f"/app{i}") for i in range(COUNT)]
    assert [a.text for i, a in enumerate(answers) if i != 17] == [
        f"I am {i}" for i in range(COUNT) if i != 17
    ]
    assert answers[17].status_code in (404, 503)

    before = daemon.pids("replica")
    assert len(before) == COUNT - 1
    await put(daemon, document(tmp_path))  # it is mended, and the others are not touched
    assert set((await until_none(daemon, "DEPLOYING")).values()) == {"RUNNING"}
    assert daemon.pids("replica") > before
    assert (await daemon.http.get("/app17")).text == "I am 17"


async def test_fifty_applications_that_sleep_cost_under_one_percent_of_a_processor(
    daemon: Instance, tmp_path: Path
) -> None:
    """Measured as the time that the processor worked for them, whatever else the machine does meanwhile."""
    (tmp_path / "small.py").write_text(CODE)
    await put(daemon, document(tmp_path, autoscaling_config={"min_replicas": 0, "max_replicas": 2}))
    assert set((await until_none(daemon, "DEPLOYING")).values()) == {"RUNNING"}
    assert daemon.pids("replica") == set()
    processes = [
        psutil.Process(daemon.keeper_pid),
        *daemon.processes("daemon"),
        *daemon.processes("template"),
    ]
    assert len(processes) >= 2
    window_s = 10.0
    before = processor_s(processes)
    await anyio.sleep(window_s)
    used_s = processor_s(processes) - before
    assert used_s < 0.01 * window_s, f"{used_s:.3f} s in {window_s:g} s"

    assert (await daemon.http.get("/app33", timeout=DEADLINE_S)).text == "I am 33"  # and they wake up
