"""A disk without room: changes are refused with the reason, what runs goes on, and all is well when there is room."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from serve_lite.exceptions import InstanceError
from serve_lite.schema import ApplicationStatus
from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeployReply, DeployRequest
from tests.chaos.disks import Disk, mounted
from tests.chaos.waiting import Attempts, eventually
from tests.instances import Instance, Instances, until

HERE = Path(__file__).parent


@pytest.fixture
def disk() -> Iterator[Disk]:
    """A disk with 32 MB, at a path that is short enough for sockets."""
    root = Path("/tmp", f"serve-lite-disk-{os.getpid()}")
    try:
        with mounted(root, "32m") as disk:
            yield disk
    finally:
        root.rmdir()


@pytest.fixture
async def instance(disk: Disk, instances: Instances) -> Instance:
    """An instance on the small disk, with an application that runs."""
    home = str(disk.root / "home")
    instances.watch_home(home)
    instance = await instances.start(instances.options(home=home))
    await instance.deploy("faulted:chatty", folder=HERE)
    return instance


async def pid_of_answer(instance: Instance) -> int:
    answer = await instance.http.get("/")
    assert answer.status_code == 200, answer.text
    return int(answer.json()["pid"])


async def deploy_large(instance: Instance) -> None:
    """Ask for a change that needs more room than a few free blocks."""
    environment = CodeEnvironment(cwd=str(HERE), sys_path=(str(HERE),))
    build = BuildRequest(app_name="large", import_path="faulted:chatty", args={"padding": "x" * 2_000_000})
    app = AppSubmission(name="large", route_prefix="/large", environment=environment, build=build)
    await instance.ask("deploy", DeployRequest(apps=[app]), DeployReply)


async def test_a_change_that_cannot_be_stored_is_refused_and_what_runs_goes_on(
    instance: Instance, disk: Disk
) -> None:
    daemon, replica = await instance.daemon_pid(), await pid_of_answer(instance)
    disk.fill()
    with pytest.raises(InstanceError, match=r"The change was not made: .*state\.db.*full"):
        await deploy_large(instance)
    assert list((await instance.status()).applications) == ["default"]
    for _ in range(20):  # it prints, and its log cannot grow
        assert await pid_of_answer(instance) == replica
    disk.tidy()
    await deploy_large(instance)
    assert await instance.daemon_pid() == daemon
    status = await instance.deploy("faulted:chatty", folder=HERE, args={"n": "2"})
    assert status.applications["default"].status is ApplicationStatus.RUNNING


async def test_a_replica_that_dies_meanwhile_is_replaced_when_there_is_room(
    instance: Instance, disk: Disk
) -> None:
    daemon, replica = await instance.daemon_pid(), await pid_of_answer(instance)
    disk.fill()
    os.kill(replica, signal.SIGKILL)

    async def says_why() -> bool:
        deployment = (await instance.status()).applications["default"].deployments["Chatty"]
        return "No space left" in deployment.message or "full" in deployment.message

    await eventually(says_why, "the status says that there is no room")
    assert await instance.daemon_pid() == daemon
    disk.tidy()
    assert await pid_of_answer(instance) != replica


async def test_a_daemon_that_dies_meanwhile_finds_its_replica(instance: Instance, disk: Disk) -> None:
    daemon, replica = await instance.daemon_pid(), await pid_of_answer(instance)
    attempts = Attempts(instance)
    disk.fill()
    assert attempts.ended() == 0
    os.kill(daemon, signal.SIGKILL)
    await until(lambda: attempts.ended() > 0, "the daemon is gone")
    disk.tidy()
    assert await pid_of_answer(instance) == replica
    assert await instance.daemon_pid() != daemon


async def test_files_that_may_not_grow_are_no_harm_either(instances: Instances) -> None:
    """The limit of a quota, set for the daemon alone: needs no rights, so it is tried everywhere."""
    instance = await instances.start()
    await instance.deploy("faulted:chatty", folder=HERE)
    daemon, replica = await instance.daemon_pid(), await pid_of_answer(instance)
    limited = may_write_nothing(daemon)
    with pytest.raises(InstanceError, match=r"The change was not made: .*state\.db"):
        await deploy_large(instance)
    assert await pid_of_answer(instance) == replica
    limited()
    await deploy_large(instance)
    assert await instance.daemon_pid() == daemon


async def test_a_daemon_that_cannot_even_start_for_lack_of_room_is_tried_until_it_can(
    instances: Instances,
) -> None:
    instance = await instances.start()
    await instance.deploy("faulted:chatty", folder=HERE)
    daemon, replica = await instance.daemon_pid(), await pid_of_answer(instance)
    attempts = Attempts(instance)
    assert attempts.ended() == 0
    limited = may_write_nothing(instance.keeper_pid)  # what it starts inherits that
    os.kill(daemon, signal.SIGKILL)
    await until(lambda: attempts.ended() >= 4, "three more daemons have tried")
    limited()
    assert await pid_of_answer(instance) == replica  # the request has waited


def may_write_nothing(pid: int) -> Callable[[], None]:
    """Let no file of a process grow; return what takes that back."""
    process = psutil.Process(pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (0, before[1]))
    return lambda: process.rlimit(psutil.RLIMIT_FSIZE, before)
