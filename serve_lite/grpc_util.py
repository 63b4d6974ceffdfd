"""What handlers of gRPC requests get besides the message: the context, and the messages of a streaming client."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from serve_lite.wire import grpc_status

__all__ = ["RayServegRPCContext", "gRPCInputStream"]

_NAME = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[ -~]*")
_DETAILS = "grpc-status-details-bin"  #: where `google.rpc.Status` travels
_OF_HTTP = frozenset(
    (
        "connection", "content-length", "content-type", "keep-alive", "proxy-connection", "te", "transfer-encoding",
        "upgrade",
    )
)  # fmt: skip

_IDENTITY_KEYS = ("x509_subject_alternative_name", "x509_common_name")  #: as grpcio prefers them

#: name and value; bytes where the name ends with "-bin"
MetadataPair = tuple[str, str | bytes]


class RayServegRPCContext:
    """What a gRPC handler may know of its request, and set for its answer. Can be pickled.

    A method gets it if it has a parameter `grpc_context`. What it sets is sent when it has returned, raised, or
    ended its stream: a code set here survives an exception. There is no `abort`: raise an exception instead.
    """

    def __init__(
        self,
        invocation_metadata: Iterable[MetadataPair] = (),
        *,
        request_id: str = "",
        application: str = "",
        peer: str = "",
        multiplexed_model_id: str = "",
        traceparent: str = "",
        readable_encodings: Iterable[str] = (),
        certificate: Mapping[str, Iterable[str]] = MappingProxyType({}),
    ) -> None:
        self._invocation_metadata = list(invocation_metadata)
        self._request_id = request_id
        self._application = application
        self._peer = peer
        self._model_id = multiplexed_model_id
        self._traceparent = traceparent
        self._code: Any = None
        self._details: str | None = None
        self._trailing: list[MetadataPair] = []
        self._compression: Any = None
        self._readable = frozenset(readable_encodings)
        self._encoding: int | None = None  #: that the answer's messages may have; decided with the first one
        self._initial: list[MetadataPair] = []
        self._identities = {key: [name.encode() for name in names] for key, names in certificate.items()}

    # --- the request ---

    def invocation_metadata(self) -> list[MetadataPair]:
        """Return what the client sent, in order."""
        return list(self._invocation_metadata)

    def request_id(self) -> str:
        """Return the id that the client gave or that was made; the answer carries it as metadata `request_id`."""
        return self._request_id

    def application(self) -> str:
        """Return the name of the application that answers."""
        return self._application

    def multiplexed_model_id(self) -> str:
        """Return the metadata `multiplexed_model_id`, "" if there is none."""
        return self._model_id

    def traceparent(self) -> str:
        """Return the metadata `traceparent`, "" if there is none."""
        return self._traceparent

    def tracestate(self) -> str:
        """Return the metadata `tracestate`, "" if there is none."""
        return next((str(v) for k, v in self._invocation_metadata if k == "tracestate"), "")

    def peer(self) -> str:
        """Return where the client is, for example `ipv4:127.0.0.1:50000`."""
        return self._peer

    def auth_context(self) -> dict[str, list[bytes]]:
        """Return the names in the certificate that the client has shown, as grpcio has them; empty without one.

        Keys: `transport_security_type`, `x509_common_name`, `x509_subject_alternative_name`.
        """
        return {key: list(names) for key, names in self._identities.items()}

    def peer_identities(self) -> list[bytes] | None:
        """Return who the client is by its certificate, None without one."""
        key = self.peer_identity_key()
        return None if key is None else list(self._identities[key])

    def peer_identity_key(self) -> str | None:
        """Return the key in `auth_context` of `peer_identities`, None without a certificate."""
        return next((key for key in _IDENTITY_KEYS if key in self._identities), None)

    # --- the answer ---

    def code(self) -> Any:
        """Return what `set_code` was given, None if nothing."""
        return self._code

    def details(self) -> str | None:
        """Return what `set_details` was given, None if nothing."""
        return self._details

    def trailing_metadata(self) -> list[MetadataPair]:
        """Return what will be sent after the answer; the request id comes first."""
        return [("request_id", self._request_id), *self._trailing]

    def set_code(self, code: Any) -> None:
        """Set the status: a `grpc.StatusCode` or its number.

        Raises:
            ValueError: it is no status.
        """
        _number_of(code)
        self._code = code

    def set_details(self, details: str) -> None:
        """Set the text that comes with the status."""
        if not isinstance(details, str):
            raise TypeError(f"The details of a gRPC status must be text, not {details!r}.")
        self._details = details

    def set_trailing_metadata(self, trailing_metadata: Iterable[MetadataPair]) -> None:
        """Set what is sent after the answer, besides the request id.

        Raises:
            ValueError: a name or value cannot be sent.
        """
        pairs = [_checked(pair) for pair in trailing_metadata]
        self._trailing = [pair for pair in pairs if pair[0] != "request_id"]

    def set_initial_metadata(self, initial_metadata: Iterable[MetadataPair]) -> None:
        """Set what is sent before the first message, or before the status if there is none. Ray Serve cannot do this.

        Raises:
            ValueError: a name or value cannot be sent.
        """
        self._initial = [_checked(pair) for pair in initial_metadata]

    def set_compression(self, compression: Any) -> None:
        """Have messages compressed from now on: a `grpc.Compression`. A client that cannot read it gets plain ones.

        Raises:
            ValueError: it is no compression.
        """
        if compression is not None and compression not in range(len(grpc_status.ENCODINGS)):
            raise ValueError(
                f"{compression!r} is no compression; use one of grpc.Compression: NoCompression, Deflate, Gzip."
            )
        self._compression = compression


class gRPCInputStream:  # noqa: N801  (Ray Serve's name)
    """The messages of a client that streams, in order: `async for message in stream`.

    A method of a client-streaming or bidirectional call gets it in the place of the message.
    """

    def __init__(self, receive: Callable[[], Awaitable[Any]], end: object) -> None:
        self._receive = receive
        self._end = end
        self._is_exhausted = False
        self._is_cancelled = False

    @property
    def is_exhausted(self) -> bool:
        """Whether the client's last message was read."""
        return self._is_exhausted

    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Read nothing more; iterating ends."""
        self._is_cancelled = True

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._is_cancelled or self._is_exhausted:
            raise StopAsyncIteration
        message = await self._receive()
        if message is self._end:
            self._is_exhausted = True
            raise StopAsyncIteration
        return message


def code_of(context: RayServegRPCContext) -> int | None:
    """Return the number of the code that was set, None if none was."""
    return None if context._code is None else _number_of(context._code)


def encoding_for(context: RayServegRPCContext) -> int:
    """Return the number of the compression for the next message, 0 for none.

    An answer has one encoding, which its header names: what was set for the first message, if the client can read it.
    Later messages have that or none.
    """
    wanted = 0 if context._compression is None else int(context._compression)
    if context._encoding is None:
        context._encoding = wanted if grpc_status.ENCODINGS[wanted] in context._readable else 0
    return wanted if wanted == context._encoding else 0


def trailing_of(context: RayServegRPCContext) -> list[tuple[str, bytes]]:
    """Return the metadata for after the answer, as it travels."""
    return _as_bytes(context._trailing) if context._trailing else []


def initial_of(context: RayServegRPCContext) -> list[tuple[str, bytes]]:
    """Return the metadata for before the answer, as it travels: only the first time, for it is sent once."""
    if not context._initial:
        return []
    initial, context._initial = context._initial, []
    return _as_bytes(initial)


def _as_bytes(pairs: list[MetadataPair]) -> list[tuple[str, bytes]]:
    return [(name, v if isinstance(v, bytes) else v.encode("ascii")) for name, v in pairs]


def number_of(code: Any) -> int | None:
    """Return the number of a `grpc.StatusCode` or of what stands for one; None if it is none."""
    value = getattr(code, "value", code)  # an enum's: grpcio's holds a pair, grpclib's a number
    if isinstance(value, tuple) and value:
        value = value[0]
    is_known = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(grpc_status.NAMES)
    return value if is_known else None


def _number_of(code: Any) -> int:
    number = number_of(code)
    if number is None:
        raise ValueError(f"{code!r} is no gRPC status; use a grpc.StatusCode.")
    return number


def _checked(pair: Any) -> MetadataPair:
    try:
        name, value = pair
    except (TypeError, ValueError):
        raise ValueError(f"Metadata is a list of pairs of name and value, and {pair!r} is none.") from None
    is_name = isinstance(name, str) and _NAME.fullmatch(name) is not None and name not in _OF_HTTP
    if not is_name or (name.startswith("grpc-") and name != _DETAILS):
        raise ValueError(
            f"{name!r} is no name of metadata: lower-case letters, digits, '_', '-' and '.', no 'grpc-' in front, and "
            "no header of HTTP's own."
        )
    if name.endswith("-bin"):
        if not isinstance(value, bytes):
            raise ValueError(f"The metadata {name!r} must be bytes, because its name ends with '-bin'.")
        return name, value
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise ValueError(f"The metadata {name!r} must be printable ASCII text, not {value!r}.")
    return name, value
