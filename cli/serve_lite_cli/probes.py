"""Bytes sent to a door, and what comes back, for `serve security-check`: requests that no HTTP client would send."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from typing import Any

import msgspec

PATIENCE_S = 5.0  #: for one answer of a door
_MOST_BYTES = 4 * 2**20  #: that are read of an answer


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """Where a listener is."""

    name: str
    host: str
    port: int
    has_tls: bool = False

    @property
    def authority(self) -> str:
        """What a browser that was sent here would put into Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a door has answered to some bytes, until it closed or said no more."""

    statuses: tuple[int, ...]  #: of all answers
    headers: str  #: of the first answer, in lower case
    text: str  #: everything
    has_closed: bool  #: the connection was ended by the door

    @property
    def status(self) -> int:
        """Of the first answer; 0 if there was none."""
        return self.statuses[0] if self.statuses else 0


def request(
    door: Door, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    """Return the bytes of a request that ends its connection. A header that is given takes the usual one's place."""
    usual = {"host": door.authority, "connection": "close", "content-length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in {**usual, **(headers or {})}.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def ask(door: Door, data: bytes) -> Reply:
    """Send bytes to a door and return what comes back.

    Raises:
        OSError: nobody listens there.
    """
    heard, has_closed = b"", True
    with _connect(door) as sock:
        try:
            sock.sendall(data)
            while len(heard) < _MOST_BYTES and (piece := sock.recv(65536)):
                heard += piece
        except TimeoutError:
            has_closed = False
        except ConnectionError:  # it was cut off while we were sending, or with bytes unread
            has_closed = True
    text = heard.decode("latin-1")
    answers = text.split("HTTP/1.1 ")[1:]
    statuses = tuple(int(answer[:3]) for answer in answers if answer[:3].isdigit())
    return Reply(
        statuses=statuses,
        headers=text.partition("\r\n\r\n")[0].lower(),
        text=text,
        has_closed=has_closed,
    )


def _connect(door: Door) -> socket.socket:
    sock: Any = socket.create_connection((door.host, door.port), timeout=PATIENCE_S)
    if not door.has_tls:
        return sock  # type: ignore[no-any-return]
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # who it is is not the question
    try:
        return context.wrap_socket(sock, server_hostname=door.host)
    except BaseException:
        sock.close()
        raise
