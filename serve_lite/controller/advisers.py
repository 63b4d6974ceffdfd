"""User code that the daemon asks for advice, in processes of its own: request routers and autoscaling policies.

An adviser is started when something first needs one of a code environment, and again when it died. While there
is none the caller hears an error and falls back: to the built-in choice of a replica, so that no request waits for
a process, or to the present number of replicas.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable

import anyio
import anyio.abc

from serve_lite.controller.environments import Environments
from serve_lite.controller.routers import is_shipped
from serve_lite.controller.spawner import Spawner
from serve_lite.exceptions import InstanceError, RayServeException
from serve_lite.routing.advised import local_adviser
from serve_lite.routing.ranked import Adviser
from serve_lite.routing.remote_adviser import RemoteAdviser
from serve_lite.state.goal import CodeEnvironment
from serve_lite.state.ids import DeploymentId
from serve_lite.wire.callbacks import start_soon
from serve_lite.wire.connection import Connection, connect
from serve_lite.wire.messages import (
    AdviserPlace,
    DecideAppReply,
    DecideAppRequest,
    DecideReply,
    DecideRequest,
    Membership,
)

logger = logging.getLogger(__name__)

_DECIDE_S = 30.0  #: an autoscaling policy that has not answered by then has failed
_RESTART_S = 5.0  #: between starts of an adviser that keeps dying


class Advisers:
    """The adviser processes of this instance.

    Lifetime: each process has a task in `group`; when that ends, so do the processes.

    Args:
        code_of: the code environment of a deployment that exists and the version of its code, else None.
    """

    def __init__(
        self,
        group: anyio.abc.TaskGroup,
        spawner: Spawner,
        code_of: Callable[[DeploymentId], tuple[CodeEnvironment, str] | None],
        environments: Environments,
    ) -> None:
        self._group, self._spawner, self._code_of = group, spawner, code_of
        self._environments = environments
        self._running: dict[str, _Process] = {}  #: by application

    def make(self, membership: Membership) -> Adviser | None:
        """Return who ranks replicas for a deployment (`routing.ranked.MakeAdviser`)."""
        choice = membership.router
        assert choice is not None
        if is_shipped(choice):
            return local_adviser(membership)
        target = DeploymentId(name=membership.deployment, app_name=membership.app)
        process = self._use(target)
        if process is None:
            return None
        return RemoteAdviser(process, target, choice, lambda: self._let_go(process))

    async def tell_place(self, target: DeploymentId, tell: Callable[[AdviserPlace], Awaitable[None]]) -> None:
        """Tell where the adviser of a deployment's application listens, now and whenever another takes its place.

        It is kept until this is cancelled. Returns if there is no such deployment, or other code has taken its place.
        """
        process = self._use(target)
        if process is None:
            return
        try:
            while not process.is_over:
                changed = process.changed
                await tell(AdviserPlace(socket=process.path if process.connection is not None else ""))
                await changed.wait()
        finally:
            self._let_go(process)

    def policy(self, target: DeploymentId) -> RemotePolicy | None:
        """Return who asks custom autoscaling policies where a deployment's code is; None if there is no such one."""
        process = self._use(target)
        return RemotePolicy(process, self._let_go) if process is not None else None

    def _use(self, target: DeploymentId) -> _Process | None:
        """Return the adviser of a deployment's application, running or about to, with one user more."""
        code = self._code_of(target)
        if code is None:
            return None
        process = self._running.get(target.app_name)
        if process is None or process.code != code:  # one of older code ends with its last user
            process = self._running[target.app_name] = _Process(target.app_name, code)
            start_soon(self._group, self._run, process)
        process.users += 1
        return process

    def _let_go(self, process: _Process) -> None:
        process.users -= 1
        if process.users == 0:
            process.end()
            if self._running.get(process.app) is process:
                del self._running[process.app]

    async def _run(self, process: _Process) -> None:
        """Keep an adviser running until nobody needs it."""
        with anyio.CancelScope() as process.scope:
            while not process.is_over:
                try:
                    await self._run_once(process)
                except (InstanceError, OSError, RayServeException) as error:
                    logger.error("the adviser of application %r: %s", process.app, error)
                await anyio.sleep(_RESTART_S)

    async def _run_once(self, process: _Process) -> None:
        environment = await self._environments.resolve(process.code[0])
        path = self._spawner.socket_path(f"{process.app}#adviser#{os.urandom(4).hex()}")
        child = await self._spawner.spawn_adviser(process.app, environment, path)
        try:
            process.connect(path, await connect(path))
            exited = await child.wait()  # ends with the process
            logger.warning("the adviser of application %r %s", process.app, exited)
        finally:
            if process.connection is not None:
                process.connection.close()
                process.connect("", None)
            child.kill()
            with anyio.move_on_after(2.0, shield=True):
                await child.wait()


class _Process:
    """One adviser process, running or to be started again."""

    def __init__(self, app: str, code: tuple[CodeEnvironment, str]) -> None:
        self.app = app
        self.code = code
        self.connection: Connection | None = None  #: None while there is no process to ask
        self.path = ""  #: of its socket
        self.changed = anyio.Event()  #: there is another process, or none; replaced each time
        self.users = 0
        self.is_over = False  #: nobody needs it any more
        self.scope: anyio.CancelScope | None = None  #: of its task

    def connect(self, path: str, connection: Connection | None) -> None:
        """Ask this process from now on; None: there is none."""
        self.path, self.connection = path, connection
        self.changed.set()
        self.changed = anyio.Event()

    def end(self) -> None:
        """Nobody needs it any more."""
        self.is_over = True
        if self.scope is not None:
            self.scope.cancel()


class RemotePolicy:
    """Asks autoscaling policies in an adviser process."""

    def __init__(self, process: _Process, let_go: Callable[[_Process], None]) -> None:
        self._process, self._let_go = process, let_go

    @property
    def is_up(self) -> bool:
        """Whether there is a process to ask."""
        return self._process.connection is not None

    @property
    def is_over(self) -> bool:
        """Whether another process has taken the place of this one's."""
        return self._process.is_over

    async def decide(self, request: DecideRequest) -> DecideReply:
        """Ask the policy of a deployment.

        Raises:
            RayServeException: there is no process at the moment.
            RemoteControlError, ConnectionLostError, TimeoutError: it did not answer with a decision.
        """
        return await self._connection().control("decide", request, DecideReply, timeout_s=_DECIDE_S)

    async def decide_app(self, request: DecideAppRequest) -> DecideAppReply:
        """Ask the policy of an application; raises as `decide` does."""
        return await self._connection().control("decide_app", request, DecideAppReply, timeout_s=_DECIDE_S)

    def _connection(self) -> Connection:
        connection = self._process.connection
        if connection is None:
            raise RayServeException(f"the adviser process of application {self._process.app!r} is not up")
        return connection

    def close(self) -> None:
        self._let_go(self._process)
