"""The reader without a socket: what is a request, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.proxy.options import ProxyOptions
from serve_lite.proxy.requests import Http1Request, RequestReader

SLICE = 16 * 1024  #: the most that a connection feeds at once

GET = b"GET / HTTP/1.1\r\n"
HOST = b"Host: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

MALFORMED = {
    # --- request line
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 with its number": b"GET / HTTP/0.9\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/2.0 without preface": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "two-digit minor version": b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
    "lower-case protocol": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "lower-case method": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown method": b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n",
    "method of another protocol": b"DESCRIBE / RTSP/1.0\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "space in target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab in target": b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in target": b"GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n",
    "raw non-ASCII target": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment in target": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "relative target": b"GET a/b HTTP/1.1\r\nHost: a\r\n\r\n",
    "star for GET": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "ftp target": b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "target for another host": b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "space after version": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "bare LF after request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare CR after request line": b"GET / HTTP/1.1\rHost: a\r\n\r\n",
    "binary junk": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    # --- headers
    "bare LF after header": GET + b"Host: a\nX: b\r\n\r\n",
    "bare LF at the end": GET + b"Host: a\r\n\n",
    "bare CR in header": GET + b"Host: a\rX: b\r\n\r\n",
    "folded header": GET + b"Host: a\r\nX: a\r\n b\r\n\r\n",
    "folded header by tab": GET + b"Host: a\r\nX: a\r\n\tb\r\n\r\n",
    "space before colon": GET + b"Host : a\r\n\r\n",
    "tab before colon": GET + HOST + b"Content-Length\t: 5\r\n\r\n",
    "space before first header": GET + b" Host: a\r\n\r\n",
    "no colon": GET + HOST + b"Abc\r\n\r\n",
    "empty name": GET + HOST + b": x\r\n\r\n",
    "parenthesis in name": GET + HOST + b"A(: x\r\n\r\n",
    "non-ASCII name": GET + HOST + b"A\xff: x\r\n\r\n",
    "NUL in value": GET + HOST + b"A: x\0y\r\n\r\n",
    "control character in value": GET + HOST + b"A: x\x01y\r\n\r\n",
    # --- Host
    "no Host": GET + b"\r\n",
    "two Hosts": GET + b"Host: a\r\nHost: b\r\n\r\n",
    "two equal Hosts": GET + b"Host: a\r\nHost: a\r\n\r\n",
    "empty Host": GET + b"Host:\r\n\r\n",
    "Host with a path": GET + b"Host: a/b?c#d\r\n\r\n",
    "Host with a user": GET + b"Host: x@y\r\n\r\n",
    "Host with a space": GET + b"Host: a b\r\n\r\n",
    "Host with a bad port": GET + b"Host: a:80x\r\n\r\n",
    "Host list": GET + b"Host: a,b\r\n\r\n",
    # --- length
    "length and chunked": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "two equal lengths": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "length list": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "signed length": POST + b"Content-Length: +3\r\n\r\nabc",
    "negative length": POST + b"Content-Length: -3\r\n\r\nabc",
    "empty length": POST + b"Content-Length:\r\n\r\n",
    "hexadecimal length": POST + b"Content-Length: 0x3\r\n\r\nabc",
    "length in two words": POST + b"Content-Length: 1 1\r\n\r\nabc",
    "length with underscore": POST + b"Content-Length: 1_0\r\n\r\nabcdefghij",
    "length beyond 64 bits": POST + b"Content-Length: 99999999999999999999999\r\n\r\nabc",
    # --- transfer coding
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked, gzip": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "empty coding": POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "coding after vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "coding in quotes": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    # --- chunks
    "chunk size ended by LF": CHUNKED + b"1\nx\r\n0\r\n\r\n",
    "chunk longer than said": CHUNKED + b"1\r\nxy\r\n0\r\n\r\n",
    "chunk shorter than said": CHUNKED + b"3\r\nx\r\n0\r\n\r\n",
    "negative chunk": CHUNKED + b"-1\r\nx\r\n0\r\n\r\n",
    "chunk size with 0x": CHUNKED + b"0x1\r\nx\r\n0\r\n\r\n",
    "space after chunk size": CHUNKED + b"1 \r\nx\r\n0\r\n\r\n",
    "space before chunk size": CHUNKED + b" 1\r\nx\r\n0\r\n\r\n",
    "underscore in chunk size": CHUNKED + b"1_0\r\nx\r\n0\r\n\r\n",
    "chunk size beyond 64 bits": CHUNKED + b"fffffffffffffffff\r\nx\r\n0\r\n\r\n",
    "empty chunk size": CHUNKED + b"\r\nx\r\n0\r\n\r\n",
    "LF in chunk extension": CHUNKED + b"1;a\nb\r\nx\r\n0\r\n\r\n",
    "CR in chunk extension": CHUNKED + b"1;a\rb\r\nx\r\n0\r\n\r\n",
    "malformed trailer": CHUNKED + b"0\r\nX T: 1\r\n\r\n",
    "length in trailer": CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
    "endless chunk extension": CHUNKED + b"1;" + b"a" * 100_000 + b"\r\nx\r\n0\r\n\r\n",
    "endless trailer": CHUNKED + b"0\r\n" + b"X: 1\r\n" * 20_000 + b"\r\n",
    # --- the rest
    "unknown expectation": POST + b"Content-Length: 1\r\nExpect: miracle\r\n\r\na",
    "data after Connection: close": GET + HOST + b"Connection: close\r\n\r\n" + GET + HOST + b"\r\n",
}  # fmt: skip

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
    head = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    r = reader()
    rest = b""
    for at in range(0, len(head), step):
        r.feed(head[at : at + step] + (b"\x81\x05frame" if step > 1 else b""))
    assert r.handover is not None
    handed = r.handover + rest
    assert handed.startswith(
        b"GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
    )
    assert not r.ready
    if step > 1:
        assert handed.endswith(b"\x81\x05frame")


@given(st.binary(max_size=400), st.integers(1, 50))
def test_no_bytes_make_the_reader_fail(data: bytes, step: int) -> None:
    read(b"GET / HTTP/1.1\r\nHost: a\r\n" + data, step)
    read(CHUNKED + data, step)
    read(data, step)
