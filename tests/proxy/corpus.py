"""What smuggling lives on: requests that two parsers may cut differently, and what must become of each.

`test_requests` feeds them to the reader, `test_smuggling` sends them through both fronts.
"""

from __future__ import annotations

from typing import NamedTuple

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
    # --- the request line again
    "empty target": b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
    "no version": b"GET /\r\nHost: a\r\n\r\n",
    "tab for a space": b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "space before method": b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "two versions": b"GET / HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "version without minor": b"GET / HTTP/1\r\nHost: a\r\n\r\n",
    "version with a sign": b"GET / HTTP/+1.1\r\nHost: a\r\n\r\n",
    "version 3": b"GET / HTTP/3.0\r\nHost: a\r\n\r\n",
    "mixed-case method": b"Get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "method with a slash": b"GE/T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "quote in method": b'"GET" / HTTP/1.1\r\nHost: a\r\n\r\n',
    "NUL in method": b"GE\0T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "answer for a request": b"HTTP/1.1 200 OK\r\nHost: a\r\n\r\n",
    "DEL in target": b"GET /a\x7fb HTTP/1.1\r\nHost: a\r\n\r\n",
    "CR in target": b"GET /a\rb HTTP/1.1\r\nHost: a\r\n\r\n",
    "vertical tab in target": b"GET /a\x0bb HTTP/1.1\r\nHost: a\r\n\r\n",
    "whole URL with a user": b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "whole URL without a host": b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
    "whole URL with another port": b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "whole URL with a fragment": b"GET http://a/#x HTTP/1.1\r\nHost: a\r\n\r\n",
    "authority for GET": b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "star and path": b"OPTIONS *x HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS to a plain port": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\0" * 30,
    # --- headers again
    "CR alone ends the head": GET + b"Host: a\r\r\n\r\n",
    "LF LF ends the head": GET + b"Host: a\r\n\n\n",
    "space in name": GET + HOST + b"X Y: 1\r\n\r\n",
    "NUL in name": GET + HOST + b"X\0Y: 1\r\n\r\n",
    "CR in name": GET + HOST + b"X\rY: 1\r\n\r\n",
    "slash in name": GET + HOST + b"X/Y: 1\r\n\r\n",
    "quote in name": GET + HOST + b'X"Y: 1\r\n\r\n',
    "brackets in name": GET + HOST + b"X[Y]: 1\r\n\r\n",
    "folding after the last header": GET + HOST + b" more\r\n\r\n",
    "folded length": POST + b"Content-Length:\r\n 3\r\n\r\nabc",
    "folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "DEL in value": GET + HOST + b"A: x\x7fy\r\n\r\n",
    "bell in value": GET + HOST + b"A: x\x07y\r\n\r\n",
    "CR in value": GET + HOST + b"A: x\ry\r\n\r\n",
    "LF in value": GET + HOST + b"A: x\ny\r\n\r\n",
    # --- Host again
    "Host with a comma": GET + b"Host: a, b\r\n\r\n",
    "Host with a query": GET + b"Host: a?b\r\n\r\n",
    "Host with a fragment": GET + b"Host: a#b\r\n\r\n",
    "Host with a backslash": GET + b"Host: a\\b\r\n\r\n",
    "Host with an escape": GET + b"Host: a%2fb\r\n\r\n",
    "Host with a scheme": GET + b"Host: http://a\r\n\r\n",
    "Host with two ports": GET + b"Host: a:80:81\r\n\r\n",
    "Host with a signed port": GET + b"Host: a:-1\r\n\r\n",
    "Host with a long port": GET + b"Host: a:1234567\r\n\r\n",
    "Host that is only a port": GET + b"Host: :80\r\n\r\n",
    "Host with an open bracket": GET + b"Host: [::1\r\n\r\n",
    "Host with high bytes": GET + b"Host: \xc3\xa9\r\n\r\n",
    "Host with a quote": GET + b"Host: a'b\r\n\r\n",
    "Host in HTTP/1.0 with a path": b"GET / HTTP/1.0\r\nHost: a/b\r\n\r\n",
    # --- length again
    "length with a fraction": POST + b"Content-Length: 3.0\r\n\r\nabc",
    "length with an exponent": POST + b"Content-Length: 3e0\r\n\r\nabc",
    "length with a semicolon": POST + b"Content-Length: 3;x\r\n\r\nabc",
    "length in quotes": POST + b'Content-Length: "3"\r\n\r\nabc',
    "length in Arabic digits": POST + "Content-Length: \u0663\r\n\r\nabc".encode(),
    "length with NUL": POST + b"Content-Length: 3\0\r\n\r\nabc",
    "length just beyond 64 bits": POST + b"Content-Length: 18446744073709551616\r\n\r\nabc",
    "length of a hundred digits": POST + b"Content-Length: " + b"9" * 100 + b"\r\n\r\nabc",
    "length before space and colon": POST + b"Content-Length : 3\r\n\r\nabc",
    "three lengths": POST + b"Content-Length: 3\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "zero and length": POST + b"Content-Length: 0\r\nContent-Length: 3\r\n\r\nabc",
    "lengths in both cases": POST + b"content-length: 3\r\nCONTENT-LENGTH: 4\r\n\r\nabcd",
    # --- transfer coding again
    "chunked with a parameter": POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "chunked, chunked": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "identity, chunked": POST + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "chunked, identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked and x in two headers":
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    "x and chunked in two headers":
        POST + b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a comma and chunked": POST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    "chunked and a comma": POST + b"Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n",
    "chunked with NUL": POST + b"Transfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n",
    "coding before space and colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "space before coding": POST + b" Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding of a GET that is none": GET + HOST + b"Transfer-Encoding: gzip\r\n\r\n",
    "length in HTTP/1.0 and chunked":
        b"POST / HTTP/1.0\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    # --- chunks again
    "chunk data ended by LF": CHUNKED + b"1\r\nx\n0\r\n\r\n",
    "chunk data ended by CR": CHUNKED + b"1\r\nx\r0\r\n\r\n",
    "chunk data without an end": CHUNKED + b"1\r\nx0\r\n\r\n",
    "last chunk ended by LF": CHUNKED + b"0\n\r\n",
    "end of chunks by LF": CHUNKED + b"1\r\nx\r\n0\r\n\n",
    "signed chunk": CHUNKED + b"+1\r\nx\r\n0\r\n\r\n",
    "chunk size with h": CHUNKED + b"1h\r\nx\r\n0\r\n\r\n",
    "chunk size in quotes": CHUNKED + b'"1"\r\nx\r\n0\r\n\r\n',
    "chunk size of zeros and no end": CHUNKED + b"0" * 40 + b"g\r\n\r\n",
    "tab after chunk size": CHUNKED + b"1\t\r\nx\r\n0\r\n\r\n",
    "NUL in chunk extension": CHUNKED + b"1;a\0b\r\nx\r\n0\r\n\r\n",
    "chunk size and comma": CHUNKED + b"1,1\r\nx\r\n0\r\n\r\n",
    "coding in trailer": CHUNKED + b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "folded trailer": CHUNKED + b"0\r\nX: 1\r\n 2\r\n\r\n",
    "trailer with LF": CHUNKED + b"0\r\nX: 1\nY: 2\r\n\r\n",
    "trailer without colon": CHUNKED + b"0\r\nX\r\n\r\n",
    "NUL in trailer": CHUNKED + b"0\r\nX: \0\r\n\r\n",
    "many one-byte chunks with long extensions": CHUNKED + (b"1;" + b"e" * 400 + b"\r\nx\r\n") * 400,
    # --- expectations again
    "two expectations": POST + b"Content-Length: 1\r\nExpect: 100-continue\r\nExpect: x\r\n\r\na",
    "expectation list": POST + b"Content-Length: 1\r\nExpect: 100-continue, x\r\n\r\na",
}  # fmt: skip


class Fine(NamedTuple):
    """Requests that are well-formed although they look odd, and what an application sees of them."""

    data: bytes
    seen: list[tuple[str, str, str]]  #: method, target, body


FINE = {
    "empty lines first": Fine(b"\r\n\r\nGET /echo HTTP/1.1\r\nHost: a\r\n\r\n", [("GET", "/echo", "")]),
    "names in odd cases": Fine(
        b"POST /echo HTTP/1.1\r\nhOsT: a\r\nCONTENT-length: 2\r\n\r\nab", [("POST", "/echo", "ab")]
    ),
    "length with zeros before it": Fine(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0002\r\n\r\nab", [("POST", "/echo", "ab")]
    ),
    "blanks around a value": Fine(
        b"POST /echo HTTP/1.1\r\nHost:   a \t\r\nContent-Length: \t2 \r\n\r\nab", [("POST", "/echo", "ab")]
    ),
    "coding in capitals": Fine(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        [("POST", "/echo", "ab")],
    ),
    "chunk size in capitals, with zeros": Fine(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n00A\r\n0123456789\r\n0\r\n\r\n",
        [("POST", "/echo", "0123456789")],
    ),
    "chunk extension": Fine(
        b'POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b;c="d"\r\nab\r\n0\r\n\r\n',
        [("POST", "/echo", "ab")],
    ),
    "trailers": Fine(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n",
        [("POST", "/echo", "ab")],
    ),
    "a body that looks like a request": Fine(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nGET /smuggled HTTP/1.1\r\nA: b\r\n",
        [("POST", "/echo", "GET /smuggled HTTP/1.1\r\nA: b\r\n")],
    ),
    "a chunk that looks like the end": Fine(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n",
        [("POST", "/echo", "0\r\n\r\n")],
    ),
    "a body for GET": Fine(
        b"GET /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", [("GET", "/echo", "ab")]
    ),
    "a whole URL": Fine(b"GET http://a/echo HTTP/1.1\r\nHost: a\r\n\r\n", [("GET", "/echo", "")]),
    "an upgrade nobody knows": Fine(
        b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: quantum/1\r\n\r\n",
        [("GET", "/echo", "")],
    ),
    "an upgrade with a body": Fine(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nab",
        [("POST", "/echo", "ab")],
    ),
    "an upgrade with a chunked body": Fine(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked"
        b"\r\n\r\n2\r\nab\r\n0\r\n\r\n",
        [("POST", "/echo", "ab")],
    ),
    "h2c without its settings": Fine(
        b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", [("GET", "/echo", "")]
    ),
    "h2c with settings that are none": Fine(
        b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA!\r\n\r\n",
        [("GET", "/echo", "")],
    ),
    "two upgrades": Fine(
        b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nUpgrade: websocket\r\n\r\n",
        [("GET", "/echo", "")],
    ),
}  # fmt: skip
