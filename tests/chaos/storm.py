"""What is done to an instance while a crowd asks it: kills, deploys of good and bad versions, scaling."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import anyio
import psutil

from serve_lite.schema import ApplicationStatus, ServeStatus
from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.connection import ConnectionLostError
from serve_lite.wire.messages import DeployReply, DeployRequest, UpgradeReply, UpgradeRequest, WaitRequest
from tests.chaos.crowd import Book, Trouble
from tests.instances import Instance, until

HERE = Path(__file__).parent

#: No request of the crowd takes so long, and no conversation on a WebSocket.
UPGRADE_GRACE_S = 20.0


class Storm:
    """The application `storm` of one instance, and everything that can happen to it."""

    def __init__(self, instance: Instance, draw: random.Random) -> None:
        self.instance = instance
        self._draw = draw
        self._book = Book()
        self._version = 0
        self._workers = 2
        self.actions: dict[str, Callable[[], Awaitable[None]]] = {
            "kill one worker": lambda: self._kill_one("replica storm/Worker"),
            "kill one door": lambda: self._kill_one("replica storm/Door"),
            "kill all replicas": self.kill_all_replicas,
            "kill the daemon": self.kill_daemon,
            "kill the template": self.kill_template,
            "kill an importer": self._kill_importer,
            "deploy": self.deploy,
            "deploy what cannot be imported": lambda: self._deploy_bad("import"),
            "deploy what cannot be constructed": self._deploy_unconstructible,
            "kill the daemon in a deploy": self._kill_daemon_in_deploy,
            "scale": self._scale,
            "upgrade": self._upgrade,
        }

    def write_into(self, book: Book) -> None:
        """Have what is done written down there."""
        self._book = book

    async def deploy(self) -> None:
        """Deploy another version, or the first one, that works."""
        self._version += 1
        await self._submit()
        status = await self._settled()
        assert status is ApplicationStatus.RUNNING, status

    async def calm_down(self) -> None:
        """Have what there was at first: two workers that work."""
        self._workers = 2
        await self.deploy()

    async def kill_all_replicas(self) -> None:
        await self._kill("replica", self.instance.pids("replica storm/"))

    async def kill_daemon(self) -> None:
        await self._kill("daemon", {await self.instance.daemon_pid()})

    async def kill_template(self) -> None:
        await self._kill("", self.instance.pids("template"))

    async def _kill_one(self, title: str) -> None:
        if pids := sorted(self.instance.pids(title)):
            await self._kill("replica", {self._draw.choice(pids)})

    async def _kill_importer(self) -> None:
        """Deploy, and kill who builds it, if that can be caught; the version that runs goes on."""
        self._version += 1
        await self._submit()
        with anyio.move_on_after(1.0):
            while not (pids := self.instance.pids("importer storm")):
                await anyio.sleep(0.002)
            await self._kill("", pids)
        await self._settled()

    async def _deploy_bad(self, where: str) -> None:
        self._version += 1
        await self._submit(bad=where)
        status = await self._settled()
        assert status is ApplicationStatus.DEPLOY_FAILED, status

    async def _deploy_unconstructible(self) -> None:
        """Deploy it, and what works after it: replicas of the version before it serve on, but are not replaced."""
        await self._deploy_bad("constructor")
        await self.deploy()

    async def _kill_daemon_in_deploy(self) -> None:
        self._version += 1
        daemon = await self.instance.daemon_pid()
        await self._submit()
        await anyio.sleep(self._draw.random() * 0.3)  # anywhere in it
        await self._kill("daemon", {daemon})
        status = await self._settled()
        assert status is ApplicationStatus.RUNNING, status

    async def _scale(self) -> None:
        """Ask for another number of workers; with the code as it is, but a deploy all the same."""
        self._workers = self._draw.choice([n for n in (1, 2, 3, 4) if n != self._workers])
        await self.deploy()

    async def _upgrade(self) -> None:
        """Hand over to another daemon, which costs no request; the old one still finishes some when this returns."""
        old = await self.instance.daemon_pid()
        request = UpgradeRequest(grace_s=UPGRADE_GRACE_S)
        assert (await self.instance.ask("upgrade", request, UpgradeReply)).pid != old

    async def _submit(self, *, bad: str = "") -> None:
        args = {"version": f"v{self._version}", "workers": str(self._workers), "bad": bad}
        environment = CodeEnvironment(cwd=str(HERE), sys_path=(str(HERE),))
        build = BuildRequest(app_name="storm", import_path="storm_app:app", args=args)
        app = AppSubmission(name="storm", route_prefix="/", environment=environment, build=build)
        await self.instance.ask("deploy", DeployRequest(apps=[app]), DeployReply)

    async def _settled(self) -> ApplicationStatus:
        """Return the status of the application once it is decided, whichever daemon decides it."""
        while True:
            try:
                status = await self.instance.ask("wait_apps", WaitRequest(names=["storm"]), ServeStatus)
            except ConnectionLostError:
                continue
            return status.applications["storm"].status

    async def _kill(self, whose: str, pids: Collection[int]) -> None:
        """Kill all as if at one moment, and write down when, if requests may be lost by it."""
        began = time.monotonic()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:  # it has just ended by itself
                    pass
        # Reaped, not only a zombie: until its last thread has ended, a process has its sockets open.
        await until(lambda: not any(map(psutil.pid_exists, pids)), "they are gone")
        if whose and pids:
            self._book.troubles.append(Trouble(whose, began, time.monotonic()))
