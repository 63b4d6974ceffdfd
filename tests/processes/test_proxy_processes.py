"""`proxy_processes`: requests go through processes of their own, and what happens to the daemon does not reach them."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import anyio
import httpx
import pytest
from websockets.asyncio.client import connect as connect_websocket

from serve_lite.wire.messages import Empty, InstanceInfo
from tests.instances import DEADLINE_S, Instance, Instances, is_running, until
from tests.processes.test_kills import kill, new_daemon
from tests.processes.test_upgrade import deploy, under_load, upgrade

HERE = Path(__file__).parent


@pytest.fixture
async def behind(instances: Instances, monkeypatch: pytest.MonkeyPatch) -> Instance:
    """An instance with two proxies."""
    instance = await instances.start(instances.options(proxy_processes=2))
    monkeypatch.setenv("SERVE_LITE_HOME", instance.home)
    return instance


async def ready_proxies(instance: Instance) -> set[int]:
    """Return the pids of both proxies once the daemon knows them."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            told = (await instance.admin.get("/api/serve/applications/")).json()["proxies"]
            assert [name.partition("-proxy-")[2] for name in told] == ["1", "2"]
            if {proxy["status"] for proxy in told.values()} == {"HEALTHY"}:
                pids = {int(proxy["worker_id"]) for proxy in told.values()}
                if pids == instance.pids("proxy"):
                    return pids
            await anyio.sleep(0.01)


async def fresh(instance: Instance, path: str = "/") -> httpx.Response:
    """Ask on a new connection."""
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        return await client.get(instance.http_url + path)


# --- the daemon -----------------------------------------------------------------------------------


async def test_requests_are_answered_while_the_daemon_stands_still(behind: Instance) -> None:
    await behind.deploy("served:who", folder=HERE)
    await fresh(behind)
    daemon = await behind.daemon_pid()
    os.kill(daemon, signal.SIGSTOP)
    try:
        for _ in range(20):
            assert (await fresh(behind)).json()["pid"] in behind.pids("replica")
        assert (await fresh(behind, "/-/healthz")).text == "success"
        assert (await fresh(behind, "/-/routes")).json() == {"/": "default"}
    finally:
        os.kill(daemon, signal.SIGCONT)


async def test_no_request_fails_when_the_daemon_is_killed(behind: Instance, tmp_path: Path) -> None:
    await deploy(behind, tmp_path)
    before = await ready_proxies(behind)
    async with under_load(behind) as load:
        for _ in range(2):
            old = await behind.daemon_pid()
            kill(old)
            await load.more()
            await new_daemon(behind, old)
            await load.more()
    assert not load.failed
    assert await ready_proxies(behind) == before


async def test_an_update_and_scaling_reach_the_proxies(behind: Instance, tmp_path: Path) -> None:
    await deploy(behind, tmp_path)
    async with under_load(behind) as load:
        before = behind.pids("replica")
        await deploy(behind, tmp_path / "other")  # other arguments: all replicas are replaced
        await until(lambda: not behind.pids("replica") & before, "the old replicas end")
        await load.more()
        change = {"target_num_replicas": 1}
        path = "/api/v1/applications/default/deployments/Everything/scale"
        (await behind.admin.post(path, json=change, params={"manual": "true"})).raise_for_status()
        await until(lambda: len(behind.pids("replica")) == 1, "there is one replica")
        await load.more()
    assert not load.failed
    await behind.delete("default")
    assert (await fresh(behind, "/pid")).status_code == 404


# --- proxies --------------------------------------------------------------------------------------


async def test_a_proxy_that_is_killed_is_replaced_and_the_other_serves_on(behind: Instance) -> None:
    await behind.deploy("served:who", folder=HERE)
    before = await ready_proxies(behind)
    for victim in sorted(before):
        kill(victim)
        (await fresh(behind)).raise_for_status()
        after = await ready_proxies(behind)
        assert victim not in after
    assert not before & after
    assert "ended by SIGKILL: starting another" in behind.log("keeper.log")
    for _ in range(20):
        (await fresh(behind)).raise_for_status()


async def test_a_proxy_that_is_told_to_end_answers_what_it_has(behind: Instance, tmp_path: Path) -> None:
    await behind.deploy("served:held", folder=HERE, args={"folder": str(tmp_path)})
    before = await ready_proxies(behind)
    async with asyncio.TaskGroup() as group:
        held = [group.create_task(fresh(behind)) for _ in range(4)]
        await until(lambda: list(tmp_path.glob("entered-*")), "a request is being worked on")
        for pid in before:
            os.kill(pid, signal.SIGTERM)
        await until(lambda: len(behind.pids("proxy")) > 1, "there are proxies")
        (tmp_path / "gate").touch()
    assert {answer.result().status_code for answer in held} == {200}
    await until(lambda: not behind.pids("proxy") & before, "the old proxies end")
    assert not await ready_proxies(behind) & before


async def test_an_upgrade_replaces_them_and_loses_no_request(behind: Instance, tmp_path: Path) -> None:
    await deploy(behind, tmp_path)
    before, replicas, keeper = await ready_proxies(behind), behind.pids("replica"), behind.keeper_pid
    async with (
        under_load(behind) as load,
        connect_websocket(f"ws{behind.http_url.removeprefix('http')}/echo") as websocket,
    ):
        await websocket.send("where")
        assert int(await websocket.recv()) in replicas
        for _ in range(2):
            done = await upgrade(behind)
            assert done.code == 0, done
            await load.more()
        await websocket.send("where")
        assert int(await websocket.recv()) in replicas
        await websocket.close()
    assert not load.failed
    info = await behind.ask("info", Empty(), InstanceInfo)
    assert info.keeper_pid == keeper and behind.pids("replica") == replicas
    await until(lambda: not behind.pids("proxy") & before, "the old proxies end")
    assert not await ready_proxies(behind) & before


async def test_a_shutdown_answers_what_is_under_way(behind: Instance, tmp_path: Path) -> None:
    await behind.deploy("served:held", folder=HERE, args={"folder": str(tmp_path)})
    async with asyncio.TaskGroup() as group:
        held = group.create_task(fresh(behind))
        await until(lambda: list(tmp_path.glob("entered-*")), "a request is being worked on")
        os.kill(behind.keeper_pid, signal.SIGTERM)
        await until(lambda: "leaving, because of SIGTERM" in behind.log("daemon.log"))
        (tmp_path / "gate").touch()
    assert held.result().status_code == 200
    await behind.gone()


async def test_without_a_keeper_they_answer_what_they_have_and_end(
    behind: Instance, instances: Instances, tmp_path: Path
) -> None:
    await behind.deploy("served:held", folder=HERE, args={"folder": str(tmp_path)})
    proxies = await ready_proxies(behind)
    async with asyncio.TaskGroup() as group:
        held = group.create_task(fresh(behind))
        await until(lambda: list(tmp_path.glob("entered-*")), "a request is being worked on")
        kill(behind.keeper_pid)
        (tmp_path / "gate").touch()
    assert held.result().status_code == 200
    await until(lambda: not any(map(is_running, proxies)), "the proxies end")


# --- what the daemon's own door can do, they can ---------------------------------------------------


async def test_a_request_wakes_an_application_that_has_no_replicas(behind: Instance, tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    scaling = {"min_replicas": 0, "initial_replicas": 0}
    await behind.deploy("scaled:held", folder=HERE, args={"folder": str(tmp_path), "scaling": scaling})
    assert not behind.pids("replica")
    async with asyncio.TaskGroup() as group:
        answers = [group.create_task(fresh(behind)) for _ in range(10)]
    assert {answer.result().status_code for answer in answers} == {200}
    assert len((tmp_path / "made").read_text().splitlines()) == 1


async def test_a_users_router_chooses_beside_them(behind: Instance, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    status = await behind.deploy("routed_app:app", folder=HERE, args={"notes": str(notes)})
    assert status.applications["default"].status == "RUNNING", status.applications["default"].message

    async def until_advised() -> None:
        with anyio.fail_after(DEADLINE_S):
            in_a_row = 0
            while in_a_row < 20:  # each proxy asks on its own
                in_a_row = in_a_row + 1 if (await fresh(behind)).json()["place"] == 2 else 0

    await until_advised()
    (adviser,) = behind.pids("adviser default")
    kill(adviser)
    await until_advised()
    assert behind.pids("adviser default") != {adviser}


async def test_the_number_is_told_with_the_settings(behind: Instance) -> None:
    options = (await behind.admin.get("/api/serve/instance/")).json()["options"]
    assert {option["name"]: option["value"] for option in options}["proxy_processes"] == 2
