"""Starting a template process: by exec at any time, by fork while a daemon begins.

Apart from `spawner.py` and light, because the daemon does this first of all, so that the template loads its modules
on another core while the daemon loads its own.
"""

from __future__ import annotations

import os
import signal
import socket
import time

from serve_lite.processes import python_command


class Template:
    """A template that is starting or started, and the socket to speak with it (words in `wire/spawning.py`).

    Lifetime: whoever started it closes it and then reaps it. Its children live on.
    """

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid, self.sock = pid, sock
        sock.setblocking(False)

    def close(self) -> None:
        """Let it end."""
        self.sock.close()

    def reap(self, patience_s: float = 2.0) -> None:
        """Wait until it has ended, and make it end if that takes too long. Blocks."""
        give_up_at = time.monotonic() + patience_s
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > give_up_at:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return
            time.sleep(0.005)


def start_template(logs: str) -> Template | None:
    """Start a template that logs into the folder `logs`; None where forking one later is not safe (macOS)."""
    if not can_fork():
        return None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log = open_log(logs)
    command = python_command("serve_lite.replica.template", "--socket-fd", str(theirs.fileno()))
    theirs.set_inheritable(True)
    with theirs:
        pid = os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
        )
    os.close(log)
    return Template(pid, ours)


def can_fork() -> bool:
    """Whether this system has what a template needs."""
    return hasattr(socket, "SOCK_SEQPACKET") and os.path.exists("/proc/self/task")


def open_log(logs: str) -> int:
    """Return a descriptor of the log of templates."""
    path = os.path.join(logs, "template.log")
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
