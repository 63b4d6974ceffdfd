"""The routers of this process and the loop they live on: what handles use.

In a replica that is the loop of user code; in any other process a background thread with a loop of its
own, so that handles work from plain synchronous code.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from serve_lite.exceptions import RayServeException
from serve_lite.routing.daemon_link import DaemonLink
from serve_lite.routing.membership import MembershipSource, RemoteMembership
from serve_lite.routing.ranked import Adviser
from serve_lite.routing.router import Routers
from serve_lite.wire.messages import Membership


class Runtime:
    """Routers on a loop, reachable from any thread.

    Lifetime: `install` one per process; `aclose` (on its loop) or `stop` (a background one) ends it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, control_path: str, source: MembershipSource) -> None:
        self.loop = loop
        self.control_path = control_path
        self.routers = Routers(source, _adviser)
        self._thread_id = threading.get_ident()
        self._thread: threading.Thread | None = None

    @property
    def on_loop(self) -> bool:
        """Whether the caller runs on this runtime's thread."""
        return threading.get_ident() == self._thread_id

    def run(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the loop: now if we are on it, else soon."""
        if threading.get_ident() == self._thread_id:
            function(*args)
        else:
            self.loop.call_soon_threadsafe(function, *args)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine on the loop as a task that ends, at the latest, with the runtime."""
        self.run(self.routers.spawn, work)

    async def aclose(self) -> None:
        """End the routers and their tasks."""
        await self.routers.aclose()

    def stop(self) -> None:
        """End a background runtime and its thread; open calls fail."""
        if self._thread is None or not self.loop.is_running():
            return
        asyncio.run_coroutine_threadsafe(self.aclose(), self.loop).result(timeout=5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)


def _adviser(membership: Membership) -> Adviser | None:
    from serve_lite.routing.advised import local_adviser  # lazily: few deployments bring a router

    return local_adviser(membership)


_current: Runtime | None = None
_current_pid = 0


def current() -> Runtime:
    """Return this process's runtime.

    Raises:
        RayServeException: there is none, because Serve was not started or connected to here.
    """
    if _current is None or _current_pid != os.getpid():
        raise RayServeException("Serve is not running here: call `serve.run(...)` or `serve.start()` first.")
    return _current


def installed() -> Runtime | None:
    """Return this process's runtime if it has one."""
    return _current if _current_pid == os.getpid() else None


def install(runtime: Runtime | None) -> None:
    """Make this the process's runtime; None takes it away."""
    global _current, _current_pid
    _current, _current_pid = runtime, os.getpid()


_local: dict[str, Runtime] = {}  # by application that runs inside this process, in local testing mode


def install_local(app: str, runtime: Runtime | None) -> None:
    """Send calls to this application to a runtime of its own; None ends that."""
    if runtime is None:
        _local.pop(app, None)
    else:
        _local[app] = runtime


def local(app: str) -> Runtime | None:
    """Return the runtime of an application that runs inside this process, if it is one."""
    return _local.get(app)


def open_here(control_path: str) -> Runtime:
    """Return a runtime on the running loop; call on that loop."""
    link = DaemonLink(control_path)
    runtime = Runtime(asyncio.get_running_loop(), control_path, RemoteMembership(link))
    runtime.routers.spawn(link.run())
    return runtime


def open_in_background(control_path: str) -> Runtime:
    """Return a runtime on the loop of a new daemon thread."""
    ready: list[Runtime] = []
    started = threading.Event()

    def serve() -> None:
        import uvloop  # lazily: only processes that call from outside need a loop of their own

        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)

        def begin() -> None:
            link = DaemonLink(control_path)
            runtime = Runtime(loop, control_path, RemoteMembership(link))
            runtime.routers.spawn(link.run())
            ready.append(runtime)
            started.set()

        loop.call_soon(begin)
        try:
            loop.run_forever()
        finally:
            loop.close()

    thread = threading.Thread(target=serve, name="serve-lite-handles", daemon=True)
    thread.start()
    started.wait()
    ready[0]._thread = thread
    return ready[0]
