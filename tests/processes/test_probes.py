"""What the daemon makes of replicas that are stopped, blocked, deadlocked, or only busy, with real processes."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from serve_lite.schema import DeploymentStatus
from tests.instances import DEADLINE_S, Instance, until

HERE = Path(__file__).parent


async def deploy(instance: Instance, folder: Path, kind: str = "app", **options: Any) -> None:
    args = {"folder": str(folder), **options}
    status = await instance.deploy(f"probed:{kind}", folder=HERE, args=args)
    assert status.applications["default"].status == "RUNNING", status.applications["default"].message


async def deployment(instance: Instance) -> dict[str, Any]:
    answer = await instance.admin.get("/api/serve/applications/")
    [found] = answer.json()["applications"]["default"]["deployments"].values()
    return dict(found)


async def errors(instance: Instance) -> dict[int, str]:
    """Return what is told of each replica, by pid."""
    return {r["pid"]: r["last_error"] for r in (await deployment(instance))["replicas"]}


async def until_told(instance: Instance, pid: int, *words: str) -> str:
    """Return what is told of a replica once it has all these words."""
    told = ""
    with anyio.fail_after(DEADLINE_S):
        while not all(word in told for word in words):
            told = (await errors(instance)).get(pid, "")
            await anyio.sleep(0.05)
    return told


def blocked_s(told: str) -> int:
    """Return for how many seconds a loop is said to have been blocked."""
    found = re.search(r"its loop has been blocked for (\d+) s", told)
    return int(found[1]) if found else 0


async def until_status(instance: Instance, status: DeploymentStatus) -> dict[str, Any]:
    with anyio.fail_after(DEADLINE_S):
        while (found := await deployment(instance))["status"] != status:
            await anyio.sleep(0.05)
    return found


async def ask(instance: Instance, what: str = "", name: str = "") -> int:
    """Return the pid of the replica that answered, or the status of a failure."""
    answer = await instance.http.get("/", params={"what": what, "name": name})
    return int(answer.json()["pid"]) if answer.status_code == 200 else answer.status_code


def log_of(instance: Instance) -> str:
    return "\n".join(p.read_text() for p in Path(instance.paths.logs).glob("replica_*.log"))


async def test_a_stopped_process_is_sent_nothing_and_replaced(daemon: Instance, tmp_path: Path) -> None:
    await deploy(daemon, tmp_path, num_replicas=2, alive_timeout_s=3)
    victim, other = sorted(daemon.pids("replica"))
    os.kill(victim, signal.SIGSTOP)
    await until_told(daemon, victim, "its process is stopped (SIGSTOP)")
    assert {await ask(daemon) for _ in range(10)} == {other}
    await until(lambda: victim not in daemon.pids("replica"), "the stopped one is replaced")
    await until_status(daemon, DeploymentStatus.HEALTHY)
    assert len(daemon.pids("replica")) == 2
    assert "stop: it has not answered for 3 s: its process is stopped (SIGSTOP)" in daemon.log("daemon.log")


async def test_a_stopped_process_that_goes_on_in_time_comes_back(daemon: Instance, tmp_path: Path) -> None:
    await deploy(daemon, tmp_path, num_replicas=2, alive_timeout_s=None)
    before = daemon.pids("replica")
    victim = min(before)
    os.kill(victim, signal.SIGSTOP)
    told = await until_status(daemon, DeploymentStatus.UNHEALTHY)
    assert "is sent nothing more: it has not answered for" in told["message"]
    os.kill(victim, signal.SIGCONT)
    await until_status(daemon, DeploymentStatus.HEALTHY)
    answered: set[int] = set()
    with anyio.fail_after(DEADLINE_S):
        while victim not in answered:
            answered.add(await ask(daemon))
    assert daemon.pids("replica") == before


async def test_what_a_stopped_process_has_not_accepted_runs_elsewhere_and_only_there(
    daemon: Instance, tmp_path: Path
) -> None:
    await deploy(daemon, tmp_path, num_replicas=2, alive_timeout_s=None)
    victim = min(daemon.pids("replica"))
    while len({await ask(daemon) for _ in range(20)}) < 2:
        pass  # the proxy is connected to both
    os.kill(victim, signal.SIGSTOP)
    answered: list[int] = []
    names = [f"call{i}" for i in range(40)]

    async def one(name: str) -> None:
        answered.append(await ask(daemon, name=name))

    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(one, name)
    assert set(answered) == daemon.pids("replica") - {victim} and len(answered) == len(names)
    os.kill(victim, signal.SIGCONT)
    await until_status(daemon, DeploymentStatus.HEALTHY)
    with anyio.fail_after(DEADLINE_S):
        while await ask(daemon) != victim:
            pass  # it has read everything that lay in its socket before it answers this
    ran = [(tmp_path / name).read_text().split() for name in names]
    assert [len(pids) for pids in ran] == [1] * len(names)
    assert str(victim) not in {pid for pids in ran for pid in pids}


async def test_calls_to_the_only_replica_wait_while_it_is_stopped(daemon: Instance, tmp_path: Path) -> None:
    await deploy(daemon, tmp_path, alive_timeout_s=None)
    [victim] = daemon.pids("replica")
    os.kill(victim, signal.SIGSTOP)
    await until_status(daemon, DeploymentStatus.UNHEALTHY)
    answered: list[int] = []

    async def one() -> None:
        answered.append(await ask(daemon))

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        os.kill(victim, signal.SIGCONT)
    assert answered == [victim]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("sleep", ("it sleeps", "in <lambda>")),
        ("spin", ("the process uses CPU", "probed.py:")),
        ("lock", ("it waits for a lock and the process uses no CPU", "in __call__")),
    ],
)
async def test_what_blocks_the_loop_is_told_and_replaced_if_the_deployment_says_so(
    daemon: Instance, tmp_path: Path, what: str, words: tuple[str, ...]
) -> None:
    await deploy(daemon, tmp_path, deadlock_timeout_s=None)
    [pid] = daemon.pids("replica")
    async with anyio.create_task_group() as group:
        group.start_soon(ask, daemon, what)
        told = ""
        with anyio.fail_after(DEADLINE_S):
            while blocked_s(told) < 4:  # its process has used no CPU for a while then, or all of it
                told = await until_told(daemon, pid, "its loop has been blocked for", *words)
        assert "probed.py:" in told
        assert (await deployment(daemon))["status"] == DeploymentStatus.HEALTHY
        stack = await until(lambda: _part(log_of(daemon), "has been blocked for"), "the stack is logged")
        assert "in __call__" in stack
        assert daemon.pids("replica") == {pid}
        # The same replica, judged by another limit from now on.
        await deploy_again(daemon, tmp_path, deadlock_timeout_s=None, progress_timeout_s=1.5)
        await until(lambda: pid not in daemon.pids("replica"), "it is replaced")
    assert "stop: its loop has been blocked for" in daemon.log("daemon.log")


async def deploy_again(instance: Instance, folder: Path, **options: Any) -> None:
    from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
    from serve_lite.wire.messages import DeployReply, DeployRequest

    environment = CodeEnvironment(cwd=str(HERE), sys_path=(str(HERE),))
    build = BuildRequest(
        app_name="default", import_path="probed:app", args={"folder": str(folder), **options}
    )
    app = AppSubmission(name="default", route_prefix="/", environment=environment, build=build)
    await instance.ask("deploy", DeployRequest(apps=[app]), DeployReply)


def _part(text: str, word: str) -> str:
    return text[text.index(word) :] if word in text else ""


async def test_a_deadlocked_loop_is_replaced(daemon: Instance, tmp_path: Path) -> None:
    await deploy(daemon, tmp_path, deadlock_timeout_s=1)
    [pid] = daemon.pids("replica")
    assert await ask(daemon, "lock") == 500  # its replica was ended under it
    assert await ask(daemon) != pid
    assert "stop: it is deadlocked: its loop has been blocked for" in daemon.log("daemon.log")


@pytest.mark.parametrize("what", ["sleep", "spin"])
async def test_a_long_blocking_call_is_no_deadlock_and_its_replica_answers_in_the_end(
    daemon: Instance, tmp_path: Path, what: str
) -> None:
    await deploy(daemon, tmp_path, deadlock_timeout_s=1, alive_timeout_s=2)
    [pid] = daemon.pids("replica")
    answered: list[int] = []

    async def one() -> None:
        answered.append(await ask(daemon, what))

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        await until_told(daemon, pid, "its loop has been blocked for 5 s")
        (tmp_path / "gate").touch()
    assert answered == [pid]
    await until(lambda: "turns again" in log_of(daemon), "the end is logged")
    with anyio.fail_after(DEADLINE_S):
        while (await errors(daemon))[pid]:
            await anyio.sleep(0.05)


async def test_requests_that_wait_for_each_other_leave_the_replica_alone(
    daemon: Instance, tmp_path: Path
) -> None:
    """The loop turns, so nothing is wrong with the replica, as far as anybody else can tell."""
    await deploy(daemon, tmp_path, deadlock_timeout_s=0.5, progress_timeout_s=0.5, alive_timeout_s=1)
    [pid] = daemon.pids("replica")
    async with anyio.create_task_group() as group:
        group.start_soon(ask, daemon, "async")
        group.start_soon(ask, daemon, "sleep")  # shows that the probes are at work, and ends the replica
        await until(lambda: pid not in daemon.pids("replica"), "the blocked one is replaced")
    assert "deadlocked" not in daemon.log("daemon.log")


async def test_a_health_check_that_a_blocked_loop_does_not_answer_counts_and_says_why(
    daemon: Instance, tmp_path: Path
) -> None:
    await deploy(daemon, tmp_path, "checked", deadlock_timeout_s=None, alive_timeout_s=None)
    [pid] = daemon.pids("replica")
    async with anyio.create_task_group() as group:
        group.start_soon(ask, daemon, "sleep")
        await until(lambda: pid not in daemon.pids("replica"), "it is replaced")
    log = daemon.log("daemon.log")
    assert "stop: it failed 3 health checks: no answer within 0.3 s" in log


async def test_a_new_daemon_probes_the_replicas_that_it_adopts(daemon: Instance, tmp_path: Path) -> None:
    await deploy(daemon, tmp_path, num_replicas=2, alive_timeout_s=None)
    victim, other = sorted(daemon.pids("replica"))
    old = await daemon.daemon_pid()
    os.kill(old, signal.SIGKILL)
    while await daemon.daemon_pid() == old:
        pass
    os.kill(victim, signal.SIGSTOP)
    await until_told(daemon, victim, "its process is stopped (SIGSTOP)")
    assert {await ask(daemon) for _ in range(10)} == {other}
    os.kill(victim, signal.SIGCONT)
