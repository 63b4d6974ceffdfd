"""Numbers of replicas that somebody else decides: an application's policy, schedules, scalers outside."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from serve_lite.schema import ApplicationStatus, DeploymentStatus, DeploymentStatusTrigger
from tests.instances import DEADLINE_S, Instance, until
from tests.processes.stage import HERE, Stage


@pytest.fixture
def stage(daemon: Instance, tmp_path: Path) -> Stage:
    return Stage(daemon, tmp_path)


def document(
    stage: Stage, app: str = "held", scaling: dict[str, Any] | None = None, **fields: Any
) -> dict[str, Any]:
    return {
        "applications": [
            {
                "name": "default",
                "import_path": f"scaled:{app}",
                "args": {"folder": str(stage.folder), "scaling": scaling or {}},
                "runtime_env": {"working_dir": str(HERE), "env_vars": {"SCALED_FOLDER": str(stage.folder)}},
                **fields,
            }
        ]
    }


async def events(stage: Stage) -> list[str]:
    answer = await stage.daemon.admin.get("/api/serve/events")
    return [event["text"] for event in answer.json()["events"]]


# --- a policy for the whole application ---------------------------------------------------------


def want(stage: Stage, text: str) -> None:
    path = stage.folder / "wanted.new"
    path.write_text(text)
    path.rename(stage.folder / "wanted")


def by_file(stage: Stage) -> dict[str, Any]:
    return {"policy_function": "scaled:ByFile", "policy_kwargs": {"folder": str(stage.folder)}}


async def test_one_policy_decides_for_all_deployments_of_an_application(stage: Stage) -> None:
    want(stage, "{}")
    own = {"policy": "scaled:by_file"}
    await stage.put(document(stage, "pair", own, autoscaling_policy=by_file(stage)))

    want(stage, json.dumps({"Held": 3, "Front": 2}))
    await stage.becomes(3)
    await stage.becomes(2, "Front")
    told = stage.folder / "told"
    await until(lambda: told.read_text().endswith(" True Front Held"), "it gets its state back")
    assert int(told.read_text().split()[0]) in stage.daemon.pids("adviser")

    want(stage, json.dumps({"Front": 1}))
    await stage.becomes(1, "Front")
    await stage.becomes(3)  # left out: no change
    decisions = (await stage.shown())["autoscaling_detail"]["decisions"]
    assert [(d["prev_num_replicas"], d["curr_num_replicas"]) for d in decisions] == [(1, 3)]
    assert decisions[0]["policy"] == "scaled:ByFile" and "asks for 3" in decisions[0]["reason"]
    metrics = (await stage.daemon.admin.get("/metrics")).text
    assert 'serve_autoscaling_policy_execution_time_ms{application="default",deployment="",' in metrics
    assert any("'scaled:by_file' is not asked" in line for line in await events(stage))


async def test_an_applications_policy_that_fails_is_told_everywhere_and_changes_nothing(stage: Stage) -> None:
    want(stage, json.dumps({"Held": 2, "Front": 2}))
    await stage.put(document(stage, "pair", autoscaling_policy=by_file(stage)))
    await stage.becomes(2)
    await stage.becomes(2, "Front")
    want(stage, "no json")
    with anyio.fail_after(DEADLINE_S):
        while not (errors := (await stage.shown())["autoscaling_detail"]["errors"]):
            await anyio.sleep(0.01)
    assert errors[0].startswith("JSONDecodeError: ")
    assert (await stage.shown("Front"))["autoscaling_detail"]["errors"] == errors
    assert await stage.shown_target() == await stage.shown_target("Front") == 2
    assert any("keeps its numbers of replicas" in line for line in await events(stage))
    metrics = (await stage.daemon.admin.get("/metrics")).text
    assert "serve_autoscaling_policy_failures_total{" in metrics and 'exception="JSONDecodeError"' in metrics

    for pid in stage.daemon.pids("adviser"):
        os.kill(pid, signal.SIGKILL)
    want(stage, json.dumps({"Held": 1}))
    await stage.becomes(1)
    assert (await stage.shown())["autoscaling_detail"]["errors"] == []


async def test_waiting_requests_wake_a_deployment_whatever_the_applications_policy_says(stage: Stage) -> None:
    want(stage, json.dumps({"Held": 0}))
    await stage.put(document(stage, scaling={"min_replicas": 0}, autoscaling_policy=by_file(stage)))
    await stage.becomes(0)
    async with stage.requests(3):
        await until(lambda: stage.made >= 1, "a replica is built")
    assert len(stage.answers) == 3


# --- schedules ----------------------------------------------------------------------------------


async def test_a_schedule_that_is_in_force_raises_the_bounds_and_its_removal_lowers_them(
    stage: Stage,
) -> None:
    always = {"cron": "* * * * *", "duration_s": 86400, "min_replicas": 4, "max_replicas": 5}
    await stage.put(document(stage, scaling={"schedules": [always]}))
    await stage.becomes(4)
    detail = (await stage.shown())["autoscaling_detail"]
    assert (detail["metrics"]["min_replicas"], detail["metrics"]["max_replicas"]) == (4, 5)
    assert "(schedule '* * * * *' UTC)" in detail["decisions"][-1]["reason"]
    assert "schedule '* * * * *' UTC is in force" in await events(stage)
    shown = (await stage.shown())["deployment_config"]["autoscaling_config"]["schedules"]
    assert [s["cron"] for s in shown] == ["* * * * *"]

    before = stage.pids()
    await stage.kill_daemon()
    await stage.becomes(4)
    assert stage.pids() == before, "a new daemon keeps what the schedule asks for"

    held = {"name": "Held", "autoscaling_config": {"max_replicas": 3, "downscale_delay_s": 0}}
    await stage.put(document(stage, scaling={"schedules": [always]}, deployments=[held]))
    with anyio.fail_after(DEADLINE_S):
        while await stage.shown_target() > 3:
            await anyio.sleep(0.01)


async def test_a_wrong_schedule_is_refused_and_changes_nothing(stage: Stage) -> None:
    await stage.put(document(stage))
    wrong = {"cron": "0 25 * * *", "until": "18:00", "min_replicas": 2}
    held = {"name": "Held", "autoscaling_config": {"max_replicas": 3, "schedules": [wrong]}}
    answer = await stage.daemon.admin.put(
        "/api/serve/applications/", json=document(stage, deployments=[held])
    )
    assert answer.status_code == 400 and "whose hour is wrong" in answer.text, answer.text
    assert await stage.shown_target() == 1 and "schedules" not in str(await stage.shown())


# --- scalers outside ----------------------------------------------------------------------------

SCALE = "/api/v1/applications/{}/deployments/{}/scale"


async def scale(stage: Stage, body: Any, app: str = "default", name: str = "Held") -> tuple[int, str]:
    """Return the code, and the message or the error."""
    content = body if isinstance(body, str) else json.dumps(body)
    answer = await stage.daemon.admin.post(SCALE.format(app, name), content=content)
    told = answer.json()
    return answer.status_code, told["message"] if answer.status_code == 200 else told["error"]


def fixed(stage: Stage, replicas: int = 1, **options: Any) -> dict[str, Any]:
    """Return a document with a number of replicas that a scaler may change."""
    held = {"name": "Held", "num_replicas": replicas, **options}
    return document(stage, external_scaler_enabled=True, deployments=[held])


async def test_a_scaler_outside_sets_numbers_and_the_application_goes_on_running(stage: Stage) -> None:
    await stage.put(fixed(stage))
    for count in (3, 0, 2):
        assert await scale(stage, {"target_num_replicas": count}) == (
            200,
            "Scaling request received. Deployment will get scaled asynchronously.",
        )
        with anyio.fail_after(DEADLINE_S):
            while True:
                status = (await stage.daemon.status()).applications["default"]
                overview = status.deployments["Held"]
                assert status.status is ApplicationStatus.RUNNING, status
                is_healthy = overview.status is DeploymentStatus.HEALTHY
                assert is_healthy or overview.status_trigger is DeploymentStatusTrigger.AUTOSCALING, overview
                if is_healthy and overview.replica_states == ({"RUNNING": count} if count else {}):
                    break
                await anyio.sleep(0.01)
    pids = stage.pids()
    await stage.kill_daemon()
    await stage.becomes(2)
    assert stage.pids() == pids, "the number is stored, and nothing is restarted for it"
    await stage.put(fixed(stage, 1))
    await stage.becomes(1)


async def test_a_scaler_outside_is_told_why_it_is_refused(stage: Stage) -> None:
    unknown = (404, "Application or Deployment not found")
    assert await scale(stage, {"target_num_replicas": 1}) == unknown
    await stage.put(fixed(stage))
    assert await scale(stage, {"target_num_replicas": 1}, name="Nobody") == unknown
    for body in ("{", {"target_num_replicas": -1}, {"target_num_replicas": "two"}, {}, []):
        code, error = await scale(stage, body)
        assert code == 400 and error.startswith("Invalid request body: "), error
    assert await stage.shown_target() == 1

    await stage.put(document(stage, deployments=[{"name": "Held", "num_replicas": 1}]))
    code, error = await scale(stage, {"target_num_replicas": 2})
    assert code == 412 and "external_scaler_enabled" in error
    scaled = {**fixed(stage)["applications"][0], "deployments": [{"name": "Held", "num_replicas": "auto"}]}
    refused = await stage.daemon.admin.put("/api/serve/applications/", json={"applications": [scaled]})
    assert refused.status_code == 400 and "external_scaler_enabled" in refused.text


async def test_a_deployment_that_is_being_deleted_takes_no_scaler(stage: Stage) -> None:
    await stage.put(fixed(stage))
    async with stage.requests(1):
        with anyio.fail_after(DEADLINE_S):
            while not (stage.folder / "entered").exists():
                await anyio.sleep(0.01)
        gone = await stage.daemon.admin.put("/api/serve/applications/", json={"applications": []})
        assert gone.status_code == 200, gone.text
        assert await scale(stage, {"target_num_replicas": 2}) == (412, "Deployment is deleted")
