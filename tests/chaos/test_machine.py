"""Other faults of the machine: no descriptors, a disk that is read-only, a state file that goes, clocks that jump."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import psutil
import pytest

from serve_lite.engines import local
from serve_lite.exceptions import InstanceError
from serve_lite.schema import ApplicationStatus
from tests.chaos.disks import Disk, mounted
from tests.chaos.waiting import Attempts
from tests.instances import Instance, Instances, until

HERE = Path(__file__).parent


async def pid_of_answer(instance: Instance) -> int:
    async with httpx.AsyncClient(timeout=30.0) as client:  # on a connection of its own
        answer = await client.get(instance.http_url)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["pid"])


# --- descriptors ---


async def test_without_descriptors_clients_wait_or_are_cut_and_later_ones_are_served(
    daemon: Instance,
) -> None:
    await daemon.deploy("faulted:chatty", folder=HERE)
    replica = await pid_of_answer(daemon)
    served = await daemon.http.get("/")  # on a connection that stays
    process = psutil.Process(await daemon.daemon_pid())
    limits = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (process.num_fds() + 8, limits[1]))
    outcomes: list[str] = []

    async def ask() -> None:
        try:
            outcomes.append(str(await pid_of_answer(daemon)))
        except httpx.TransportError as error:
            outcomes.append(type(error).__name__)

    streams = []
    for _ in range(64):
        try:
            streams.append(await anyio.connect_tcp("127.0.0.1", daemon.info.http_port))
        except OSError:  # the queue of the listening socket is full
            break
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(ask)
        served = await daemon.http.get("/")
        assert served.status_code == 200  # who is connected is served on
        for stream in streams:
            await stream.aclose()
    assert len(outcomes) == 10
    assert await pid_of_answer(daemon) == replica  # under the same limit: the door is open again
    process.rlimit(psutil.RLIMIT_NOFILE, limits)
    status = await daemon.deploy("faulted:chatty", folder=HERE, args={"n": "2"})
    assert status.applications["default"].status is ApplicationStatus.RUNNING
    assert await daemon.daemon_pid() == process.pid


async def test_a_connection_that_cannot_be_accepted_waits_until_it_can(daemon: Instance) -> None:
    await daemon.deploy("faulted:chatty", folder=HERE)
    replica = (await daemon.http.get("/")).json()["pid"]
    process = psutil.Process(await daemon.daemon_pid())
    limits = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (0, limits[1]))  # it may keep what it has, and open nothing
    answers: list[int] = []

    async def ask() -> None:
        answers.append(await pid_of_answer(daemon))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(ask)
        for _ in range(20):
            assert (await daemon.http.get("/")).json()["pid"] == replica
        assert not answers
        process.rlimit(psutil.RLIMIT_NOFILE, limits)
    assert answers == [replica] * 3


async def test_a_replica_that_cannot_be_started_for_lack_of_descriptors_is_started_later(
    daemon: Instance,
) -> None:
    await daemon.deploy("faulted:chatty", folder=HERE)
    replica = await pid_of_answer(daemon)
    process = psutil.Process(await daemon.daemon_pid())
    limits = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (0, limits[1]))
    os.kill(replica, signal.SIGKILL)
    await until(lambda: "Too many open files" in daemon.log("daemon.log"), "the log says what is missing")
    process.rlimit(psutil.RLIMIT_NOFILE, limits)
    assert await pid_of_answer(daemon) != replica
    assert await daemon.daemon_pid() == process.pid


# --- the state directory ---


@pytest.fixture
def disk() -> Iterator[Disk]:
    root = Path("/tmp", f"serve-lite-disk-{os.getpid()}")
    try:
        with mounted(root, "8m") as disk:
            yield disk
    finally:
        root.rmdir()


async def test_a_read_only_state_directory_is_told_at_the_start(disk: Disk, instances: Instances) -> None:
    home = str(disk.root / "home")
    instances.watch_home(home)
    options = instances.options(home=home)
    await instances.stop(await instances.start(options))
    disk.make_read_only()
    with pytest.raises(InstanceError, match=r"cannot be written to.*read-only.*SERVE_LITE_HOME"):
        local.start_instance(options)


async def test_a_state_file_that_goes_is_said_until_it_is_back(daemon: Instance) -> None:
    await daemon.deploy("faulted:chatty", folder=HERE)
    old, replica = await daemon.daemon_pid(), await pid_of_answer(daemon)
    attempts = Attempts(daemon)
    assert attempts.ended() == 0
    taken = Path(daemon.home, "taken")
    Path(daemon.paths.db).rename(taken)
    os.kill(old, signal.SIGKILL)
    await until(lambda: attempts.ended() >= 3, "more daemons have looked for it")
    assert "state.db' is damaged: it is missing" in daemon.log("daemon.log")
    assert not Path(daemon.paths.db).exists()  # no empty one in its place
    taken.rename(daemon.paths.db)
    assert await pid_of_answer(daemon) == replica  # has waited


# --- the clock ---

#: Read by every interpreter of the instance: its wall clock goes wrong by what the file says.
SKEW = """
import os, time
real, path = time.time, os.environ["SKEW_FILE"]
def time_now():
    with open(path) as file:
        return real() + float(file.read())
time.time = time_now
"""


async def test_a_clock_that_jumps_moves_nothing_but_what_is_shown(
    instances: Instances, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skew = tmp_path / "skew"
    skew.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(SKEW)
    monkeypatch.setenv("SKEW_FILE", str(skew))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    instance = await instances.start()
    await instance.deploy("faulted:clocked", folder=HERE)
    daemon, replica = await instance.daemon_pid(), await pid_of_answer(instance)
    for jump_s in (3600, -3600, 10 * 365 * 86400):
        set_clock(skew, jump_s)
        answer = (await instance.http.get("/")).json()
        assert (answer["pid"], round(answer["ahead_s"] / 10)) == (replica, jump_s / 10)  # it has jumped
        checks = answer["checks"]
        while (await instance.http.get("/")).json()[
            "checks"
        ] < checks + 3:  # health is asked for, in its time
            await anyio.sleep(0.02)
        assert instance.pids("replica") == {replica}
    assert await instance.daemon_pid() == daemon
    os.kill(replica, signal.SIGKILL)
    assert await pid_of_answer(instance) != replica  # and starts are not put off
    status = await instance.deploy("faulted:chatty", folder=HERE)
    assert status.applications["default"].status is ApplicationStatus.RUNNING


def set_clock(file: Path, seconds: float) -> None:
    """Have the clock jump; a reader never sees half a number."""
    new = file.with_suffix(".new")
    new.write_text(str(seconds))
    new.rename(file)
