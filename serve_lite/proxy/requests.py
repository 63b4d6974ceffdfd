"""HTTP/1.1 requests out of bytes, strictly. Sans-I/O; `http1` is the connection around it.

llhttp (by httptools) cuts the bytes and is strict about most of what smuggling lives on: bare LF or CR,
folded headers, space before a colon, Content-Length given twice, or beside Transfer-Encoding, or not a
plain number, malformed chunks. Here is the rest: versions, transfer codings, Host, methods, targets,
limits. What is wrong anywhere ends the connection: after a framing error nobody knows where the next
request would begin.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import httptools

from serve_lite.proxy.exchange import NOTED, SMALL_BODY_BYTES, Exchange, is_valid_host
from serve_lite.proxy.options import ProxyOptions
from serve_lite.wire.messages import Headers

#: What llhttp knows besides (RTSP and others' methods) is no HTTP.
METHODS: Final = {
    name: name.decode()
    for name in (
        b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"TRACE",
        b"PROPFIND", b"PROPPATCH", b"MKCOL", b"COPY", b"MOVE", b"LOCK", b"UNLOCK", b"SEARCH",
        b"BIND", b"REBIND", b"UNBIND", b"ACL", b"REPORT", b"MKACTIVITY", b"CHECKOUT", b"MERGE",
        b"MKCALENDAR", b"LINK", b"UNLINK", b"PURGE", b"NOTIFY", b"SUBSCRIBE", b"UNSUBSCRIBE", b"QUERY",
    )
}  # fmt: skip

_FRAMING: Final = (b"host", b"connection", b"content-length", b"transfer-encoding", b"expect")
_WATCHED: Final = {**NOTED, **{name: name for name in _FRAMING}}
_CHUNK_OVERHEAD_BYTES: Final = 64 * 1024  #: chunk sizes, extensions and trailers beyond this ...
_CHUNK_OVERHEAD_RATIO: Final = 16  #: ... and beyond this many bytes for each byte of body are abuse
_KNOWN_HOSTS: Final = 256
SLICE_BYTES: Final = (
    16 * 1024
)  #: the most to feed at once, so that a flood is noticed before it is all parsed

_NO_PIECES: Final[list[bytes]] = []  # of requests that announce no body; never changed

BAD_REQUEST: Final = (400, "Bad Request")


class Http1Request(Exchange):
    """What the reader fills in. The connection's own class derives from it."""

    keeps_alive = True  #: the client may send another request on this connection
    is_complete = False  #: the body has come whole
    is_begun = False  #: given out by the reader
    pieces: list[bytes] = _NO_PIECES  #: body that has come and was not taken
    body_bytes = 0  #: of the body so far


R = TypeVar("R", bound=Http1Request)


class RequestReader(Generic[R]):
    """Feed bytes; take requests from `ready`.

    A request is ready when it is complete, or, with a body that is large, chunked or announced by
    `Expect`, as soon as its head is; then `streams_body` is set, and body pieces follow in `pieces`.

    After `refusal` or `handover` is set, feed nothing more.
    """

    def __init__(self, new_request: Callable[[], R], options: ProxyOptions) -> None:
        self.ready: list[R] = []
        self.current: R | None = None  #: its head has come and its body not yet
        self.refusal: tuple[int, str] | None = None  #: answer this after all that is ready, then close
        self.handover: bytes | None = None  #: an upgrade: head and what followed it, for somebody else
        self.upgrade = ""  #: to what: `websocket` or `h2c`
        self.rest = b""  #: the end of `handover` that followed the head
        self.has_partial_head = False
        self._new_request = new_request
        self._options = options
        self._max_headers = options.max_headers
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: Headers = []
        self._watched: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._wire_bytes = 0  #: of a chunked body, with its framing
        self._body_left = 0  #: of a body with a known length
        self._is_chunked = False
        self._hosts: set[bytes] = set()

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes, at most `SLICE_BYTES` unless `takes_whole`."""
        while True:
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                if self.refusal is None:
                    data = self._take_upgrade(self.ready.pop(), bytes(data[upgrade.args[0] :]))
                if self.is_over:
                    return
            except httptools.HttpParserError:
                if self.refusal is None:
                    self.refusal = BAD_REQUEST
                return
        current = self.current
        if current is not None:
            self._after_body_bytes(current, len(data))
        elif self._url:
            self._head_bytes += len(data)
            self.has_partial_head = True
            if self._head_bytes > self._options.max_header_bytes:
                self.refusal = (431, "Request Header Fields Too Large")

    def close(self) -> None:
        """Let go of the parser, which refers back to this."""
        del self._parser
        self.ready = []

    @property
    def is_over(self) -> bool:
        """Whether nothing more may be fed."""
        return self.refusal is not None or self.handover is not None

    def takes_whole(self, size: int) -> bool:
        """Whether the next `size` bytes are all of the current body, so that they need not be cut."""
        return self._body_left >= size and not self._is_chunked

    def _after_body_bytes(self, current: R, size: int) -> None:
        if self._is_chunked:
            self._wire_bytes += size
            allowed = _CHUNK_OVERHEAD_BYTES + _CHUNK_OVERHEAD_RATIO * current.body_bytes
            if self._wire_bytes - current.body_bytes > allowed:
                self.refusal = BAD_REQUEST
        if not current.is_begun and (
            self._is_chunked
            or current.expects_continue
            or self._body_left > SMALL_BODY_BYTES - current.body_bytes
        ):
            current.streams_body = True
            current.is_begun = True
            self.ready.append(current)

    # --- called by the parser -------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        value = value.strip()
        self._headers.append((name, value))
        watched = _WATCHED.get(name)
        if watched is not None:
            before = self._watched.get(watched)
            self._watched[watched] = value if before is None else before + b", " + value

    def on_headers_complete(self) -> None:
        request = self._new_request()
        parser, watched = self._parser, self._watched
        request.headers = self._headers
        target = request.target = self._url
        method = parser.get_method()
        if method not in METHODS:
            self._refuse(501, "Not Implemented")
        request.method = METHODS[method]
        host = watched.pop(b"host", None)
        if not parser.should_keep_alive() or watched:
            self._read_framing(request, watched)
        if host not in self._hosts:
            self._check_host(host, request.http_version)
        if target[0] != 0x2F or b"#" in target:
            self._read_odd_target(request, host)
        if len(request.headers) > self._max_headers or self._is_head_too_large(request):
            self._refuse(431, "Request Header Fields Too Large")
        if watched:
            request.noted = watched
            self._watched = {}
        self._url = b""
        self._headers = []  # trailers go there and are dropped
        self._head_bytes = 0
        self.has_partial_head = False
        self.current = request

    def on_body(self, data: bytes) -> None:
        current = self.current
        assert current is not None
        current.pieces.append(data)
        current.body_bytes += len(data)
        self._body_left -= len(data)
        limit = self._options.max_body_bytes
        if limit is not None and current.body_bytes > limit:
            self._refuse(413, "Content Too Large")

    def on_message_complete(self) -> None:
        current = self.current
        assert current is not None
        current.is_complete = True
        self.current = None
        if self._is_chunked:
            self._is_chunked = False
            self._wire_bytes = 0
            self._headers.clear()
            self._watched.clear()
        if not current.is_begun:
            if current.pieces:
                current.body = b"".join(current.pieces)
            current.is_begun = True
            self.ready.append(current)

    # --- the odd cases --------------------------------------------------------------------------

    def _read_framing(self, request: R, watched: dict[bytes, bytes]) -> None:
        """Look at version, connection and body headers; take them out of `watched`."""
        version = request.http_version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._refuse(505, "HTTP Version Not Supported")
        connection = watched.pop(b"connection", b"").lower()
        tokens = [token.strip() for token in connection.split(b",")] if connection else ()
        request.keeps_alive = b"close" not in tokens and (version == "1.1" or b"keep-alive" in tokens)
        coding = watched.pop(b"transfer-encoding", None)
        length = watched.pop(b"content-length", None)
        expect = watched.pop(b"expect", None)
        if coding is not None:
            if coding.lower() != b"chunked" or version == "1.0":
                self._refuse(*BAD_REQUEST)
            self._is_chunked = True
        if length is not None:
            self._body_left = int(length)
            limit = self._options.max_body_bytes
            if limit is not None and self._body_left > limit:
                self._refuse(413, "Content Too Large")
        if length is not None or coding is not None:
            request.pieces = []
        if expect is not None and version == "1.1":
            if expect.lower() != b"100-continue":
                self._refuse(417, "Expectation Failed")
            request.expects_continue = length is not None or coding is not None

    def _is_head_too_large(self, request: R) -> bool:
        limit = self._options.max_header_bytes
        if self._head_bytes + SLICE_BYTES <= limit:
            return False
        return (
            len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers) > limit
        )

    def _check_host(self, host: bytes | None, version: str) -> None:
        if host is None:
            if version == "1.1":
                self._refuse(*BAD_REQUEST)
        elif not is_valid_host(host):
            self._refuse(*BAD_REQUEST)
        elif len(self._hosts) < _KNOWN_HOSTS:
            self._hosts.add(host)

    def _read_odd_target(self, request: R, host: bytes | None) -> None:
        """Take a target that is not a plain path: `*`, or a whole URL as clients send it to proxies."""
        scheme, separator, rest = request.target.partition(b"://")
        if request.target == b"*" and request.method == "OPTIONS":
            return
        if b"#" in request.target or not separator or scheme.lower() not in (b"http", b"https"):
            self._refuse(*BAD_REQUEST)
        end = next((i for i in range(len(rest)) if rest[i : i + 1] in b"/?"), len(rest))
        if rest[:end].lower() != (host or b"").lower():
            self._refuse(*BAD_REQUEST)  # two different hosts in one request
        path = rest[end:]
        request.target = path if path.startswith(b"/") else b"/" + path

    def _refuse(self, status: int, text: str) -> None:
        """End the reading from inside the parser."""
        self.refusal = (status, text)
        raise ValueError(text)

    def _take_upgrade(self, request: R, rest: bytes) -> bytes:
        """Hand over what is asked properly; return what to read again of any other request, which loses its wish.

        The parser takes the end of a head that asks for an upgrade for the end of the request, and skips the body.
        """
        protocol = asked_upgrade(request)
        if protocol == "websocket" and not is_handshake(request.headers):
            self.refusal = BAD_REQUEST
            return b""
        if protocol:
            self.upgrade, self.rest = protocol, rest
            self.handover = render_head(request, connection=_UPGRADES[protocol]) + rest
            return b""
        self._parser = httptools.HttpRequestParser(self)
        self._body_left, self._is_chunked = 0, False
        connection = [value for name, value in request.headers if name == b"connection"]
        tokens = [token.strip() for token in b",".join(connection).split(b",")]
        kept = b", ".join(token for token in tokens if token.lower() != b"upgrade")
        request.headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
        return render_head(request, connection=kept) + rest


_UPGRADES: Final = {"websocket": b"Upgrade", "h2c": b"Upgrade, HTTP2-Settings"}
_BODY_HEADERS: Final = frozenset((b"content-length", b"transfer-encoding"))


def asked_upgrade(request: Http1Request) -> str:
    """Return the protocol that a request may change to: `websocket`, `h2c`; "" if it asks for none properly."""
    headers = request.headers
    asked = [value for name, value in headers if name == b"upgrade"]
    if len(asked) != 1 or request.http_version != "1.1" or any(name in _BODY_HEADERS for name, _ in headers):
        return ""
    protocol = asked[0].lower()
    if protocol == b"websocket" and request.method == "GET":
        return "websocket"
    settings = [value for name, value in headers if name == b"http2-settings"]
    if protocol == b"h2c" and len(settings) == 1 and _is_settings(settings[0]):
        return "h2c"
    return ""


def is_handshake(headers: Headers) -> bool:
    """Whether the headers of a WebSocket's handshake are what they must be (RFC 6455, section 4.1)."""
    told: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name.startswith(b"sec-websocket-"):
            if not value.isascii():
                return False
            told.setdefault(name, []).append(value)
    keys, versions = told.get(b"sec-websocket-key", []), told.get(b"sec-websocket-version", [])
    try:
        return versions == [b"13"] and len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16
    except ValueError:
        return False


def _is_settings(value: bytes) -> bool:
    """Whether a value is the payload of an HTTP/2 SETTINGS frame in base64 (RFC 7540, section 3.2.1)."""
    try:
        return len(base64.b64decode(value + b"=" * (-len(value) % 4), b"-_", validate=True)) % 6 == 0
    except ValueError:
        return False


def render_head(request: Http1Request, *, connection: bytes | None = None) -> bytes:
    """Return the head of a request as bytes, for another parser.

    Args:
        connection: stands in place of all `Connection` headers; empty: there will be none. None: they stay.
    """
    lines = [f"{request.method} ".encode(), request.target, f" HTTP/{request.http_version}\r\n".encode()]
    for name, value in request.headers:
        if connection is not None and name == b"connection":
            value, connection = connection, b""
            if not value:
                continue
        lines += (name, b": ", value, b"\r\n")
    return b"".join((*lines, b"\r\n"))
