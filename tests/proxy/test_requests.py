"""The reader without a socket: what is a request, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.proxy.options import ProxyOptions
from serve_lite.proxy.requests import Http1Request, RequestReader
from tests.proxy.corpus import CHUNKED, GET, HOST, MALFORMED, POST

SLICE = 16 * 1024  #: the most that a connection feeds at once

#: what is fine before the malformed part may be given out, but never more than this many requests
FINE_BEFORE = {"data after Connection: close": 1, "chunk longer than said": 1}


def reader(**options: int) -> RequestReader[Http1Request]:
    return RequestReader(Http1Request, ProxyOptions(**options))  # type: ignore[arg-type]


def read(data: bytes, step: int = 1 << 30, **options: int) -> RequestReader[Http1Request]:
    r = reader(**options)
    for at in range(0, len(data), step):
        r.feed(data[at : at + step])
        if r.is_over:
            break
    return r


@pytest.mark.parametrize("step", [SLICE, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_refused_and_nothing_after_it_is_believed(case: str, step: int) -> None:
    r = read(MALFORMED[case], step)
    assert r.refusal is not None
    assert 400 <= r.refusal[0] <= 505
    complete = [request for request in r.ready if request.is_complete]
    assert len(complete) <= FINE_BEFORE.get(case, 0)


@pytest.mark.parametrize("step", [1 << 30, 1, 7])
def test_requests_are_read_alike_whatever_pieces_they_come_in(step: int) -> None:
    data = (
        b"GET /a?b=c HTTP/1.1\r\nHost: a:80\r\nX-Empty:\r\nX-Spaced: \t v \t\r\n\r\n"
        b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
        b"\r\nHEAD /c HTTP/1.0\r\n\r\n"
    )
    first, second, third = read(data, step).ready
    assert (first.method, first.target, first.body, first.keeps_alive) == ("GET", b"/a?b=c", b"", True)
    assert first.headers == [(b"host", b"a:80"), (b"x-empty", b""), (b"x-spaced", b"v")]
    assert (second.method, second.target, second.body, second.streams_body) == (
        "POST",
        b"/b",
        b"hello",
        False,
    )
    assert (third.method, third.http_version, third.keeps_alive) == ("HEAD", "1.0", False)


@pytest.mark.parametrize("step", [1 << 30, 1])
def test_trailers_are_dropped_and_do_not_reach_the_next_request(step: int) -> None:
    data = CHUNKED + b"3;ext=1\r\nabc\r\n0\r\nX-Trailer: 1\r\nX-Request-Id: 2\r\n\r\n" + GET + HOST + b"\r\n"
    first, second = read(data, step).ready
    assert b"".join(first.pieces) == b"abc"
    assert second.headers == [(b"host", b"a")]
    assert not second.noted


def test_a_chunked_body_that_came_whole_is_not_streamed() -> None:
    (request,) = read(CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").ready
    assert (request.body, request.streams_body) == (b"abcde", False)


def test_a_large_body_is_streamed_from_its_head_on() -> None:
    r = read(POST + b"Content-Length: 100000\r\n\r\nabc")
    (request,) = r.ready
    assert request.streams_body
    assert not request.is_complete
    r.feed(b"x" * 99_997)
    assert request.is_complete
    assert sum(map(len, request.pieces)) == 100_000


def test_a_small_body_is_waited_for() -> None:
    r = read(POST + b"Content-Length: 10\r\n\r\nabc")
    assert not r.ready
    r.feed(b"defghij")
    assert r.ready[0].body == b"abcdefghij"


def test_whole_urls_as_sent_to_proxies_are_taken_for_their_path() -> None:
    (request,) = read(b"GET http://Shop.example:80/x?y HTTP/1.1\r\nHost: shop.example:80\r\n\r\n").ready
    assert request.target == b"/x?y"
    (request,) = read(b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n").ready
    assert request.target == b"/"


@pytest.mark.parametrize(
    ("data", "options", "status"),
    [
        (GET + HOST + b"X: " + b"a" * 70_000 + b"\r\n\r\n", {}, 431),
        (GET + HOST + b"X: 1\r\n" * 201 + b"\r\n", {}, 431),
        (b"GET /" + b"a" * 70_000, {}, 431),
        (POST + b"Content-Length: 11\r\n\r\n", {"max_body_bytes": 10}, 413),
        (CHUNKED + b"b\r\nhello world\r\n", {"max_body_bytes": 10}, 413),
    ],
)
@pytest.mark.parametrize("step", [16 * 1024, 977])
def test_what_is_too_large_is_refused_with_its_own_status(
    data: bytes, options: dict[str, int], status: int, step: int
) -> None:
    r = read(data, step, **options)
    assert r.refusal is not None
    assert r.refusal[0] == status


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b"serve_multiplexed_model_id", b"serve_multiplexed_model_id"),
        (b"Serve-Multiplexed-Model-Id", b"serve_multiplexed_model_id"),
        (b"SERVE_MULTIPLEXED-model_id", b"serve_multiplexed_model_id"),
        (b"X-Request-ID", b"x-request-id"),
        (b"X-Session-Id", b"x-session-id"),
    ],
)
def test_headers_that_serve_looks_at_are_found_in_any_spelling(header: bytes, name: bytes) -> None:
    (request,) = read(GET + HOST + header + b": v\r\n\r\n").ready
    assert request.noted == {name: b"v"}


@pytest.mark.parametrize("step", [1 << 30, 1])
def test_an_upgrade_is_handed_over_with_everything_that_followed(step: int) -> None:
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    head = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + key + b"\r\n"
    r = reader()
    rest = b""
    for at in range(0, len(head), step):
        r.feed(head[at : at + step] + (b"\x81\x05frame" if step > 1 else b""))
    assert r.handover is not None
    handed = r.handover + rest
    assert handed.startswith(
        b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert not r.ready
    if step > 1:
        assert handed.endswith(b"\x81\x05frame")


@given(st.binary(max_size=400), st.integers(1, 50))
def test_no_bytes_make_the_reader_fail(data: bytes, step: int) -> None:
    read(b"GET / HTTP/1.1\r\nHost: a\r\n" + data, step)
    read(CHUNKED + data, step)
    read(data, step)
