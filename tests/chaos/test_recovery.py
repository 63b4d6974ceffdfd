"""One kill at a time, held exactly: which requests are lost, which processes live on, and what is there afterwards."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import anyio
import httpx

from serve_lite.schema import ApplicationStatus
from tests.chaos.crowd import Crowd, Trouble
from tests.chaos.storm import Storm
from tests.instances import DEADLINE_S, Instance, Instances, is_running, until

HERE = Path(__file__).parent


async def ask_all(instance: Instance, count: int, outcomes: list[str]) -> None:
    """Ask so many requests at once that are all held; write down what becomes of each; the gate ends them."""
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(timeout=DEADLINE_S, limits=limits) as http,
        anyio.create_task_group() as group,
    ):

        async def ask(n: int) -> None:
            answer = await http.get(instance.http_url, params={"n": n})
            outcomes.append(answer.text if answer.status_code == 200 else str(answer.status_code))

        for n in range(count):
            group.start_soon(ask, n)


def entered(folder: Path) -> Counter[int]:
    """Return how many requests have entered user code, by process."""
    return Counter(int(path.name.split("-")[1]) for path in folder.glob("entered-*"))


async def test_of_a_killed_replica_only_what_it_had_accepted_is_lost(
    daemon: Instance, tmp_path: Path
) -> None:
    """Two replicas of two requests each, and four more requests that wait."""
    await daemon.deploy("faulted:held", folder=HERE, args={"folder": str(tmp_path)})
    outcomes: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(ask_all, daemon, 8, outcomes)
        await until(lambda: entered(tmp_path).total() == 4, "both replicas are full")
        victim, other = sorted(entered(tmp_path))
        os.kill(victim, signal.SIGKILL)
        await until(lambda: len(outcomes) == 2, "its requests have failed")
        await until(lambda: len(entered(tmp_path)) == 3, "there is another one in its place")
        (tmp_path / "gate").touch()
    answered = Counter(outcomes)
    assert answered.pop("500") == 2
    assert answered.total() == 6
    assert set(answered) <= {str(pid) for pid in daemon.pids("replica")}
    assert entered(tmp_path)[other] >= 2
    assert entered(tmp_path).total() == 8  # not one was run twice


async def test_requests_that_wait_outlive_the_death_of_every_replica(
    daemon: Instance, tmp_path: Path
) -> None:
    await daemon.deploy("faulted:held", folder=HERE, args={"folder": str(tmp_path)})
    outcomes: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(ask_all, daemon, 8, outcomes)
        await until(lambda: entered(tmp_path).total() == 4, "both replicas are full")
        for pid in daemon.pids("replica"):
            os.kill(pid, signal.SIGKILL)
        (tmp_path / "gate").touch()
    assert Counter(outcome == "500" for outcome in outcomes) == {True: 4, False: 4}


async def test_a_frozen_replica_is_noticed_and_what_it_had_not_accepted_moves(daemon: Instance) -> None:
    """kill -STOP: it reads nothing more, so nothing that is sent to it from then on is lost."""
    await daemon.deploy("faulted:watched", folder=HERE)
    frozen, other = sorted(daemon.pids("replica"))
    answered: list[int] = []

    async def ask(http: httpx.AsyncClient) -> None:
        answer = await http.get(daemon.http_url)
        assert answer.status_code == 200, answer.text
        answered.append(answer.json()["pid"])

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=DEADLINE_S, limits=limits) as http:
        while set(answered) != {frozen, other}:
            await ask(http)
        os.kill(frozen, signal.SIGSTOP)
        answered.clear()
        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(ask, http)
            await until(lambda: other in answered, "the other one serves on")
    assert len(answered) == 40
    assert frozen not in answered
    await until(lambda: not is_running(frozen), "it is gone")
    await until(lambda: len(daemon.pids("replica")) == 2, "there is another one in its place")


async def test_a_killed_keeper_ends_the_instance_in_order_and_a_start_brings_it_back(
    instances: Instances,
) -> None:
    """Under load, on the same port: what comes in between is refused, and nothing else is lost."""
    options = instances.options(http_port=free_port())
    first = await instances.start(options)
    storm = Storm(first, random.Random(1))
    await storm.deploy()
    old = {process.pid for process in first.processes("")}
    crowd = Crowd(first, with_handles=False)
    async with crowd.asking():
        await crowd.progress()
        began = time.monotonic()
        os.kill(first.keeper_pid, signal.SIGKILL)
        second = await instances.start(options)
        await until(lambda: not any(map(is_running, old)), "everything of the first one has ended")
        crowd.book.troubles.append(Trouble("keeper", began, time.monotonic()))
        await crowd.progress()
    print(crowd.book.table())
    assert not crowd.book.not_permitted()
    assert (await second.status()).applications["storm"].status is ApplicationStatus.RUNNING
    assert not second.pids("replica") & old


async def test_what_serves_after_a_failed_deploy_is_replaced_when_it_dies(daemon: Instance) -> None:
    status = await daemon.deploy("storm_app:app", folder=HERE, args={"version": "1"})
    assert status.applications["default"].status is ApplicationStatus.RUNNING
    bad = {"version": "2", "bad": "constructor"}
    status = await daemon.deploy("storm_app:app", folder=HERE, args=bad)
    assert status.applications["default"].status is ApplicationStatus.DEPLOY_FAILED
    assert (await daemon.http.get("/", params={"n": 1})).status_code == 200
    old = daemon.pids("replica default/Worker")
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: len(set(daemon.pids("replica default/Worker")) - set(old)) == 2, "both are replaced")
    assert (await daemon.http.get("/", params={"n": 1})).status_code == 200
    status = await daemon.status()
    assert status.applications["default"].status is ApplicationStatus.DEPLOY_FAILED


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
