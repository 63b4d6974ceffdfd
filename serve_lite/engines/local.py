"""Instances on this machine: finding, starting, reaching and stopping one.

An instance is known by its state directory. Everything goes over the control socket in it; the launch of its keeper
is the one thing that cannot, and is in `launch.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from serve_lite.daemon.options import InstanceOptions, home_from_environment, paths
from serve_lite.engines.launch import AlreadyUpError, last_words, reap, start_instance
from serve_lite.exceptions import InstanceError
from serve_lite.processes import open_pidfd
from serve_lite.wire.connection import Connection, ConnectionLostError, connect
from serve_lite.wire.messages import Empty, InstanceInfo, InstanceSettings, UpgradeReply, UpgradeRequest

__all__ = [
    "AlreadyUpError",
    "connect_instance",
    "find_instance",
    "open_instance",
    "run_aside",
    "settings_of",
    "shutdown_instance",
    "start_instance",
    "upgrade_instance",
]

T = TypeVar("T")

_GONE_PATIENCE_S = 30.0  #: for the keeper to end after the daemon has answered `shutdown`


async def connect_instance(home: str | None = None) -> Connection | None:
    """Connect to the instance in a state directory (default: the environment's); None if none is up.

    Waits while its daemon is starting.

    Raises:
        InstanceError: it ended instead of getting up.
    """
    where = paths(home or home_from_environment())
    try:
        return await connect(where.control)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except (ConnectionLostError, ConnectionError) as error:
        log = os.path.join(where.logs, "daemon.log")
        raise InstanceError(
            f"The instance in {where.home!r} ended before it was ready.{last_words(log)}"
        ) from error


async def open_instance(
    options: InstanceOptions, *, owner_pid: int | None = None
) -> tuple[Connection, InstanceInfo, bool]:
    """Connect to the instance in `options.home`; start it if none is up.

    Returns the connection, where the instance is, and whether it was started by this call. Of several callers at
    the same time one starts it and the others connect.

    Raises:
        PortInUseError, InstanceError: as `start_instance` and `connect_instance`.
    """
    options = options.with_home()
    started = False
    connection = await connect_instance(options.home)
    if connection is None:
        try:
            await asyncio.to_thread(start_instance, options, owner_pid=owner_pid)
            started = True
        except AlreadyUpError:
            pass
        connection = await connect_instance(options.home)
    if connection is None:
        raise InstanceError(f"The instance in {options.home!r} ended as soon as it was up.")
    return connection, await connection.control("info", Empty(), InstanceInfo, timeout_s=None), started


def find_instance(home: str | None = None) -> InstanceInfo | None:
    """Return where the instance of a state directory is; None if none is up. Blocks; works inside a loop too."""
    return run_aside(_info(home))


def settings_of(home: str | None = None) -> InstanceSettings | None:
    """Return every option of the instance of a state directory; None if none is up. Blocks, like `find_instance`."""
    return run_aside(_settings(home))


async def shutdown_instance(connection: Connection) -> None:
    """Have an instance drain its applications and end; return once its keeper is gone and its ports are free."""
    info = await connection.control("info", Empty(), InstanceInfo, timeout_s=None)
    try:
        pidfd = open_pidfd(info.keeper_pid) if info.keeper_pid else None
    except ProcessLookupError:
        pidfd = None
    await _ask_to_shut_down(connection, info.home)
    await _wait_gone(info.keeper_pid, pidfd)


async def _ask_to_shut_down(connection: Connection | None, home: str) -> None:
    """Ask the daemon, and if it has just handed the instance over, the next one."""
    while connection is not None:
        try:
            await connection.control("shutdown", Empty(), Empty, timeout_s=None)
            return
        except ConnectionLostError:
            pass
        finally:
            connection.close()
            await connection.wait_closed()
        try:
            connection = await connect_instance(home)
        except InstanceError:  # it was leaving already
            return


async def upgrade_instance(connection: Connection, grace_s: float) -> int:
    """Have a daemon of the code that is installed now take over; return its pid once it serves.

    Raises:
        InstanceError: there is none, and the one that ran goes on.
    """
    request = UpgradeRequest(grace_s=grace_s)
    return (await connection.control("upgrade", request, UpgradeReply, timeout_s=None)).pid


async def _info(home: str | None) -> InstanceInfo | None:
    connection = await connect_instance(home)
    if connection is None:
        return None
    try:
        return await connection.control("info", Empty(), InstanceInfo, timeout_s=None)
    finally:
        connection.close()
        await connection.wait_closed()


async def _settings(home: str | None) -> InstanceSettings | None:
    connection = await connect_instance(home)
    if connection is None:
        return None
    try:
        return await connection.control("settings", Empty(), InstanceSettings, timeout_s=None)
    finally:
        connection.close()
        await connection.wait_closed()


def run_aside(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop of its own, in a thread if this one has a loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


async def _wait_gone(pid: int, pidfd: int | None) -> None:
    """Wait for a process to end, without a thread: at a script's exit there are none to be had."""
    if pidfd is not None:
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(pidfd, gone.set)
        try:
            async with asyncio.timeout(_GONE_PATIENCE_S):
                await gone.wait()
        except TimeoutError:
            pass  # it is told to end and will; its ports may be taken a little longer
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
    reap(pid, patience_s=_GONE_PATIENCE_S)
