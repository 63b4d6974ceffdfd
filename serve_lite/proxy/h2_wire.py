"""HTTP/2 frames and header blocks as bytes: what `h2_server` sends, and the numbers both sides speak in. Pure.

RFC 9113 has the frames, RFC 7541 the header blocks. Our own header fields are written as literals that no table
remembers: such a block is the same bytes each time, so that most of it can be made once.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

Buffer = bytes | bytearray | memoryview

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0x0, 0x1, 0x2, 0x3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = 0x5, 0x6, 0x7, 0x8, 0x9
ENHANCE_YOUR_CALM: Final = 0xB

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 0x1, 0x2, 0x3, 0x4
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 0x5, 0x6

HEAD_BYTES: Final = 9  #: of every frame
LEAST_MAX_FRAME: Final = 16_384  #: what every endpoint takes until it says otherwise
MOST_MAX_FRAME: Final = 2**24 - 1
DEFAULT_WINDOW: Final = 65_535
MAX_WINDOW: Final = 2**31 - 1
LAST_STREAM: Final = 2**31 - 1

#: Says that our table is empty from now on, so that it may never be larger than what a client allows.
NO_TABLE: Final = b"\x20"

HEAD: Final = Struct(">HBBBI")  #: length (upper 16 bits, lower 8), kind, flags, stream
U32: Final = Struct(">I")
SETTING: Final = Struct(">HI")


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """Return the head of a frame."""
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def settings(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    payload = b"".join(SETTING.pack(*pair) for pair in values.items())
    return head(len(payload), SETTINGS, 0, 0) + payload


def window_update(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame; stream 0 is the connection."""
    return head(4, WINDOW_UPDATE, 0, stream) + U32.pack(increment)


def rst_stream(stream: int, code: int) -> bytes:
    """Return a RST_STREAM frame."""
    return head(4, RST_STREAM, 0, stream) + U32.pack(code)


def goaway(last_stream: int, code: int, reason: str = "") -> bytes:
    """Return a GOAWAY frame. gRPC clients look at some reasons, for example "too_many_pings"."""
    payload = U32.pack(last_stream) + U32.pack(code) + reason.encode("ascii", "replace")
    return head(len(payload), GOAWAY, 0, 0) + payload


def header_block(stream: int, block: bytes, flags: int, max_frame: int) -> bytes:
    """Return a HEADERS frame, and CONTINUATIONs if the block is too long for one."""
    if len(block) <= max_frame:
        return head(len(block), HEADERS, flags | END_HEADERS, stream) + block
    out = [head(max_frame, HEADERS, flags, stream), block[:max_frame]]
    for start in range(max_frame, len(block), max_frame):
        piece = block[start : start + max_frame]
        is_last = start + max_frame >= len(block)
        out += (head(len(piece), CONTINUATION, END_HEADERS if is_last else 0, stream), piece)
    return b"".join(out)


def field(name: bytes, value: bytes) -> bytes:
    """Return one header field for a block. The name is in lower case."""
    return field_name(name) + text(value)


def field_name(name: bytes) -> bytes:
    """Return the first half of a header field; its value follows as `text`."""
    return b"\0" + text(name)


def text(value: bytes) -> bytes:
    """Return a value as header fields have it (RFC 7541, 5.2), not compressed."""
    size = len(value)
    if size < 0x7F:
        return bytes((size,)) + value
    out, size = bytearray((0x7F,)), size - 0x7F
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out) + value
