"""Replicas that keep failing while others do not: sent nothing for a while, and then again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import httpx

from tests.instances import DEADLINE_S, Instance
from tests.processes.test_probes import deployment, errors

HERE = Path(__file__).parent


async def deploy(instance: Instance, folder: Path, **options: Any) -> None:
    args = {"folder": str(folder), "num_replicas": 3, "outlier_ejection": options}
    status = await instance.deploy("failing:app", folder=HERE, args=args)
    assert status.applications["default"].status == "RUNNING", status.applications["default"].message


async def ask_until_ejected(instance: Instance, pid: int) -> None:
    """Send requests until this replica is told to be ejected."""
    with anyio.fail_after(DEADLINE_S):
        while "is ejected" not in (await errors(instance)).get(pid, ""):
            await instance.http.get("/")


async def answers(instance: Instance, count: int = 30) -> list[httpx.Response]:
    return [await instance.http.get("/") for _ in range(count)]


async def test_a_replica_that_keeps_failing_is_ejected_while_others_serve(
    daemon: Instance, tmp_path: Path
) -> None:
    await deploy(daemon, tmp_path, consecutive_errors=3, base_ejection_s=600)
    bad = min(daemon.pids("replica"))
    (tmp_path / str(bad)).touch()
    await ask_until_ejected(daemon, bad)
    assert {a.status_code for a in await answers(daemon)} == {200}
    assert (await deployment(daemon))["status"] == "HEALTHY"
    assert bad in daemon.pids("replica")


async def test_one_that_has_recovered_when_its_ejection_is_over_serves_again(
    daemon: Instance, tmp_path: Path
) -> None:
    await deploy(daemon, tmp_path, consecutive_errors=3, base_ejection_s=2)
    bad = min(daemon.pids("replica"))
    (tmp_path / str(bad)).touch()
    await ask_until_ejected(daemon, bad)
    (tmp_path / str(bad)).unlink()
    served: set[str] = set()
    with anyio.fail_after(DEADLINE_S):
        while str(bad) not in served:
            served |= {a.text for a in await answers(daemon)}
    assert (await errors(daemon))[bad] == ""


async def test_one_that_fails_whenever_it_comes_back_is_replaced(daemon: Instance, tmp_path: Path) -> None:
    await deploy(daemon, tmp_path, consecutive_errors=2, base_ejection_s=0.2, interval_s=600)
    bad = min(daemon.pids("replica"))
    (tmp_path / str(bad)).touch()
    with anyio.fail_after(DEADLINE_S):
        while bad in daemon.pids("replica"):
            await answers(daemon, 5)
    assert "stop: it was ejected 3 times, and fails again" in daemon.log("daemon.log")
