"""What a plain HTTP handler returned, as an answer: the conversions of the Ray Serve documentation.

str is text, bytes are bytes, None is empty, everything else is JSON.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import uuid
from collections.abc import Iterable
from typing import Any

from serve_lite.wire.messages import HttpResponseHead

TEXT = (b"content-type", b"text/plain; charset=utf-8")
PLAIN = (b"content-type", b"text/plain")
JSON = (b"content-type", b"application/json")

#: headers that belong to one connection; an application's are dropped (RFC 9110, section 7.6.1)
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"te")
)


def _dumps(value: Any) -> str:
    return json.dumps(_plain_keys(value), separators=(",", ":"), default=encodable)


def convert(value: Any) -> tuple[HttpResponseHead, bytes]:
    """Return head and body for a returned value.

    Raises:
        TypeError, ValueError: it has no JSON form.
    """
    if isinstance(value, str):
        return _head(TEXT, body := value.encode()), body
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _head(PLAIN, body := bytes(value)), body
    if value is None:
        return _head(PLAIN, b""), b""
    return _head(JSON, body := _dumps(value).encode()), body


def stream_piece(item: Any) -> bytes:
    """Return one item of a generator as it is streamed: text and bytes as they are, others as JSON lines."""
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    return _dumps(item).encode() + b"\n"


def render_headers(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return headers as lines ready for an HTTP/1.1 connection.

    Raises:
        ValueError: a header holds a line break or a NUL.
    """
    lines = [
        b"%b: %b\r\n" % (name.lower(), value) for name, value in headers if name.lower() not in _HOP_BY_HOP
    ]
    block = b"".join(lines)
    n = len(lines)
    if block.count(b"\n") != n or block.count(b"\r") != n or b"\0" in block:
        raise ValueError("a response header contains a line break or NUL; remove it from the value")
    return block


def encodable(value: Any) -> Any:
    """Return something `json` can encode in place of `value`.

    Raises:
        TypeError: nothing is known to stand for it.
    """
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    if hasattr(value, "model_dump"):  # pydantic 2
        return value.model_dump(mode="json", by_alias=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (uuid.UUID, pathlib.PurePath, BaseException)):
        return str(value)
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode()
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # a pandas DataFrame
        return value.to_dict(orient="records")
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        return value.tolist()
    if hasattr(value, "__struct_fields__"):  # msgspec
        return {name: getattr(value, name) for name in value.__struct_fields__}
    if hasattr(value, "__iter__"):
        return list(value)
    raise TypeError(
        f"a handler returned an object of type {type(value).__name__!r}, which has no JSON form; "
        "return str, bytes, JSON-able data or a Response"
    )


def _plain_keys(value: Any) -> Any:
    """Return `value` with dictionary keys that `json` would refuse turned into text."""
    if isinstance(value, dict):
        return {_plain_key(k): _plain_keys(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_keys(v) for v in value]
    return value


def _plain_key(key: Any) -> Any:
    if isinstance(key, enum.Enum):
        return key.value
    return key if isinstance(key, (str, int, float, bool)) or key is None else str(encodable(key))


def _head(content_type: tuple[bytes, bytes], body: bytes) -> HttpResponseHead:
    return HttpResponseHead(200, b"%b: %b\r\ncontent-length: %d\r\n" % (*content_type, len(body)))
