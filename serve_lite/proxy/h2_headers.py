"""The header blocks of one HTTP/2 connection: decoded by hpack and read by whoever wants them. Sans-I/O.

A client that asks the same again sends the same few bytes, which point into the table that both sides keep. What such a
block was read as is remembered until the table changes: for calls of gRPC, a third of what they cost in the daemon.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

from hpack import Decoder

T = TypeVar("T")
Headers = list[tuple[bytes, bytes]]

_MAX_REMEMBERED: Final = 32
_MAX_REMEMBERED_BYTES: Final = 512  #: of one block; those that point into the table are far smaller


class HeaderBlocks(Generic[T]):
    """Reads blocks in the order in which they come.

    Args:
        read: makes something of header fields; must depend on nothing else, for it may not be asked again.
        max_bytes: of the fields of a block, as `SETTINGS_MAX_HEADER_LIST_SIZE` counts.
    """

    def __init__(self, read: Callable[[Headers], T], max_bytes: int) -> None:
        self._decoder = Decoder(max_bytes)
        self._read = read
        self._remembered: dict[bytes, T] = {}
        self._newest: object = None  #: entry of the table

    def read(self, block: bytes) -> T:
        """Return what a block was read as.

        Raises:
            HPACKError: it cannot be decoded, or is too large; then nothing more can be.
        """
        known = self._remembered.get(block)
        if known is not None:
            return known
        headers: Headers = self._decoder.decode(block, raw=True)  # type: ignore[assignment]  # bytes, if raw
        entries = self._decoder.header_table.dynamic_entries
        newest = entries[0] if entries else None
        found = self._read(headers)
        if newest is not self._newest or (block and block[0] & 0xE0 == 0x20):  # a new entry, or another size
            self._newest = newest
            self._remembered.clear()
        elif len(block) <= _MAX_REMEMBERED_BYTES and len(self._remembered) < _MAX_REMEMBERED:
            self._remembered[block] = found
        return found
