"""Small disks that can be filled, and disks that cannot be written to: memory file systems of a test's own."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_BLOCK = 64 * 1024


class Disk:
    """A mounted memory file system. `mounted` makes it and takes it away."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ballast = root / "ballast"

    def fill(self) -> None:
        """Leave not one block free."""
        fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (_BLOCK, 4096, 1):
                while _fits(fd, size):
                    pass
        finally:
            os.close(fd)

    def tidy(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def make_read_only(self) -> None:
        """Refuse every write from now on. Nothing may be open for writing."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.root)], check=True)


def _fits(fd: int, size: int) -> bool:
    try:
        return os.write(fd, b"\0" * size) == size
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False


@contextmanager
def mounted(root: Path, size: str) -> Iterator[Disk]:
    """Mount a disk of this size at `root`; skip the test where mounting is not allowed."""
    root.mkdir()
    options = f"size={size},mode=0700"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no small disk ({done.stderr.strip()}); run the tests as root or under `unshare -rm`")
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)
