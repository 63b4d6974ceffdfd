"""The files that an instance writes its logs into: opened again when somebody has moved them, and bounded.

A process's log is what its descriptors 1 and 2 lead to, so that everything it says is in it, the interpreter's last
words too. Keeping it small therefore is renaming the file and leading the descriptors to a new one.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:  # the keeper imports this, and little else
    from collections.abc import Collection

MOST_BYTES = 32 * 1024 * 1024  #: of `daemon.log`; then it becomes `daemon.log.1`
KEPT_FILES = 3  #: with an older one's number, for each log
KEPT_DEAD_REPLICAS = 200  #: whose logs are kept, the newest


def writes_into(path: str) -> bool:
    """Whether our output goes to the file that has this name now: if not, it is somebody else's business."""
    try:
        named, ours = os.stat(path), os.fstat(2)
    except OSError:
        return False
    return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)


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
        _shift(path)
    reopen(path)


def prune(folder: str, alive: Collection[str], keep: int = KEPT_DEAD_REPLICAS) -> list[str]:
    """Remove the oldest logs of replicas that are gone; return their names.

    Args:
        alive: paths of logs that replicas write into.
    """
    names = {os.path.basename(path) for path in alive}
    dead = []
    with os.scandir(folder) as entries:
        for entry in entries:
            # A rotated file belongs to the replica whose name it begins with.
            if entry.name.startswith("replica_") and entry.name.partition(".log")[0] + ".log" not in names:
                dead.append((entry.stat().st_mtime, entry.name))
    dead.sort(reverse=True)
    gone = [name for _, name in dead[keep:]]
    for name in gone:
        os.unlink(os.path.join(folder, name))
    return gone


def _shift(path: str) -> None:
    for number in range(KEPT_FILES - 1, 0, -1):
        if os.path.exists(f"{path}.{number}"):
            os.replace(f"{path}.{number}", f"{path}.{number + 1}")
    os.replace(path, f"{path}.1")
