"""Copies of the state file: for a new release to try itself on, and to go back to when it fails.

All of it blocks, so it runs in worker threads.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3

from serve_lite.exceptions import InstanceError

#: Beside the state file while an upgrade is under way.
REHEARSAL, BEFORE = ".rehearsal", ".before-upgrade"

_COMPANIONS = ("-wal", "-shm")  # SQLite's own files beside one


def copy_state(path: str, copy: str) -> None:
    """Copy the state file as it is now, with what is still in its log; a file in the way is replaced.

    Raises:
        InstanceError: it could not be read, or the copy not be written.
    """
    drop_state(copy)
    try:
        os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # as private as the original
        with (
            contextlib.closing(sqlite3.connect(path, timeout=10.0)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
    except (OSError, sqlite3.Error) as error:
        drop_state(copy)
        raise InstanceError(f"The state file {path!r} could not be copied to {copy!r}: {error}.") from error


def restore_state(copy: str, path: str) -> None:
    """Put a copy in the place of the state file, which nobody may have open.

    Raises:
        InstanceError: that failed.
    """
    try:
        for companion in _COMPANIONS:  # of the file that goes; they would be taken for the copy's
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + companion)
        os.replace(copy, path)
    except OSError as error:
        raise InstanceError(f"The state file {path!r} could not be restored: {error.strerror}.") from error


def drop_state(path: str) -> None:
    """Remove a copy, if it is there."""
    for companion in ("", *_COMPANIONS):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + companion)
