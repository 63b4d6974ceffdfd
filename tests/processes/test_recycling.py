"""Real replicas that have served long enough are replaced, and no request is lost by it."""

from __future__ import annotations

from pathlib import Path

import anyio

from serve_lite.schema import ServeStatus
from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeployReply, DeployRequest, WaitRequest
from tests.instances import DEADLINE_S, Instance

HERE = Path(__file__).parent


async def deploy(daemon: Instance, import_path: str, **limits: float) -> None:
    app = AppSubmission(
        environment=CodeEnvironment(cwd=str(HERE), sys_path=(str(HERE),)),
        build=BuildRequest(app_name="default", import_path=import_path, args={"memory": 0}),
        overrides=({"name": "Allotted", **limits},),
    )
    await daemon.ask("deploy", DeployRequest(apps=[app]), DeployReply)
    await daemon.ask("wait_apps", WaitRequest(names=["default"]), ServeStatus)


async def ask_until_replaced(daemon: Instance, times: int, path: str = "/") -> list[int]:
    """Ask one after the other until replicas have changed so often; every answer must be right. Return who answered."""
    seen: list[int] = []
    with anyio.fail_after(DEADLINE_S):
        while len(seen) <= times:
            answer = await daemon.http.get(path)
            assert answer.status_code == 200, answer.text
            told = answer.json()
            pid = told["pid"] if isinstance(told, dict) else told
            if pid not in seen:
                seen.append(pid)
    return seen


async def status_of(daemon: Instance) -> str:
    return str((await daemon.status()).applications["default"].deployments["Allotted"].status)


async def test_a_replica_that_is_too_old_is_replaced_by_a_new_one_before_it_stops(daemon: Instance) -> None:
    await deploy(daemon, "allotted:app", max_replica_age_s=1)
    await ask_until_replaced(daemon, 2)
    assert await status_of(daemon) == "HEALTHY"
    log = daemon.log("daemon.log")
    assert "start: it will replace one that has served long enough" in log
    assert "stop: another one took its place: it is older than 1 s (max_replica_age_s)" in log


async def test_a_replica_that_has_answered_enough_is_replaced_and_no_request_is_lost(
    daemon: Instance,
) -> None:
    await deploy(daemon, "allotted:app", max_replica_requests=50)
    await ask_until_replaced(daemon, 2)
    assert await status_of(daemon) == "HEALTHY"
    assert "(max_replica_requests is 50)" in daemon.log("daemon.log")


async def test_a_replica_that_has_grown_is_replaced(daemon: Instance) -> None:
    await deploy(daemon, "allotted:greedy", max_replica_memory_bytes=300_000_000)
    (first,) = await ask_until_replaced(daemon, 0, "/?take=400000000")
    with anyio.fail_after(DEADLINE_S):
        while (await daemon.http.get("/")).json() == first:
            await anyio.sleep(0.05)
    assert "(max_replica_memory_bytes is 300000000)" in daemon.log("daemon.log")
    assert await status_of(daemon) == "HEALTHY"
