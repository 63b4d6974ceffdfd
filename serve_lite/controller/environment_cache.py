"""Prepared parts of environments on the disk: one folder each, named by what it was made from.

Blocking; `environments.py` calls it from worker threads. A folder is complete or has another name, since who makes
one renames it when it is done. What a daemon that died has left half-made is removed by the next one.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Collection

import msgspec

from serve_lite.processes import PACKAGE_ROOT
from serve_lite.state.environment import Interpreter, Part, digest
from serve_lite.wire.spawning import MAKING, PREPARED_FILE, Prepared

logger = logging.getLogger(__name__)

#: What was used so lately may be about to be used: by a build that is not done, by a replica that still drains.
LATELY_S = 600.0

_decode = msgspec.json.Decoder(Prepared).decode


class EnvironmentCache:
    """The folder with all prepared parts of an instance.

    Args:
        kept: how many are kept that nobody wants any more, those used last.
    """

    def __init__(self, folder: str, kept: int) -> None:
        self.folder = folder
        self._kept = kept
        self._lock = threading.Lock()  #: nobody may find what is just being removed

    def half_made(self) -> list[str]:
        """Return the names of folders that were left half-made. For a new daemon, before it makes any."""
        try:
            return [name for name in os.listdir(self.folder) if MAKING in name]
        except FileNotFoundError:
            return []

    def key_of(self, part: Part) -> str:
        """Return the name of a part's folder.

        The one of an interpreter depends on what the daemon runs on and on that interpreter as it is now.
        """
        if not isinstance(part, Interpreter):
            return digest(part)
        python = part.python or sys.executable
        try:
            found = os.stat(python)  # follows links
            state = [os.path.realpath(python), found.st_size, found.st_mtime_ns]
        except OSError:  # told when it is prepared
            state = []
        return digest([part, state, sys.executable, list(sys.version_info[:3]), PACKAGE_ROOT, sys.path])

    def find(self, part: Part) -> tuple[str, Prepared | None]:
        """Return a part's key, and what it has become with absolute paths if it is there and usable."""
        key = self.key_of(part)
        with self._lock:
            return key, self._found(os.path.join(self.folder, key))

    def _found(self, folder: str) -> Prepared | None:
        try:
            with open(os.path.join(folder, PREPARED_FILE), "rb") as file:
                prepared = in_folder(_decode(file.read()), folder)
        except (OSError, msgspec.DecodeError):
            return None
        if prepared.path and not os.path.isdir(prepared.path):
            return None
        if prepared.python and not os.access(prepared.python, os.X_OK):
            return None  # what it was made from was removed
        try:
            os.utime(folder)  # used now
        except OSError as error:
            logger.warning("the time of %s cannot be set: %s", folder, error)
        return prepared

    def discard(self, name: str) -> None:
        """Remove a folder that is of no use if it is there, so that a new one can take its name."""
        folder = os.path.join(self.folder, name)
        if os.path.isdir(folder):
            self._remove(folder if MAKING in name else self._set_aside(folder))

    def prune(self, wanted: Collection[Part]) -> None:
        """Remove what is not wanted, but for those that were used last or lately."""
        used_lately = time.time() - LATELY_S
        with self._lock:
            keys = {self.key_of(part) for part in wanted}
            unused = [
                entry
                for entry in os.scandir(self.folder)
                if entry.is_dir() and MAKING not in entry.name and entry.name not in keys
            ]
            unused.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
            going = [
                self._set_aside(entry.path)
                for entry in unused[self._kept :]
                if entry.stat().st_mtime < used_lately
            ]
        for folder in going:
            logger.info("removing the environment %s, which nothing uses any more", folder)
            self._remove(folder)

    def _set_aside(self, folder: str) -> str:
        """Take a folder's name away, since one that is half gone must not look complete; return the new one."""
        going = f"{folder}{MAKING}{secrets.token_hex(4)}"
        os.rename(folder, going)
        return going

    def _remove(self, folder: str) -> None:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            logger.warning("the environment %s cannot be removed: %s", folder, error)


def in_folder(prepared: Prepared, folder: str) -> Prepared:
    """Return what a part has become, its paths absolute."""
    return msgspec.structs.replace(
        prepared,
        path=os.path.join(folder, prepared.path) if prepared.path else "",
        python=os.path.join(folder, prepared.python) if prepared.python else "",
        scripts=os.path.join(folder, prepared.scripts) if prepared.scripts else "",
    )
