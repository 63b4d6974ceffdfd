"""kill -9 of each kind of process: what goes on, what is replaced, and that nothing is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import httpx
import pytest

from serve_lite.schema import ApplicationStatus, ServeStatus
from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeployReply, DeployRequest, WaitRequest
from tests.instances import Instance, Instances, is_running, until

HERE = Path(__file__).parent


def kill(*pids: int) -> None:
    """Kill all as if at one moment: none can react to the end of another."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)


async def new_daemon(instance: Instance, old: int) -> int:
    """Return the pid of the daemon that has taken the place of `old`, once it answers."""
    pid = old
    while pid == old or not is_running(pid):
        pid = await instance.daemon_pid()
    return pid


async def test_replicas_outlive_the_daemon_and_are_adopted(daemon: Instance) -> None:
    await daemon.deploy("served:copies", folder=HERE, args={"n": "2"})
    before, old = daemon.pids("replica"), await daemon.daemon_pid()
    kill(old)
    await new_daemon(daemon, old)
    assert daemon.pids("replica") == before
    status = await daemon.status()
    assert status.applications["default"].status is ApplicationStatus.RUNNING
    answered = {(await daemon.http.get("/")).json()["pid"] for _ in range(20)}
    assert answered <= before


async def test_no_connection_is_refused_while_the_daemon_is_replaced(daemon: Instance) -> None:
    """Each request is a new connection; a request inside the dying daemon may break, a later one may not."""
    await daemon.deploy("served:who", folder=HERE)
    old = await daemon.daemon_pid()
    outcomes: list[str] = []

    async def ask_until(stop: anyio.Event) -> None:
        while not stop.is_set():
            async with httpx.AsyncClient(timeout=30.0) as client:
                try:
                    outcomes.append(str((await client.get(daemon.http_url)).status_code))
                except httpx.ConnectError:
                    outcomes.append("refused")
                except httpx.TransportError:
                    outcomes.append("broken")

    async with anyio.create_task_group() as group:
        stop = anyio.Event()
        for _ in range(4):
            group.start_soon(ask_until, stop)
        await until(lambda: len(outcomes) > 20, "requests are answered")
        kill(old)
        await new_daemon(daemon, old)
        seen = len(outcomes)
        await until(lambda: len(outcomes) > seen + 20, "requests are answered again")
        stop.set()
    assert set(outcomes) <= {"200", "broken"}
    assert outcomes.count("broken") <= 4  # one for each client that was inside


async def test_a_daemon_that_is_killed_twice_finds_its_replicas_twice(daemon: Instance) -> None:
    await daemon.deploy("served:who", folder=HERE)
    before = daemon.pids("replica")
    for _ in range(2):
        old = await daemon.daemon_pid()
        kill(old)
        await new_daemon(daemon, old)
    assert daemon.pids("replica") == before


async def test_an_adopted_replica_that_dies_is_replaced(daemon: Instance) -> None:
    await daemon.deploy("served:who", folder=HERE)
    old = await daemon.daemon_pid()
    kill(old)
    await new_daemon(daemon, old)
    before = daemon.pids("replica")
    kill(*before)
    assert (await daemon.http.get("/")).json()["pid"] not in before
    assert "it was killed by SIGKILL" in daemon.log("daemon.log")  # the keeper has told how it ended


async def test_a_deploy_that_was_building_goes_on_after_the_daemon_died(
    daemon: Instance, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "here = pathlib.Path(__file__).parent\n"
        "(here / 'importing').touch()\n"
        "while not (here / 'gate').exists():\n"
        "    time.sleep(0.01)\n"
        "from served import who\n"
    )
    old = await daemon.daemon_pid()
    async with anyio.create_task_group() as group:

        async def deploy() -> None:
            environment = CodeEnvironment(cwd=str(tmp_path), sys_path=(str(tmp_path), str(HERE)))
            build = BuildRequest(app_name="default", import_path="slow:who")
            await daemon.ask(
                "deploy",
                DeployRequest(apps=[AppSubmission(environment=environment, build=build)]),
                DeployReply,
            )

        group.start_soon(deploy)
        await until((tmp_path / "importing").exists, "the importer is inside user code")
    kill(old)
    (tmp_path / "gate").touch()
    await new_daemon(daemon, old)
    status = await daemon.ask("wait_apps", WaitRequest(names=["default"]), ServeStatus)
    assert status.applications["default"].status is ApplicationStatus.RUNNING
    assert (await daemon.http.get("/")).status_code == 200


async def test_a_replica_that_is_killed_is_replaced(daemon: Instance) -> None:
    await daemon.deploy("served:copies", folder=HERE, args={"n": "2"})
    before = daemon.pids("replica")
    victim = min(before)
    kill(victim)
    await until(lambda: len(daemon.pids("replica") - {victim}) == 2, "there are two again")
    assert daemon.pids("replica") - before
    assert (await daemon.http.get("/")).status_code == 200


async def test_a_replica_that_crashes_leaves_its_last_words(daemon: Instance) -> None:
    await daemon.deploy("served:doomed", folder=HERE)
    (replica,) = daemon.processes("replica")
    suffix = replica.cmdline()[0].split()[-1]
    answer = await daemon.http.get("/")
    assert answer.status_code == 500
    await until(lambda: not is_running(replica.pid))
    said = daemon.log(f"replica_default_Doomed_{suffix}.log")
    assert "last words of python" in said
    assert "last words of C" in said
    assert "Fatal Python error: Aborted" in said


async def test_an_importer_that_is_killed_is_a_clear_error(daemon: Instance, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(
        "print('loading the model', flush=True)\nimport time\ntime.sleep(1000)\n"
    )
    async with anyio.create_task_group() as group:

        async def murder() -> None:
            await until(lambda: daemon.pids("importer default"), "there is an importer")
            await until(lambda: "loading" in daemon.log("importer_default.log"))
            kill(*daemon.pids("importer default"))

        group.start_soon(murder)
        status = await daemon.deploy("stuck:app", folder=tmp_path)
    app = status.applications["default"]
    assert app.status is ApplicationStatus.DEPLOY_FAILED
    assert "was killed by SIGKILL" in app.message
    assert "loading the model" in app.message


async def test_the_next_replica_starts_although_the_template_was_killed(daemon: Instance) -> None:
    await daemon.deploy("served:who", folder=HERE)
    (first,) = daemon.pids("replica default/Who")
    (template,) = daemon.pids("template")
    kill(template)
    await until(lambda: not is_running(template))
    assert is_running(first)
    await daemon.deploy("served:two", name="two", route_prefix="/two", folder=HERE)
    assert (await daemon.http.get("/two")).status_code == 200
    assert (await daemon.http.get("/")).json()["pid"] == first
    await until(lambda: daemon.pids("template") - {template}, "there is a template again")


async def test_a_replica_whose_template_died_is_replaced_when_it_dies(daemon: Instance) -> None:
    await daemon.deploy("served:who", folder=HERE)
    (replica,) = daemon.processes("replica default/Who")
    kill(*daemon.pids("template"))
    await until(lambda: replica.ppid() == daemon.keeper_pid, "the keeper is its parent")
    kill(replica.pid)
    assert (await daemon.http.get("/")).json()["pid"] != replica.pid


async def test_everything_ends_in_order_when_the_keeper_is_killed(
    instances: Instances, tmp_path: Path
) -> None:
    instance = await instances.start()
    await instance.deploy("served:held", folder=HERE, args={"folder": str(tmp_path)})
    everything = [p.pid for p in instance.processes("")]
    assert len(everything) == 3
    async with anyio.create_task_group() as group:
        answers: list[int] = []

        async def ask() -> None:
            answers.append((await instance.http.get("/")).status_code)

        group.start_soon(ask)
        await until(lambda: list(tmp_path.glob("entered-*")), "the request is inside user code")
        kill(instance.keeper_pid)
        (tmp_path / "gate").touch()
    assert answers == [200]
    await until(lambda: not any(map(is_running, everything)), "all processes end")


async def test_a_home_can_be_used_again_as_soon_as_its_keeper_was_killed(instances: Instances) -> None:
    first = await instances.start()
    await first.deploy("served:who", folder=HERE)
    kill(first.keeper_pid)
    second = await instances.start(first.options)
    assert (await second.http.get("/")).status_code == 200


@pytest.mark.parametrize("spared", ["nothing", "replicas"])
async def test_one_restart_after_kill_9_of_everything_cleans_up(instances: Instances, spared: str) -> None:
    first = await instances.start()
    await first.deploy("served:copies", folder=HERE, args={"n": "2"})
    replicas = first.pids("replica")
    others = [first.keeper_pid, *(p.pid for p in first.processes("") if p.pid not in replicas)]
    kill(*others, *(replicas if spared == "nothing" else ()))
    await until(lambda: not any(map(is_running, others)))
    second = await instances.start(first.options)
    await until(lambda: len(_sockets(second)) == 2, "only the new sockets are there")
    assert (await second.http.get("/")).status_code == 200
    if spared == "replicas":
        everyone = {(await second.http.get("/")).json()["pid"] for _ in range(20)}
        assert everyone <= replicas


def _sockets(instance: Instance) -> list[str]:
    return [
        name for name in os.listdir(instance.paths.run) if name.startswith("r-") and name.endswith(".sock")
    ]
