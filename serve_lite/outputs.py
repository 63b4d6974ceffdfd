"""Standard output and error that go to a log file: what does not fit on the disk any more is dropped.

A program that prints must not fail because a log cannot grow: its answers do not depend on it. Everything else about
the two streams is as usual. Used by all long-lived processes of an instance but the keeper, which writes by itself.
"""

from __future__ import annotations

import errno
import io
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


class _LogFile(io.FileIO):
    """A descriptor that swallows what there is no room for."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            return memoryview(data).nbytes


def drop_what_has_no_room() -> None:
    """Make `sys.stdout` and `sys.stderr` of this process write so, line by line. Call it with nothing buffered."""
    sys.stdout = sys.__stdout__ = _stream(1, sys.stdout)  # type: ignore[misc]  # not for everyone to assign
    sys.stderr = sys.__stderr__ = _stream(2, sys.stderr)  # type: ignore[misc]


def _stream(fd: int, like: TextIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_LogFile(fd, "w", closefd=False)),
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=True,
    )
