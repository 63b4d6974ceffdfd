"""The instance that this process uses: found, or started and embedded, and asked over its control socket."""

from __future__ import annotations

import atexit
import logging
import os
import socket
from typing import TypeVar

import msgspec

from serve_lite.context import in_replica
from serve_lite.daemon.effective import differences
from serve_lite.daemon.options import InstanceOptions, home_from_environment, paths
from serve_lite.engines import local
from serve_lite.exceptions import InstanceError, RayServeException
from serve_lite.routing import runtime as caller_runtime
from serve_lite.routing.runtime import Runtime
from serve_lite.wire.connection import ConnectionLostError, connect
from serve_lite.wire.messages import Empty, InstanceSettings

log = logging.getLogger("serve_lite")
R = TypeVar("R")

#: Control calls that change nothing, or the same when made twice.
_REPEATABLE = ("wait_apps", "status", "settings", "info", "goal", "ingress", "delete")

#: state directory of the instance that this process embeds
_embedded_home: str | None = None


def open_instance(options: InstanceOptions, *, is_explicit: bool) -> Runtime:
    """Return a runtime connected to the instance that is up, or to one that is started for this process.

    With `is_explicit` each option that was asked for and that a running instance has otherwise is warned of.

    Raises:
        PortInUseError, InstanceError: it cannot be started.
    """
    global _embedded_home
    runtime = connected()
    if runtime is not None:
        if is_explicit:
            _warn_of_differences(runtime, options)
        return runtime
    options = options.with_home()
    try:
        local.start_instance(options, owner_pid=os.getpid())
    except local.AlreadyUpError:  # somebody was quicker
        pass
    else:
        if _embedded_home is None:
            atexit.register(_end_embedded, os.getpid())
        _embedded_home = options.home
    local.run_aside(_wait_until_up(options.home))
    return _install(paths(options.home).control)


def require() -> Runtime:
    """Return a runtime connected to the instance that is up.

    Raises:
        RayServeException: none is.
    """
    runtime = connected()
    if runtime is None:
        raise RayServeException("Serve is not running here: call `serve.run(...)` or `serve.start()` first.")
    return runtime


def connected() -> Runtime | None:
    """Return this process's runtime if its instance is up, else one connected to the instance that is, or None."""
    runtime = caller_runtime.installed()
    if runtime is not None:
        if in_replica() or _is_up(runtime.control_path):
            return runtime
        runtime.stop()
        caller_runtime.install(None)
    control = paths(home_from_environment()).control
    return _install(control) if _is_up(control) else None


def ask(
    runtime: Runtime,
    method: str,
    request: msgspec.Struct,
    reply_type: type[R],
    timeout_s: float | None = None,
) -> R:
    """Make one control call and wait for its answer; works inside a running loop too, which it blocks.

    Raises:
        what `Connection.control` raises.
    """
    return local.run_aside(_control(runtime.control_path, method, request, reply_type, timeout_s))


def end() -> bool:
    """End the instance that is up, whoever started it; return whether there was one."""
    global _embedded_home
    runtime = connected()
    if runtime is None:
        return False
    runtime.stop()
    caller_runtime.install(None)
    local.run_aside(_shut_down(runtime.control_path))
    _embedded_home = None
    return True


def _install(control_path: str) -> Runtime:
    runtime = caller_runtime.open_in_background(control_path)
    caller_runtime.install(runtime)
    return runtime


def _is_up(control_path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(control_path)
        except OSError:
            return False
    return True


def _warn_of_differences(runtime: Runtime, options: InstanceOptions) -> None:
    running = ask(runtime, "settings", Empty(), InstanceSettings)
    for sentence in differences(options, running.settings):
        log.warning("Serve is running already: %s", sentence)


async def _wait_until_up(home: str) -> None:
    connection = await local.connect_instance(home)
    if connection is None:
        raise InstanceError(f"The instance in {home!r} ended as soon as it was up.")
    connection.close()
    await connection.wait_closed()


async def _control(
    path: str, method: str, request: msgspec.Struct, reply_type: type[R], timeout_s: float | None
) -> R:
    while True:
        connection = await connect(path)
        try:
            return await connection.control(method, request, reply_type, timeout_s=timeout_s)
        except ConnectionLostError:
            if method not in _REPEATABLE:
                raise
            # Another daemon has taken over, or does when the keeper has started it: it is asked.
        finally:
            connection.close()
            await connection.wait_closed()


async def _shut_down(control_path: str) -> None:
    try:
        connection = await connect(control_path)
    except (OSError, ConnectionLostError):
        return  # it ended by itself meanwhile
    await local.shutdown_instance(connection)


def _end_embedded(pid: int) -> None:
    """At the script's end: end the instance that it embeds, so that the next script finds free ports."""
    if pid == os.getpid() and _embedded_home is not None:
        end()
