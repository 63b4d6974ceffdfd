"""HTTP/2 frames looked at before the library gets them: what costs the server more than it costs the client is counted.

Pure: time is an argument. The library refuses what breaks the protocol; this refuses what keeps to it and is meant
to exhaust: streams opened and reset without end (CVE-2023-44487), endless header blocks (CVE-2024-27316), floods
of PING, SETTINGS, PRIORITY and empty frames (CVE-2019-9512 to 9518). Memory here: one frame.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from serve_lite.proxy.options import ProxyOptions

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME_BYTES: Final = (
    16_384  #: payload; what every endpoint allows until it says otherwise, and we never do
)

_HEAD_BYTES: Final = 9
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PING, _CONTINUATION = 0, 1, 2, 3, 4, 6, 9
_LAST_KNOWN: Final = _CONTINUATION
_END_STREAM = _ACK = 0x1
_END_HEADERS, _PADDED, _HAS_PRIORITY = 0x4, 0x8, 0x20
_PRIORITY_BYTES: Final = 5
_SETTING_BYTES: Final = 6
_MAX_CONTINUATIONS: Final = 16  #: of one header block

PROTOCOL_ERROR: Final = 0x1
FRAME_SIZE_ERROR: Final = 0x6
ENHANCE_YOUR_CALM: Final = 0xB


class Violation(NamedTuple):
    """Why a connection is ended."""

    code: int  #: for GOAWAY
    reason: str


class Allowance:
    """So many at once, and so many a second: a token bucket."""

    def __init__(self, burst: int, per_s: float, now: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._left, self._as_of = float(burst), now

    def take(self, number: int, now: float) -> bool:
        """Use up `number`; False if there are not so many left."""
        self._left = min(self._burst, self._left + (now - self._as_of) * self._per_s) - number
        self._as_of = now
        return self._left >= 0


class FrameGuard:
    """The frames of one client. Feed what it sends; pass on what `feed` returns.

    Frames that the server would only ignore (priorities, which RFC 9113 has given up, and unknown kinds) are
    left out. After `violation` is set nothing more is passed on.
    """

    def __init__(self, options: ProxyOptions, now: float) -> None:
        self.violation: Violation | None = None
        self.passed_frames = 0  #: in the last `feed`
        self._max_header_bytes = options.max_header_bytes
        self._resets = Allowance(500, 100, now)
        self._chores = Allowance(1000, 200, now)  #: frames that are no request and no body
        self._buffer = bytearray()
        self._preface_left = len(PREFACE)
        self._block_bytes = 0  #: of the header block that is coming
        self._continuations = 0

    def feed(self, data: bytes, now: float) -> bytes:
        """Take the next bytes; return those that the library is to read."""
        self.passed_frames = 0
        if self.violation is not None:
            return b""
        out = bytearray()
        if self._preface_left:
            start = data[: self._preface_left]  # the library checks it
            out += start
            self._preface_left -= len(start)
            data = data[len(start) :]
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _HEAD_BYTES:
            length = int.from_bytes(buffer[at : at + 3], "big")
            if length > MAX_FRAME_BYTES:
                self.violation = Violation(FRAME_SIZE_ERROR, f"a frame of {length} bytes")
                break
            end = at + _HEAD_BYTES + length
            if len(buffer) < end:
                break
            out += self._checked(buffer[at:end], length, now)
            at = end
            if self.violation is not None:
                break
            self.passed_frames += 1
        del buffer[:at]
        return bytes(out)

    def _checked(self, frame: bytearray, length: int, now: float) -> bytearray | bytes:
        """Return the frame, or what to put in its place."""
        kind, flags = frame[3], frame[4]
        if kind == _DATA:
            if not length and not flags & _END_STREAM:
                self._chore(1, now, "empty DATA frames")
        elif kind in (_HEADERS, _CONTINUATION):
            return self._checked_headers(frame, kind, flags, length)
        elif kind == _RST_STREAM:
            if not self._resets.take(1, now):
                self.violation = Violation(ENHANCE_YOUR_CALM, "too many requests were reset")
        elif kind == _SETTINGS and not flags & _ACK:
            self._chore(1 + length // (_SETTING_BYTES * 10), now, "too many SETTINGS")
        elif kind == _PING and not flags & _ACK:
            self._chore(1, now, "too many PINGs")
        elif kind == _PRIORITY or kind > _LAST_KNOWN:
            self._chore(1, now, "too many frames without effect")
            return b""
        return frame

    def _checked_headers(self, frame: bytearray, kind: int, flags: int, length: int) -> bytearray:
        if kind == _HEADERS:
            self._block_bytes, self._continuations = length, 0
        else:
            self._block_bytes += length
            self._continuations += 1
        if self._block_bytes > self._max_header_bytes or self._continuations > _MAX_CONTINUATIONS:
            self.violation = Violation(ENHANCE_YOUR_CALM, "a header block does not end")
        elif kind == _HEADERS and flags & _HAS_PRIORITY:
            return _without_priority(frame, flags, length)
        return frame

    def _chore(self, number: int, now: float, reason: str) -> None:
        if not self._chores.take(number, now):
            self.violation = Violation(ENHANCE_YOUR_CALM, reason)


def goaway(code: int, reason: str) -> bytes:
    """Return the frame that tells a client why its connection ends. It names no stream as processed for certain."""
    payload = (0x7FFFFFFF).to_bytes(4, "big") + code.to_bytes(4, "big") + reason.encode("ascii")
    return len(payload).to_bytes(3, "big") + b"\x07\x00\x00\x00\x00\x00" + payload


def _without_priority(frame: bytearray, flags: int, length: int) -> bytearray:
    """Return a HEADERS frame without its priority fields; one too short for them as it is, for the library."""
    start = _HEAD_BYTES + (1 if flags & _PADDED else 0)
    if length < start - _HEAD_BYTES + _PRIORITY_BYTES:
        return frame
    frame[0:3] = (length - _PRIORITY_BYTES).to_bytes(3, "big")
    frame[4] = flags & ~_HAS_PRIORITY
    del frame[start : start + _PRIORITY_BYTES]
    return frame
