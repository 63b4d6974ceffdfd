"""Bodies that are streamed, up, down and through, when what carries them ends in order: they come to their end."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import httpx
import pytest

from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeployReply, DeployRequest
from tests.chaos.waiting import eventually
from tests.instances import DEADLINE_S, Instance, is_running, until
from tests.processes.test_upgrade import HERE, deploy, upgrade

PIECE, PIECES = b"x" * 10_000, 20


class Streams:
    """Three requests that are under way until the gate is opened."""

    def __init__(self, instance: Instance, folder: Path) -> None:
        self._instance, self._folder = instance, folder
        self._gate = anyio.Event()
        self.ended: dict[str, object] = {}

    async def run(self) -> None:
        """Return when all are answered."""
        async with (
            httpx.AsyncClient(base_url=self._instance.http_url, timeout=DEADLINE_S) as http,
            anyio.create_task_group() as group,
        ):
            for stream in (self._up, self._down, self._through):
                group.start_soon(stream, http)

    async def begun(self) -> None:
        """Return when the application works on each of them."""
        for mark in ("up", "down", "through"):
            await until((self._folder / mark).exists, f"{mark} has begun")

    def finish(self) -> None:
        """Let them come to their ends."""
        (self._folder / "gate").touch()
        self._gate.set()

    async def _body(self) -> AsyncIterator[bytes]:
        yield PIECE
        await self._gate.wait()
        for _ in range(PIECES - 1):
            yield PIECE

    async def _up(self, http: httpx.AsyncClient) -> None:
        answer = await http.post("/total?mark=up", content=self._body())
        self.ended["up"] = (answer.status_code, answer.json())

    async def _through(self, http: httpx.AsyncClient) -> None:
        answer = await http.post("/through?mark=through", content=self._body())
        self.ended["through"] = (answer.status_code, len(answer.content))

    async def _down(self, http: httpx.AsyncClient) -> None:
        async with http.stream("GET", "/numbers") as answer:
            lines = answer.aiter_lines()
            assert await anext(lines) == "0"
            (self._folder / "down").touch()
            numbers = [line async for line in lines]
        whole = [*map(str, range(1, len(numbers))), "end"]
        self.ended["down"] = (answer.status_code, numbers == whole)


async def stop(instance: Instance, folder: Path) -> None:
    os.kill(instance.keeper_pid, signal.SIGTERM)
    await until(lambda: "stopping gracefully" in instance.log("keeper.log"), "it stops")


async def replace(instance: Instance, folder: Path) -> None:
    """Deploy what is new in its arguments; return when all that serves is new: the old ones only finish."""
    old = instance.pids("replica")
    args = {"folder": str(folder / "other")}
    build = BuildRequest(app_name="default", import_path="upgraded:everything", args=args)
    environment = CodeEnvironment(cwd=str(HERE), sys_path=(str(HERE),))
    app = AppSubmission(name="default", route_prefix="/", environment=environment, build=build)
    await instance.ask("deploy", DeployRequest(apps=[app]), DeployReply)

    async def is_new() -> bool:
        return {(await instance.http.get("/pid")).json() for _ in range(20)}.isdisjoint(old)

    await eventually(is_new, "new replicas serve")


async def hand_over(instance: Instance, folder: Path) -> None:
    old = await instance.daemon_pid()
    assert (await upgrade(instance)).code == 0
    assert is_running(old)


@pytest.mark.parametrize("end", [stop, replace, hand_over])
async def test_streams_come_to_their_end(
    end: Callable[[Instance, Path], Awaitable[None]], daemon: Instance, tmp_path: Path
) -> None:
    await deploy(daemon, tmp_path)
    streams = Streams(daemon, tmp_path)
    async with anyio.create_task_group() as group:
        group.start_soon(streams.run)
        await streams.begun()
        await end(daemon, tmp_path)
        assert not streams.ended
        streams.finish()
    assert streams.ended == {
        "up": (200, PIECES * len(PIECE)),
        "through": (200, PIECES * len(PIECE)),
        "down": (200, True),
    }
    if end is stop:
        await daemon.gone()
