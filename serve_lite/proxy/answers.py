"""How long an answer is, and whether that may be believed. Pure but for the clock of the Date header.

An answer that is longer or shorter than it announces would be read as the beginning, or the lack, of the
next one on the same connection, so the announced length is checked against the body.
"""

from __future__ import annotations

import time
from typing import Final

from serve_lite.proxy.exchange import Buffer
from serve_lite.wire.messages import Headers

TEXT: Final = b"content-type: text/plain; charset=utf-8\r\n"
JSON: Final = b"content-type: application/json\r\n"
INTERNAL_ERROR: Final = "Internal Server Error"

_LENGTH: Final = b"content-length:"


def settle_length(method: str, status: int, headers: bytes, body: Buffer) -> tuple[int, bytes, bytes, Buffer]:
    """Return status, headers, the content-length line to add, and the body to send, for a whole answer."""
    length = b"content-length: %d\r\n" % len(body)
    declared = headers.count(_LENGTH)
    if method != "HEAD" and status >= 200 and status != 204 and status != 304:
        if declared == 0:
            return status, headers, length, body
        if declared == 1 and (headers.startswith(length) or b"\n" + length in headers):
            return status, headers, b"", body
        announced = declared_length(headers)
        if announced is None:
            return status, headers, length, body
        if announced == len(body):
            return status, headers, b"", body
    elif status >= 200:
        keeps = status in (204, 304) or declared_length(headers) is not None
        return status, headers, b"" if keeps else length, b""
    # A length that is not the body's, or an interim status: no honest answer can be made of that.
    return 500, TEXT, b"content-length: %d\r\n" % len(INTERNAL_ERROR), INTERNAL_ERROR.encode()


def declared_length(headers: bytes) -> int | None:
    """Return the content-length in a header block, None if there is none; -1 for one that makes no sense."""
    if _LENGTH not in headers:
        return None
    values = [line[len(_LENGTH) :].strip() for line in headers.split(b"\r\n") if line.startswith(_LENGTH)]
    if not values:
        return None
    return int(values[0]) if len(values) == 1 and values[0].isdigit() else -1


def takes_trailers(headers: Headers) -> bool:
    """Whether a client with these request headers has said that it takes trailers (RFC 9110, section 6.5.1)."""
    return any(
        token.strip().lower() == b"trailers"
        for name, value in headers
        if name == b"te"
        for token in value.split(b",")
    )


_date = (0, b"")


def date_line() -> bytes:
    """Return the Date header; formatted once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, time.strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(now)).encode())
    return _date[1]
