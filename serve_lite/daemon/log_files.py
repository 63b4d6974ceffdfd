"""The files that an instance writes its logs into: opened again when somebody has moved them, and bounded.

`rotation` has the means.
"""

from __future__ import annotations

import os

from serve_lite.rotation import MOST_BYTES, bound, reopen, shift

__all__ = ["LogFile", "bound", "prune", "reopen", "write_out", "writes_into"]

TYPE_CHECKING = False
if TYPE_CHECKING:  # the keeper imports this, and little else
    from collections.abc import Collection

KEPT_DEAD_REPLICAS = 200  #: whose logs are kept, the newest


def writes_into(path: str) -> bool:
    """Whether our output goes to the file that has this name now: if not, it is somebody else's business."""
    try:
        named, ours = os.stat(path), os.fstat(2)
    except OSError:
        return False
    return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)


class LogFile:
    """A file that batches of lines are added to, and that is begun anew when it is full or somebody has moved it.

    Several processes may write into it: each line goes to whatever has the name at the time. Every call blocks.
    """

    def __init__(self, path: str, most_bytes: int = MOST_BYTES) -> None:
        self.path, self._most_bytes = path, most_bytes
        self._fd = -1

    def write(self, data: bytes) -> None:
        """Add lines.

        Raises:
            OSError: it cannot be written.
        """
        self._follow()
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _follow(self) -> None:
        """Have the file open that has the name, with room in it."""
        if self._fd >= 0:
            ours = os.fstat(self._fd)
            try:
                named = os.stat(self.path)
            except FileNotFoundError:
                named = None
            if named is not None and (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino):
                if ours.st_size < self._most_bytes:
                    return
                shift(self.path)
            self.close()
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def write_out(data: bytes) -> None:
    """Add lines to our output.

    Raises:
        OSError: they cannot be written.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


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
