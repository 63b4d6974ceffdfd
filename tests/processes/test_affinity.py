"""Replicas that are bound to CPUs, and how many threads numeric libraries should use in them: real processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeployReply, DeployRequest
from tests.instances import Instance, Instances
from tests.processes.test_kills import kill, new_daemon
from tests.processes.test_resources import asked, bare_environment, healthy, running, start, waiting

__all__ = ["bare_environment"]

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="this system cannot bind processes to CPUs"
)


async def deploy(
    daemon: Instance,
    name: str,
    *,
    affinity: Any = None,
    cpus: float = 0,
    replicas: int = 1,
    env_vars: dict[str, str] | None = None,
) -> None:
    args = {"needs": {"num_cpus": cpus} if cpus else {}, "affinity": affinity, "replicas": replicas}
    app = AppSubmission(
        name=name,
        route_prefix=f"/{name}",
        environment=CodeEnvironment(cwd=str(HERE), sys_path=(str(HERE),), env_vars=env_vars or {}),
        build=BuildRequest(app_name=name, import_path="allotted:app", args=args),
    )
    await daemon.ask("deploy", DeployRequest(apps=[app]), DeployReply)


async def test_replicas_are_bound_to_cpus_of_their_own_and_one_too_many_waits(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(instances, monkeypatch, SERVE_LITE_NUM_CPUS="999")
    ours = sorted(os.sched_getaffinity(0))
    await deploy(daemon, "app", affinity="own", cpus=1, replicas=len(ours))
    shown = await running(daemon, "app", len(ours))
    assert sorted(r["cpu_ids"] for r in shown.values()) == [[cpu] for cpu in ours]
    for pid, answer in (await asked(daemon, "app", len(ours))).items():
        assert answer["bound"] == answer["cpu_ids"] == shown[pid]["cpu_ids"]
        assert answer["bound_when_imported"] == answer["bound"], "before any code of the user's ran"
        for thread in os.listdir(f"/proc/{pid}/task"):
            assert os.sched_getaffinity(int(thread)) == set(answer["bound"])
    assert os.sched_getaffinity(await daemon.daemon_pid()) == set(ours)

    await deploy(daemon, "late", affinity="own", cpus=1)
    message = await waiting(daemon, "late", "of its own")
    assert f"each needs 1 CPU of its own, and 0 of {len(ours)} are free" in message
    await deploy(daemon, "free")
    await running(daemon, "free", 1)
    (answer,) = (await asked(daemon, "free", 1)).values()
    assert answer["bound"] == ours, "who asks for none is bound to none"

    old = await daemon.daemon_pid()
    kill(old)
    await new_daemon(daemon, old)
    again = await running(daemon, "app", len(ours))
    assert {p: r["cpu_ids"] for p, r in again.items()} == {p: r["cpu_ids"] for p, r in shown.items()}
    await daemon.delete("app")
    await healthy(daemon, "late")


@pytest.mark.parametrize("env_vars", [{}, {"PYTHONHASHSEED": "7"}], ids=["forked", "fresh interpreter"])
async def test_replicas_are_bound_to_the_cpus_that_are_named(
    daemon: Instance, env_vars: dict[str, str]
) -> None:
    last = max(os.sched_getaffinity(0))
    await deploy(daemon, "app", affinity=[last], replicas=2, env_vars=env_vars)
    await running(daemon, "app", 2)
    answers = await asked(daemon, "app", 2)
    assert [a["bound"] for a in answers.values()] == [[last], [last]]
    assert [a["bound_when_imported"] for a in answers.values()] == [[last], [last]]
    await deploy(daemon, "elsewhere", affinity=[4000])
    message = await waiting(daemon, "elsewhere", "CPU 4000")
    assert "is bound to CPU 4000 by cpu_affinity, and this instance may use" in message


async def test_numeric_libraries_are_told_to_use_as_many_threads_as_there_are_cpus_for_the_replica(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    daemon = await start(instances, monkeypatch, SERVE_LITE_NUM_CPUS="999")
    await deploy(daemon, "two", cpus=2)
    await deploy(daemon, "half", cpus=0.5)
    await deploy(daemon, "none")
    await deploy(daemon, "mine", cpus=2, env_vars={"OMP_NUM_THREADS": "3"})
    told = {}
    for name in ("two", "half", "none", "mine"):
        await running(daemon, name, 1)
        (answer,) = (await asked(daemon, name, 1)).values()
        told[name] = answer["threads"]
    assert told == {"two": "2", "half": "1", "none": None, "mine": "3"}


async def test_the_instance_s_own_variable_wins(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(instances, monkeypatch, OMP_NUM_THREADS="5")
    await deploy(daemon, "app", cpus=1)
    await running(daemon, "app", 1)
    (answer,) = (await asked(daemon, "app", 1)).values()
    assert answer["threads"] == "5"
