"""Header fields of gRPC: those of a request read and checked, those of an answer written. Pure.

The rules are those of RFC 9113, section 8, and of gRPC's "PROTOCOL-HTTP2". What breaks the former is no request at
all; what breaks the latter is answered with a status.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import quote

from serve_lite.proxy.h2_headers import Headers
from serve_lite.proxy.h2_wire import field, field_name, text
from serve_lite.wire.grpc_status import ENCODINGS, INVALID_ARGUMENT
from serve_lite.wire.messages import Metadata

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(rb"[^\0\r\n]*")
_TEXT: Final = re.compile(rb"[ -~]*")
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_OF_CONNECTIONS: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_ONCE: Final = frozenset((b"te", b"content-length", b"content-type", b"grpc-timeout", b"grpc-encoding"))
_NOT_METADATA: Final = frozenset((b"te", b"content-type", b"content-length", b"host"))
_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path"))
_CONTENT_TYPE: Final = re.compile(rb"application/grpc([+;].*)?")
_SAFE_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._~:@/+=-]{1,200}")
_UNQUOTED: Final = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")


class GrpcRequestError(Exception):
    """The client's request is no gRPC. Answered with this status."""

    def __init__(self, code: int, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


class MalformedHeadersError(Exception):
    """The header fields break the rules of HTTP/2."""


class RequestHead:
    """The header fields of one request, or of several that are alike. Of a name that comes twice the first one counts.

    Raises:
        MalformedHeadersError: they break the rules of HTTP/2.
    """

    __slots__ = (
        "_first", "_metadata", "content_length", "content_type", "fields", "http_refusal", "method", "path",
        "readable_encodings", "size",
    )  # fmt: skip

    def __init__(self, headers: Headers) -> None:
        first: dict[bytes, bytes] = {}
        fields: Headers = []
        size = 0
        for name, value in headers:
            size += len(name) + len(value) + 32
            if name[:1] == b":":
                if fields or name in first or name not in _PSEUDO:
                    raise MalformedHeadersError
            elif _NAME.fullmatch(name) is None or name in _OF_CONNECTIONS:
                raise MalformedHeadersError
            else:
                fields.append((name, value))
            if _VALUE.fullmatch(value) is None:
                raise MalformedHeadersError
            if name not in first:
                first[name] = value
            elif name in _ONCE and value != first[name]:
                raise MalformedHeadersError
        if b":scheme" not in first or not first.get(b":path") or b":method" not in first:
            raise MalformedHeadersError
        if first.get(b"te", b"trailers").lower() != b"trailers":
            raise MalformedHeadersError
        length = first.get(b"content-length")
        if length is not None and not length.isdigit():
            raise MalformedHeadersError
        self._first = first
        self.size = size  #: as `SETTINGS_MAX_HEADER_LIST_SIZE` counts
        self.fields = fields  #: without those that begin with a colon
        self.method = first[b":method"]
        self.path = first[b":path"].decode("latin-1")
        self.content_type = first.get(b"content-type", b"")
        self.content_length = None if length is None else int(length)
        self.http_refusal = 0  #: the HTTP status for what is no gRPC request at all; 0 if it is one
        if self.method != b"POST":
            self.http_refusal = 405
        elif not _CONTENT_TYPE.fullmatch(self.content_type):
            self.http_refusal = 415
        #: what the client can read compressed answers with
        self.readable_encodings = self.noted(b"grpc-accept-encoding").replace(" ", "").split(",")
        self._metadata: Metadata | None = None

    def noted(self, name: bytes) -> str:
        """Return a text that Serve itself looks at, "" if it is not there."""
        value = self._first.get(name)
        return "" if value is None else value.decode("latin-1")

    def with_fields(self, fields: Headers) -> RequestHead:
        """Return the head with other metadata; what Serve itself looks at stays as it was."""
        other = object.__new__(RequestHead)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other.fields, other._metadata = fields, None
        return other

    @property
    def request_id(self) -> str:
        """The id that the client gave, "" if it gave none or one that could do harm in a log."""
        given = self._first.get(b"request_id")
        return given.decode() if given is not None and _SAFE_REQUEST_ID.fullmatch(given) else ""

    @property
    def encoding(self) -> str:
        """What compressed messages of the request are compressed with."""
        return self.noted(b"grpc-encoding")

    def timeout_s(self) -> float | None:
        """Return how long the client will wait; None: as long as it takes.

        Raises:
            GrpcRequestError: the header is malformed.
        """
        given = self._first.get(b"grpc-timeout")
        if given is None:
            return None
        found = _TIMEOUT.fullmatch(given)
        if found is None:
            raise GrpcRequestError(
                INVALID_ARGUMENT,
                f"The header grpc-timeout is {given.decode('latin-1')!r}, which is no time.",
            )
        return int(found[1]) * _UNITS[found[2]]

    def metadata(self) -> Metadata:
        """Return what the client sent as metadata, in order. Not to be changed: the same request may come again.

        Raises:
            GrpcRequestError: it cannot be read.
        """
        if self._metadata is not None:
            return self._metadata
        found: Metadata = []
        for name, value in self.fields:
            if name in _NOT_METADATA or name[:5] == b"grpc-":
                continue
            if name[-4:] == b"-bin":
                found += [(name.decode(), _binary(name, piece)) for piece in value.split(b",")]
            elif _TEXT.fullmatch(value):
                found.append((name.decode(), value))
            else:
                raise GrpcRequestError(
                    INVALID_ARGUMENT, f"The metadata {name.decode()!r} is not printable ASCII text."
                )
        self._metadata = found
        return found


def read_head(headers: Headers) -> RequestHead | None:
    """Return a request's head, None if its fields break the rules of HTTP/2."""
    try:
        return RequestHead(headers)
    except MalformedHeadersError:
        return None


def _binary(name: bytes, value: bytes) -> bytes:
    value = value.strip()
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise GrpcRequestError(INVALID_ARGUMENT, f"The metadata {name.decode()!r} is not base64.") from None


# --- answers --------------------------------------------------------------------------------------

_STATUS_200: Final = b"\x88"  #: `:status: 200`, from the table that every HTTP/2 endpoint knows
_ACCEPT_ENCODING: Final = field(b"grpc-accept-encoding", ",".join(ENCODINGS).encode())
_ENCODING: Final = {name: field(b"grpc-encoding", name.encode()) for name in ENCODINGS[1:]}
_STATUS: Final = tuple(field(b"grpc-status", b"%d" % code) for code in range(17))
_MESSAGE: Final = field_name(b"grpc-message")
_REQUEST_ID: Final = field_name(b"request_id")

_PLAIN: Final = b"application/grpc"


def _opening(content_type: bytes) -> bytes:
    return _STATUS_200 + field(b"content-type", content_type) + _ACCEPT_ENCODING


_PLAIN_OPENING: Final = _opening(_PLAIN)


def opening(content_type: bytes, encoding: str = "", initial: Metadata | None = None) -> bytes:
    """Return the block that begins an answer.

    Args:
        content_type: the request's.
        encoding: what compressed messages will be compressed with.
        initial: metadata of the handler.
    """
    block = _PLAIN_OPENING if content_type == _PLAIN else _opening(content_type)
    if encoding:
        block += _ENCODING[encoding]
    return block + _fields(initial) if initial else block


def ending(code: int, details: str, request_id: str, trailing: Metadata | None = None) -> bytes:
    """Return the block that ends an answer: its status, the request id, and metadata of the handler."""
    block = _STATUS[code]
    if details:
        block += _MESSAGE + text(quote(details, safe=_UNQUOTED).encode())
    block += _REQUEST_ID + text(request_id.encode())
    return block + _fields(trailing) if trailing else block


def http_status(status: int) -> bytes:
    """Return the block that answers what is no gRPC request."""
    return field(b":status", b"%d" % status)


def _fields(metadata: Metadata) -> bytes:
    return b"".join(
        field(
            name.encode("ascii"),
            base64.b64encode(value).rstrip(b"=") if name.endswith("-bin") else value,
        )
        for name, value in metadata
    )
