"""Compression of gRPC messages. Pure. Users' messages are packed and unpacked in replicas, where it costs only them."""

from __future__ import annotations

import zlib
from typing import Final

from serve_lite.wire.grpc_status import ENCODINGS, INTERNAL, RESOURCE_EXHAUSTED, UNIMPLEMENTED

_WINDOW_BITS: Final = {"deflate": zlib.MAX_WBITS, "gzip": zlib.MAX_WBITS | 16}
_LEVEL: Final = 6  #: zlib's own default


class CodingError(Exception):
    """A compressed message cannot be read. Answered with this status."""

    def __init__(self, code: int, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


def inflated(data: bytes | memoryview, encoding: str, limit: int) -> bytes:
    """Return what was compressed, if it is at most `limit` bytes.

    Raises:
        CodingError: it is not compressed so, cut, or too large; or nobody here knows the encoding.
    """
    if encoding in ("", "identity"):
        raise CodingError(
            INTERNAL, "A message is marked as compressed, but the header grpc-encoding names no compression."
        )
    if encoding not in _WINDOW_BITS:
        raise CodingError(
            UNIMPLEMENTED,
            f"Messages compressed with {encoding!r} cannot be read; {', '.join(ENCODINGS)} can.",
        )
    inflate = zlib.decompressobj(wbits=_WINDOW_BITS[encoding])
    try:
        plain = inflate.decompress(data, limit + 1)
    except zlib.error as error:
        raise CodingError(INTERNAL, f"A message is no valid {encoding} data: {error}.") from None
    if len(plain) > limit:
        raise CodingError(
            RESOURCE_EXHAUSTED, f"A message is larger than the {limit} bytes allowed, once decompressed."
        )
    if not inflate.eof or inflate.unused_data:
        raise CodingError(INTERNAL, f"A message is no valid {encoding} data: it is cut, or more follows it.")
    return plain


def deflated(data: bytes | memoryview, compression: int) -> bytes:
    """Return the data compressed; `compression` is a number of `grpc.Compression`, not 0."""
    deflate = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[ENCODINGS[compression]])
    return deflate.compress(data) + deflate.flush()
