"""One application's trouble is its own: its neighbour is answered meanwhile, and others can be deployed and removed.

Nothing here looks at a clock: a request of the neighbour's that waited for the trouble to end would wait for ever.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.abc
import httpx
import psutil
import pytest

from serve_lite.schema import ApplicationStatus, ServeStatus
from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeployReply, DeployRequest, WaitRequest
from tests.instances import DEADLINE_S, Instance, until

HERE = Path(__file__).parent
_MB = 2**20
ASKED = 400  #: requests of the neighbour


class Kind(NamedTuple):
    """A kind of trouble."""

    what: str  #: in `troubled.py`
    clients: int = 0  #: that have to ask for it to begin
    crashes: int = 0  #: that are waited for
    refused: int = 0  #: of the clients, at once


KINDS = {
    "a constructor that takes for ever": Kind("Waits"),
    "a constructor that keeps a core busy": Kind("Spins"),
    "a crash loop": Kind("Crashes", clients=1, crashes=3),
    "a full queue": Kind("Full", clients=40, refused=35),
    "a blocked event loop": Kind("Blocks", clients=5),
    "an import that eats memory and hangs": Kind("Eats"),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_the_neighbour_is_served_meanwhile(daemon: Instance, tmp_path: Path, kind: Kind) -> None:
    await daemon.deploy("faulted:chatty", name="well", route_prefix="/well", folder=HERE)
    process = psutil.Process(await daemon.daemon_pid())
    (replica,) = daemon.pids("replica well/")
    before = process.memory_info().rss
    async with anyio.create_task_group() as group:
        answered: list[int] = []
        await begin(daemon, kind, tmp_path, group, answered)
        there = tmp_path / "there"
        await until(lambda: there.exists() and there.stat().st_size >= kind.crashes, "the trouble is there")
        if not kind.crashes:
            await until(lambda: len(answered) == kind.refused, "who can be let go is")
        passes = await passes_of(daemon)
        await ask_many(daemon, replica)
        if not kind.crashes:
            # Neither its requests nor the trouble keep the controller's loop busy, and nobody was let go for them.
            assert await passes_of(daemon) - passes < ASKED
            assert len(answered) == kind.refused
        status = await daemon.deploy("faulted:chatty", name="third", route_prefix="/third", folder=HERE)
        assert status.applications["third"].status is ApplicationStatus.RUNNING
        assert (await daemon.http.get("/third")).status_code == 200
        await daemon.delete("third")
        assert process.memory_info().rss - before < 64 * _MB  # what user code eats is not the daemon's
        (tmp_path / "gate").touch()
        (tmp_path / "crash").unlink(missing_ok=True)
    assert (await daemon.ask("wait_apps", WaitRequest(names=["ill"]), ServeStatus)).applications["ill"]
    assert await daemon.daemon_pid() == process.pid
    assert daemon.pids("replica well/") == {replica}


async def ask_many(daemon: Instance, replica: int) -> None:
    """Ask the neighbour many times, eight at a time; all are answered, by the one replica that it has."""
    answered: list[tuple[int, int]] = []

    async def ask(count: int) -> None:
        async with httpx.AsyncClient(base_url=daemon.http_url, timeout=DEADLINE_S) as http:
            for _ in range(count):
                answer = await http.get("/well")
                answered.append((answer.status_code, answer.json()["pid"]))

    async with anyio.create_task_group() as clients:
        for _ in range(8):
            clients.start_soon(ask, ASKED // 8)
    assert answered == [(200, replica)] * ASKED


async def passes_of(daemon: Instance) -> int:
    """Return how often the controller's loop has turned."""
    passes: int = (await daemon.admin.get("/api/serve/controller_health")).json()["num_control_loops"]
    return passes


async def begin(
    daemon: Instance, kind: Kind, folder: Path, group: anyio.abc.TaskGroup, answered: list[int]
) -> None:
    """Deploy what gets into trouble, and ask it what it takes; the answers' codes go into `answered`."""
    environment = CodeEnvironment(cwd=str(HERE), sys_path=(str(HERE),))
    args = {"what": kind.what, "folder": str(folder)}
    build = BuildRequest(app_name="ill", import_path="troubled:app", args=args)
    app = AppSubmission(name="ill", route_prefix="/ill", environment=environment, build=build)
    await daemon.ask("deploy", DeployRequest(apps=[app]), DeployReply)
    if not kind.clients:
        return
    await daemon.ask("wait_apps", WaitRequest(names=["ill"]), ServeStatus)

    async def ask() -> None:
        async with httpx.AsyncClient(timeout=DEADLINE_S) as http:
            answered.append((await http.get(f"{daemon.http_url}/ill")).status_code)

    for _ in range(kind.clients):
        group.start_soon(ask)
