"""Services that the gRPC door answers itself: Ray Serve's own, the standard health check, and reflection.

Their few messages are read and written here by hand (https://protobuf.dev/programming-guides/encoding), so that
the daemon needs no protobuf package. Field numbers are those of `ray/serve.proto`, `grpc/health/v1/health.proto` and
`grpc/reflection/v1/reflection.proto`. Pure: bytes in, bytes out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from serve_lite.wire.grpc_status import NOT_FOUND, UNIMPLEMENTED
from serve_lite.wire.spawning import GrpcServices

RAY_SERVICE: Final = "ray.serve.RayServeAPIService"
HEALTH_SERVICE: Final = "grpc.health.v1.Health"
LIST_APPLICATIONS: Final = f"/{RAY_SERVICE}/ListApplications"
HEALTHZ: Final = f"/{RAY_SERVICE}/Healthz"
HEALTH_CHECK: Final = f"/{HEALTH_SERVICE}/Check"
HEALTH_WATCH: Final = f"/{HEALTH_SERVICE}/Watch"
REFLECTION: Final = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",  # same messages; older clients ask for it
)

SERVING: Final = 1
NOT_SERVING: Final = 2
SERVICE_UNKNOWN: Final = 3

_VARINT: Final = 0
_BYTES: Final = 2
_FIXED_BYTES: Final = {1: 8, 5: 4}


def applications(names: Iterable[str]) -> bytes:
    """Return a ListApplicationsResponse."""
    return b"".join(_field(1, name.encode()) for name in names)


def healthz() -> bytes:
    """Return a HealthzResponse."""
    return _field(1, b"success")


def health(status: int) -> bytes:
    """Return a HealthCheckResponse."""
    return _number(1, status)


def asked_service(request: bytes) -> str:
    """Return the service that a HealthCheckRequest names; "" for the whole server.

    Raises:
        ValueError: it is no such message.
    """
    return _read(request).get(1, b"").decode()


class Reflection:
    """Answers what services there are and what they look like: the users' only."""

    def __init__(self, services: GrpcServices) -> None:
        self._names = list(dict.fromkeys(method.name.split("/")[1] for method in services.methods))
        self._by_name = {file.name: file.content for file in services.files}
        self._by_symbol = {symbol: file.content for file in services.files for symbol in file.symbols}

    def answer(self, request: bytes) -> bytes:
        """Return the ServerReflectionResponse to a ServerReflectionRequest.

        Raises:
            ValueError: it is no such message.
        """
        asked = _read(request)
        answer = b""
        if 1 in asked:
            answer += _field(1, asked[1])
        answer += _field(2, request)
        if 3 in asked:
            return answer + self._file(self._by_name.get(asked[3].decode()), asked[3].decode())
        if 4 in asked:
            return answer + self._file(self._by_symbol.get(asked[4].decode()), asked[4].decode())
        if 7 in asked:
            services = b"".join(_field(1, _field(1, name.encode())) for name in self._names)
            return answer + _field(6, services)
        if 5 in asked or 6 in asked:
            return answer + _error(NOT_FOUND, "Extensions are not listed.")
        return answer + _error(UNIMPLEMENTED, "This kind of question is not answered.")

    def _file(self, content: bytes | None, asked: str) -> bytes:
        if content is None:
            return _error(NOT_FOUND, f"{asked!r} is not known.")
        return _field(4, _field(1, content))


def _error(code: int, text: str) -> bytes:
    return _field(7, _number(1, code) + _field(2, text.encode()))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read(message: bytes) -> dict[int, bytes]:
    """Return the fields that hold text, bytes or messages; of a repeated one the last."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, at = _read_varint(message, at)
        elif kind == _BYTES:
            size, at = _read_varint(message, at)
            found[number] = message[at : at + size]
            at += size
        elif kind in _FIXED_BYTES:
            at += _FIXED_BYTES[kind]
        else:
            raise ValueError(f"no protobuf message: wire type {kind}")
    if at != len(message):
        raise ValueError("no protobuf message: it ends within a field")
    return found


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("no protobuf message: it ends within a number")
