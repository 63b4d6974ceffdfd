"""Replicas that come and go with the load, in real instances."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

import serve_lite as serve
from serve_lite.schema import ApplicationStatus, DeploymentStatus, DeploymentStatusTrigger
from tests.instances import DEADLINE_S, Instance, until
from tests.processes.stage import HERE, Stage

AUTOSCALING = DeploymentStatusTrigger.AUTOSCALING


@pytest.fixture
def stage(daemon: Instance, tmp_path: Path) -> Stage:
    return Stage(daemon, tmp_path)


async def test_replicas_come_under_load_and_go_after_it(stage: Stage) -> None:
    await stage.deploy()
    assert len(stage.pids()) == 1
    async with stage.requests(12):
        await stage.becomes(3)
        assert (await stage.overview()).status_trigger is DeploymentStatusTrigger.UPSCALE_COMPLETED
        shown = (await stage.daemon.admin.get("/metrics")).text
        assert 'serve_autoscaling_target_replicas{application="default",deployment="Held"} 3' in shown
    assert len(stage.answers) == 12
    await stage.becomes(1)
    assert (await stage.overview()).status_trigger is DeploymentStatusTrigger.DOWNSCALE_COMPLETED
    decisions = stage.decisions()
    assert "requests run or wait at" in decisions[0] and "to 1 replicas" in decisions[-1]


async def test_an_idle_deployment_does_not_flap(stage: Stage) -> None:
    await stage.deploy()
    many_times_every_period_it_has_s = 1.5
    async with stage.requests(2):  # just what one replica should have
        await anyio.sleep(many_times_every_period_it_has_s)
    await anyio.sleep(many_times_every_period_it_has_s)
    assert stage.decisions() == [] and stage.made == 1


async def test_a_deployment_goes_to_zero_and_one_replica_wakes_for_a_hundred_requests(stage: Stage) -> None:
    await stage.deploy(min_replicas=0, upscale_delay_s=60)
    assert not stage.pids() and stage.made == 0
    for made in (1, 2):
        stage.shut()
        async with stage.requests(100):
            await stage.becomes(1)
        await stage.becomes(0)
        assert stage.made == made and not stage.pids()
    assert len(stage.answers) == 200 and len(set(stage.answers)) == 2


async def test_a_driver_wakes_a_deployment_and_its_stream_keeps_it_up(stage: Stage) -> None:
    await stage.deploy(min_replicas=0)
    handle = serve.get_deployment_handle("Held", "default").options(stream=True)
    stream = handle.stream.remote()
    assert await anext(stream) == "begun"
    await anyio.sleep(1.0)  # longer than it looks back and waits
    assert await stage.shown_target() == 1
    stage.open()
    assert [item async for item in stream] == ["done"]
    await stage.becomes(0)


async def test_a_replica_that_holds_a_handle_reports_its_calls(stage: Stage) -> None:
    await stage.deploy("behind")
    async with stage.requests(12):
        await stage.becomes(3)
    await stage.becomes(1)


async def test_a_caller_that_dies_takes_its_load_with_it(stage: Stage) -> None:
    await stage.deploy("behind", metrics_interval_s=1000.0)  # so that silence alone is not taken for its end
    async with httpx.AsyncClient(base_url=stage.daemon.http_url, timeout=DEADLINE_S) as client:
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                assert (await client.get("/")).status_code >= 500

            for _ in range(12):
                group.start_soon(ask)
            await stage.becomes(3)
            for pid in stage.daemon.pids("replica default/Front"):
                os.kill(pid, signal.SIGKILL)
    await stage.becomes(1)


async def test_a_new_daemon_keeps_the_number_that_the_load_asked_for(stage: Stage) -> None:
    await stage.deploy(downscale_delay_s=600)
    async with stage.requests(12):
        await stage.becomes(3)
    before = stage.pids()
    await stage.kill_daemon()
    await stage.becomes(3)
    assert stage.pids() == before


async def test_calls_that_outlive_the_daemon_are_told_to_the_next_one(stage: Stage) -> None:
    await stage.deploy(min_replicas=0)
    calls = [serve.get_deployment_handle("Held", "default").hold.remote() for _ in range(12)]
    await stage.becomes(3)
    await stage.kill_daemon()
    await anyio.sleep(1.0)  # longer than it looks back and waits
    await stage.becomes(3)
    stage.open()
    assert len({await call for call in calls}) <= 3
    await stage.becomes(0)


async def test_a_redeploy_keeps_the_present_number(stage: Stage) -> None:
    await stage.deploy(downscale_delay_s=600)
    async with stage.requests(12):
        await stage.becomes(3)
    await stage.deploy(downscale_delay_s=601)
    assert await stage.shown_target() == 3


async def test_what_serves_after_a_deploy_that_failed_follows_its_load(stage: Stage) -> None:
    """Within its own bounds; what failed is not tried again by that."""
    await stage.deploy(min_replicas=1)
    status = await stage.daemon.deploy("scaled:broken", folder=HERE, args={"folder": str(stage.folder)})
    assert status.applications["default"].status is ApplicationStatus.DEPLOY_FAILED
    await until(lambda: len(stage.pids()) == 1, "what failed has ended")
    async with stage.requests(12):
        await until(lambda: len(stage.pids()) == 3, "there are as many as its own bounds allow")
    assert len(stage.answers) == 12
    await until(lambda: len(stage.pids()) == 1, "they go after it")
    overview = await stage.overview()
    assert overview.status is DeploymentStatus.DEPLOY_FAILED
    assert overview.message.splitlines()[-1].startswith("ValueError: there is no model here (at ")


# --- custom policies ----------------------------------------------------------------------------


def say(stage: Stage, wanted: str) -> None:
    path = stage.folder / "wanted.new"
    path.write_text(wanted)
    path.rename(stage.folder / "wanted")


async def test_a_custom_policy_decides_in_a_process_of_its_own(stage: Stage) -> None:
    await stage.deploy(policy="scaled:by_file")
    say(stage, "2.5")
    await stage.becomes(3)
    told = stage.folder / "told"
    await until(
        lambda: "'temperature': [21.5, 21.5, 21.5]" in told.read_text(), "it hears the replicas' stats"
    )
    pid, name, rest = told.read_text().split(" ", 2)
    assert int(pid) in stage.daemon.pids("adviser") and name == "Held" and rest.endswith("True")
    say(stage, "9")
    await anyio.sleep(0.5)
    await stage.becomes(3)  # the bounds hold
    say(stage, "1")
    await stage.becomes(1)
    assert "the policy 'scaled:by_file' asks for 2.5" in stage.decisions()[0]


async def test_a_policy_that_fails_leaves_the_number_as_it_is_and_is_named_once(stage: Stage) -> None:
    await stage.deploy(policy="scaled:by_file")
    say(stage, "2")
    await stage.becomes(2)
    say(stage, "bad")
    log = stage.daemon.log
    await until(lambda: "the file is bad" in log("daemon.log"), "it is told")
    await anyio.sleep(0.5)
    assert log("daemon.log").count("keeps its number of replicas") == 1
    assert await stage.shown_target() == 2
    for pid in stage.daemon.pids("adviser"):
        os.kill(pid, signal.SIGKILL)
    say(stage, "3")
    await stage.becomes(3)


async def test_waiting_requests_wake_a_deployment_whatever_its_policy_says(stage: Stage) -> None:
    say(stage, "0")
    await stage.deploy(policy="scaled:by_file", min_replicas=0)
    await stage.becomes(0)
    async with stage.requests(3):
        await until(lambda: stage.made >= 1, "a replica is built")
    assert len(stage.answers) == 3


# --- as it is asked for -------------------------------------------------------------------------


async def test_a_config_document_scales_automatically_within_its_capacity(stage: Stage) -> None:
    """`num_replicas: auto`, `initial_replicas` and `target_capacity`, and what REST shows of them."""

    async def put(capacity: int | None) -> None:
        deployment = {
            "name": "Held",
            "num_replicas": "auto",
            "autoscaling_config": {
                "max_replicas": 6, "initial_replicas": 4, "look_back_period_s": 0.5, "upscale_delay_s": 0,
                "downscale_delay_s": 0,
            },
        }  # fmt: skip
        app = {
            "name": "default",
            "import_path": "scaled:held",
            "args": {"folder": str(stage.folder)},
            "runtime_env": {"working_dir": str(HERE)},
            "deployments": [deployment],
        }
        document: dict[str, Any] = {"applications": [app]}
        if capacity is not None:
            document["target_capacity"] = capacity
        answer = await stage.daemon.admin.put("/api/serve/applications/", json=document)
        assert answer.status_code == 200, answer.text

    await put(50)
    with anyio.fail_after(DEADLINE_S):
        while "Held" not in (await stage.daemon.status()).applications["default"].deployments:
            await anyio.sleep(0.01)
    await stage.becomes(2)  # half of the initial 4, and fewer are not allowed while the capacity rises
    async with stage.requests(40):
        await stage.becomes(3)  # half of 6
        await put(None)
        await stage.becomes(6)
    await stage.becomes(1)
    assert stage.pids()


async def test_serve_run_of_a_deployment_without_replicas_returns_and_its_handle_wakes_it(
    stage: Stage,
) -> None:
    stage.open()
    handle = await stage.daemon.run(Sleeper.bind())
    assert not stage.daemon.pids("replica")
    assert await handle.remote() == "awake"


@serve.deployment(autoscaling_config={"min_replicas": 0, "max_replicas": 1})
class Sleeper:
    def __call__(self) -> str:
        return "awake"
