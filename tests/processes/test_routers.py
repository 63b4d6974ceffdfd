"""A user's request router and the HTTP proxy: it chooses, in a process that is not the daemon."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio

from tests.instances import Instance, is_running, until

HERE = Path(__file__).parent


async def deploy(daemon: Instance, notes: Path) -> None:
    status = await daemon.deploy("routed_app:app", folder=HERE, args={"notes": str(notes)})
    assert status.applications["default"].status == "RUNNING", status.applications["default"].message


async def until_advised(daemon: Instance) -> None:
    """Wait until the router is up and the replicas have told their routing stats."""
    with anyio.fail_after(30):
        while (await daemon.http.get("/")).json()["place"] != 2:
            await anyio.sleep(0.01)


def noted(notes: Path, word: str) -> list[str]:
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [line.split()[-1] for line in lines if line.startswith(word)]


async def test_the_proxy_asks_a_router_that_runs_beside_the_daemon(daemon: Instance, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    await deploy(daemon, notes)
    await until_advised(daemon)
    (adviser,) = daemon.pids("adviser default")
    assert noted(notes, "made") == [str(adviser)] != [str(await daemon.daemon_pid())]
    answers = [(await daemon.http.get("/")).json()["place"] for _ in range(20)]
    assert answers == [2] * 20

    gate = tmp_path / "gate"
    async with anyio.create_task_group() as group:
        places: list[int] = []

        async def held() -> None:
            places.append((await daemon.http.get("/", params={"gate": str(gate)})).json()["place"])

        for _ in range(4):  # its favourite is full, and the next ones; the last call waits
            group.start_soon(held)
        await until(lambda: all(Path(f"{gate}.{place}").exists() for place in range(3)))
        gate.touch()
    assert set(places) == {0, 1, 2} and len(places) == 4


async def test_the_router_hears_of_requests(daemon: Instance, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    await deploy(daemon, notes)
    await until_advised(daemon)
    response = await daemon.http.get("/", headers={"x-request-id": "abc"})
    assert response.headers["x-request-id"] == "abc"
    await daemon.http.get("/")  # notes travel with the next question
    assert noted(notes, "routed").count("abc") == noted(notes, "completed").count("abc") == 1


async def test_requests_go_on_when_the_router_dies_and_it_is_started_again(
    daemon: Instance, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    await deploy(daemon, notes)
    await until_advised(daemon)
    (adviser,) = daemon.pids("adviser default")
    response = await daemon.http.get("/", headers={"x-session-id": "die"})
    assert response.status_code == 200
    await until(lambda: not is_running(adviser))
    assert (await daemon.http.get("/")).status_code == 200
    await until(lambda: daemon.pids("adviser default") - {adviser})
    await until_advised(daemon)


async def test_it_ends_with_its_application_and_with_the_daemon(daemon: Instance, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    await deploy(daemon, notes)
    await until_advised(daemon)
    old = daemon.pids("adviser default")
    os.kill(await daemon.daemon_pid(), signal.SIGKILL)
    await until(lambda: not any(map(is_running, old)))
    await until_advised(daemon)
    (new,) = daemon.pids("adviser default")
    await daemon.delete("default")
    await until(lambda: not is_running(new))


async def test_another_version_brings_its_own_router(daemon: Instance, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    await deploy(daemon, notes)
    await until_advised(daemon)
    (old,) = daemon.pids("adviser default")
    await deploy(daemon, notes)
    await until(lambda: not is_running(old))
    await until_advised(daemon)
    (new,) = daemon.pids("adviser default")
    assert noted(notes, "made") == [str(old), str(new)]
