"""Resources of the machine as real replicas get them: real processes, on GPUs that only have names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeployReply, DeployRequest
from tests.instances import DEADLINE_S, Instance, Instances
from tests.processes.test_kills import kill, new_daemon

HERE = Path(__file__).parent

NVIDIA_SMI = """#!/bin/sh
echo "GPU 0: Tesla T4 (UUID: GPU-00000000-aaaa)"
echo "GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-11111111-bbbb)"
"""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NUM_CPUS", "NUM_GPUS", "MEMORY_BYTES", "RESOURCES"):
        monkeypatch.delenv(f"SERVE_LITE_{name}", raising=False)


async def deploy(
    daemon: Instance,
    name: str,
    needs: dict[str, Any],
    replicas: int = 1,
    env_vars: dict[str, str] | None = None,
) -> None:
    """Make an application the goal; each time its replicas are replaced."""
    app = AppSubmission(
        name=name,
        route_prefix=f"/{name}",
        environment=CodeEnvironment(cwd=str(HERE), sys_path=(str(HERE),), env_vars=env_vars or {}),
        build=BuildRequest(
            app_name=name, import_path="allotted:app", args={"needs": needs, "replicas": replicas}
        ),
    )
    await daemon.ask("deploy", DeployRequest(apps=[app]), DeployReply)


async def scale(daemon: Instance, name: str, replicas: int) -> None:
    answer = await daemon.admin.post(
        f"/api/v1/applications/{name}/deployments/Allotted/scale?manual=true",
        json={"target_num_replicas": replicas},
    )
    assert answer.status_code == 200, answer.text


async def details(daemon: Instance, name: str) -> dict[str, Any]:
    """Return what REST tells of the application's deployment, {} until it is built."""
    apps = (await daemon.admin.get("/api/serve/applications/")).json()["applications"]
    found: dict[str, Any] = apps.get(name, {}).get("deployments", {}).get("Allotted", {})
    return found


async def running(
    daemon: Instance, name: str, count: int, *, others_than: set[int] = frozenset()
) -> dict[int, dict[str, Any]]:  # type: ignore[assignment]  # a set of none
    """Return what REST tells of the replicas, by process, once just so many run."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            replicas = (await details(daemon, name)).get("replicas", [])
            if len(replicas) == count and all(
                r["state"] == "RUNNING" and r["pid"] not in others_than for r in replicas
            ):
                return {r["pid"]: r for r in replicas}
            await anyio.sleep(0.02)


async def waiting(daemon: Instance, name: str, said: str) -> str:
    """Return the message of the deployment once it says so."""
    with anyio.fail_after(DEADLINE_S):
        while said not in (message := (await details(daemon, name)).get("message", "")):
            await anyio.sleep(0.02)
    return str(message)


async def healthy(daemon: Instance, name: str) -> None:
    with anyio.fail_after(DEADLINE_S):
        while (await details(daemon, name)).get("status") != "HEALTHY":
            await anyio.sleep(0.02)


async def asked(daemon: Instance, name: str, count: int) -> dict[int, dict[str, Any]]:
    """Return what each of the replicas answers, by process."""
    said: dict[int, dict[str, Any]] = {}
    with anyio.fail_after(DEADLINE_S):
        while len(said) < count:
            answer = (await daemon.http.get(f"/{name}")).json()
            said[answer["pid"]] = answer
    return said


async def start(instances: Instances, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Instance:
    """Start an instance whose starter has these variables in its environment."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return await instances.start()


async def test_replicas_have_a_gpu_each_and_the_one_too_many_waits_and_says_why(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(instances, monkeypatch, SERVE_LITE_NUM_GPUS="2")
    await deploy(daemon, "first", {"num_gpus": 1}, replicas=3)
    message = await waiting(daemon, "first", "0 of 2 are free")
    assert "1 replica that waits to be scheduled: each needs 1 GPU" in message
    shown = await running(daemon, "first", 2)
    answers = await asked(daemon, "first", 2)
    assert {a["visible"] for a in answers.values()} == {"0", "1"}
    for pid, answer in answers.items():
        assert answer["visible"] == ",".join(answer["gpu_ids"]) == ",".join(shown[pid]["gpu_ids"])
        assert answer["resources"] == shown[pid]["allotted_resources"] == {"GPU": 1.0}
    assert (await details(daemon, "first"))["required_resources"] == {"CPU": 1.0, "GPU": 1.0}

    await deploy(daemon, "second", {"num_gpus": 0.5}, replicas=2)
    await waiting(daemon, "second", "each needs 0.5 of a GPU")
    await scale(daemon, "first", 1)
    await healthy(daemon, "first")
    shared = await asked(daemon, "second", 2)
    (kept,) = (await running(daemon, "first", 1)).values()
    (free,) = {"0", "1"} - set(kept["gpu_ids"])
    assert {a["visible"] for a in shared.values()} == {free}, "two halves share one"
    assert kept["pid"] in answers, "what ran was not restarted"
    await healthy(daemon, "second")
    assert (await details(daemon, "second"))["message"] == ""


async def test_a_rolling_update_ends_though_no_gpu_is_free(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(instances, monkeypatch, SERVE_LITE_NUM_GPUS="2")
    await deploy(daemon, "app", {"num_gpus": 1}, replicas=2)
    before = set(await running(daemon, "app", 2))
    await deploy(daemon, "app", {"num_gpus": 1}, replicas=2)
    after = await running(daemon, "app", 2, others_than=before)
    assert sorted(g for r in after.values() for g in r["gpu_ids"]) == ["0", "1"]
    await healthy(daemon, "app")


async def test_a_new_daemon_leaves_the_replicas_what_they_have(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(instances, monkeypatch, CUDA_VISIBLE_DEVICES="3,GPU-5d5b,MIG-c6d4f1ef-42e4")
    await deploy(daemon, "app", {"num_gpus": 1}, replicas=3)
    before = {pid: r["gpu_ids"] for pid, r in (await running(daemon, "app", 3)).items()}
    ids = ["3", "GPU-5d5b", "MIG-c6d4f1ef-42e4"]
    assert sorted(before.values()) == [[gpu] for gpu in ids], "the ids of the mask are kept as they are"
    old = await daemon.daemon_pid()
    kill(old)
    await new_daemon(daemon, old)
    assert {pid: r["gpu_ids"] for pid, r in (await running(daemon, "app", 3)).items()} == before
    await deploy(daemon, "late", {"num_gpus": 0.1})
    await waiting(daemon, "late", "the most that is free on one of 3 is 0")
    assert {a["visible"] for a in (await asked(daemon, "app", 3)).values()} == set(ids)


async def test_the_variable_is_there_when_the_interpreter_starts(
    instances: Instances, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is loaded that early, such as a library that a `.pth` file imports, sees the replica's GPUs only."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pathlib\n"
        f"pathlib.Path({str(tmp_path)!r}, str(os.getpid())).write_text(os.environ.get('CUDA_VISIBLE_DEVICES', '-'))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    daemon = await start(instances, monkeypatch, SERVE_LITE_NUM_GPUS="2")
    await deploy(daemon, "app", {"num_gpus": 1}, replicas=2)
    replicas = await running(daemon, "app", 2)
    assert {(tmp_path / str(pid)).read_text() for pid in replicas} == {"0", "1"}
    assert (tmp_path / str(await daemon.daemon_pid())).read_text() == "-"


async def test_without_a_gpu_asked_for_the_variable_is_the_users(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(instances, monkeypatch, CUDA_VISIBLE_DEVICES="4,5")
    await deploy(daemon, "plain", {})
    await deploy(daemon, "none", {"num_gpus": 0})
    await deploy(daemon, "own", {}, env_vars={"CUDA_VISIBLE_DEVICES": "5"})
    await deploy(daemon, "given", {"num_gpus": 2}, env_vars={"CUDA_VISIBLE_DEVICES": "7"})
    seen = {}
    for name in ("plain", "none", "own", "given"):
        await running(daemon, name, 1)
        (answer,) = (await asked(daemon, name, 1)).values()
        seen[name] = answer["visible"]
        assert answer["killed_first"] >= 500, "the kernel would take the daemon before it"
    assert seen == {"plain": "4,5", "none": "4,5", "own": "5", "given": "4,5"}
    for pid in (await daemon.daemon_pid(), daemon.keeper_pid):
        assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) < 500


async def test_gpus_are_found_and_chosen_by_their_type(
    instances: Instances, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(NVIDIA_SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    daemon = await instances.start()
    await deploy(daemon, "large", {"num_gpus": 1, "accelerator_type": "A100"})
    await running(daemon, "large", 1)
    (answer,) = (await asked(daemon, "large", 1)).values()
    assert (answer["visible"], answer["order"]) == ("1", "PCI_BUS_ID")
    await deploy(daemon, "newest", {"num_gpus": 1, "accelerator_type": "H100"})
    message = await waiting(daemon, "newest", "waits to be scheduled")
    assert "needs 1 GPU of type 'H100', and this machine has NVIDIA A100-SXM4-80GB, Tesla T4" in message


async def test_resources_of_the_users_own_are_what_the_instance_was_given(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await start(
        instances,
        monkeypatch,
        SERVE_LITE_RESOURCES='{"slot": 2}',
        SERVE_LITE_NUM_CPUS="1",
        SERVE_LITE_MEMORY_BYTES="1e9",
    )
    await deploy(daemon, "slots", {"resources": {"slot": 1}}, replicas=3)
    await waiting(daemon, "slots", "needs 1 'slot', and 0 of 2 'slot' is free")
    await running(daemon, "slots", 2)
    await deploy(daemon, "licensed", {"resources": {"license": 1}})
    await waiting(daemon, "licensed", "SERVE_LITE_RESOURCES='{\"license\": 1}'")
    await deploy(daemon, "wide", {"num_cpus": 2})
    await waiting(daemon, "wide", "needs 2 CPUs, and there is never more than 1 CPU")
    await deploy(daemon, "fat", {"memory": 2e9})
    await waiting(
        daemon, "fat", "needs 1.863 GiB of memory, and there is never more than 953.7 MiB of memory"
    )
    await deploy(daemon, "modest", {}, replicas=3)
    await running(daemon, "modest", 3)


async def test_a_replica_that_takes_more_memory_than_it_was_given_is_replaced(daemon: Instance) -> None:
    app = AppSubmission(
        name="greedy",
        route_prefix="/greedy",
        environment=CodeEnvironment(cwd=str(HERE), sys_path=(str(HERE),)),
        build=BuildRequest(app_name="greedy", import_path="allotted:greedy", args={"memory": 300e6}),
    )
    await daemon.ask("deploy", DeployRequest(apps=[app]), DeployReply)
    (first,) = await running(daemon, "greedy", 1)
    assert (await daemon.http.get("/greedy?take=1000000")).json() == first, "that is within what it has"
    assert (await daemon.http.get("/greedy?take=400000000")).json() == first
    (second,) = await running(daemon, "greedy", 1, others_than={first})
    await healthy(daemon, "greedy")
    (dead,) = (await details(daemon, "greedy"))["recent_dead_replicas"]
    assert dead["pid"] == first
    events = daemon.log("daemon.log")
    assert "MiB of memory, more than the 286.1 MiB that `memory` in its ray_actor_options gives it" in events
    assert (await daemon.http.get("/greedy")).json() == second
