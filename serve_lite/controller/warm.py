"""Starting a template process.

Apart from `spawner.py` and light, because the daemon does this first of all: the template loads its modules on
another core while the daemon loads its own.
"""

from __future__ import annotations

import os
import socket
import subprocess
from typing import NamedTuple

from serve_lite.processes import python_command


class Template(NamedTuple):
    """A template that is starting or started, and the socket to speak with it (words in `wire/spawning.py`)."""

    process: subprocess.Popen[bytes]
    sock: socket.socket

    def close(self) -> None:
        """Let it end; its children live on."""
        self.sock.close()


def start_template(logs: str) -> Template | None:
    """Start a template that logs into the folder `logs`; None where forking one is not safe (macOS)."""
    if not hasattr(socket, "SOCK_SEQPACKET") or not os.path.exists("/proc/self/task"):
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log = os.open(
        os.path.join(logs, "template.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    with theirs:
        process = subprocess.Popen(
            python_command("serve_lite.replica.template", "--socket-fd", str(theirs.fileno())),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[theirs.fileno()],
        )
    os.close(log)
    ours.setblocking(False)
    return Template(process, ours)
