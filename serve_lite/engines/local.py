"""Instances on this machine: finding, starting, reaching and stopping one.

An instance is known by its state directory. Everything goes over the control socket in it; the keeper's launch
(`daemon/keeper.py`) is the one thing that cannot.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from serve_lite.daemon.options import ENVIRONMENT_NAME, InstanceOptions, Paths, home_from_environment, paths
from serve_lite.exceptions import InstanceError, PortInUseError
from serve_lite.processes import open_pidfd, python_command
from serve_lite.wire.connection import Connection, ConnectionLostError, connect
from serve_lite.wire.messages import Empty, InstanceInfo

T = TypeVar("T")

_LAST_WORDS = 12  #: lines of a log that are told with a failure
_GONE_PATIENCE_S = 30.0  #: for the keeper to end after the daemon has answered `shutdown`

#: Keepers that this process started and has not seen ending, so that they are reaped.
_launched: dict[int, subprocess.Popen[bytes]] = {}


class AlreadyUpError(InstanceError):
    """Another instance is up in the same state directory: connect to it."""


def start_instance(options: InstanceOptions, *, owner_pid: int | None = None) -> InstanceInfo:
    """Start an instance and return where it is, once its sockets are bound.

    Blocks for about 50 ms. Whoever connects now waits in the control socket until the daemon is up. With
    `owner_pid` the instance ends when that process does; without, it lives until it is told to stop.

    Raises:
        AlreadyUpError: one is up in that state directory.
        PortInUseError: a listening address is taken.
        InstanceError: it cannot be started for another reason.
    """
    options = msgspec.structs.replace(options.with_home(), is_embedded=owner_pid is not None)
    where = paths(options.home)
    where.prepare()
    reader, writer = os.pipe()
    arguments = ["--handshake-fd", str(writer)]
    if owner_pid is not None:
        arguments += ["--owner-pid", str(owner_pid)]
    with open(reader, "rb") as handshake, open(_keeper_log(where), "ab", opener=_private) as log:
        try:
            keeper = subprocess.Popen(
                python_command("serve_lite.daemon.keeper", *arguments),
                env={**os.environ, ENVIRONMENT_NAME: msgspec.json.encode(options).decode()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[writer],
                start_new_session=True,
            )
        finally:
            os.close(writer)
        line = handshake.readline()  # ends with the line, or with the keeper
    _launched[keeper.pid] = keeper
    if not line:
        code = keeper.wait()
        raise InstanceError(
            f"The keeper of the instance ended with status {code}.{_last_words(_keeper_log(where))}"
        )
    facts = json.loads(line)
    if not facts.pop("ok"):
        _reap(keeper.pid)
        raise _start_error(facts)
    return InstanceInfo(version="", epoch=0, **facts)


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
            f"The instance in {where.home!r} ended before it was ready.{_last_words(log)}"
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


async def shutdown_instance(connection: Connection) -> None:
    """Have an instance drain its applications and end; return once its keeper is gone and its ports are free."""
    info = await connection.control("info", Empty(), InstanceInfo, timeout_s=None)
    try:
        pidfd = open_pidfd(info.keeper_pid) if info.keeper_pid else None
    except ProcessLookupError:
        pidfd = None
    try:
        await connection.control("shutdown", Empty(), Empty, timeout_s=None)
    except ConnectionLostError:  # it was leaving already
        pass
    connection.close()
    await connection.wait_closed()
    await _wait_gone(info.keeper_pid, pidfd)


async def _info(home: str | None) -> InstanceInfo | None:
    connection = await connect_instance(home)
    if connection is None:
        return None
    try:
        return await connection.control("info", Empty(), InstanceInfo, timeout_s=None)
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


def _start_error(facts: dict[str, Any]) -> InstanceError:
    match facts.get("kind"):
        case "port_in_use":
            return PortInUseError(facts["host"], facts["port"], facts["holder"])
        case "already_up":
            return AlreadyUpError(facts["error"])
    return InstanceError(facts["error"])


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
    _reap(pid)


def _reap(pid: int) -> None:
    keeper = _launched.pop(pid, None)
    if keeper is not None:
        try:
            keeper.wait(_GONE_PATIENCE_S)
        except subprocess.TimeoutExpired:
            _launched[pid] = keeper


def _keeper_log(where: Paths) -> str:
    return os.path.join(where.logs, "keeper.log")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _last_words(log: str) -> str:
    try:
        with open(log, errors="replace") as file:
            lines = deque(file, _LAST_WORDS)
    except OSError:
        lines = deque()
    said = "".join(lines).rstrip()
    return f" The end of {log}:\n{said}" if said else f" Nothing is in {log}."
