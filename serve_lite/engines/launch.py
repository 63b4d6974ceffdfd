"""The launch of an instance: its keeper is started, binds the sockets, and says so.

Imports little: `serve run` waits for this before it waits for anything else. What comes after is in `local.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import deque
from typing import Any

import msgspec

from serve_lite.daemon.options import ENVIRONMENT_NAME, SECRET_VARIABLES, InstanceOptions, Paths, paths
from serve_lite.exceptions import InstanceError, PortInUseError
from serve_lite.processes import python_command
from serve_lite.wire.messages import InstanceInfo

_LAST_WORDS = 12  #: lines of a log that are told with a failure

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
                env=_environment(options),
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
            f"The keeper of the instance ended with status {code}.{last_words(_keeper_log(where))}"
        )
    facts = json.loads(line)
    if not facts.pop("ok"):
        reap(keeper.pid)
        raise _start_error(facts)
    return InstanceInfo(version="", epoch=0, **facts)


def _environment(options: InstanceOptions) -> dict[str, str]:
    """Return the environment of a keeper, which user code inherits in the end: without secrets but in the options."""
    public = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    return {**public, ENVIRONMENT_NAME: msgspec.json.encode(options).decode()}


def reap(pid: int, *, patience_s: float = 30.0) -> None:
    """Wait for a keeper that this process started and that is ending; nothing for any other process."""
    keeper = _launched.pop(pid, None)
    if keeper is not None:
        try:
            keeper.wait(patience_s)
        except subprocess.TimeoutExpired:
            _launched[pid] = keeper


def last_words(log: str) -> str:
    """Return the end of a log as the end of a message."""
    try:
        with open(log, errors="replace") as file:
            lines = deque(file, _LAST_WORDS)
    except OSError:
        lines = deque()
    said = "".join(lines).rstrip()
    return f" The end of {log}:\n{said}" if said else f" Nothing is in {log}."


def _start_error(facts: dict[str, Any]) -> InstanceError:
    match facts.get("kind"):
        case "port_in_use":
            return PortInUseError(facts["host"], facts["port"], facts["holder"])
        case "already_up":
            return AlreadyUpError(facts["error"])
    return InstanceError(facts["error"])


def _keeper_log(where: Paths) -> str:
    return os.path.join(where.logs, "keeper.log")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
