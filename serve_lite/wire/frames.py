"""Frames: the bytes between two processes, cut into messages.

A frame is a 16-byte header, an envelope and raw buffers, little-endian:

    u32 payload   bytes after the header
    u32 envelope  bytes of the envelope, which comes first in the payload
    u32 call      which call this belongs to; 0 for the connection itself
    u16 aux       from the callee: its ongoing requests ("load"); from the caller: flags
    u8  kind      see `Kind`
    u8  buffers   how many raw buffers follow the envelope

With two or more buffers a table of their lengths (u32 each) stands between envelope and buffers; one
buffer is what remains of the payload. Sans-IO: bytes in, frames out.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

Buffer = bytes | bytearray | memoryview

#: (kind, call, aux, envelope, buffers). A plain tuple: one is made for every frame received.
Frame = tuple[int, int, int, bytes, list[memoryview]]

HEADER: Final = Struct("<IIIHBB")
HEADER_BYTES: Final = HEADER.size
MAX_BUFFERS: Final = 255
MAX_PAYLOAD_BYTES: Final = 2**32 - 1
_ONE_WRITE_BYTES: Final = 16 * 1024  #: below this, joining costs less than one more chunk to write
_LARGE_BYTES: Final = 64 * 1024  #: frames above this are gathered in a buffer of their own size

BODY_FOLLOWS: Final = 1  #: caller flag: items follow the call frame

_pack = HEADER.pack
_unpack_from = HEADER.unpack_from


class Kind:
    """What a frame is. Plain integers: compared for every frame."""

    CALL_GRPC: Final = 0  # caller: start a call; the four kinds differ in envelope and buffers
    CALL_PYTHON: Final = 1
    CALL_HTTP: Final = 2
    CALL_CONTROL: Final = 3
    ITEM: Final = 4  # either way: one piece of a stream
    END: Final = 5  # either way: no more pieces
    RESULT: Final = 6  # callee: the one answer
    ERROR: Final = 7  # callee: the call failed
    REJECTED: Final = 8  # callee: not accepted, has not run; envelope is one byte, a RejectReason
    CANCEL: Final = 9  # caller: stop working on it
    CREDIT: Final = 10  # either way: u32 in the envelope, more may be sent
    HELLO: Final = 11  # caller, first frame
    WELCOME: Final = 12  # callee, answer: i32 in the envelope, the caller's slot in the accept ledger
    ROOM: Final = 13  # callee: it refused this caller as full and has room again
    DECLINE: Final = 14  # caller: nothing to send, offer the room to somebody else
    FACTS: Final = 15  # callee: what callers should know to choose among replicas (`ReplicaFacts`)
    FILES: Final = 16  # either way, if both have said they can: about memory files (`wire/file_pool.py`)


IN_FILES: Final = 0x80  #: added to the kind: some buffers are in memory files, the last buffer says which


def encode_frame(
    kind: int, call: int, aux: int, envelope: bytes, buffers: Sequence[Buffer] = ()
) -> list[Buffer]:
    """Return a frame as chunks to write in order; large buffers are not copied.

    Raises:
        ValueError: more than 255 buffers, or more than 4 GiB.
    """
    size = len(envelope)
    if not buffers:
        return [_pack(size, size, call, aux, kind, 0) + envelope]
    if len(buffers) == 1:
        body = buffers[0]
        n = body.nbytes if type(body) is memoryview else len(body)
        total = size + n
        if total > MAX_PAYLOAD_BYTES:
            raise ValueError(
                f"a message of {total} bytes is larger than the {MAX_PAYLOAD_BYTES} bytes allowed"
            )
        header = _pack(total, size, call, aux, kind, 1)
        if n < _ONE_WRITE_BYTES:
            return [b"".join((header, envelope, body))]
        return [header + envelope, body]
    return _encode_many(kind, call, aux, envelope, buffers)


def _encode_many(kind: int, call: int, aux: int, envelope: bytes, buffers: Sequence[Buffer]) -> list[Buffer]:
    if len(buffers) > MAX_BUFFERS:
        raise ValueError(f"a message has {len(buffers)} buffers, more than the {MAX_BUFFERS} allowed")
    lengths = [b.nbytes if isinstance(b, memoryview) else len(b) for b in buffers]
    table = Struct(f"<{len(lengths)}I").pack(*lengths)
    total = len(envelope) + len(table) + sum(lengths)
    if total > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a message of {total} bytes is larger than the {MAX_PAYLOAD_BYTES} bytes allowed")
    head = _pack(total, len(envelope), call, aux, kind, len(buffers)) + envelope + table
    if total < _ONE_WRITE_BYTES:
        return [b"".join((head, *buffers))]
    return [head, *buffers]


class FrameDecoder:
    """Cuts received bytes into frames. Buffers of a frame are views of the received memory."""

    def __init__(self) -> None:
        self._rest = b""  # start of a small frame that is not complete
        self._large: bytearray | None = None  # payload of a large frame being gathered
        self._filled = 0
        self._header: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are complete after `data`, in order.

        Raises:
            ValueError: the bytes cannot be a frame; the connection must be closed.
        """
        frames: list[Frame] = []
        if self._large is not None:
            data = self._fill(data, frames)
        if self._rest:
            data = self._rest + data
            self._rest = b""
        end = len(data)
        at = 0
        view = None
        while end - at >= HEADER_BYTES:
            payload, envelope, call, aux, kind, n = _unpack_from(data, at)
            start = at + HEADER_BYTES
            stop = start + payload
            if stop > end:
                if payload > _LARGE_BYTES:
                    self._header = (payload, envelope, call, aux, kind, n)
                    self._large = bytearray(payload)
                    self._filled = 0
                    self._fill(data[start:], frames)
                    return frames
                break
            if n == 0 and envelope == payload:
                frames.append((kind, call, aux, data[start:stop], []))
            else:
                if view is None:
                    view = memoryview(data)
                frames.append(_frame(view[start:stop], payload, envelope, call, aux, kind, n))
            at = stop
        if at < end:
            self._rest = data[at:] if at else data
        return frames

    def _fill(self, data: bytes, frames: list[Frame]) -> bytes:
        """Put bytes into the large frame; return those that belong to the next one."""
        large = self._large
        assert large is not None
        take = min(len(data), len(large) - self._filled)
        large[self._filled : self._filled + take] = data[:take] if take < len(data) else data
        self._filled += take
        if self._filled == len(large):
            self._large = None
            frames.append(_frame(memoryview(large), *self._header))
        return data[take:]


def _frame(payload: memoryview, total: int, envelope: int, call: int, aux: int, kind: int, n: int) -> Frame:
    if envelope > total:
        raise ValueError(f"frame of call {call} has an envelope longer than its payload")
    head = bytes(payload[:envelope])
    if n == 0 and envelope < total:
        raise ValueError(f"frame of call {call} has bytes after its envelope and no buffers")
    if n == 0:
        return kind, call, aux, head, []
    if n == 1:
        return kind, call, aux, head, [payload[envelope:]]
    at = envelope + 4 * n
    if at > total:
        raise ValueError(f"frame of call {call} is too short for {n} buffers")
    buffers = []
    for length in Struct(f"<{n}I").unpack_from(payload, envelope):
        buffers.append(payload[at : at + length])
        at += length
    if at != total:
        raise ValueError(f"frame of call {call} has buffers that do not fill its payload")
    return kind, call, aux, head, buffers
