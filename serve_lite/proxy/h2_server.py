"""The server's side of one HTTP/2 connection, for gRPC: bytes in, calls of `StreamUser` and bytes out. Sans-I/O.

Time is an argument. `grpc_connection` is the socket around it, `grpc_exchange` uses the streams. Header blocks are
read by the library hpack. Stricter than it would have to be where that keeps it small: what a client gets wrong about
a connection ends it, and what only costs the server (floods of resets, of frames without effect, of header
fields, CVE-2023-44487, CVE-2024-27316, CVE-2019-9512 to 9518) is counted.

Flow control. What a client sends on a stream may be `STREAM_WINDOW` bytes ahead of `H2Stream.consumed`; the window of
the connection is given back at once, so that one stream that nobody reads does not stop the others. What is sent
waits in its stream until the client's windows and the socket have room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from hpack.exceptions import HPACKError, OversizedHeaderListError

from serve_lite.proxy import h2_wire as wire
from serve_lite.proxy.h2_frames import PREFACE, Allowance
from serve_lite.proxy.h2_headers import HeaderBlocks, Headers
from serve_lite.proxy.h2_wire import Buffer

STREAM_WINDOW: Final = 256 * 1024
MAX_FRAME: Final = 64 * 1024  #: payload of a frame that a client may send
MAX_HEADER_BYTES: Final = 64 * 1024  #: of one request, as sent, and as `SETTINGS_MAX_HEADER_LIST_SIZE` counts
HELD_BYTES: Final = 64 * 1024  #: a stream with more than this waiting to be sent is not writable

_CONNECTION_WINDOW: Final = 8 * 1024 * 1024
_DECODED_BYTES: Final = (
    4 * MAX_HEADER_BYTES
)  #: beyond this a list is not read to its end, so the connection is
_MAX_CONTINUATIONS: Final = 16
_AT_ONCE_BYTES: Final = 1024 * 1024  #: put out before the socket is asked whether it takes more
_LONG_LIVED_S: Final = (
    1.0  #: a stream that lived so long may be reset: that is no way around the limit of streams
)

T = TypeVar("T")  #: what header fields are read as


class Limits(NamedTuple):
    """What a client may do."""

    max_streams: int = 10_000  #: requests at once; gRPC clients have just one connection
    resets: tuple[int, float] = (
        2000,
        500.0,
    )  #: short-lived streams that end by a reset: at once, and a second
    chores: tuple[int, float] = (1000, 200.0)  #: frames that are no request and no body


USUAL_LIMITS: Final = Limits()


class Violation(NamedTuple):
    """Why a connection is ended."""

    code: int
    reason: str


class StreamUser(Protocol):
    """What hears of a stream. Must neither block nor raise."""

    def on_data(self, data: bytes) -> None:
        """A piece of the request. Say `H2Stream.consumed` once it is used."""

    def on_end(self) -> None:
        """The client has sent all."""

    def on_writable(self) -> None:
        """`H2Stream.is_writable` holds again."""

    def on_closed(self, *, is_complete: bool) -> None:
        """The last word: the answer was put out whole, or the stream was reset by either side or lost."""


class H2Stream:
    """One request, as its user has it."""

    __slots__ = (
        "_begun", "_connection", "_ending", "_is_ready", "_pending", "began_at", "content_left", "id", "is_closed",
        "is_local_open", "is_remote_open", "pending_bytes", "receive_window", "send_window", "unreturned", "user",
    )  # fmt: skip

    def __init__(self, connection: H2Server[Any], number: int, send_window: int, now: float) -> None:
        self.id = number
        self.user: StreamUser = _NOBODY
        self.is_closed = False
        self.is_remote_open = self.is_local_open = True
        self.send_window = send_window
        self.receive_window = STREAM_WINDOW
        self.unreturned = 0  #: bytes consumed for which no WINDOW_UPDATE was sent
        self.pending_bytes = 0
        self.began_at = now
        self.content_left: int | None = None  #: of the length that the client has announced
        self._connection = connection
        self._pending: deque[Buffer] = deque()  #: what waits to be sent, message by message
        self._begun = 0  #: bytes of the first of them that were sent
        self._ending: bytes | None = None  #: header block that ends the answer, once all else is sent
        self._is_ready = False  #: in the queue of those that may send

    @property
    def is_writable(self) -> bool:
        """Whether more should be sent now."""
        return self.pending_bytes <= HELD_BYTES

    def consumed(self, size: int) -> None:
        """Let the client send so many bytes more."""
        if not self.is_remote_open or self.is_closed:
            return
        self.unreturned += size
        if self.unreturned >= STREAM_WINDOW // 2:
            self.receive_window += self.unreturned
            self._connection.put(wire.window_update(self.id, self.unreturned))
            self.unreturned = 0

    def send_headers(self, block: bytes) -> None:
        """Begin the answer."""
        if not self.is_closed:
            self._connection.put(
                wire.header_block(self.id, self._connection.fresh(block), 0, self._connection.peer_max_frame)
            )

    def send(self, *message: Buffer) -> None:
        """Send a message, in pieces; all of it waits if the client or the socket has no room."""
        if self.is_closed:
            return
        for piece in message:
            self._pending.append(piece)
            self.pending_bytes += len(piece)
        self._connection.push(self)

    def finish(self, block: bytes) -> None:
        """End the answer with these trailers, or these headers if it has not begun."""
        if not self.is_closed:
            self._ending = block
            self._connection.push(self)

    def respond(self, opening: bytes, message: Buffer, ending: bytes) -> None:
        """Send headers, one message and trailers: what most answers are, in one piece where there is room for it."""
        connection = self._connection
        size = len(message)
        room = min(self.send_window, connection._send_window, connection.peer_max_frame)
        if self.is_closed or connection._is_paused or self.pending_bytes or size > room:
            self.send_headers(opening)
            self.send(message)
            self.finish(ending)
            return
        connection._send_window -= size
        opening, number = connection.fresh(opening), self.id
        parts: tuple[Buffer, ...] = (
            wire.head(len(opening), wire.HEADERS, wire.END_HEADERS, number), opening,
            wire.head(size, wire.DATA, 0, number), message,
        )  # fmt: skip
        connection.put(b"".join(parts))
        self._ending = ending
        connection._end(self)

    def reset(self, code: int) -> None:
        """End the stream at once, in both directions."""
        if not self.is_closed:
            self._connection.put(wire.rst_stream(self.id, code))
            self._connection.close_stream(self, is_complete=False)


class _Nobody:
    """Hears of a stream whose request was not begun."""

    def on_data(self, data: bytes) -> None:
        """Nobody wants it."""

    def on_end(self) -> None:
        """Nobody waits for it."""

    def on_writable(self) -> None:
        """Nobody sends."""

    def on_closed(self, *, is_complete: bool) -> None:
        """Nothing is to be done."""


_NOBODY: Final = _Nobody()


class _ConnectionError(Exception):
    """Leaves the reading of frames."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.violation = Violation(code, reason)


class H2Server(Generic[T]):
    """One connection. Feed what the client sends; write what `data_to_send` returns.

    Args:
        read_head: makes something of the header fields of a request; None: they break the rules (RFC 9113, 8.1.1).
            Depends on nothing else: the same fields may be read only once.
        begin: is given a new stream and what its header fields were read as, and sets `H2Stream.user`.
        on_output: there begins to be something to send.
        on_stream_over: a stream has ended and is forgotten.
    """

    def __init__(
        self,
        read_head: Callable[[Headers], T | None],
        begin: Callable[[H2Stream, T], None],
        on_output: Callable[[], None],
        now: float,
        limits: Limits = USUAL_LIMITS,
        *,
        on_stream_over: Callable[[], None] = lambda: None,
    ) -> None:
        self.streams: dict[int, H2Stream] = {}
        self.violation: Violation | None = None  #: feed nothing more, write what there is, and close
        self.peer_max_frame = wire.LEAST_MAX_FRAME
        self.num_frames = 0  #: that came whole
        self._begin = begin
        self._on_output = on_output
        self._on_stream_over = on_stream_over
        self._now = now
        self._limits = limits
        self._blocks = HeaderBlocks(read_head, _DECODED_BYTES)
        self._resets = Allowance(*limits.resets, now)
        self._chores = Allowance(*limits.chores, now)
        self._preface_left = PREFACE
        self._rest = b""  #: a frame that has not come whole
        self._has_settings = False
        self._last_stream = 0
        self._block: list[bytes] | None = None  #: header block that is coming
        self._block_head = (0, 0)  #: its stream and flags
        self._peer_initial_window = wire.DEFAULT_WINDOW
        self._send_window = wire.DEFAULT_WINDOW
        self._receive_window = _CONNECTION_WINDOW
        self._unreturned = 0
        self._ready: deque[H2Stream] = deque()  #: streams that have something to send
        self._is_pushing = False
        self._is_paused = False
        self._is_fresh = True  #: no header block was sent
        self._out: list[Buffer] = []
        self._out_bytes = 0
        self.put(
            wire.settings(
                {
                    wire.MAX_CONCURRENT_STREAMS: limits.max_streams,
                    wire.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                    wire.MAX_FRAME_SIZE: MAX_FRAME,
                    wire.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
                }
            )
        )
        self.put(wire.window_update(0, _CONNECTION_WINDOW - wire.DEFAULT_WINDOW))

    # --- for the socket -------------------------------------------------------------------------

    @property
    def is_in_midst(self) -> bool:
        """Whether something has begun to come that is of no use until it is whole: preface, frame or header block."""
        return bool(self._preface_left or self._rest or self._block is not None or not self._has_settings)

    def feed(self, data: bytes, now: float) -> None:
        """Take the next bytes."""
        if self.violation is not None:
            return
        self._now = now
        try:
            if self._preface_left:
                data = self._read_preface(data)
            self._read_frames(self._rest + data if self._rest else data)
        except _ConnectionError as error:
            self._fail(error.violation)

    def data_to_send(self) -> list[Buffer]:
        """Return what must be written now, in order. What had to wait for that is put out next."""
        out, self._out = self._out, []
        self._out_bytes = 0
        if self._ready and not self._is_paused:
            self.push_all()
        return out

    def pause(self) -> None:
        """The socket takes no more for now."""
        self._is_paused = True

    def resume(self) -> None:
        """The socket has room again."""
        self._is_paused = False
        self.push_all()

    def ping(self) -> None:
        """Ask the client for a sign of life."""
        self.put(wire.head(8, wire.PING, 0, 0) + b"are you?")

    def go_away(self, *, is_final: bool) -> None:
        """Ask the client to use another connection. Until that is final, new streams are still welcome."""
        self.put(wire.goaway(self._last_stream if is_final else wire.LAST_STREAM, wire.NO_ERROR))

    def turn_away(self, reason: str) -> None:
        """End the connection before anything has been done."""
        self._fail(Violation(wire.ENHANCE_YOUR_CALM, reason))

    def lose(self) -> None:
        """The connection is gone, and all its streams with it."""
        self.violation = self.violation or Violation(wire.NO_ERROR, "closed")
        for stream in tuple(self.streams.values()):
            self.close_stream(stream, is_complete=False)
        self._ready.clear()

    # --- for streams ----------------------------------------------------------------------------

    def put(self, data: Buffer) -> None:
        """Queue bytes for the socket."""
        if not self._out:
            self._on_output()
        self._out.append(data)
        self._out_bytes += len(data)

    def fresh(self, block: bytes) -> bytes:
        """Return a header block as it may be sent now: the first of a connection settles that we have no table."""
        if self._is_fresh:
            self._is_fresh = False
            return wire.NO_TABLE + block
        return block

    def push(self, stream: H2Stream) -> None:
        """Send what a stream holds, as far as there is room."""
        if not stream._is_ready:
            stream._is_ready = True
            self._ready.append(stream)
        self.push_all()

    def push_all(self) -> None:
        """Send what streams hold, one frame of each in turn, as far as there is room."""
        if self._is_pushing:
            return
        self._is_pushing = True
        ready = self._ready
        while ready and not self._is_paused and self._out_bytes < _AT_ONCE_BYTES:
            stream = ready.popleft()
            if stream.is_closed:
                continue
            if stream._pending and not self._send_frame(stream):
                if self._send_window <= 0:
                    ready.appendleft(stream)
                    break
                stream._is_ready = False  # until the client widens its window
                continue
            if stream._pending:
                ready.append(stream)
                continue
            stream._is_ready = False
            if stream._ending is not None:
                self._end(stream)
        self._is_pushing = False

    def close_stream(self, stream: H2Stream, *, is_complete: bool) -> None:
        """Forget a stream and tell its user."""
        if not stream.is_closed:
            stream.is_closed = True
            stream._pending.clear()
            stream.pending_bytes = 0
            self.streams.pop(stream.id, None)
            user, stream.user = (
                stream.user,
                _NOBODY,
            )  # refers back to the stream, which may still be in a queue
            user.on_closed(is_complete=is_complete)
            self._on_stream_over()

    def _send_frame(self, stream: H2Stream) -> bool:
        """Put out one DATA frame; False if no window is left for it."""
        room = min(stream.send_window, self._send_window, self.peer_max_frame)
        if room <= 0:
            return False
        was_writable = stream.is_writable
        pending, begun = stream._pending, stream._begun
        pieces: list[Buffer] = []
        size = 0
        while pending and size < room:
            piece = pending[0]
            take = min(len(piece) - begun, room - size)
            whole = take == len(piece)
            pieces.append(piece if whole else memoryview(piece)[begun : begun + take])
            size += take
            begun += take
            if begun == len(piece):
                pending.popleft()
                begun = 0
        stream._begun = begun
        stream.pending_bytes -= size
        stream.send_window -= size
        self._send_window -= size
        self.put(wire.head(size, wire.DATA, 0, stream.id))
        self._out += pieces
        self._out_bytes += size
        if not was_writable and stream.is_writable:
            stream.user.on_writable()
        return True

    def _end(self, stream: H2Stream) -> None:
        assert stream._ending is not None
        self.put(
            wire.header_block(stream.id, self.fresh(stream._ending), wire.END_STREAM, self.peer_max_frame)
        )
        if stream.is_remote_open:  # the client has more to say, which nobody would read
            self.put(wire.rst_stream(stream.id, wire.NO_ERROR))
        self.close_stream(stream, is_complete=True)

    # --- reading --------------------------------------------------------------------------------

    def _fail(self, violation: Violation) -> None:
        self.violation = violation
        self.put(wire.goaway(self._last_stream, violation.code, violation.reason))

    def _read_preface(self, data: bytes) -> bytes:
        left = self._preface_left
        size = min(len(left), len(data))
        if data[:size] != left[:size]:
            raise _ConnectionError(wire.PROTOCOL_ERROR, "this is no HTTP/2")
        self._preface_left = left[size:]
        return data[size:]

    def _read_frames(self, data: bytes) -> None:
        at, end = 0, len(data)
        while end - at >= wire.HEAD_BYTES:
            high, low, kind, flags, number = wire.HEAD.unpack_from(data, at)
            length = high << 8 | low
            if length > MAX_FRAME:
                raise _ConnectionError(wire.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            start = at + wire.HEAD_BYTES
            at = start + length
            if at > end:
                at = start - wire.HEAD_BYTES
                break
            self.num_frames += 1
            number &= 0x7FFFFFFF
            if self._block is not None and (kind != wire.CONTINUATION or number != self._block_head[0]):
                raise _ConnectionError(wire.PROTOCOL_ERROR, "another frame within a header block")
            if not self._has_settings and (kind != wire.SETTINGS or flags & wire.ACK):
                raise _ConnectionError(wire.PROTOCOL_ERROR, "no SETTINGS at the beginning")
            if kind == wire.DATA:
                self._on_data(number, flags, data[start:at])
            elif kind == wire.HEADERS:
                self._on_headers(number, flags, data[start:at])
            else:
                self._on_other(kind, number, flags, data[start:at])
        self._rest = data[at:] if at < end else b""

    def _on_other(self, kind: int, number: int, flags: int, payload: bytes) -> None:
        if kind == wire.WINDOW_UPDATE:
            self._on_window_update(number, payload)
        elif kind == wire.RST_STREAM:
            self._on_reset(number, payload)
        elif kind == wire.SETTINGS:
            self._on_settings(number, flags, payload)
        elif kind == wire.PING:
            self._on_ping(number, flags, payload)
        elif kind == wire.CONTINUATION:
            self._on_continuation(flags, payload)
        elif kind == wire.PUSH_PROMISE:
            raise _ConnectionError(wire.PROTOCOL_ERROR, "PUSH_PROMISE of a client")
        elif kind != wire.GOAWAY:  # PRIORITY, which RFC 9113 has given up, and unknown kinds
            self._chore(1, "too many frames without effect")

    def _chore(self, number: int, reason: str) -> None:
        if not self._chores.take(number, self._now):
            raise _ConnectionError(wire.ENHANCE_YOUR_CALM, reason)

    def _stream_error(self, stream: H2Stream, code: int) -> None:
        """Reset a stream that the client has got wrong."""
        self._take_reset(stream)
        stream.reset(code)

    def _take_reset(self, stream: H2Stream | None) -> None:
        """Count a stream that ends without an answer, whoever ends it: clients know how to have us do it."""
        is_short = stream is None or self._now - stream.began_at < _LONG_LIVED_S
        if is_short and not self._resets.take(1, self._now):
            raise _ConnectionError(wire.ENHANCE_YOUR_CALM, "too many requests were reset")

    def _find(self, number: int, kind: str) -> H2Stream | None:
        """Return an open stream; None: it was one."""
        stream = self.streams.get(number)
        if stream is None and (number > self._last_stream or not number & 1):
            raise _ConnectionError(wire.PROTOCOL_ERROR, f"{kind} on a stream that does not exist")
        return stream

    def _on_data(self, number: int, flags: int, payload: bytes) -> None:
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < 0:
            raise _ConnectionError(wire.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        self._unreturned += size
        if self._unreturned >= _CONNECTION_WINDOW // 2:
            self._receive_window += self._unreturned
            self.put(wire.window_update(0, self._unreturned))
            self._unreturned = 0
        stream = self._find(number, "DATA")
        if not size and not flags & wire.END_STREAM:
            self._chore(1, "too many empty DATA frames")
        if stream is None:
            return
        if not stream.is_remote_open:
            self._stream_error(stream, wire.STREAM_CLOSED)
            return
        stream.receive_window -= size
        if stream.receive_window < 0:
            self._stream_error(stream, wire.FLOW_CONTROL_ERROR)
            return
        if flags & wire.PADDED:
            payload = _unpadded(payload)
            stream.consumed(size - len(payload))
        if stream.content_left is not None:
            stream.content_left -= len(payload)
            if stream.content_left < 0 or (stream.content_left and flags & wire.END_STREAM):
                self._stream_error(stream, wire.PROTOCOL_ERROR)
                return
        if flags & wire.END_STREAM:
            stream.is_remote_open = False
        if payload:
            stream.user.on_data(payload)
        if flags & wire.END_STREAM and not stream.is_closed:
            stream.user.on_end()

    def _on_headers(self, number: int, flags: int, payload: bytes) -> None:
        if flags & wire.PADDED:
            payload = _unpadded(payload)
        if flags & wire.HAS_PRIORITY:
            if len(payload) < 5:
                raise _ConnectionError(wire.FRAME_SIZE_ERROR, "HEADERS too short for a priority")
            payload = payload[5:]
        if flags & wire.END_HEADERS:
            self._on_header_block(number, flags, payload)
        else:
            self._block, self._block_head = [payload], (number, flags)

    def _on_continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise _ConnectionError(wire.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block.append(payload)
        if len(self._block) > _MAX_CONTINUATIONS or sum(map(len, self._block)) > MAX_HEADER_BYTES:
            raise _ConnectionError(wire.ENHANCE_YOUR_CALM, "a header block does not end")
        if flags & wire.END_HEADERS:
            block, self._block = b"".join(self._block), None
            self._on_header_block(*self._block_head, block)

    def _on_header_block(self, number: int, flags: int, block: bytes) -> None:
        try:
            found = self._blocks.read(block)
        except OversizedHeaderListError:
            raise _ConnectionError(wire.ENHANCE_YOUR_CALM, "a header list is too large") from None
        except (HPACKError, UnicodeError) as error:
            raise _ConnectionError(wire.COMPRESSION_ERROR, f"a header block: {error}") from None
        stream = self.streams.get(number)
        if stream is not None:
            self._on_trailers(stream, flags)
            return
        if not number & 1:
            raise _ConnectionError(wire.PROTOCOL_ERROR, "HEADERS on a stream that is not the client's")
        if number <= self._last_stream:  # of a stream that has ended
            self._chore(1, "too many frames without effect")
            return
        self._last_stream = number
        if len(self.streams) >= self._limits.max_streams:
            self._take_reset(None)
            self.put(wire.rst_stream(number, wire.REFUSED_STREAM))
            return
        stream = H2Stream(self, number, self._peer_initial_window, self._now)
        if flags & wire.END_STREAM:
            stream.is_remote_open = False
        self.streams[number] = stream
        if found is None:
            self._stream_error(stream, wire.PROTOCOL_ERROR)
            return
        self._begin(stream, found)
        if flags & wire.END_STREAM and not stream.is_closed:
            if stream.content_left:
                self._stream_error(stream, wire.PROTOCOL_ERROR)
            else:
                stream.user.on_end()

    def _on_trailers(self, stream: H2Stream, flags: int) -> None:
        """Take the end of a request; what its trailers say has no meaning in gRPC."""
        if not flags & wire.END_STREAM or not stream.is_remote_open or stream.content_left:
            self._stream_error(stream, wire.PROTOCOL_ERROR)
            return
        stream.is_remote_open = False
        stream.user.on_end()

    def _on_reset(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _ConnectionError(wire.FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        stream = self._find(number, "RST_STREAM")
        self._take_reset(stream)
        if stream is not None:
            self.close_stream(stream, is_complete=False)

    def _on_window_update(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _ConnectionError(wire.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        increment = wire.U32.unpack(payload)[0] & 0x7FFFFFFF
        if not number:
            self._send_window += increment
            if not increment or self._send_window > wire.MAX_WINDOW:
                raise _ConnectionError(wire.FLOW_CONTROL_ERROR, "WINDOW_UPDATE of the connection")
            self.push_all()
            return
        stream = self._find(number, "WINDOW_UPDATE")
        if stream is None:
            return
        stream.send_window += increment
        if not increment:
            self._stream_error(stream, wire.PROTOCOL_ERROR)
        elif stream.send_window > wire.MAX_WINDOW:
            self._stream_error(stream, wire.FLOW_CONTROL_ERROR)
        elif stream._pending:
            self.push(stream)

    def _on_ping(self, number: int, flags: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise _ConnectionError(wire.FRAME_SIZE_ERROR if not number else wire.PROTOCOL_ERROR, "PING")
        if not flags & wire.ACK:
            self._chore(1, "too_many_pings")  # the words on which gRPC clients slow down
            self.put(wire.head(8, wire.PING, wire.ACK, 0) + payload)

    def _on_settings(self, number: int, flags: int, payload: bytes) -> None:
        if number:
            raise _ConnectionError(wire.PROTOCOL_ERROR, "SETTINGS of a stream")
        if len(payload) % wire.SETTING.size or (flags & wire.ACK and payload):
            raise _ConnectionError(wire.FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        if flags & wire.ACK:
            return
        self._has_settings = True
        self._chore(1 + len(payload) // (wire.SETTING.size * 10), "too many SETTINGS")
        for name, value in wire.SETTING.iter_unpack(payload):
            self._on_setting(name, value)
        self.put(wire.head(0, wire.SETTINGS, wire.ACK, 0))
        self.push_all()

    def _on_setting(self, name: int, value: int) -> None:
        if name == wire.INITIAL_WINDOW_SIZE:
            if value > wire.MAX_WINDOW:
                raise _ConnectionError(wire.FLOW_CONTROL_ERROR, f"an initial window of {value}")
            change, self._peer_initial_window = value - self._peer_initial_window, value
            for stream in self.streams.values():
                stream.send_window += change
                if stream.send_window > wire.MAX_WINDOW:
                    raise _ConnectionError(wire.FLOW_CONTROL_ERROR, f"an initial window of {value}")
                if stream._pending and not stream._is_ready:
                    stream._is_ready = True
                    self._ready.append(stream)
        elif name == wire.MAX_FRAME_SIZE:
            if not wire.LEAST_MAX_FRAME <= value <= wire.MOST_MAX_FRAME:
                raise _ConnectionError(wire.PROTOCOL_ERROR, f"a maximum frame size of {value}")
            self.peer_max_frame = min(value, MAX_FRAME)  # others have their turn after each frame
        elif name == wire.ENABLE_PUSH and value > 1:
            raise _ConnectionError(wire.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH {value}")


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise _ConnectionError(wire.PROTOCOL_ERROR, "more padding than there is room for")
    return payload[1 : len(payload) - payload[0]]
