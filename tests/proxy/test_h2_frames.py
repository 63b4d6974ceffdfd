"""HTTP/2 by frames: what is passed on, and what is meant to exhaust and ends its connection."""

from __future__ import annotations

import asyncio
import resource

import anyio
import pytest
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.proxy.h2_frames import (
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    PREFACE,
    Allowance,
    FrameGuard,
)
from serve_lite.proxy.options import ProxyOptions
from tests.proxy.door import PATIENCE_S, Client, Door, open_door
from tests.proxy.test_http2 import RawH2

DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS, PADDED, HAS_PRIORITY, ACK = 1, 4, 8, 0x20, 1


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def guard() -> FrameGuard:
    guard = FrameGuard(ProxyOptions(), 0.0)
    assert guard.feed(PREFACE, 0.0) == PREFACE
    return guard


# --- the guard, without a socket ---------------------------------------------------------------------

FLOODS = {
    "resets": frame(RST, b"\0\0\0\x08", stream=1),
    "pings": frame(PING, b"12345678"),
    "settings": frame(SETTINGS),
    "large settings": frame(SETTINGS, b"\0\x04\0\0\xff\xff" * 2000),
    "priorities": frame(PRIORITY, b"\0\0\0\0\x10", stream=3),
    "unknown frames": frame(0x77, b"x"),
    "empty data": frame(DATA, stream=1),
    "continuations": frame(CONTINUATION, b"", stream=1),
    "an endless header block": frame(CONTINUATION, b"x" * 10_000, stream=1),
}


@pytest.mark.parametrize("case", FLOODS)
def test_a_flood_is_a_violation(case: str) -> None:
    g = guard()
    for _ in range(10_000):
        g.feed(FLOODS[case], 0.0)
        if g.violation is not None:
            break
    assert g.violation is not None
    assert g.violation.code == ENHANCE_YOUR_CALM
    assert g.feed(frame(PING, b"12345678"), 1000.0) == b""  # nothing more is passed on


@pytest.mark.parametrize("case", ["pings", "settings", "resets", "priorities"])
def test_as_many_over_a_longer_time_are_none(case: str) -> None:
    g = guard()
    for number in range(10_000):
        g.feed(FLOODS[case], number * 0.05)
    assert g.violation is None


def test_acknowledgements_and_windows_cost_nothing() -> None:
    g = guard()
    for _ in range(10_000):
        g.feed(frame(PING, b"12345678", flags=ACK) + frame(SETTINGS, flags=ACK), 0.0)
        g.feed(frame(WINDOW, b"\0\0\0\x01"), 0.0)
    assert g.violation is None


def test_a_frame_that_is_too_large_is_refused_by_its_head() -> None:
    g = guard()
    assert g.feed((16_385).to_bytes(3, "big") + bytes(6), 0.0) == b""
    assert g.violation is not None
    assert g.violation.code == FRAME_SIZE_ERROR


def test_priorities_are_left_out_and_the_rest_of_the_headers_stays() -> None:
    g = guard()
    flags = END_HEADERS | END_STREAM
    with_priority = frame(HEADERS, b"\x80\0\0\x01\x0fHPACK", flags=flags | HAS_PRIORITY, stream=5)
    assert g.feed(with_priority, 0.0) == frame(HEADERS, b"HPACK", flags=flags, stream=5)
    padded = frame(HEADERS, b"\x03\x80\0\0\x01\x0fHPACK\0\0\0", flags=flags | HAS_PRIORITY | PADDED, stream=5)
    assert g.feed(padded, 0.0) == frame(HEADERS, b"\x03HPACK\0\0\0", flags=flags | PADDED, stream=5)
    short = frame(HEADERS, b"\x80\0", flags=flags | HAS_PRIORITY, stream=5)
    assert g.feed(short, 0.0) == short  # the library says what is wrong with it
    assert g.feed(frame(PRIORITY, b"\0\0\0\0\x10", stream=3), 0.0) == b""


FRAMES = st.lists(
    st.builds(
        lambda kind, payload, flags, stream: frame(kind, payload, flags=flags & ~HAS_PRIORITY, stream=stream),
        st.sampled_from([DATA, SETTINGS, PING, WINDOW, HEADERS, 7]),
        st.binary(max_size=30),
        st.integers(0, 255),
        st.integers(0, 9),
    ),
    max_size=20,
)


@given(FRAMES, st.integers(1, 64))
def test_other_frames_pass_as_they_are_in_any_pieces(frames: list[bytes], step: int) -> None:
    g, data = FrameGuard(ProxyOptions(), 0.0), PREFACE + b"".join(frames)
    out = b"".join(g.feed(data[at : at + step], 0.0) for at in range(0, len(data), step))
    assert out == data
    assert g.violation is None


@given(st.binary(max_size=500), st.integers(1, 100))
def test_no_bytes_make_the_guard_fail(data: bytes, step: int) -> None:
    g = guard()
    for at in range(0, len(data), step):
        g.feed(data[at : at + step], 0.0)
    assert len(g._buffer) <= 16_384 + 9


def test_an_allowance_is_used_up_and_comes_back() -> None:
    allowance = Allowance(3, 2, now=0.0)
    assert [allowance.take(1, 0.0) for _ in range(4)] == [True, True, True, False]
    assert allowance.take(1, 1.0)
    assert not allowance.take(4, 100.0)


# --- through the door --------------------------------------------------------------------------------


async def send_until_closed(raw: RawH2, data: bytes, total_bytes: int) -> None:
    """Send the same over and over until the server ends the connection, and see that it says why.

    A reset may tear its words away: we are still sending.
    """
    sent = 0
    try:
        while sent < total_bytes and not raw.client.writer.transport.is_closing():
            raw.client.send(data)
            await raw.client.writer.drain()
            await asyncio.sleep(0)
            sent += len(data)
    except ConnectionError:
        pass
    assert sent < total_bytes
    try:
        ended = await raw.until(ConnectionTerminated)
    except ConnectionError:
        return
    assert ended.error_code == ENHANCE_YOUR_CALM


@pytest.mark.parametrize("case", ["pings", "settings", "empty data", "unknown frames", "priorities"])
async def test_a_flood_of_frames_is_ended_and_others_are_served(
    door: Door, client: Client, case: str
) -> None:
    raw = RawH2(client)
    raw.get(1, "/hello")
    await raw.until(DataReceived)
    data = FLOODS[case] * 100
    if case == "empty data":
        pseudo = [(":method", "POST"), (":path", "/held"), (":scheme", "http"), (":authority", "a")]
        raw.h2.send_headers(3, pseudo)
        raw.flush()
        data = frame(DATA, stream=3) * 100
    with anyio.fail_after(PATIENCE_S):
        await send_until_closed(raw, data, 5_000_000)
    other = await door.connect()
    assert (await other.get("/hello")).status == 200
    await other.close()


async def test_requests_opened_and_reset_without_end_are_bounded(door: Door, client: Client) -> None:
    """100,000 resets as fast as they go: few of them become calls, all of those are cancelled."""
    raw = RawH2(client)
    raw.flush()
    headers = H2Connection()
    headers.initiate_connection()
    headers.data_to_send()
    pseudo = [(":method", "GET"), (":path", "/held"), (":scheme", "http"), (":authority", "a")]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    other = await door.connect()
    try:
        with anyio.fail_after(PATIENCE_S):
            for number in range(100_000):
                headers.send_headers(2 * number + 1, pseudo, end_stream=True)
                headers.reset_stream(2 * number + 1)
                client.send(headers.data_to_send())
                if number % 100 == 0:
                    await client.writer.drain()
                    assert (await other.get("/hello")).status == 200
                    if client.writer.transport.is_closing() or client.reader.at_eof():
                        break
    except ConnectionError:
        pass
    assert number < 100_000 - 1
    held = [call for call in door.stage.calls if call.path == b"/held"]
    assert len(held) < 2_000
    for call in held:
        await call.until(lambda call=call: call.is_cancelled)  # type: ignore[misc]
    with anyio.fail_after(PATIENCE_S):
        while door.server.num_connections > 1:
            await asyncio.sleep(0.01)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000  # KB
    await other.close()


async def test_an_endless_header_block_is_ended(door: Door, client: Client) -> None:
    raw = RawH2(client)
    raw.flush()
    client.send(frame(HEADERS, b"\x82", stream=1))
    with anyio.fail_after(PATIENCE_S):
        await send_until_closed(raw, frame(CONTINUATION, b"\x00\x01a\x01b" * 100, stream=1), 5_000_000)
    assert not door.stage.calls


async def test_headers_that_unpack_to_much_are_refused(door: Door, client: Client) -> None:
    """One header is put into the table and then referred to, a byte each time."""
    raw = RawH2(client)
    raw.flush()
    value = b"x" * 3000
    block = (
        b"\x82\x84\x86"
        + b"\x41\x01a"
        + b"\x40\x01y\x7f"
        + bytes([(3000 - 127) % 128 | 128, (3000 - 127) // 128])
    )
    client.send(frame(HEADERS, block + value + b"\xbe" * 10_000, flags=END_HEADERS | END_STREAM, stream=1))
    with anyio.fail_after(PATIENCE_S):
        assert (await raw.until(ConnectionTerminated)).error_code != 0
    assert not door.stage.calls


async def test_too_many_headers_are_refused_and_the_connection_lives_on(door: Door, client: Client) -> None:
    raw = RawH2(client)
    pseudo = [(":method", "GET"), (":path", "/hello"), (":scheme", "http"), (":authority", "a")]
    raw.h2.send_headers(1, pseudo + [("x", "1")] * 300, end_stream=True)
    raw.flush()
    assert (await raw.until(DataReceived)).data == b"Request Header Fields Too Large"
    await raw.until(StreamEnded)
    raw.get(3, "/hello")
    assert (await raw.until(DataReceived)).data == b"hello"


async def test_half_a_megabyte_of_tiny_frames_does_not_stop_others(door: Door, client: Client) -> None:
    raw = RawH2(client)
    raw.flush()
    other = await door.connect()
    longest, rounds = 0.0, 0
    loop = asyncio.get_running_loop()
    with anyio.fail_after(PATIENCE_S):
        for _ in range(8):
            client.send(frame(WINDOW, b"\0\0\0\x01") * 5000)
            await client.writer.drain()
            began = loop.time()
            assert (await other.get("/hello")).status == 200
            longest, rounds = max(longest, loop.time() - began), rounds + 1
        raw.get(1, "/hello")
        assert (await raw.until(DataReceived)).data == b"hello"
    assert rounds == 8
    await other.close()


async def test_a_stream_whose_body_does_not_come_is_answered_408() -> None:
    async with open_door(ProxyOptions(read_timeout_s=0.1)) as door:
        client = await door.connect()
        raw = RawH2(client)
        pseudo = [(":method", "POST"), (":path", "/held"), (":scheme", "http"), (":authority", "a")]
        raw.h2.send_headers(1, [*pseudo, ("content-length", "10")])
        raw.h2.send_headers(3, [*pseudo, ("content-length", "100000")])
        raw.flush()
        call = await door.stage.call()
        call.take()
        assert (await raw.until(DataReceived)).data == b"Request Timeout"
        await raw.until(StreamEnded)
        assert (await raw.until(DataReceived)).data == b"Request Timeout"
        assert call.is_cancelled
        await client.close()


async def test_a_stream_that_its_client_does_not_take_is_reset() -> None:
    async with open_door(ProxyOptions(write_timeout_s=0.2)) as door:
        client = await door.connect()
        raw = RawH2(client)
        raw.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        raw.get(1, "/held")
        call = await door.stage.call()
        call.take()
        call.start()
        for _ in range(20):
            call.item(b"x" * 10_000)
        await call.until(lambda: call.is_cancelled)
        assert (await raw.until(StreamReset)).stream_id == 1
        raw.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 65_535})
        raw.get(3, "/hello")
        assert (await raw.until(DataReceived)).data == b"hello"
        await client.close()


@pytest.mark.parametrize("odd", [{b":path": b"/\xff"}, {b":path": b"/a\xc3\xa4?b"}, {b":method": b"GE\xc4T"}])
async def test_a_head_that_is_no_ascii_is_malformed(
    door: Door, client: Client, odd: dict[bytes, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    raw = RawH2(client)
    raw.h2.config.validate_outbound_headers = False
    head = {b":method": b"GET", b":path": b"/", b":scheme": b"http", b":authority": b"a"}
    raw.h2.send_headers(1, list({**head, **odd}.items()), end_stream=True)
    raw.flush()
    answer = await raw.until(ResponseReceived)
    headers = dict(answer.headers)
    assert headers[b":status"] == b"400" and headers[b"x-request-id"]
    assert await raw.body() == b"Bad Request"
    raw.get(3, "/hello")  # the connection lives on
    assert await raw.body() == b"hello"
    assert not [record for record in caplog.records if record.exc_info]


async def test_trailers_end_an_answer_over_http_2(door: Door, client: Client) -> None:
    raw = RawH2(client)
    pseudo = [(":method", "GET"), (":path", "/held"), (":scheme", "http"), (":authority", "a")]
    raw.h2.send_headers(1, [*pseudo, ("te", "trailers")], end_stream=True)
    raw.flush()
    call = await door.stage.call()
    call.take()
    call.start(200, b"content-type: text/plain\r\ntrailer: x-sum\r\n")
    call.item(b"body")
    call.call.outgoing = None
    call.call.on_end(b"x-sum: 4\r\n")
    trailers = await raw.until(TrailersReceived)
    assert [(bytes(n), bytes(v)) for n, v in trailers.headers] == [(b"x-sum", b"4")]
    await raw.until(StreamEnded)
