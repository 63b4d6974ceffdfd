"""How a daemon begins: takes what it inherits, starts a template, and only then loads everything else.

The two load at the same time, on two cores, so imports stand where they are needed. Next: `daemon.py`.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys

from serve_lite.daemon.home import home_from_environment, paths

_FIRST_FD = 3  #: of the LISTEN_FDS convention, see sd_listen_fds(3)


def main() -> int:
    """Run a daemon on the sockets that the keeper or systemd passed on; return its exit status."""
    gc.disable()  # loading makes little garbage; `Daemon` turns it on when all is up
    inherited = take_inherited()
    if "control" not in inherited:
        sys.stderr.write("A daemon is started by its keeper. Run `python -m serve_lite.daemon.keeper`.\n")
        return 2
    raise_descriptor_limit()
    # Not left in the environment, which user code will inherit: a key's password may be in it.
    given = os.environ.pop("SERVE_LITE_INSTANCE", "{}")
    where = paths(json.loads(given).get("home") or home_from_environment())
    where.prepare()

    from serve_lite.controller.warm import start_template

    template = start_template(where.logs)

    from serve_lite.daemon.daemon import run
    from serve_lite.daemon.options import options_from

    return run(options_from(given), where, inherited, template)


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
