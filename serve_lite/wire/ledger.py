"""The accept ledger: which calls a replica has read, written where it outlives the replica.

A small mapped file beside the replica's socket with one 32-bit cell for each connection: the id of the
last call the replica has read from it. When the replica dies, its callers still have the file mapped and
know which of their calls never reached user code, without a frame per call while it lived.

A second cell for each connection belongs to its caller. A replica that does not answer, but may wake up one day, still
has calls in its socket that it has not read. The caller takes them back by writing there the id of the last one it
has sent, and only then looks what was accepted; the replica writes what it accepts, and only then looks what was
taken back. So at least one of them sees what the other has done, and no call runs in two places.

The replica creates it; whoever removes the socket removes it too.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

SLOTS = 4096
_CELL_BYTES = 4
_BYTES = 2 * SLOTS * _CELL_BYTES


def ledger_path(socket_path: str) -> str:
    """Return where the ledger of the process that listens at `socket_path` is."""
    return str(Path(socket_path).with_suffix(".acc"))


class LedgerWriter:
    """The replica's side. Owned by its listener."""

    def __init__(self, socket_path: str) -> None:
        fd = os.open(ledger_path(socket_path), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _make_room(fd)
            self._map = mmap.mmap(fd, _BYTES)
        finally:
            os.close(fd)
        self.cells = memoryview(self._map).cast("I")
        self.taken_back = self.cells[SLOTS:]  #: written by callers; 0 for nothing
        self._free = list(range(SLOTS - 1, -1, -1))

    def claim(self) -> int:
        """Return a free slot, set to 0; -1 if every slot is taken (its caller then knows less, no harm)."""
        if not self._free:
            return -1
        slot = self._free.pop()
        self.cells[slot] = self.taken_back[slot] = 0
        return slot

    def release(self, slot: int) -> None:
        """Give a slot back once its connection is closed.

        The cell keeps its value: the caller may read it after the connection ended.
        """
        if slot >= 0:
            self._free.insert(0, slot)

    def close(self) -> None:
        self.taken_back.release()
        self.cells.release()
        self._map.close()


def _make_room(fd: int) -> None:
    """Give the file its size and its blocks. Without them a full disk would be a SIGBUS at the first write.

    Raises:
        OSError: there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, _BYTES)
    else:
        os.pwrite(fd, bytes(_BYTES), 0)


class LedgerReader:
    """A caller's side: one slot of another process's ledger."""

    def __init__(self, socket_path: str, slot: int) -> None:
        fd = os.open(ledger_path(socket_path), os.O_RDWR | os.O_CLOEXEC)
        try:
            # That of a replica which an older version has started may be shorter: nothing can be taken back from it.
            self._map = mmap.mmap(fd, min(_BYTES, os.fstat(fd).st_size))
        finally:
            os.close(fd)
        self._at = slot * _CELL_BYTES

    def last_accepted(self) -> int:
        """Return the id of the last call that was read, 0 for none."""
        return int.from_bytes(self._map[self._at : self._at + _CELL_BYTES], "little")

    def take_back(self, last_sent: int) -> int | None:
        """Take back all calls up to `last_sent` that were not accepted; return the id of the last that was.

        None if the replica does not know of taking back.
        """
        at = SLOTS * _CELL_BYTES + self._at
        if at >= len(self._map):
            return None
        self._map[at : at + _CELL_BYTES] = last_sent.to_bytes(_CELL_BYTES, "little")
        os.sched_yield()  # a system call between the write and the read, so that neither passes the other
        return self.last_accepted()

    def close(self) -> None:
        self._map.close()
