"""One gRPC request on an HTTP/2 stream: its headers read, messages in and out of it, its status written.

grpclib speaks HTTP/2; what gRPC adds is here, with raw bytes for messages: nothing of ours decodes them.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
import zlib
from typing import Final
from urllib.parse import quote

from grpclib.metadata import decode_timeout
from grpclib.protocol import Stream

from serve_lite.wire.frames import Buffer
from serve_lite.wire.grpc_status import ENCODINGS, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED
from serve_lite.wire.messages import Metadata

MAX_MESSAGE_BYTES: Final = 2**31 - 1

_HEAD_BYTES: Final = 5  #: of a message: one byte whether it is compressed, four its length
_WINDOW_BITS: Final = {"deflate": zlib.MAX_WBITS, "gzip": zlib.MAX_WBITS | 16}
_NOT_METADATA: Final = {"te", "content-type"}
_UNQUOTED: Final = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")
_SAFE_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._~:@/+=-]{1,200}")
_TEXT: Final = re.compile(r"[ -~]*")


class GrpcRequestError(Exception):
    """The client's request is no gRPC. Answered with this status."""

    def __init__(self, code: int, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


class GrpcExchange:
    """One request and the way to answer it: any number of `send`, then `finish`."""

    def __init__(self, stream: Stream, headers: list[tuple[str, str]], new_request_id: str) -> None:
        self.started = time.monotonic()
        self.sent_bytes = 0  #: of messages to the client, as they were before any compression
        self._stream = stream
        self.headers = headers
        self._first = dict(reversed(headers))  # of a name that comes twice the first
        self._has_answered = False
        self._encoding = 0  #: what compressed messages are; told at the start
        given = self._first.get("request_id", "")
        self.request_id = given if _SAFE_REQUEST_ID.fullmatch(given) else new_request_id
        self.path = self._first.get(":path", "")

    @property
    def http_refusal(self) -> int:
        """The HTTP status for what is no gRPC request at all; 0 if it is one."""
        if self._first.get(":method") != "POST":
            return 405
        if not re.fullmatch(r"application/grpc([+;].*)?", self._first.get("content-type", "")):
            return 415
        return 0

    def timeout_s(self) -> float | None:
        """Return how long the client will wait; None: as long as it takes.

        Raises:
            GrpcRequestError: the header is malformed.
        """
        given = self._first.get("grpc-timeout")
        if given is None:
            return None
        try:
            return decode_timeout(given)
        except ValueError:
            raise GrpcRequestError(
                INVALID_ARGUMENT, f"The header grpc-timeout is {given!r}, which is no time."
            ) from None

    def metadata(self) -> Metadata:
        """Return what the client sent as metadata, in order.

        Raises:
            GrpcRequestError: it cannot be read.
        """
        found: Metadata = []
        for name, value in self.headers:
            if name.startswith((":", "grpc-")) or name in _NOT_METADATA:
                continue
            if name.endswith("-bin"):
                found += [(name, _binary(name, piece)) for piece in value.split(",")]
            elif _TEXT.fullmatch(value):
                found.append((name, value.encode("ascii")))
            else:
                raise GrpcRequestError(
                    INVALID_ARGUMENT, f"The metadata {name!r} is not printable ASCII text."
                )
        return found

    def noted(self, name: str) -> str:
        """Return a text that Serve itself looks at, "" if it is not there."""
        return self._first.get(name, "")

    def peer(self) -> str:
        """Return where the client is, as gRPC writes it."""
        address = self._stream.connection.get_peer().addr()
        if not address:
            return ""
        host = f"ipv6:[{address[0]}]" if ":" in address[0] else f"ipv4:{address[0]}"
        return f"{host}:{address[1]}"

    def client_host(self) -> str:
        """Return the address that the client has; "" if it has none."""
        address = self._stream.connection.get_peer().addr()
        return str(address[0]) if address else ""

    async def receive(self) -> bytes | None:
        """Return the client's next message, None after the last one.

        Raises:
            GrpcRequestError: it cannot be read.
        """
        try:
            return await self._receive()
        except AssertionError:  # grpclib's word for it
            raise GrpcRequestError(INVALID_ARGUMENT, "The request ended within a message.") from None

    async def _receive(self) -> bytes | None:
        head = await self._stream.recv_data(_HEAD_BYTES)
        if not head:
            return None
        size = int.from_bytes(head[1:], "big")
        if size > MAX_MESSAGE_BYTES:
            raise GrpcRequestError(
                RESOURCE_EXHAUSTED,
                f"A message of {size} bytes is larger than the {MAX_MESSAGE_BYTES} allowed.",
            )
        data = await self._stream.recv_data(size)
        return self._inflated(data) if head[0] else data

    async def send(self, message: Buffer, compression: int) -> None:
        """Send one message; waits while the client is slow."""
        await self._start(compression)
        self.sent_bytes += len(message)
        flag = b"\0"
        if compression and compression == self._encoding:
            deflate = zlib.compressobj(wbits=_WINDOW_BITS[ENCODINGS[compression]])
            message = deflate.compress(message) + deflate.flush()
            flag = b"\1"
        await self._stream.send_data(b"".join((flag, len(message).to_bytes(4, "big"), message)))

    async def finish(self, code: int, details: str = "", trailing: Metadata | None = None) -> None:
        """End the answer with a status. The request id goes with it."""
        headers = [] if self._has_answered else self._opening()
        self._has_answered = True
        headers.append(("grpc-status", str(code)))
        if details:
            headers.append(("grpc-message", quote(details, safe=_UNQUOTED)))
        headers.append(("request_id", self.request_id))
        for name, value in trailing or ():
            is_binary = name.endswith("-bin")
            headers.append(
                (name, base64.b64encode(value).rstrip(b"=").decode() if is_binary else value.decode())
            )
        await self._stream.send_headers(headers, end_stream=True)
        if self._stream.closable:  # the client has more to say, which nobody would read
            self._stream.reset_nowait()

    async def refuse_http(self, status: int) -> None:
        """Answer what is no gRPC request."""
        self._has_answered = True
        await self._stream.send_headers([(":status", str(status))], end_stream=True)
        if self._stream.closable:
            self._stream.reset_nowait()

    async def _start(self, compression: int) -> None:
        if self._has_answered:
            return
        self._has_answered = True
        headers = self._opening()
        readable = self.noted("grpc-accept-encoding").replace(" ", "").split(",")
        if compression and ENCODINGS[compression] in readable:
            self._encoding = compression
            headers.append(("grpc-encoding", ENCODINGS[compression]))
        await self._stream.send_headers(headers)

    def _opening(self) -> list[tuple[str, str]]:
        return [
            (":status", "200"),
            ("content-type", self._first["content-type"]),
            ("grpc-accept-encoding", ",".join(ENCODINGS)),
        ]

    def _inflated(self, data: bytes) -> bytes:
        name = self.noted("grpc-encoding")
        if name not in _WINDOW_BITS:
            raise GrpcRequestError(UNIMPLEMENTED, f"Messages compressed with {name!r} cannot be read.")
        inflate = zlib.decompressobj(wbits=_WINDOW_BITS[name])
        try:
            plain = inflate.decompress(data, MAX_MESSAGE_BYTES)
        except zlib.error as error:
            raise GrpcRequestError(INVALID_ARGUMENT, f"A message is no valid {name} data: {error}.") from None
        if not inflate.eof:
            raise GrpcRequestError(
                RESOURCE_EXHAUSTED, f"A message is cut, or larger than the {MAX_MESSAGE_BYTES} bytes allowed."
            )
        return plain


def _binary(name: str, value: str) -> bytes:
    try:
        return base64.b64decode(value.strip() + "=" * (-len(value.strip()) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise GrpcRequestError(INVALID_ARGUMENT, f"The metadata {name!r} is not base64.") from None
