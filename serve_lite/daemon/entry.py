"""How a daemon begins: takes what it inherits, forks the first template, and only then loads everything else.

What both need is loaded before the fork, so that they share the work and the memory; the rest is loaded by each at
the same time, on two cores. So imports stand where they are needed. Next: `daemon.py`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import socket
import sys
from contextlib import suppress

from serve_lite.controller.warm import Template, can_fork, open_log
from serve_lite.daemon.activation import check_activation
from serve_lite.daemon.home import TOKEN_VARIABLE, home_from_environment, paths, take_secrets
from serve_lite.daemon.keeper import EXIT_HOPELESS, StartError
from serve_lite.daemon.token import prepare_token
from serve_lite.exceptions import InstanceError

#: What daemon and template both load sooner or later. The backend is anyio's own business and may move one day; it
#: takes 15 ms, though, which each replica would pay again.
_SHARED = (
    "uvloop",
    "anyio._backends._asyncio",
    "serve_lite.routing.router",
    "serve_lite.wire.control",
    "serve_lite.wire.listener",
    "serve_lite.wire.spawning",
)

_FIRST_FD = 3  #: of the LISTEN_FDS convention, see sd_listen_fds(3)


def main() -> int:
    """Run a daemon on the sockets that the keeper or systemd passed on; return its exit status."""
    gc.disable()  # loading makes little garbage; `Daemon` turns it on when all is up
    inherited = take_inherited()
    raise_descriptor_limit()
    is_successor = bool(os.environ.pop("SERVE_LITE_SUCCESSOR", ""))
    # Not left in the environment, which user code will inherit: a key's password may be in it.
    given = os.environ.pop("SERVE_LITE_INSTANCE", "{}")
    environment = take_secrets()
    where = paths(json.loads(given).get("home") or home_from_environment())
    notify = os.environ.pop("NOTIFY_SOCKET", "")  # not for user code, which could speak for us
    try:
        where.prepare()
        if "keeper" not in inherited:
            check_activation(inherited, where)
        prepare_token(where, environment.get(TOKEN_VARIABLE, ""))  # a keeper has done so, unless it is older
    except (StartError, InstanceError) as error:
        sys.stderr.write(f"The instance cannot start: {error}\n")
        return EXIT_HOPELESS

    template = None
    if can_fork():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for name in _SHARED:
            with suppress(ModuleNotFoundError):  # loaded when needed, then
                importlib.import_module(name)
        gc.freeze()
        pid = os.fork()  # safe: there is no other thread, and no loop yet
        if pid == 0:
            ours.close()
            return run_template(theirs, inherited, where.logs)
        theirs.close()
        template = Template(pid, ours)

    from serve_lite.daemon.daemon import run
    from serve_lite.daemon.options import options_from

    return run(
        options_from(given, environment), where, inherited, template, is_successor=is_successor, notify=notify
    )


def run_template(daemon: socket.socket, inherited: dict[str, int], logs: str) -> int:
    """Go on as the template of the daemon that has just forked us; return the exit status."""
    for fd in inherited.values():
        os.close(fd)
    log, nothing = open_log(logs), os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for fd, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(fd, target)
    os.close(log)
    os.close(nothing)

    from serve_lite.replica import template

    return template.run(daemon)


def take_inherited() -> dict[str, int]:
    """Return the descriptors passed on to this very process, by name. They are not passed on further."""
    count, names = int(os.environ.pop("LISTEN_FDS", "0")), os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return {}
    inherited = dict(zip(names, range(_FIRST_FD, _FIRST_FD + count), strict=False))
    for fd in inherited.values():
        os.set_inheritable(fd, False)
    return inherited


def raise_descriptor_limit() -> None:
    """Allow as many open descriptors as the system lets us: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # macOS calls its limit unlimited and then refuses it
        pass


if __name__ == "__main__":
    sys.exit(main())
