"""The server's side of an HTTP/2 connection by itself, against the library h2 and against frames made by hand."""

from __future__ import annotations

from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingAckReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_lite.proxy import h2_wire as wire
from serve_lite.proxy.h2_frames import PREFACE
from serve_lite.proxy.h2_headers import HeaderBlocks, Headers
from serve_lite.proxy.h2_server import (
    HELD_BYTES,
    MAX_FRAME,
    STREAM_WINDOW,
    H2Server,
    H2Stream,
    Limits,
)

REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/a"), (":authority", "h")]
SETTINGS = wire.settings({})
OPENING, ENDING = b"\x88", wire.field(b"grpc-status", b"0")


class Heard:
    """The user of one stream: keeps what it hears."""

    def __init__(self, stream: H2Stream, headers: Headers) -> None:
        self.stream, self.headers = stream, headers
        self.data = bytearray()
        self.ended = False
        self.closed: bool | None = None  #: whether it was complete
        self.times_writable = 0

    def on_data(self, data: bytes) -> None:
        assert not self.ended and self.closed is None
        self.data += data

    def on_end(self) -> None:
        assert not self.ended and self.closed is None
        self.ended = True

    def on_writable(self) -> None:
        assert self.stream.is_writable
        self.times_writable += 1

    def on_closed(self, *, is_complete: bool) -> None:
        assert self.closed is None
        self.closed = is_complete


class Side:
    """A server, and what came of what it was fed."""

    def __init__(self, limits: Limits = Limits(), *, greet: bool = True) -> None:
        self.heard: list[Heard] = []
        self.is_well_formed = True
        self.server = H2Server(self._read, self._begin, lambda: None, 0.0, limits)
        self.greeting = b"".join(self.server.data_to_send())
        if greet:
            self.feed(PREFACE + SETTINGS)

    def _read(self, headers: Headers) -> Headers | None:
        return headers if self.is_well_formed else None

    def _begin(self, stream: H2Stream, headers: Headers) -> None:
        heard = Heard(stream, headers)
        stream.user = heard
        self.heard.append(heard)

    def feed(self, data: bytes, now: float = 0.0) -> bytes:
        """Return what is sent back."""
        self.server.feed(data, now)
        return self.sent()

    def sent(self) -> bytes:
        out = b""
        while chunks := self.server.data_to_send():
            out += b"".join(chunks)
        return out


class Pair(Side):
    """A server and a client that the library h2 plays, which checks every frame."""

    def __init__(self, limits: Limits = Limits(), *, step: int = 1 << 30) -> None:
        super().__init__(limits, greet=False)
        self.step = step  #: bytes that the server gets at a time
        self.client = H2Connection(H2Configuration(header_encoding=None))
        self.client.initiate_connection()
        self.events: list[Any] = self.client.receive_data(self.greeting)
        self.exchange()

    def exchange(self) -> None:
        """Pass on what both have to say until neither has more."""
        while data := self.client.data_to_send():
            for start in range(0, len(data), self.step):
                self.server.feed(data[start : start + self.step], 0.0)
            if back := self.sent():
                self.events += self.client.receive_data(back)

    def answered(self) -> None:
        """Pass on what the server has to say."""
        self.events += self.client.receive_data(self.sent())
        self.exchange()

    def events_of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return wire.head(len(payload), kind, flags, stream) + payload


def request(stream: int = 1, *, ends: bool = True, fields: list[tuple[str, str]] | None = None) -> bytes:
    block = Encoder().encode(fields or REQUEST, huffman=False)
    flags = wire.END_HEADERS | (wire.END_STREAM if ends else 0)
    return frame(wire.HEADERS, block, flags=flags, stream=stream)


# --- what is said and heard -------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_requests_come_whole_and_answers_too_however_the_bytes_are_cut(step: int) -> None:
    pair = Pair(step=step)
    for number in (1, 3):
        pair.client.send_headers(number, [*REQUEST, ("x", "y" * 100)])
        pair.client.send_data(number, b"first", pad_length=10)
        pair.client.send_data(number, b" last", end_stream=True)
    pair.exchange()
    for heard in pair.heard:
        assert (bytes(heard.data), heard.ended, (b"x", b"y" * 100) in heard.headers) == (
            b"first last",
            True,
            True,
        )
        heard.stream.respond(OPENING, b"the answer", ENDING)
        assert heard.closed
    pair.answered()
    assert [event.data for event in pair.events_of(DataReceived)] == [b"the answer"] * 2
    assert [event.headers for event in pair.events_of(TrailersReceived)] == [[(b"grpc-status", b"0")]] * 2
    assert len(pair.events_of(StreamEnded)) == 2 and not pair.server.streams


def test_a_large_answer_keeps_to_the_client_s_windows_and_frames() -> None:
    pair = Pair()
    pair.client.send_headers(1, REQUEST, end_stream=True)
    pair.exchange()
    (heard,) = pair.heard
    body = bytes(range(256)) * 2000
    heard.stream.respond(OPENING, body, ENDING)
    assert not heard.stream.is_writable and heard.closed is None
    pair.answered()
    received = b""
    while heard.closed is None:
        events, pair.events = pair.events, []
        for event in events:
            if isinstance(event, DataReceived):
                received += event.data
                pair.client.acknowledge_received_data(event.flow_controlled_length, 1)
        pair.exchange()
    received += b"".join(event.data for event in pair.events_of(DataReceived))
    assert (received, heard.times_writable, heard.closed) == (body, 1, True)


def test_streams_that_wait_for_the_connection_s_window_have_their_turns() -> None:
    side = Side()
    side.feed(wire.settings({wire.INITIAL_WINDOW_SIZE: 2**20}) + request(1) + request(3))
    side.server.pause()
    for heard in side.heard:
        heard.stream.send(b"x" * 100_000)
    side.server.resume()
    before = side.sent()
    assert before.count(b"x") == wire.DEFAULT_WINDOW  # of the connection
    assert all(heard.stream.pending_bytes < 100_000 for heard in side.heard)
    after = side.feed(wire.window_update(0, 2**20))
    assert after.count(b"x") == 200_000 - wire.DEFAULT_WINDOW
    assert not any(heard.stream.pending_bytes for heard in side.heard)


def test_a_client_may_change_its_windows_while_an_answer_waits() -> None:
    side = Side()
    side.feed(wire.settings({wire.INITIAL_WINDOW_SIZE: 0}) + request())
    side.heard[0].stream.respond(OPENING, b"late", ENDING)
    assert b"late" not in side.sent()
    sent = side.feed(wire.settings({wire.INITIAL_WINDOW_SIZE: 3}))
    assert b"lat" in sent and b"late" not in sent
    assert b"e" + frame(wire.HEADERS, ENDING, flags=5, stream=1) in side.feed(wire.window_update(1, 1))
    assert side.heard[0].closed


def test_nothing_but_small_frames_is_put_out_while_the_socket_is_full() -> None:
    side = Side()
    side.feed(request())
    side.server.pause()
    side.heard[0].stream.respond(OPENING, b"x" * 100, ENDING)
    assert b"x" not in side.sent() and side.heard[0].closed is None
    side.server.resume()
    assert b"x" * 100 in side.sent() and side.heard[0].closed


def test_a_client_may_send_a_window_ahead_and_no_more() -> None:
    side = Side()
    side.feed(request(ends=False))
    full = b"".join(frame(wire.DATA, bytes(MAX_FRAME), stream=1) for _ in range(STREAM_WINDOW // MAX_FRAME))
    assert side.feed(full) == b""  # nothing is consumed, so nothing is given back
    side.heard[0].stream.consumed(STREAM_WINDOW - 1)
    assert side.sent() == wire.window_update(1, STREAM_WINDOW - 1)
    side.feed(full[: -MAX_FRAME - wire.HEAD_BYTES])
    assert side.heard[0].closed is None
    assert wire.rst_stream(1, wire.FLOW_CONTROL_ERROR) in side.feed(
        frame(wire.DATA, bytes(MAX_FRAME), stream=1)
    )
    assert side.heard[0].closed is False and side.server.violation is None


def test_the_connection_s_window_is_given_back_although_nobody_reads() -> None:
    side = Side(Limits(max_streams=100))
    back = b""
    for number in range(1, 199, 2):
        back += side.feed(request(number, ends=False))
        for _ in range(STREAM_WINDOW // MAX_FRAME):
            back += side.feed(frame(wire.DATA, bytes(MAX_FRAME), stream=number))
    assert side.server.violation is None and back.count(wire.head(4, wire.WINDOW_UPDATE, 0, 0)) >= 2


def test_an_answer_before_the_end_of_the_request_ends_it_without_an_error() -> None:
    pair = Pair()
    pair.client.send_headers(1, REQUEST)
    pair.exchange()
    pair.heard[0].stream.respond(OPENING, b"enough", ENDING)
    pair.answered()
    assert [event.error_code for event in pair.events_of(StreamReset)] == [wire.NO_ERROR]
    assert pair.events_of(DataReceived)
    assert pair.feed(frame(wire.DATA, b"on its way", stream=1)) == b""
    assert pair.server.violation is None


def test_a_header_block_longer_than_a_frame_is_continued() -> None:
    pair = Pair()
    pair.client.send_headers(1, REQUEST, end_stream=True)
    pair.exchange()
    pair.heard[0].stream.finish(OPENING + wire.field(b"long", b"v" * 40_000))
    pair.answered()
    (answer,) = pair.events_of(ResponseReceived)
    assert (b"long", b"v" * 40_000) in answer.headers


def test_a_client_that_allows_no_header_table_is_obeyed() -> None:
    pair = Pair()
    pair.client.update_settings({wire.HEADER_TABLE_SIZE: 0})
    pair.client.send_headers(1, REQUEST, end_stream=True)
    pair.exchange()
    pair.heard[0].stream.respond(OPENING, b"", ENDING)
    pair.answered()
    assert pair.events_of(StreamEnded)


def test_pings_are_answered_and_ends_are_told() -> None:
    pair = Pair()
    pair.client.ping(b"12345678")
    pair.exchange()
    assert [event.ping_data for event in pair.events_of(PingAckReceived)] == [b"12345678"]
    pair.server.go_away(is_final=False)
    pair.answered()
    (told,) = pair.events_of(ConnectionTerminated)
    assert (told.error_code, told.last_stream_id) == (wire.NO_ERROR, wire.LAST_STREAM)


def test_a_lost_connection_ends_every_stream() -> None:
    side = Side()
    side.feed(request(1) + request(3, ends=False))
    side.server.lose()
    assert [heard.closed for heard in side.heard] == [False, False] and not side.server.streams
    side.heard[0].stream.respond(OPENING, b"x", ENDING)
    side.heard[0].stream.reset(wire.CANCEL)
    assert side.sent() == b""


def test_malformed_headers_reset_their_stream_only() -> None:
    side = Side()
    side.is_well_formed = False
    assert side.feed(request()) == wire.rst_stream(1, wire.PROTOCOL_ERROR)
    side.is_well_formed = True
    side.feed(request(3))
    assert [heard.stream.id for heard in side.heard] == [3]


@pytest.mark.parametrize("length", [3, 5])
def test_a_body_of_another_length_than_announced_resets_its_stream(length: int) -> None:
    side = Side()
    side.feed(request(ends=False))
    side.heard[0].stream.content_left = 4
    sent = side.feed(frame(wire.DATA, bytes(length), flags=wire.END_STREAM, stream=1))
    assert wire.rst_stream(1, wire.PROTOCOL_ERROR) in sent


# --- what ends a connection -------------------------------------------------------------------------

BLOCK = Encoder().encode(REQUEST, huffman=False)
WRONG = {
    "no HTTP/2": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", wire.PROTOCOL_ERROR),
    "no SETTINGS first": (PREFACE + request(), wire.PROTOCOL_ERROR),
    "an ACK first": (PREFACE + frame(wire.SETTINGS, flags=wire.ACK), wire.PROTOCOL_ERROR),
    "a large frame": (wire.head(MAX_FRAME + 1, wire.DATA, 0, 1), wire.FRAME_SIZE_ERROR),
    "an even stream": (request(2), wire.PROTOCOL_ERROR),
    "stream 0": (request(0), wire.PROTOCOL_ERROR),
    "DATA on stream 0": (frame(wire.DATA, b"x"), wire.PROTOCOL_ERROR),
    "DATA on an idle stream": (frame(wire.DATA, b"x", stream=1), wire.PROTOCOL_ERROR),
    "RST_STREAM on an idle stream": (wire.rst_stream(5, 0), wire.PROTOCOL_ERROR),
    "WINDOW_UPDATE on an idle stream": (wire.window_update(5, 1), wire.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (frame(wire.CONTINUATION, BLOCK, stream=1), wire.PROTOCOL_ERROR),
    "a block that is interrupted": (
        frame(wire.HEADERS, BLOCK, stream=1) + frame(wire.PING, bytes(8)),
        wire.PROTOCOL_ERROR,
    ),
    "a block of another stream": (
        frame(wire.HEADERS, BLOCK, stream=1) + frame(wire.CONTINUATION, b"", stream=3),
        wire.PROTOCOL_ERROR,
    ),
    "no HPACK": (frame(wire.HEADERS, b"\xff\xff\xff\xff\xff\xff", flags=4, stream=1), wire.COMPRESSION_ERROR),
    "too much padding": (frame(wire.HEADERS, b"\xff" + BLOCK, flags=0xC, stream=1), wire.PROTOCOL_ERROR),
    "padding of nothing": (
        request(ends=False) + frame(wire.DATA, b"", flags=8, stream=1),
        wire.PROTOCOL_ERROR,
    ),
    "a short priority": (frame(wire.HEADERS, b"\0\0", flags=0x24, stream=1), wire.FRAME_SIZE_ERROR),
    "PUSH_PROMISE": (frame(wire.PUSH_PROMISE, bytes(8), stream=1), wire.PROTOCOL_ERROR),
    "a short PING": (frame(wire.PING, bytes(7)), wire.FRAME_SIZE_ERROR),
    "a PING of a stream": (frame(wire.PING, bytes(8), stream=1), wire.PROTOCOL_ERROR),
    "a short RST_STREAM": (
        request(ends=False) + frame(wire.RST_STREAM, bytes(3), stream=1),
        wire.FRAME_SIZE_ERROR,
    ),
    "a short WINDOW_UPDATE": (frame(wire.WINDOW_UPDATE, bytes(3)), wire.FRAME_SIZE_ERROR),
    "a window of nothing": (wire.window_update(0, 0), wire.FLOW_CONTROL_ERROR),
    "a window too wide": (wire.window_update(0, 2**31 - 1), wire.FLOW_CONTROL_ERROR),
    "SETTINGS of a stream": (frame(wire.SETTINGS, stream=1), wire.PROTOCOL_ERROR),
    "half a setting": (frame(wire.SETTINGS, bytes(5)), wire.FRAME_SIZE_ERROR),
    "an ACK with content": (frame(wire.SETTINGS, bytes(6), flags=wire.ACK), wire.FRAME_SIZE_ERROR),
    "an initial window too wide": (wire.settings({wire.INITIAL_WINDOW_SIZE: 2**31}), wire.FLOW_CONTROL_ERROR),
    "frames too small": (wire.settings({wire.MAX_FRAME_SIZE: 16_383}), wire.PROTOCOL_ERROR),
    "push neither on nor off": (wire.settings({wire.ENABLE_PUSH: 2}), wire.PROTOCOL_ERROR),
    "more DATA than all windows": (
        b"".join(
            request(n, ends=False) + frame(wire.DATA, bytes(MAX_FRAME), stream=n) for n in range(1, 1000, 2)
        ),
        None,  # no error: the connection's window is given back
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_breaks_the_rules_ends_the_connection_with_the_right_code(case: str) -> None:
    data, code = WRONG[case]
    side = Side(greet=not data.startswith((PREFACE, b"GET")))
    sent = side.feed(data)
    violation = side.server.violation
    assert (None if violation is None else violation.code) == code
    if violation is not None:
        last = max((heard.stream.id for heard in side.heard), default=0)
        assert wire.goaway(last, violation.code, violation.reason) in sent
        assert side.feed(request(99)) == b"" and not any(heard.stream.id == 99 for heard in side.heard)


FLOODS = {
    "pings": frame(wire.PING, b"12345678"),
    "settings": SETTINGS,
    "large settings": frame(wire.SETTINGS, b"\0\x04\0\0\xff\xff" * 2000),
    "priorities": frame(wire.PRIORITY, b"\0\0\0\0\x10", stream=3),
    "unknown frames": frame(0x77, b"x"),
    "empty data": frame(wire.DATA, stream=1),
    "headers of a stream that has ended": request(1),
}


@pytest.mark.parametrize("case", FLOODS)
def test_a_flood_ends_the_connection_and_little_is_sent_back(case: str) -> None:
    side = Side()
    side.feed(request(1, ends=case != "empty data"))
    if case == "headers of a stream that has ended":
        side.heard[0].stream.respond(OPENING, b"", ENDING)
        side.sent()
    size = 0
    for _ in range(10_000):
        size += len(side.feed(FLOODS[case]))
    assert side.server.violation is not None and side.server.violation.code == wire.ENHANCE_YOUR_CALM
    assert size < 20_000
    if case == "pings":
        assert side.server.violation.reason == "too_many_pings"  # on which clients of gRPC slow down


def test_pings_at_a_client_s_usual_pace_are_no_flood() -> None:
    side = Side()
    for second in range(100):
        for _ in range(100):
            side.feed(frame(wire.PING, b"12345678"), float(second))
    assert side.server.violation is None


def resets(side: Side, count: int, *, lives_s: float = 0.0) -> int:
    """Open and reset streams until the connection ends; return how many there were."""
    now = 0.0
    for number in range(1, 2 * count, 2):
        side.feed(request(number, ends=False), now)
        now += lives_s
        side.feed(wire.rst_stream(number, wire.CANCEL), now)
        if side.server.violation is not None:
            return number // 2
    return count


def test_streams_that_are_opened_and_reset_without_end_end_the_connection() -> None:
    side = Side()
    assert 1000 < resets(side, 10_000) < 3000
    assert side.server.violation is not None and side.server.violation.code == wire.ENHANCE_YOUR_CALM
    assert all(heard.closed is False for heard in side.heard[:-1])


def test_streams_that_lived_for_a_while_may_be_reset() -> None:
    assert resets(Side(), 10_000, lives_s=1.0) == 10_000


def test_a_client_that_has_us_reset_its_streams_is_counted_too() -> None:
    side = Side()
    for number in range(1, 20_000, 2):
        side.feed(request(number, ends=False) + wire.window_update(number, 0))
        if side.server.violation is not None:
            break
    assert side.server.violation is not None and side.server.violation.code == wire.ENHANCE_YOUR_CALM
    assert number < 6000


def test_streams_beyond_the_limit_are_refused_and_may_be_tried_again() -> None:
    side = Side(Limits(max_streams=2))
    assert wire.SETTING.pack(wire.MAX_CONCURRENT_STREAMS, 2) in side.greeting
    side.feed(request(1) + request(3))
    assert side.feed(request(5)) == wire.rst_stream(5, wire.REFUSED_STREAM)
    side.heard[0].stream.respond(OPENING, b"", ENDING)
    side.feed(request(7))
    assert [heard.stream.id for heard in side.heard] == [1, 3, 7]


@pytest.mark.parametrize("size", [0, 10_000])
def test_a_header_block_without_end_ends_the_connection(size: int) -> None:
    side = Side()
    side.feed(frame(wire.HEADERS, b"", stream=1))
    for _ in range(30):
        side.feed(frame(wire.CONTINUATION, b"\0" * size, stream=1))
    assert side.server.violation is not None and side.server.violation.code == wire.ENHANCE_YOUR_CALM


def test_a_small_block_that_stands_for_many_headers_ends_the_connection() -> None:
    side = Side()
    field = b"\x40" + wire.text(b"bomb") + wire.text(b"x" * 3000)  # into the table
    side.feed(frame(wire.HEADERS, field + b"\xbe" * 60_000, flags=5, stream=1))  # and again and again
    assert side.server.violation is not None and side.server.violation.code == wire.ENHANCE_YOUR_CALM
    assert not side.heard


def test_more_padding_than_data_uses_up_the_windows_too() -> None:
    side = Side()
    side.feed(request(ends=False))
    padded = frame(wire.DATA, b"\xff" + b"x" + bytes(255), flags=wire.PADDED, stream=1)
    back = b"".join(side.feed(padded) for _ in range(STREAM_WINDOW // 257 + 100))
    assert wire.head(4, wire.WINDOW_UPDATE, 0, 1) in back  # of the padding, which nobody consumes
    assert side.server.violation is None and len(side.heard[0].data) > 1000


# --- header blocks that come again -------------------------------------------------------------------

FIELDS = st.sampled_from(
    [(":method", "POST"), (":path", "/a"), ("x", "1"), ("x", "2"), ("y", "z" * 30), ("y", "")]
)


@settings(max_examples=300, deadline=None)
@given(
    requests=st.lists(st.lists(FIELDS, max_size=5), max_size=40),
    sizes=st.dictionaries(st.integers(0, 39), st.sampled_from([0, 50, 100, 4096])),
    huffman=st.booleans(),
)
def test_blocks_that_come_again_are_read_as_they_would_be_anew(
    requests: list[list[tuple[str, str]]], sizes: dict[int, int], huffman: bool
) -> None:
    encoder, num_read = Encoder(), 0

    def read(headers: Headers) -> Headers:
        nonlocal num_read
        num_read += 1
        return headers

    blocks = HeaderBlocks(read, 2**16)
    for number, fields in enumerate(requests):
        if number in sizes:
            encoder.header_table_size = sizes[number]
        expected = [(name.encode(), value.encode()) for name, value in fields]
        assert blocks.read(encoder.encode(fields, huffman=huffman)) == expected
    assert num_read <= len(requests)


def test_a_block_that_comes_again_is_read_once() -> None:
    encoder, read = Encoder(), []
    blocks = HeaderBlocks(lambda headers: read.append(headers) or headers, 2**16)  # type: ignore[func-returns-value]
    for _ in range(10):
        assert len(blocks.read(encoder.encode(REQUEST))) == 4
    assert len(read) == 2  # the first one fills the table


# --- anything at all --------------------------------------------------------------------------------

FRAMES = st.builds(
    lambda kind, flags, stream, payload: frame(kind, payload, flags=flags, stream=stream),
    st.integers(0, 12),
    st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 5, 7, 2**31 - 1]),
    st.binary(max_size=40) | st.just(BLOCK),
)


@settings(max_examples=300, deadline=None)
@given(
    frames=st.lists(FRAMES | st.just(request(1, ends=False)) | st.just(request(3)), max_size=30),
    step=st.integers(1, 50),
)
def test_no_frames_do_harm_and_their_cut_changes_nothing(frames: list[bytes], step: int) -> None:
    data = b"".join(frames)
    whole, cut = Side(), Side()
    sent = whole.feed(data)
    again = b"".join(cut.feed(data[start : start + step]) for start in range(0, len(data), step))
    assert again == sent
    assert whole.server.violation == cut.server.violation
    assert [(h.headers, h.data, h.ended, h.closed) for h in whole.heard] == [
        (h.headers, h.data, h.ended, h.closed) for h in cut.heard
    ]
    for side in (whole, cut):
        side.server.lose()
        assert all(heard.closed is not None for heard in side.heard)


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3 * HELD_BYTES), max_size=8),
    grants=st.lists(st.integers(1, 2**17), max_size=20),
)
def test_every_byte_of_an_answer_comes_in_order_within_the_windows(
    sizes: list[int], grants: list[int]
) -> None:
    side = Side()
    side.feed(request(1))
    stream = side.heard[0].stream
    body = b""
    for number, size in enumerate(sizes):
        body += bytes((number,)) * size
        stream.send(bytes((number,)) * size)
    stream.finish(ENDING)
    window, received = wire.DEFAULT_WINDOW, b""
    sent = side.sent()
    for grant in [*grants, 2**23]:
        received += data_of(sent)
        assert len(received) <= window
        assert (side.heard[0].closed is not None) == (len(received) == len(body))
        window += grant
        sent = side.feed(
            wire.window_update(0, grant) + (b"" if stream.is_closed else wire.window_update(1, grant))
        )
    assert received + data_of(sent) == body and side.heard[0].closed


def data_of(sent: bytes) -> bytes:
    """Return the payloads of DATA frames."""
    at, out = 0, b""
    while at < len(sent):
        high, low, kind, _, _ = wire.HEAD.unpack_from(sent, at)
        end = at + wire.HEAD_BYTES + (high << 8 | low)
        if kind == wire.DATA:
            out += sent[at + wire.HEAD_BYTES : end]
        at = end
    return out
