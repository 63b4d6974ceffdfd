"""What applications print, as it is printed: new lines of their log files, each with who said it."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping

from serve_lite.exceptions import InstanceError

#: From <sys/inotify.h>.
IN_MODIFY, IN_CREATE, IN_MOVED_TO = 0x2, 0x100, 0x80

#: A reader that fell behind takes its time rather than all memory.
READ_BYTES = 256 * 1024


class LogFollower:
    """Follows the logs of replicas: of some applications, or of those that somebody else knows.

    `show` gets a label and a line, without its end.

    Importers are left out: what a module prints when it is imported, its replicas print too.

    Lifetime: `close` gives back the descriptors. Nothing happens but in `read_new`; `fileno` becomes readable
    when there is something to read.
    """

    def __init__(
        self,
        folder: str,
        apps: Iterable[str],
        show: Callable[[str, str], None],
        *,
        labels: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        """Start behind the complete lines of each file in `folder`; files made later are read from their start.

        Args:
            apps: applications whose files are known by their names.
            labels: returns labels by file name, also of other applications; asked when files appear. What it does
                not know then is not followed. If it raises `InstanceError`, it is asked again at the next change.

        Raises:
            InstanceError: `labels` did.
        """
        self._folder, self._show, self._ask = folder, show, labels
        self._apps: dict[str, str] = {}  #: by their names in file names
        self._labels: dict[str, str] = {}
        self.add(apps)
        self._watch = _watch(folder)
        before = self._logs()
        self._offsets = {name: _complete_bytes(os.path.join(folder, name)) for name in before}
        self._starts = dict(self._offsets)
        self._labels = self._labelled(before)
        self._rests: dict[str, bytes] = {}

    def fileno(self) -> int:
        """Return a descriptor that is readable when `read_new` has work; -1 where the system has none."""
        return self._watch

    def add(self, apps: Iterable[str]) -> None:
        """Follow these applications too; what they have printed already is shown."""
        # File names have no other characters; see `Spawner.log_path`.
        self._apps |= {re.sub(r"[^A-Za-z0-9_.-]+", "_", app): app for app in apps}
        self._labels = {name: label for name, label in self._labels.items() if label}  # others may be theirs

    def start_of(self, name: str) -> int:
        """Return how many bytes of the file `name` are the past, which is not shown; they end with a line."""
        return self._starts.get(name, 0)

    def read_new(self) -> None:
        """Show every line that was completed since the last call."""
        if self._watch >= 0:
            _drain(self._watch)
        names = self._logs()
        if unknown := [name for name in names if name not in self._labels]:
            try:
                self._labels |= self._labelled(unknown)
            except InstanceError:
                pass  # it may be between two daemons; what is written meanwhile stays in the files
        for name in names:
            if self._labels.get(name):
                self._read(name)

    def close(self) -> None:
        """Show what is left, complete or not, and stop following."""
        self.read_new()
        for name, rest in self._rests.items():
            if rest:
                self._show(self._labels[name], rest.decode(errors="replace"))
        self._rests.clear()
        if self._watch >= 0:
            os.close(self._watch)
            self._watch = -1

    def _logs(self) -> list[str]:
        """Return the files of replicas."""
        try:
            names = os.listdir(self._folder)  # those of full logs end with a number, and have been shown
            return sorted(name for name in names if name.startswith("replica_") and name.endswith(".log"))
        except FileNotFoundError:
            return []

    def _labelled(self, names: Iterable[str]) -> dict[str, str]:
        """Return who writes to each file; "" for those that are of no application we follow.

        Raises:
            InstanceError: whoever knows could not be asked.
        """
        known = self._ask() if self._ask is not None else {}
        return {name: known.get(name) or self._label(name) for name in names}

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
                        self._show(self._labels[name], line.decode(errors="replace"))
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


def _complete_bytes(path: str) -> int:
    """Return where the last complete line of a file ends; where the file ends if its last line is a very long one."""
    try:
        with open(path, "rb") as log:
            size = os.fstat(log.fileno()).st_size
            begin = log.seek(max(0, size - READ_BYTES))
            tail = log.read(size - begin)
    except FileNotFoundError:
        return 0
    end = tail.rfind(b"\n") + 1
    return begin + end if end or not begin else size
