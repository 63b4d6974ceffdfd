"""Real instances for tests: started in their own directory, talked to like any other, and leaving nothing behind.

`conftest.py` makes fixtures of it. A test that used one fails if a process, socket file, descriptor or
shared-memory segment is left when it ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import httpx
import msgspec
import psutil

import serve_lite as serve
from serve_lite.daemon.machine_options import machine_from_environment
from serve_lite.daemon.options import InstanceOptions, paths
from serve_lite.engines import local
from serve_lite.handle import DeploymentHandle
from serve_lite.processes import become_subreaper
from serve_lite.routing import runtime
from serve_lite.schema import ServeStatus
from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.connection import Connection
from serve_lite.wire.messages import (
    DeleteRequest,
    DeployReply,
    DeployRequest,
    Empty,
    InstanceInfo,
    WaitRequest,
)

T = TypeVar("T")

#: Only a broken run waits this long for anything.
DEADLINE_S = 30.0
_LOOK_EVERY_S = 0.01

SHARED_MEMORY = Path("/dev/shm")


async def until(condition: Callable[[], T], what: str = "", *, deadline_s: float = DEADLINE_S) -> T:
    """Return the condition's value once it is true; fail the test if that does not come."""
    give_up_at = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < give_up_at, (
            f"in {deadline_s} s it did not come true that {what or condition}"
        )
        await anyio.sleep(_LOOK_EVERY_S)
    return value


def is_running(pid: int) -> bool:
    """Whether this process exists and is no zombie."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Instance:
    """One running instance and what tests ask of it.

    Lifetime: `Instances.start` makes it, `Instances.close` ends it and checks that nothing is left.
    """

    def __init__(self, options: InstanceOptions, info: InstanceInfo) -> None:
        self.options, self.info = options, info
        self.home = info.home
        self.paths = paths(info.home)
        self.http_url = f"http://{info.http_host}:{info.http_port}"
        self.admin_url = f"http://{info.admin_host}:{info.admin_port}"
        self.keeper_pid = info.keeper_pid
        self.http = httpx.AsyncClient(base_url=self.http_url, timeout=DEADLINE_S)
        self.admin = httpx.AsyncClient(base_url=self.admin_url, timeout=DEADLINE_S)

    # --- what it is asked over the control socket ---

    async def connect(self) -> Connection:
        """Return a new connection to the control socket."""
        connection = await local.connect_instance(self.home)
        assert connection is not None, "the instance is not up"
        return connection

    async def ask(self, method: str, request: msgspec.Struct, reply_type: type[T]) -> T:
        """Make one control call."""
        connection = await self.connect()
        try:
            return await connection.control(method, request, reply_type, timeout_s=DEADLINE_S)
        finally:
            connection.close()
            await connection.wait_closed()

    async def daemon_pid(self) -> int:
        return (await self.ask("info", Empty(), InstanceInfo)).pid

    async def deploy(
        self,
        import_path: str,
        *,
        name: str = "default",
        route_prefix: str | None = "/",
        folder: str | Path = "",
        also: Sequence[str | Path] = (),
        env_vars: dict[str, str] | None = None,
        args: dict[str, Any] | None = None,
    ) -> ServeStatus:
        """Deploy by import path from `folder`, with `also` on `sys.path`; return the status once it is decided."""
        environment = CodeEnvironment(
            cwd=str(folder), sys_path=(str(folder), *map(str, also)), env_vars=env_vars or {}
        )
        build = BuildRequest(app_name=name, import_path=import_path, args=args or {})
        app = AppSubmission(name=name, route_prefix=route_prefix, environment=environment, build=build)
        await self.ask("deploy", DeployRequest(apps=[app]), DeployReply)
        return await self.ask("wait_apps", WaitRequest(names=[name]), ServeStatus)

    async def run(
        self, app: serve.Application, *, name: str = "default", route_prefix: str | None = "/"
    ) -> DeploymentHandle:
        """Deploy an application of the test module, as a script does, and return a handle to it."""
        return await anyio.to_thread.run_sync(lambda: serve.run(app, name=name, route_prefix=route_prefix))

    async def status(self) -> ServeStatus:
        return await self.ask("status", Empty(), ServeStatus)

    async def delete(self, *names: str) -> None:
        """Delete applications and wait until their replicas are gone."""
        await self.ask("delete", DeleteRequest(names=list(names)), Empty)
        await self.ask("wait_apps", WaitRequest(names=list(names)), ServeStatus)

    # --- its processes ---

    def processes(self, title: str) -> list[psutil.Process]:
        """Return the live processes below the keeper whose title begins so, for example "replica app/Echo"."""
        found = []
        for process in _descendants(self.keeper_pid):
            try:
                if " ".join(process.cmdline()).startswith(f"serve-lite: {title}"):
                    found.append(process)
            except psutil.Error:
                continue
        return [p for p in found if is_running(p.pid)]

    def pids(self, title: str) -> set[int]:
        return {process.pid for process in self.processes(title)}

    async def gone(self) -> None:
        """Return once the keeper has ended and with it everything else."""
        await until(lambda: not is_running(self.keeper_pid), "the keeper ends")

    def log(self, name: str) -> str:
        """Return a log file's text, "" if there is none."""
        path = Path(self.paths.logs, name)
        return path.read_text(errors="replace") if path.exists() else ""


class Instances:
    """Starts instances for one test and takes them away afterwards."""

    def __init__(self) -> None:
        become_subreaper()  # whatever loses its parent becomes ours, so that nothing can hide
        self._before = set(_own_children())
        self._shared_memory = set(os.listdir(SHARED_MEMORY)) if SHARED_MEMORY.exists() else set()
        self._descriptors = _descriptors()
        self._tasks = _tasks()
        self._folder = tempfile.TemporaryDirectory(prefix="serve-lite-test-")
        self._running: list[Instance] = []
        self._homes: list[str] = []

    def options(self, **given: Any) -> InstanceOptions:
        """Return options with a fresh home and ports that the kernel chooses."""
        home = os.path.join(self._folder.name, f"home{len(self._homes)}")
        self._homes.append(home)
        machine = machine_from_environment()
        return InstanceOptions(**{"home": home, "http_port": 0, "admin_port": 0, "machine": machine, **given})

    def watch_home(self, home: str) -> None:
        """Look for leftovers in this home too."""
        self._homes.append(home)

    async def start(
        self, options: InstanceOptions | None = None, *, owner_pid: int | None = None
    ) -> Instance:
        """Start an instance and return it once its daemon answers."""
        options = options or self.options()
        await anyio.to_thread.run_sync(lambda: local.start_instance(options, owner_pid=owner_pid))
        return await self.join(options)

    async def join(self, options: InstanceOptions) -> Instance:
        """Return an instance that somebody else has started."""
        connection = await local.connect_instance(options.home)
        assert connection is not None, f"no instance is up in {options.home}"
        info = await connection.control("info", Empty(), InstanceInfo, timeout_s=DEADLINE_S)
        connection.close()
        await connection.wait_closed()
        instance = Instance(options, info)
        self._running.append(instance)
        return instance

    async def stop(self, instance: Instance) -> None:
        """End one instance now, as `serve shutdown` does."""
        assert not (problems := await _shut_down(instance)), problems

    async def close(self) -> None:
        """End what still runs and fail if anything is left behind."""
        problems: list[str] = []
        try:
            self._stop_handles()
            for instance in self._running:
                await instance.http.aclose()
                await instance.admin.aclose()
                if is_running(instance.keeper_pid):
                    problems += await _shut_down(instance)
            problems += await self._leftovers()
        finally:
            for pid in self._strays():
                os.kill(pid, signal.SIGKILL)
            self._reap()
            self._folder.cleanup()
        assert not problems, "left behind: " + "; ".join(problems)

    def _stop_handles(self) -> None:
        if (used := runtime.installed()) is not None:
            used.stop()
            runtime.install(None)

    async def _leftovers(self) -> list[str]:
        problems = []
        if not await _settles(lambda: not self._strays()):
            problems += [f"process {pid} ({_command(pid)})" for pid in self._strays()]
        for home in self._homes:
            where = paths(home)
            for folder in {where.home, where.run}:
                files = os.listdir(folder) if os.path.isdir(folder) else []
                problems += [
                    f"socket {os.path.join(folder, f)}"
                    for f in files
                    if f.endswith((".sock", ".acc", ".live"))
                ]
        if SHARED_MEMORY.exists() and not await _settles(lambda: not self._new_shared_memory()):
            problems += [f"shared memory {name}" for name in self._new_shared_memory()]
        if not await _settles(lambda: _descriptors() <= self._descriptors):
            problems.append(f"{_descriptors() - self._descriptors} descriptors of the test's own process")
        if not await _settles(lambda: _tasks() <= self._tasks):
            problems += [f"task {task.get_coro()}" for task in _tasks() - self._tasks]
        return problems

    def _new_shared_memory(self) -> set[str]:
        new = set(os.listdir(SHARED_MEMORY)) - self._shared_memory
        return new - _mapped_by_others() if new else new

    def _strays(self) -> list[int]:
        self._reap()
        return [pid for pid in _own_children() if pid not in self._before]

    def _reap(self) -> None:
        for pid in _own_children():
            if pid not in self._before and not is_running(pid):
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:  # `subprocess` was quicker
                    pass


async def _shut_down(instance: Instance) -> list[str]:
    """End an instance as `serve shutdown` does; return what its daemon still held when its applications were gone."""
    problems = []
    names = list((await instance.status()).applications)
    if names:
        await instance.delete(*names)
    if replicas := instance.pids("replica"):
        problems.append(f"replicas {replicas} of deleted applications")
    connection = await instance.connect()
    await local.shutdown_instance(connection)
    await instance.gone()
    return problems


async def _settles(condition: Callable[[], bool], patience_s: float = 5.0) -> bool:
    give_up_at = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        await anyio.sleep(_LOOK_EVERY_S)
    return True


def _tasks() -> set[asyncio.Task[Any]]:
    """The tasks of the test's loop, without those that carry the tests themselves."""
    return {t for t in asyncio.all_tasks() if "TestRunner" not in getattr(t.get_coro(), "__qualname__", "")}


def _own_children() -> Collection[int]:
    return [process.pid for process in psutil.Process().children()]


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _mapped_by_others() -> set[str]:
    """Names of shared memory that programs use which no test has started."""
    names: set[str] = set()
    ours = {os.getpid(), *_own_children()}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        if int(maps.parent.name) in ours:
            continue
        try:
            lines = maps.read_text().splitlines()
        except OSError:  # it has just ended, or is somebody else's
            continue
        names |= {line.partition(f"{SHARED_MEMORY}/")[2] for line in lines if f"{SHARED_MEMORY}/" in line}
    return names


def _descriptors() -> int:
    return psutil.Process().num_fds()


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())[:100]
    except psutil.NoSuchProcess:
        return "gone"
