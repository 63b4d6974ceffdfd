"""An instance with an application of `scaled.py`, and what tests of autoscaling do to it."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx

from serve_lite.schema import ApplicationStatus, DeploymentStatus, DeploymentStatusOverview, ServeStatus
from serve_lite.wire.messages import WaitRequest
from tests.instances import DEADLINE_S, Instance

HERE = Path(__file__).parent


class Stage:
    """An instance with one application of `scaled.py`, whose requests are held until the gate opens."""

    def __init__(self, daemon: Instance, folder: Path) -> None:
        self.daemon, self.folder = daemon, folder
        self.answers: list[str] = []

    async def deploy(self, app: str = "held", **scaling: Any) -> None:
        status = await self.daemon.deploy(
            f"scaled:{app}",
            folder=HERE,
            args={"folder": str(self.folder), "scaling": scaling},
            env_vars={"SCALED_FOLDER": str(self.folder)},
        )
        application = status.applications["default"]
        assert application.status is ApplicationStatus.RUNNING, application.message

    @asynccontextmanager
    async def requests(self, count: int) -> AsyncIterator[None]:
        """Have so many requests wait in user code or before it; at the end the gate opens and all are answered."""
        async with (
            httpx.AsyncClient(
                base_url=self.daemon.http_url, timeout=DEADLINE_S, limits=httpx.Limits(max_connections=None)
            ) as client,
            anyio.create_task_group() as group,
        ):

            async def ask() -> None:
                response = await client.get("/")
                assert response.status_code == 200, response.text
                self.answers.append(response.text)

            for _ in range(count):
                group.start_soon(ask)
            yield
            self.open()

    def open(self) -> None:
        (self.folder / "gate").touch()

    def shut(self) -> None:
        (self.folder / "gate").unlink(missing_ok=True)

    @property
    def made(self) -> int:
        """How many replicas were ever built."""
        path = self.folder / "made"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def pids(self) -> set[int]:
        return self.daemon.pids("replica default/Held")

    async def overview(self, name: str = "Held") -> DeploymentStatusOverview:
        return (await self.daemon.status()).applications["default"].deployments[name]

    async def shown(self, name: str = "Held") -> dict[str, Any]:
        """Return what REST shows of a deployment."""
        details = (await self.daemon.admin.get("/api/serve/applications/")).json()
        deployment: dict[str, Any] = details["applications"]["default"]["deployments"][name]
        return deployment

    async def shown_target(self, name: str = "Held") -> int:
        target: int = (await self.shown(name))["target_num_replicas"]
        return target

    async def put(self, document: dict[str, Any]) -> None:
        """Make a document with one application, "default", the goal, and wait until it runs."""
        answer = await self.daemon.admin.put("/api/serve/applications/", json=document)
        assert answer.status_code == 200, answer.text
        status = await self.daemon.ask("wait_apps", WaitRequest(names=["default"]), ServeStatus)
        application = status.applications["default"]
        assert application.status is ApplicationStatus.RUNNING, application.message

    async def becomes(self, count: int, name: str = "Held") -> None:
        """Return once so many replicas run and everything is at rest."""
        with anyio.fail_after(DEADLINE_S):
            while True:
                overview = await self.overview(name)
                running = overview.replica_states.get("RUNNING", 0)
                if (
                    overview.status is DeploymentStatus.HEALTHY
                    and sum(overview.replica_states.values()) == count
                ):
                    assert running == count
                    break
                await anyio.sleep(0.01)
        assert await self.shown_target(name) == count

    async def kill_daemon(self) -> None:
        old = await self.daemon.daemon_pid()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            os.kill(old, number)
        while await self.daemon.daemon_pid() == old:
            pass

    def decisions(self) -> list[str]:
        return [line for line in self.daemon.log("daemon.log").splitlines() if "scaled from" in line]
