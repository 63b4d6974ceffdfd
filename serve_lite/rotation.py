"""Log files that stay small: a full one gets a number, and what is written goes on in a new one.

A process's log is what its descriptors 1 and 2 lead to, so that everything it says is in it, the interpreter's last
words too. Keeping it small therefore is renaming the file and leading the descriptors to a new one.
"""

from __future__ import annotations

import os

MOST_BYTES = 32 * 1024 * 1024  #: of `x.log`; then it becomes `x.log.1`
KEPT_FILES = 3  #: with an older one's number, for each log


def reopen(path: str) -> None:
    """Lead our output to the file that has this name now; made if there is none."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for fd in (1, 2):
        os.dup2(log, fd)
    os.close(log)


def bound(path: str, most_bytes: int = MOST_BYTES) -> None:
    """Begin a new log if ours is full; follow if another process of the instance has begun one."""
    ours = os.fstat(2)
    try:
        named = os.stat(path)
    except FileNotFoundError:
        reopen(path)
        return
    if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino):
        if ours.st_size < most_bytes:
            return
        shift(path)
    reopen(path)


def bound_own(prefix: str, most_bytes: int = MOST_BYTES) -> None:
    """Begin a new log if the file that our output goes to is full and is a log: `prefix`, anything, `.log`.

    Raises:
        OSError: there can be no new file.
    """
    if os.fstat(2).st_size < most_bytes:
        return
    path = os.readlink("/proc/self/fd/2")
    name = os.path.basename(path)
    if os.path.isfile(path) and name.startswith(prefix) and name.endswith(".log"):
        bound(path, most_bytes)


def shift(path: str) -> None:
    """Give a file the number 1, and those that have numbers the next ones; the oldest goes."""
    for number in range(KEPT_FILES - 1, 0, -1):
        if os.path.exists(f"{path}.{number}"):
            os.replace(f"{path}.{number}", f"{path}.{number + 1}")
    os.replace(path, f"{path}.1")
