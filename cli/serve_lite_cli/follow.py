"""What applications print, as it is printed: new lines of their log files, each with who said it."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterable

#: From <sys/inotify.h>.
IN_MODIFY, IN_CREATE, IN_MOVED_TO = 0x2, 0x100, 0x80

#: A reader that fell behind takes its time rather than all memory.
READ_BYTES = 256 * 1024


class LogFollower:
    """Follows the logs of some applications' replicas. `show` gets a label and a line, without its end.

    Importers are left out: what a module prints when it is imported, its replicas print too.

    Lifetime: `close` gives back the descriptors. Nothing happens but in `read_new`; `fileno` becomes readable
    when there is something to read.
    """

    def __init__(self, folder: str, apps: Iterable[str], show: Callable[[str, str], None]) -> None:
        """Start at the present end of each file in `folder`; files made later are read from their start."""
        self._folder, self._show = folder, show
        self._apps: dict[str, str] = {}  #: by their names in file names
        self.add(apps)
        self._watch = _watch(folder)
        self._offsets = {name: _size(os.path.join(folder, name)) for name in self._names()}
        self._rests: dict[str, bytes] = {}

    def fileno(self) -> int:
        """Return a descriptor that is readable when `read_new` has work; -1 where the system has none."""
        return self._watch

    def add(self, apps: Iterable[str]) -> None:
        """Follow these applications too; what they have printed already is shown."""
        # File names have no other characters; see `Spawner.log_path`.
        self._apps |= {re.sub(r"[^A-Za-z0-9_.-]+", "_", app): app for app in apps}

    def read_new(self) -> None:
        """Show every line that was completed since the last call."""
        if self._watch >= 0:
            _drain(self._watch)
        for name in self._names():
            self._read(name)

    def close(self) -> None:
        """Show what is left, complete or not, and stop following."""
        self.read_new()
        for name, rest in self._rests.items():
            if rest:
                self._show(self._label(name), rest.decode(errors="replace"))
        self._rests.clear()
        if self._watch >= 0:
            os.close(self._watch)
            self._watch = -1

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._folder) if self._label(name))
        except FileNotFoundError:
            return []

    def _label(self, name: str) -> str:
        """Return who writes to the file `name`, or "" if it is not one of our applications."""
        stem = name.removesuffix(".log")
        for file_name, app in self._apps.items():
            prefix = f"replica_{file_name}_"
            if stem.startswith(prefix):
                deployment, _, suffix = stem.removeprefix(prefix).rpartition("_")
                return f"{app}/{deployment} {suffix}"
        return ""

    def _read(self, name: str) -> None:
        offset = self._offsets.get(name, 0)
        try:
            with open(os.path.join(self._folder, name), "rb") as log:
                if os.fstat(log.fileno()).st_size < offset:
                    offset = 0  # it was cut or replaced
                log.seek(offset)
                while piece := log.read(READ_BYTES):
                    offset += len(piece)
                    *lines, self._rests[name] = (self._rests.get(name, b"") + piece).split(b"\n")
                    for line in lines:
                        self._show(self._label(name), line.decode(errors="replace"))
        except FileNotFoundError:
            return
        self._offsets[name] = offset


def _watch(folder: str) -> int:
    """Return an inotify descriptor for changes in `folder`, or -1."""
    if not sys.platform.startswith("linux"):
        return -1
    libc = ctypes.CDLL(None, use_errno=True)
    watch = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if watch < 0:
        return -1
    if libc.inotify_add_watch(watch, os.fsencode(folder), IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0:
        os.close(watch)
        return -1
    return watch


def _drain(watch: int) -> None:
    """Throw the events away: which file changed is cheaper to see than to decode."""
    try:
        while os.read(watch, 64 * 1024):
            pass
    except BlockingIOError:
        pass


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
