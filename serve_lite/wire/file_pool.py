"""Which memory files one end of a connection has, and which of them may be written now. Pure.

Large buffers go through memory files that both processes have mapped (`wire/memory_files.py` makes and maps them).
This is the sender's account of its own. A file lives so:

    OFFERED  the peer was told of it and has not mapped it yet
    FREE     the peer has it mapped and nobody reads it: it may be written
    LEASED   it holds a buffer that the peer may still look at: it must not be written

A file that the peer keeps for long is not waited for: `expired` gives it away. It is the peer's alone from then on and
lives as long as the peer's mapping, as any memory that a peer keeps does. One that was free for long is given up too.

What there may be is bounded for each connection, and for the process (`Budget`). A buffer for which there is no file
goes through the socket.
"""

from __future__ import annotations

import threading
from typing import Final

import msgspec

IDLE_S: Final = 10.0  #: a file that nobody needs is given up after this
KEPT_S: Final = 30.0  #: a file that the peer still reads is its own after this
LIMIT_BYTES: Final = 256 * 1024 * 1024  #: of one end of a connection
LIMIT_FILES: Final = 32
PROCESS_BYTES: Final = 512 * 1024 * 1024
PROCESS_FILES: Final = 256
_OFFERS: Final = 4  #: on their way at once
_LOOSE: Final = 4  #: a file is not used for buffers smaller than this part of it
_SMALLEST_STEP_BYTES: Final = 256 * 1024


class Offer(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The sender has a file: open it as this descriptor of this process, and map it."""

    file: int
    pid: int
    descriptor: int
    inode: int
    size_bytes: int


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The receiver has mapped the file, or cannot."""

    file: int
    usable: bool


class Freed(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Nobody in the receiver looks at the file any more. Unless `again`, a forked child may: use it no more."""

    file: int
    again: bool


class Gone(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The sender has given up these files; what still looks at them keeps them."""

    files: tuple[int, ...]


Word = Offer | Answer | Freed | Gone


class Growth(msgspec.Struct, frozen=True):
    """A file to make, and those to give up first."""

    file: int
    size_bytes: int
    give_up: tuple[int, ...]


class Budget:
    """What all connections of a process may have together. Their loops may be of several threads."""

    def __init__(self, limit_bytes: int = PROCESS_BYTES, limit_files: int = PROCESS_FILES) -> None:
        self.free_bytes = limit_bytes
        self.free_files = limit_files
        self._lock = threading.Lock()

    def count(self, size_bytes: int, files: int) -> None:
        """Add to what is free."""
        with self._lock:
            self.free_bytes += size_bytes
            self.free_files += files


class _File:
    """`since` is when it became free or leased."""

    __slots__ = ("is_leased", "is_offered", "since", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.is_offered = True
        self.is_leased = False
        self.since = 0.0


class FilePool:
    """The files that one end of a connection has made. Ids grow and are never used twice."""

    def __init__(
        self,
        budget: Budget,
        *,
        limit_bytes: int = LIMIT_BYTES,
        limit_files: int = LIMIT_FILES,
        idle_s: float = IDLE_S,
        kept_s: float = KEPT_S,
    ) -> None:
        self._idle_s, self._kept_s = idle_s, kept_s
        self._budget = budget
        self._free_bytes = limit_bytes
        self._free_files = limit_files
        self._files: dict[int, _File] = {}
        self._last_id = 0
        self._is_open = True

    def lease(self, size_bytes: int, now: float) -> int | None:
        """Return a file to write this much to, the smallest that is large enough; None if there is none."""
        best: int | None = None
        for file, known in self._files.items():
            if (
                not (known.is_offered or known.is_leased)
                and size_bytes <= known.size_bytes <= max(size_bytes * _LOOSE, _SMALLEST_STEP_BYTES)
                and (best is None or known.size_bytes <= self._files[best].size_bytes)
            ):
                best = file
        if best is not None:
            self._files[best].is_leased = True
            self._files[best].since = now
        return best

    def grow(self, size_bytes: int) -> Growth | None:
        """Return the file to make so that buffers of this size find one; None if there is no room, or never was.

        It counts as offered, and those to give up are gone, when this returns.
        """
        size = file_bytes(size_bytes)
        if not self._is_open or sum(f.is_offered for f in self._files.values()) >= _OFFERS:
            return None
        idle = sorted(
            (f for f, known in self._files.items() if not (known.is_offered or known.is_leased)),
            key=lambda f: self._files[f].since,
        )
        chosen: list[int] = []
        room_bytes, room_files = self._room()
        for file in idle:
            if size <= room_bytes and room_files:
                break
            room_bytes += self._files[file].size_bytes
            room_files += 1
            chosen.append(file)
        if size > room_bytes or not room_files:
            return None
        for file in chosen:
            self.drop(file)
        self._last_id += 1
        self._files[self._last_id] = _File(size)
        self._count(-size, -1)
        return Growth(self._last_id, size, tuple(chosen))

    def answered(self, file: int, now: float) -> None:
        """The peer has mapped it.

        Raises:
            ValueError: it was not offered.
        """
        known = self._files.get(file)
        if known is None or not known.is_offered:
            raise ValueError(f"the peer answers for file {file}, which was not offered")
        known.is_offered = False
        known.since = now

    def freed(self, file: int, now: float) -> bool:
        """Nobody looks at it any more; False if it was given away meanwhile.

        Raises:
            ValueError: nobody could look at it.
        """
        known = self._files.get(file)
        if known is None:
            if not 0 < file <= self._last_id:
                raise ValueError(f"the peer frees file {file}, which there never was")
            return False
        if not known.is_leased:
            raise ValueError(f"the peer frees file {file}, which was not leased")
        known.is_leased = False
        known.since = now
        return True

    def drop(self, file: int) -> None:
        """Forget a file."""
        known = self._files.pop(file, None)
        if known is not None:
            self._count(known.size_bytes, 1)

    def expired(self, now: float) -> tuple[int, ...]:
        """Forget what nobody needed, or was kept, for long, and return it."""
        gone = tuple(f for f, known in self._files.items() if self._expiry(known) <= now)
        for file in gone:
            self.drop(file)
        return gone

    @property
    def next_expiry(self) -> float | None:
        """When to ask for `expired`."""
        return min(
            (self._expiry(known) for known in self._files.values() if not known.is_offered),
            default=None,
        )

    def refuse(self) -> None:
        """Make no more files: the peer cannot map ours, or we cannot make them."""
        self._is_open = False

    def close(self) -> tuple[int, ...]:
        """Forget all files, make no more, and return what there was."""
        self.refuse()
        files = tuple(self._files)
        for file in files:
            self.drop(file)
        return files

    def _expiry(self, known: _File) -> float:
        if known.is_offered:
            return float("inf")
        return known.since + (self._kept_s if known.is_leased else self._idle_s)

    def _room(self) -> tuple[int, int]:
        budget = self._budget
        return min(self._free_bytes, budget.free_bytes), min(self._free_files, budget.free_files)

    def _count(self, size_bytes: int, files: int) -> None:
        self._free_bytes += size_bytes
        self._free_files += files
        self._budget.count(size_bytes, files)


def file_bytes(size_bytes: int) -> int:
    """Return the size of a file for this much: up to a quarter more, so that similar sizes share files."""
    step = max(_SMALLEST_STEP_BYTES, 1 << max(0, (size_bytes - 1).bit_length() - 3))
    return -(-size_bytes // step) * step
