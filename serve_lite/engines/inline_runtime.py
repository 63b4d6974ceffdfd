"""What the applications inside this process share: their routers on a background loop, and a door for HTTP.

The routers, and the front and request function of the door, are those of an instance. The door is only
opened when somebody asks for its address.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable

import anyio
import anyio.abc
import msgspec

from serve_lite.engines.loops import LoopThread
from serve_lite.exceptions import InstanceError
from serve_lite.routing.membership import OnChange
from serve_lite.routing.runtime import Runtime
from serve_lite.wire.messages import DeploymentLoad, Membership, MemberState, ReplicaEndpoint, RouteTarget

_PATIENCE_S = 30.0  #: for steps that only take time on a machine that hardly runs
_LOOK_EVERY_S = 0.001
_LONGEST_FOLDER = 64  #: a Unix socket's path has 107 bytes, and `serve-lite-xxxxxxxx/r-xxxxxxxx.sock` follows


class InlineRuntime:
    """Routers of this process's own applications.

    Lifetime: `start`, then any method from any thread, then `stop`, which leaves neither threads nor files.
    """

    def __init__(self) -> None:
        self.runtime: Runtime
        self.folder = ""  #: for the replicas' sockets; private
        self._members = _Members()
        self._thread = LoopThread("serve-lite local", self._serve)
        self._leave: asyncio.Event
        self._group: anyio.abc.TaskGroup
        self._door: _Door | None = None
        self._routes: tuple[RouteTarget, ...] = ()

    def start(self) -> None:
        """Return when calls can be made."""
        self.folder = _private_folder()
        try:
            self._thread.start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def stop(self) -> None:
        """End open calls, the door and the thread."""
        self._thread.post(self._leave.set)
        self._thread.join(_PATIENCE_S)
        shutil.rmtree(self.folder, ignore_errors=True)

    def publish(self, membership: Membership) -> None:
        """Say who serves a deployment, to calls that start after this returns."""
        self._thread.post(self._members.set, membership)

    def publish_failed(self, endpoint: ReplicaEndpoint) -> None:
        """Say that this replica has ended by itself, so that calls to it fail instead of waiting."""
        self._thread.post(self._members.fail, endpoint)

    def wait_connected(self, membership: Membership) -> None:
        """Return once calls to this deployment go straight to a replica instead of waiting for a connection."""
        self._thread.ask(lambda: self._connected(membership), _PATIENCE_S)

    def set_routes(self, routes: Iterable[RouteTarget]) -> None:
        """Say which application answers which path, to requests that come after this returns."""
        self._thread.post(self._take_routes, tuple(routes))

    @property
    def has_door(self) -> bool:
        """Whether the door is open."""
        return self._door is not None

    def open_door(self) -> tuple[str, int]:
        """Return where HTTP is served, on loopback; opens the door when asked for the first time."""
        return self._thread.ask(self._open_door, _PATIENCE_S)

    async def _serve(self, ready: Callable[[], None]) -> None:
        self._leave = asyncio.Event()
        self.runtime = Runtime(asyncio.get_running_loop(), "", self._members)
        try:
            async with anyio.create_task_group() as self._group:
                ready()
                await self._leave.wait()  # ends with `stop`
                self._group.cancel_scope.cancel()
        finally:
            await self.runtime.aclose()

    async def _connected(self, membership: Membership) -> None:
        router = self.runtime.routers.get(membership.app, membership.deployment)
        while not all(router.is_connected(r.replica_id) for r in membership.replicas):
            await asyncio.sleep(_LOOK_EVERY_S)  # the caller's deadline ends it

    def _take_routes(self, routes: tuple[RouteTarget, ...]) -> None:
        self._routes = routes
        if self._door is not None:
            self._door.handler.set_routes(routes)

    async def _open_door(self) -> tuple[str, int]:
        if self._door is None:
            self._door = _Door(self.runtime)
            self._door.handler.set_routes(self._routes)
            await self._door.open(self._group)
        return self._door.address


class _Door:
    """An HTTP server on a free loopback port.

    Lifetime: `open` starts it in a task group, which ends it.
    """

    def __init__(self, runtime: Runtime) -> None:
        from serve_lite.proxy.http import RequestHandler  # lazily: few local applications are asked over HTTP
        from serve_lite.proxy.options import ProxyOptions

        self.handler = RequestHandler(runtime.routers, ProxyOptions())
        self.address = ("", 0)

    async def open(self, group: anyio.abc.TaskGroup) -> None:
        from serve_lite.proxy.server import serve_http  # lazily, as above

        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.bind(("127.0.0.1", 0))
            await group.start(lambda *, task_status: serve_http(sock, self.handler, task_status=task_status))
        except BaseException:
            sock.close()
            raise
        self.address = sock.getsockname()


class _Members:
    """A `MembershipSource` that is told by the applications. Used on the loop."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Membership] = {}
        self._watchers: dict[tuple[str, str], list[OnChange]] = {}

    def tell_load(self, load: DeploymentLoad) -> None:
        """Nobody asks: the number of replicas is fixed here."""

    def watch(self, app: str, deployment: str, on_change: OnChange) -> Callable[[], None]:
        """Tell of a deployment; one that was never published is missing."""
        key = (app, deployment)
        watchers = self._watchers.setdefault(key, [])
        watchers.append(on_change)
        on_change(self._known.get(key) or Membership(app=app, deployment=deployment))

        def unwatch() -> None:
            if on_change in watchers:
                watchers.remove(on_change)

        return unwatch

    def set(self, membership: Membership) -> None:
        """Take and tell what is true from now on."""
        key = (membership.app, membership.deployment)
        if membership.state is MemberState.MISSING:
            self._known.pop(key, None)
        else:
            self._known[key] = membership
        for on_change in tuple(self._watchers.get(key, ())):
            on_change(membership)

    def fail(self, endpoint: ReplicaEndpoint) -> None:
        """A replica has ended; does nothing if another one has taken its place."""
        for membership in list(self._known.values()):
            if endpoint in membership.replicas:
                self.set(msgspec.structs.replace(membership, state=MemberState.FAILED, replicas=()))


def _private_folder() -> str:
    """Return a new folder, mode 0700, whose name leaves room for a socket's.

    Raises:
        InstanceError: there is no such place.
    """
    for parent in (tempfile.gettempdir(), "/tmp"):
        if len(parent.encode()) <= _LONGEST_FOLDER:
            return tempfile.mkdtemp(prefix="serve-lite-", dir=parent)
    raise InstanceError(
        "No directory for temporary files has a path short enough for Unix sockets; set TMPDIR."
    )
