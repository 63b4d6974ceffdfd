"""How a replica ends: it is asked, its destructor is called, then it is terminated, then it is killed."""

from __future__ import annotations

import textwrap
from pathlib import Path

import anyio
import pytest

from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeployReply, DeployRequest
from tests.instances import Instance, until

#: What a replica does at its end is in the file `said`.
STOPS = """
import asyncio, pathlib, time
import serve_lite as serve

HERE = pathlib.Path(__file__).parent


def say(what):
    with open(HERE / "said", "a") as file:
        file.write(what + "\\n")


class Base:
    def __call__(self, request):
        return "here"


@serve.deployment(graceful_shutdown_wait_loop_s=3600, graceful_shutdown_timeout_s=7200)
class Sync(Base):
    def __del__(self):
        say("destroyed")


@serve.deployment(graceful_shutdown_wait_loop_s=3600, graceful_shutdown_timeout_s=7200)
class Async(Base):
    async def __del__(self):
        await asyncio.sleep(0)
        say("destroyed")


@serve.deployment(graceful_shutdown_timeout_s=0.2)
class Stubborn(Base):
    def __del__(self):
        say("destroyed")
        time.sleep(3600)


@serve.deployment(graceful_shutdown_timeout_s=7200)
class Failing(Base):
    def __del__(self):
        say("destroyed")
        raise ValueError("not now")


@serve.deployment(graceful_shutdown_timeout_s=7200)
class Starting(Base):
    async def __init__(self):
        say("constructed")
        try:
            await asyncio.sleep(3600)
        finally:
            say("cancelled")


def app(args):
    return globals()[args["what"]].bind()
"""


class Folder:
    """Where the application is, and what it said."""

    def __init__(self, path: Path, daemon: Instance) -> None:
        self.path, self.daemon = path, daemon
        (path / "stops.py").write_text(textwrap.dedent(STOPS))

    async def deploy(self, what: str) -> None:
        await self.daemon.deploy("stops:app", folder=self.path, args={"what": what})

    def said(self) -> list[str]:
        path = self.path / "said"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def folder(tmp_path: Path, daemon: Instance) -> Folder:
    return Folder(tmp_path, daemon)


@pytest.mark.parametrize("what", ["Sync", "Async", "Failing"])
async def test_an_idle_replica_ends_at_once_and_its_destructor_is_called_once(
    folder: Folder, what: str
) -> None:
    """Its wait loop is an hour and its grace two: neither is waited for."""
    await folder.deploy(what)
    assert (await folder.daemon.http.get("/")).text == "here"
    await folder.daemon.delete("default")
    assert folder.said() == ["destroyed"]
    assert folder.daemon.pids("replica") == set()
    assert "is killed" not in folder.daemon.log("daemon.log")


async def test_a_destructor_that_does_not_end_is_killed_with_its_replica(folder: Folder) -> None:
    await folder.deploy("Stubborn")
    await folder.daemon.delete("default")
    assert folder.said() == ["destroyed"]
    assert folder.daemon.pids("replica") == set()
    assert "did not end within 1.2 s and is killed" in folder.daemon.log("daemon.log")


async def test_a_replica_that_is_still_starting_is_terminated_and_not_killed(folder: Folder) -> None:
    """It has no requests to finish, so it is not asked; SIGTERM ends it, and what it was doing is cancelled."""
    environment = CodeEnvironment(cwd=str(folder.path), sys_path=(str(folder.path),))
    build = BuildRequest(app_name="default", import_path="stops:app", args={"what": "Starting"})
    app = AppSubmission(environment=environment, build=build)
    await folder.daemon.ask("deploy", DeployRequest(apps=[app]), DeployReply)
    await until(lambda: folder.said() == ["constructed"], "its constructor runs")
    with anyio.fail_after(60):
        await folder.daemon.delete("default")
    assert folder.said() == ["constructed", "cancelled"]
    assert folder.daemon.pids("replica") == set()
