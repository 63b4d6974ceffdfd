"""Large buffers between two processes through memory that both have mapped.

The sender copies a buffer into a memory file and sends the file's number in its place; the receiver gives the
unpickler a view of its own mapping of that file, so nothing is copied there, and tells the sender once the last
object that looks at it has gone. Which file may be written when is `wire/file_pool.py`'s decision. Files are used again
and again, because making their pages costs more than all the rest.

A file has no name: it is gone with the last process that has it mapped, however that ends. The receiver opens it
through `/proc/<pid>/fd`, which the kernel allows for processes of the same user, and maps it before it is used for the
first time; where that is not possible, or there is no `/proc` or `memfd_create`, buffers go through the socket.
It is sealed against shrinking, so a mapping of it never ends in nothing.

What the receiver sees is its alone until it lets go: it may write there, as into memory it has received.

A forked child of a receiver has the same memory mapped and nobody hears what it still looks at. So a file that was
looked at during a fork is not used again.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import stat
import sys
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import msgspec

from serve_lite.wire.file_pool import Answer, Budget, FilePool, Freed, Gone, Offer, Word
from serve_lite.wire.frames import Buffer

if TYPE_CHECKING:
    import ctypes

#: Buffers from this size on go through files. It is what fits into a Unix socket by default: below, the socket costs no
#: more than a file; beyond, it takes several passes of both loops and several times as much (docs/performance.md).
FROM_BYTES: Final = 208 * 1024

_REFERENCE: Final = Struct("<HIQ")  # place among the buffers, file, bytes
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Word).decode

_budget = Budget()
_open: set[MemoryFiles] = set()


@cache
def are_supported() -> bool:
    """Whether this system has memory files that another process can open."""
    return sys.platform == "linux" and hasattr(os, "memfd_create") and os.path.exists("/proc/self/fd")


class MemoryFiles:
    """The memory files of one connection: those this end has made, and those of its peer.

    Lifetime: the connection's, which calls `close`. Views that were given out stay valid as long as somebody has them.

    Args:
        loop: the connection's. Everything here is called on it.
        tell: sends an envelope of `Kind.FILES` to the peer.
        pool: its account of files, by default one with the usual bounds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tell: Callable[[bytes], None],
        *,
        pool: FilePool | None = None,
    ) -> None:
        self._loop = loop
        self._tell = tell
        self._pool = pool or FilePool(_budget)
        self._own: dict[int, _OwnFile] = {}
        self._theirs: dict[int, _TheirFile] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False
        _open.add(self)

    # --- sending ---

    def store(self, buffers: Sequence[Buffer]) -> list[Buffer] | None:
        """Return the buffers with the large ones put into files; None if none was.

        The last one says where those belong that are missing.
        """
        kept: list[Buffer] = []
        references: list[bytes] = []
        for place, buffer in enumerate(buffers):
            size = buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
            file = self._lease(size) if size >= FROM_BYTES else None
            if file is None:
                kept.append(buffer)
            else:
                self._own[file].memory[:size] = buffer
                references.append(_REFERENCE.pack(place, file, size))
        if not references:
            return None
        self._watch()
        return [*kept, b"".join(references)]

    def _lease(self, size: int) -> int | None:
        """Return a file to write to; None if there is none, then perhaps the next buffer of this size finds one."""
        file = self._pool.lease(size, self._loop.time())
        if file is None:
            self._grow(size)
        return file

    def _grow(self, size: int) -> None:
        growth = self._pool.grow(size)
        if growth is None:
            return
        self._give_up(growth.give_up)
        try:
            made = self._own[growth.file] = _OwnFile(growth.size_bytes)
        except OSError:  # no descriptors or no memory: this connection does without
            self._pool.drop(growth.file)
            self._pool.refuse()
            return
        inode = os.fstat(made.descriptor).st_ino
        self._say(Offer(growth.file, os.getpid(), made.descriptor, inode, growth.size_bytes))

    def _give_up(self, files: tuple[int, ...]) -> None:
        for file in files:
            self._own.pop(file).close()
        if files:
            self._say(Gone(files))

    def _watch(self) -> None:
        """See to it that files that nobody needs do not stay."""
        at = self._pool.next_expiry
        if self._timer is None and at is not None:
            self._timer = self._loop.call_at(at, self._trim)

    def _trim(self) -> None:
        self._timer = None
        self._give_up(self._pool.expired(self._loop.time()))
        self._watch()

    # --- receiving ---

    def restore(self, buffers: Sequence[memoryview]) -> list[memoryview]:
        """Return what the peer's `store` was given.

        Raises:
            ValueError: the peer says what cannot be.
        """
        if not buffers or buffers[-1].nbytes % _REFERENCE.size:
            raise ValueError("a frame that names memory files does not say which")
        restored = list(buffers[:-1])
        for place, file, size in _REFERENCE.iter_unpack(buffers[-1]):
            known = self._theirs.get(file)
            if known is None or known.is_leased or size > known.size_bytes or place > len(restored):
                raise ValueError(f"a frame names {size} bytes of memory file {file}, which cannot be")
            restored.insert(place, self._view(file, known)[:size])
        return restored

    def _view(self, file: int, known: _TheirFile) -> memoryview:
        known.is_leased = True
        exporter = known.export()
        weakref.finalize(exporter, _left, self, file).atexit = False
        return memoryview(exporter).cast("B")

    def left(self, file: int) -> None:
        """Nobody looks at one of the peer's files any more."""
        known = self._theirs.get(file)
        if known is None or self.closed:
            return  # given away, or there is nobody to tell
        known.is_leased = False
        if known.is_forked:
            del self._theirs[file]
        self._say(Freed(file, not known.is_forked))

    def note_fork(self) -> None:
        """This process forks: what is looked at now may be looked at in the child, who tells nobody."""
        for known in tuple(self._theirs.values()):
            known.is_forked |= known.is_leased

    # --- what the two ends tell each other ---

    def receive(self, envelope: bytes) -> None:
        """Take what the peer's `tell` was given.

        Raises:
            ValueError: the peer says what cannot be.
        """
        try:
            word = _decode(envelope)
        except msgspec.MsgspecError as error:
            raise ValueError(f"the peer says of its memory files what nobody understands: {error}") from None
        if isinstance(word, Offer):
            self._map(word)
        elif isinstance(word, Gone):
            for file in word.files:
                self._theirs.pop(file, None)
        elif isinstance(word, Answer):
            self._answered(word)
        elif self._pool.freed(word.file, self._loop.time()):
            if not word.again:
                self._pool.drop(word.file)
                self._own.pop(word.file).close()
            self._watch()

    def _map(self, offer: Offer) -> None:
        try:
            self._theirs[offer.file] = _TheirFile(offer)
            usable = True
        except (OSError, ValueError):  # another namespace, no rights, no descriptors: they will do without
            usable = False
        self._say(Answer(offer.file, usable))

    def _answered(self, answer: Answer) -> None:
        self._pool.answered(answer.file, self._loop.time())
        if answer.usable:
            self._own[answer.file].hide()
            self._watch()
        else:
            self._pool.drop(answer.file)
            self._pool.refuse()
            self._own.pop(answer.file).close()

    def _say(self, word: Word) -> None:
        self._tell(_encode(word))

    def close(self) -> None:
        """The connection has ended: let go of everything."""
        self.closed = True
        _open.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pool.close()
        for made in self._own.values():
            made.close()
        self._own.clear()
        self._theirs.clear()

    def counts(self) -> tuple[int, int]:
        """Return how many files this end has, of its own and of its peer."""
        return len(self._own), len(self._theirs)


class _OwnFile:
    """A file this process has made. The peer opens it by its descriptor, which is then needed no more.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, size_bytes: int) -> None:
        self.descriptor = os.memfd_create("serve-lite", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, size_bytes)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
            self.memory = mmap.mmap(self.descriptor, size_bytes)
        except BaseException:
            os.close(self.descriptor)
            raise

    def hide(self) -> None:
        """The peer has it; nobody else needs to find it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def close(self) -> None:
        self.hide()
        self.memory.close()


class _TheirFile:
    """A file of the peer, mapped here.

    Raises:
        OSError, ValueError: it cannot be opened from here, or is not what it should be.
    """

    def __init__(self, offer: Offer) -> None:
        import ctypes  # lazily: few processes ever get a large buffer

        path = f"/proc/{offer.pid}/fd/{offer.descriptor}"
        self._check(
            os.stat(path), offer
        )  # before it is opened: in another namespace that number may be anything
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._check(os.fstat(descriptor), offer)
            if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise ValueError("its size could change")
            self._memory = mmap.mmap(descriptor, offer.size_bytes)
        finally:
            os.close(descriptor)
        self.size_bytes = offer.size_bytes
        self.is_leased = False
        self.is_forked = False
        self._type: Any = ctypes.c_ubyte * offer.size_bytes

    def export(self) -> ctypes.Array[ctypes.c_ubyte]:
        """Return a new object whose end is the end of all that looks at the file through it."""
        exporter: ctypes.Array[ctypes.c_ubyte] = self._type.from_buffer(self._memory)
        return exporter

    @staticmethod
    def _check(found: os.stat_result, offer: Offer) -> None:
        if not stat.S_ISREG(found.st_mode) or found.st_ino != offer.inode or found.st_size < offer.size_bytes:
            raise ValueError("it is another file")


def _left(files: MemoryFiles, file: int) -> None:
    """The last view of a file was collected, in any thread and in the middle of anything: only leave word."""
    if files.closed:
        return
    try:
        files._loop.call_soon_threadsafe(files.left, file)
    except RuntimeError:  # the loop is closed and the connection ended with it
        return


def _note_fork() -> None:
    for files in tuple(_open):
        files.note_fork()


def _forget_in_child() -> None:
    """Connections are their process's: a child has neither the loop nor the peers, and must not wake them."""
    for files in tuple(_open):
        files.closed = True
    _open.clear()


# Twice in the parent: a buffer may arrive on another thread between the first note and the fork itself.
os.register_at_fork(before=_note_fork, after_in_parent=_note_fork, after_in_child=_forget_in_child)
