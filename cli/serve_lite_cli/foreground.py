"""`serve run` once there is an instance: deploy, show what happens, wait for Ctrl-C, take away what was deployed.

Nothing here starts or finds an instance (`run.py` does) or decides what is deployed (`plan.py`).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import TypeVar

import anyio
import msgspec

from serve_lite.daemon.options import paths
from serve_lite.engines.local import connect_instance
from serve_lite.exceptions import InstanceError, RayServeException, ServeLiteError
from serve_lite.processes import open_pidfd
from serve_lite.schema import ApplicationStatusOverview, ServeStatus
from serve_lite.wire.connection import ConnectionLostError
from serve_lite.wire.messages import (
    DeleteRequest,
    DeployReply,
    DetailsReply,
    Empty,
    InstanceInfo,
    WaitRequest,
)
from serve_lite_cli.address import url
from serve_lite_cli.follow import LogFollower
from serve_lite_cli.plan import Plan

T = TypeVar("T")

ENDED = "The instance has ended, and the applications with it."
#: A start that takes longer is told of while it goes on.
QUIET_S = 3.0
#: How often to look for new output where the system cannot tell (no inotify).
LOOK_EVERY_S = 0.25


class Foreground:
    """One `serve run`.

    Lifetime: `run` returns when everything it deployed is gone and, if this command started the instance, the
    instance too; without `blocking` as soon as the applications are ready. A first SIGINT or SIGTERM ends it in
    order, a second one at once.
    """

    def __init__(self, plan: Plan, info: InstanceInfo, *, owns_instance: bool, blocking: bool) -> None:
        """Prepare to run `plan` on the instance `info`, which this command started if `owns_instance`."""
        self._plan, self._info = plan, info
        self._owns_instance, self._blocking = owns_instance, blocking
        self._is_gone = anyio.Event()  # set when the keeper has ended
        self._may_remove: list[str] = []  # what we deployed and nobody had before
        self._keeper = _pidfd(info.keeper_pid)
        self._logs = LogFollower(paths(info.home).logs, plan.names, show_line)

    async def run(self) -> int:
        """Return the exit code of the command."""
        try:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async with anyio.create_task_group() as group:
                    group.start_soon(_show_logs, self._logs)
                    group.start_soon(self._watch_keeper)
                    code = await self._serve_until_signal(signals)
                    if self._blocking or code:
                        group.start_soon(self._hurry_on_signal, signals)
                        await self._take_away(after_failure=bool(code))
                    group.cancel_scope.cancel()
        finally:
            self._logs.close()
            if self._keeper is not None:
                os.close(self._keeper)
        return code

    async def _serve_until_signal(self, signals: AsyncIterator[signal.Signals]) -> int:
        """Deploy and serve until a signal comes (0), or until it fails (1)."""
        code = 0
        async with anyio.create_task_group() as group:

            async def wait_for_signal() -> None:
                async for number in signals:
                    name = "KeyboardInterrupt" if number is signal.SIGINT else number.name
                    say(f"Got {name}, shutting down...")
                    group.cancel_scope.cancel()
                    return

            group.start_soon(wait_for_signal)
            try:
                await self._serve()
            except ServeLiteError as error:
                print(f"Error: {error}", file=sys.stderr, flush=True)
                code = 1
            group.cancel_scope.cancel()
        return code

    async def _serve(self) -> None:
        """Deploy, report when ready, and, if blocking, stay until the instance ends.

        Raises:
            ServeLiteError: the deploy was refused, an application failed, or the instance ended.
        """
        names = self._plan.names
        await self._submit(self._plan)
        status = await self._wait_ready(names)
        check_running(names, status)
        self._may_remove = names
        for app in self._plan.request.apps:
            say(self._ready_line(app.name, app.route_prefix))
        self._tell_grpc()
        if self._blocking:
            await self._is_gone.wait()
            raise InstanceError(ENDED)

    async def _submit(self, plan: Plan) -> None:
        """Deploy `plan`; returns when it is accepted.

        Raises:
            ServeLiteError: it was refused, and nothing has changed.
        """
        mine = self._may_remove
        before = {} if self._owns_instance else (await self._ask("status", Empty(), ServeStatus)).applications
        # Set before the answer: if that is not waited for, the request may have been accepted all the same.
        self._may_remove = [*mine, *(n for n in plan.names if n not in before and n not in mine)]
        try:
            await self._ask("deploy", plan.request, DeployReply)
        except ServeLiteError:  # refused: nothing is deployed
            self._may_remove = mine
            raise

    def _tell_grpc(self) -> None:
        if self._info.grpc_host is not None:
            say(f"gRPC is served at {self._info.grpc_host}:{self._info.grpc_port}")

    async def _wait_ready(self, names: list[str]) -> ServeStatus:
        """Return the status once it is decided how the deploy went; if that takes long, say what is waited for."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._say_progress, names)
            status = await self._ask("wait_apps", WaitRequest(names=names), ServeStatus)
            group.cancel_scope.cancel()
        return status

    async def _say_progress(self, names: list[str]) -> None:
        """Say what is waited for and each change of it, until cancelled; nothing in the first seconds."""
        await anyio.sleep(QUIET_S)
        # Only now: a start that is quick needs none of it, and is waited for many times a day.
        from serve_lite_cli.progress import Lines
        from serve_lite_cli.steps import steps_of

        lines = Lines(say)
        while True:
            apps = (await self._ask("details", Empty(), DetailsReply)).applications
            steps = steps_of({name: apps[name] for name in names if name in apps})
            lines.show(
                {who: s for who, s in steps.items() if who in lines or (s.is_telling and not s.is_settled)}
            )
            await anyio.sleep(LOOK_EVERY_S)

    def _ready_line(self, name: str, prefix: str | None) -> str:
        if prefix is None or self._info.http_host is None:
            return f"Application '{name}' is ready."
        return f"Application '{name}' is ready at {url(self._info.http_host, self._info.http_port, prefix)}"

    async def _take_away(self, *, after_failure: bool) -> None:
        """Remove what this command brought: the whole instance if it started it, else its applications."""
        try:
            if self._owns_instance:
                self._signal_keeper(signal.SIGTERM)
                await self._is_gone.wait()
            elif self._may_remove and not self._is_gone.is_set():
                await self._ask("delete", DeleteRequest(names=self._may_remove), Empty)
                await self._ask("wait_apps", WaitRequest(names=self._may_remove), ServeStatus)
        except ServeLiteError as error:
            if not after_failure:  # else the user has read the cause already
                print(f"Error: {error}", file=sys.stderr, flush=True)

    async def _hurry_on_signal(self, signals: AsyncIterator[signal.Signals]) -> None:
        async for _ in signals:
            if not self._owns_instance:
                say("Leaving at once; the instance goes on removing the applications.")
                os._exit(1)  # the work left is the instance's, not ours
            say("Stopping at once.")
            # Another signal than before: two of a kind that come close together may arrive as one.
            self._signal_keeper(signal.SIGINT)

    def _signal_keeper(self, number: signal.Signals) -> None:
        """Send SIGTERM or SIGINT: at the first one the keeper stops in order, at the second one at once."""
        try:
            if self._keeper is not None:
                signal.pidfd_send_signal(self._keeper, number)
            else:
                os.kill(self._info.keeper_pid, number)
        except ProcessLookupError:
            self._is_gone.set()

    async def _watch_keeper(self) -> None:
        if self._keeper is not None:
            await anyio.wait_readable(self._keeper)
        elif not self._info.keeper_pid:  # systemd keeps the sockets, and this instance does not end by itself
            await anyio.sleep_forever()
        else:  # no pidfds on this system: look
            while _exists(self._info.keeper_pid):
                await anyio.sleep(LOOK_EVERY_S)
        self._is_gone.set()

    async def _ask(self, method: str, request: msgspec.Struct, reply_type: type[T]) -> T:
        """Make a control call; again if the daemon was replaced meanwhile (each of ours may be repeated)."""
        while True:
            connection = await connect_instance(self._info.home)
            if connection is None:
                raise InstanceError(f"The instance in {self._info.home} has ended.")
            try:
                return await connection.control(method, request, reply_type, timeout_s=None)
            except ConnectionLostError:
                continue
            finally:
                connection.close()


def check_running(names: list[str], status: ServeStatus) -> None:
    """Raise an error with the cause if one of the applications is not running.

    The cause is the user's own exception, and comes last.
    """
    for name in names:
        app = status.applications.get(name)
        if app is None:
            raise RayServeException(f"Application '{name}' was deleted before it was ready.")
        if app.status != "RUNNING":
            raise RayServeException(f"Application '{name}' is {app.status}.\n{cause_of(app)}")


def cause_of(app: ApplicationStatusOverview) -> str:
    """Return what is known about why an application does not run, the most telling last."""
    told = [app.message.rstrip()]
    for name, deployment in app.deployments.items():
        message = deployment.message.rstrip()
        if message and message not in app.message and deployment.status != "HEALTHY":
            told.append(f"Deployment '{name}': {message}")
    return "\n".join(text for text in told if text)


def say(text: str) -> None:
    """Print at once, also into a pipe. When nobody reads it any more, the command ends in order."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.kill(os.getpid(), signal.SIGTERM)


def show_line(label: str, line: str) -> None:
    """Print a line of an application's output."""
    say(f"\x1b[36m({label})\x1b[0m {line}" if sys.stdout.isatty() else f"({label}) {line}")


async def _show_logs(logs: LogFollower) -> None:
    """Show new output as it comes, until cancelled."""
    while True:
        if logs.fileno() >= 0:
            await anyio.wait_readable(logs.fileno())
        else:
            await anyio.sleep(LOOK_EVERY_S)
        logs.read_new()


def _pidfd(pid: int) -> int | None:
    try:
        return open_pidfd(pid) if pid else None
    except ProcessLookupError:
        raise InstanceError("The instance ended as soon as it was up.") from None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
