"""Replicas that the kernel holds to their memory: real processes in real cgroups, and a real lack of memory.

Where this process may not make cgroups, only what is told of it is tested; `tests/processes/cgroups.py` says where.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from serve_lite.controller.cgroups import find_base
from serve_lite.controller.machine import usable_memory_bytes
from serve_lite.exceptions import InstanceError
from serve_lite.policy.cgroups import NoParting
from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeployReply, DeployRequest
from serve_lite_cli.status import status_of
from tests.instances import Instance, Instances, is_running, until
from tests.processes.cgroups import handed_over, members, moved_into
from tests.processes.test_kills import kill, new_daemon
from tests.processes.test_resources import bare_environment, healthy, running, waiting

__all__ = ["bare_environment", "handed_over"]

HERE = Path(__file__).parent
LIMIT = 200_000_000


async def deploy(daemon: Instance, memory: float = LIMIT, **env_vars: str) -> None:
    app = AppSubmission(
        name="greedy",
        route_prefix="/greedy",
        environment=CodeEnvironment(cwd=str(HERE), sys_path=(str(HERE),), env_vars=env_vars),
        build=BuildRequest(app_name="greedy", import_path="allotted:greedy", args={"memory": memory}),
    )
    await daemon.ask("deploy", DeployRequest(apps=[app]), DeployReply)


def groups(folder: Path) -> list[Path]:
    """Return the cgroups of replicas that there are."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name.startswith("serve-lite."))


async def told(daemon: Instance) -> str:
    answer = (await daemon.admin.get("/api/serve/applications/")).json()
    return str(answer.get("memory_limits", "nothing"))


# --- where the kernel does it -------------------------------------------------------------------


async def test_the_kernel_ends_a_replica_that_wants_more_than_its_memory_and_the_reason_is_told(
    handed_over: Path, instances: Instances
) -> None:
    with moved_into(handed_over):
        daemon = await instances.start()
    await deploy(daemon)
    (first,) = await running(daemon, "greedy", 1)
    (group,) = groups(handed_over)
    assert members(group) == {first}
    limits = {name: (group / name).read_text().strip() for name in ("memory.max", "memory.oom.group")}
    assert int(limits["memory.max"]) in range(LIMIT - 4096, LIMIT + 1) and limits["memory.oom.group"] == "1"
    assert {daemon.keeper_pid, await daemon.daemon_pid()} <= members(handed_over / "serve-lite")
    assert members(handed_over) == set(), "whoever was there has moved down"
    assert await told(daemon) == "kernel"

    assert (await daemon.http.get("/greedy?take=1000000")).json() == first, "that is within what it has"
    assert (await daemon.http.get("/greedy?take=400000000")).status_code == 500, "it died of it"
    (second,) = await running(daemon, "greedy", 1, others_than={first})
    await healthy(daemon, "greedy")
    log = daemon.log("daemon.log")
    assert "killed by SIGKILL: over its memory limit of 190.7 MiB (`memory` in its ray_actor_options" in log
    (group,) = groups(handed_over)
    assert members(group) == {second}, "the first one's is removed"
    await daemon.delete("greedy")
    assert groups(handed_over) == []


async def test_one_that_does_not_even_come_up_says_that_it_is_over_its_memory(
    handed_over: Path, instances: Instances
) -> None:
    with moved_into(handed_over):
        daemon = await instances.start()
    await deploy(daemon, memory=1e6)
    assert "over its memory limit of 976.6 KiB" in await waiting(daemon, "greedy", "over its memory limit")


async def test_replicas_of_a_fresh_interpreter_are_held_too_and_end_with_all_that_they_started(
    handed_over: Path, instances: Instances
) -> None:
    with moved_into(handed_over):
        daemon = await instances.start()
    await deploy(daemon, PYTHONHASHSEED="7")  # which a fork could not give
    (pid,) = await running(daemon, "greedy", 1)
    child = (await daemon.http.get("/greedy?child=true")).json()
    (group,) = groups(handed_over)
    assert members(group) == {pid, child}
    await daemon.delete("greedy")
    assert not is_running(child) and groups(handed_over) == []


async def test_a_new_daemon_knows_who_is_held_and_why_one_ends(
    handed_over: Path, instances: Instances
) -> None:
    with moved_into(handed_over):
        daemon = await instances.start()
    await deploy(daemon)
    (first,) = await running(daemon, "greedy", 1)
    (group,) = groups(handed_over)
    old = await daemon.daemon_pid()
    kill(old)
    await new_daemon(daemon, old)
    assert set(await running(daemon, "greedy", 1)) == {first} and groups(handed_over) == [group]
    assert await told(daemon) == "kernel"
    assert (await daemon.http.get("/greedy?take=400000000")).status_code == 500
    await running(daemon, "greedy", 1, others_than={first})
    assert "over its memory limit of 190.7 MiB" in daemon.log("daemon.log")
    (after,) = groups(handed_over)
    assert after != group


async def test_what_is_left_after_everything_was_killed_is_removed_by_the_next_start(
    handed_over: Path, instances: Instances
) -> None:
    options = instances.options()
    with moved_into(handed_over):
        daemon = await instances.start(options)
    await deploy(daemon)
    (pid,) = await running(daemon, "greedy", 1)
    (left,) = groups(handed_over)
    everybody = members(handed_over / "serve-lite") | {pid}
    for one in everybody:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    await until(lambda: not any(map(is_running, everybody)), "all are gone")
    assert groups(handed_over) == [left]
    with moved_into(handed_over / "serve-lite"):  # where a container's next start is
        daemon = await instances.start(options)
    (after,) = await running(daemon, "greedy", 1)
    await until(lambda: left not in groups(handed_over), "the old one is removed")
    (group,) = groups(handed_over)
    assert members(group) == {after}


async def test_an_instance_that_is_told_to_watch_makes_no_cgroups(
    handed_over: Path, instances: Instances
) -> None:
    with moved_into(handed_over):
        daemon = await instances.start(instances.options(memory_limits="watched"))
    await deploy(daemon)
    await running(daemon, "greedy", 1)
    assert groups(handed_over) == [] and not (handed_over / "serve-lite").exists()
    assert await told(daemon) == "watched: memory_limits is watched"


async def test_what_the_machine_has_to_give_is_what_its_cgroup_leaves(handed_over: Path) -> None:
    (handed_over / "memory.max").write_text("300000000")
    with moved_into(handed_over):
        assert usable_memory_bytes() == int((handed_over / "memory.max").read_text())


# --- where it cannot ----------------------------------------------------------------------------


async def test_an_instance_tells_that_it_watches_and_why(
    instances: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = not_here()
    daemon = await instances.start()
    assert await told(daemon) == "nothing", "nobody asks for memory"
    await deploy(daemon)
    await running(daemon, "greedy", 1)
    assert await told(daemon) == f"watched: {reason}"
    details = (await daemon.admin.get("/api/serve/applications/")).json()
    assert status_of(details)["memory_limits"] == f"watched: {reason}", "a line of `serve status`"
    options: list[dict[str, Any]] = (await daemon.admin.get("/api/serve/instance")).json()["options"]
    (row,) = [option for option in options if option["name"] == "memory_limits"]
    assert (row["value"], row["origin"].endswith(f"; auto: {reason}")) == ("watched", True)
    assert f"memory of replicas is watched: {reason}" in daemon.log("daemon.log")


async def test_an_instance_that_is_to_have_limits_by_the_kernel_does_not_start_without(
    instances: Instances,
) -> None:
    reason = not_here()
    with pytest.raises(InstanceError) as refused:
        await instances.start(instances.options(memory_limits="kernel"))
    assert f"memory_limits is kernel, but {reason}" in str(refused.value)


def not_here() -> str:
    """Return why this process cannot make cgroups; skip the test where it can."""
    found = find_base()
    if not isinstance(found, NoParting):
        pytest.skip("cgroups can be made here")
    return found.reason
