"""What the body of a request may be: a JSON object of a bearable size, with nothing in it that could not be stored.

Pure. A document is kept and travels as msgpack, holds numbers of 64 bits and valid Unicode, and is walked by
functions that call themselves; so what does not fit there is refused here, with its place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn

from serve_lite.checks import invalid
from serve_lite.exceptions import InvalidConfigError

MAX_BODY_BYTES = 16 * 1024 * 1024  #: far above any document; payloads do not come this way
MAX_DEPTH = 64  #: lists and objects inside each other

_LOWEST, _HIGHEST = -(2**63), 2**64 - 1  #: what msgpack can hold


class BodyTooLargeError(InvalidConfigError):
    """The body is larger than `MAX_BODY_BYTES`."""

    def __init__(self) -> None:
        super().__init__(f"The body is larger than {MAX_BODY_BYTES} bytes.")


def parse_object(body: bytes) -> dict[str, Any]:
    """Return a body, a JSON object.

    Raises:
        InvalidConfigError: it is no JSON object, or has something in it that cannot be kept; `path` says where.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidConfigError(f"The body is not UTF-8: byte {error.start} is wrong.") from error
    try:
        document = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise InvalidConfigError(_too_deep("The body")) from error
    except ValueError as error:  # no JSON, or a number with thousands of digits
        raise InvalidConfigError(f"The body is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise InvalidConfigError('The body must be a JSON object, like {"applications": [...]}.')
    _check(document)
    return document


class _Repeating(dict[str, Any]):
    """An object in which a key occurs twice; refused as soon as its place is known."""

    key = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeating, seen = _Repeating(found), set()
    for key, _ in pairs:
        if key in seen:
            repeating.key = key
            break
        seen.add(key)
    return repeating


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that JSON knows")


def _check(document: dict[str, Any]) -> None:
    """Refuse what cannot be kept; without recursion, since the depth is one of the things to be checked."""
    waiting: list[tuple[Any, str, int]] = [(document, "", 1)]
    while waiting:
        value, where, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise invalid(_shortened(where), _too_deep("The body"))
        for inner, path in _parts(value, where):
            if isinstance(inner, dict | list):
                waiting.append((inner, path, depth + 1))
            elif (reason := _reason_against(inner)) is not None:
                raise invalid(path, f"{path} {reason}")


def _parts(value: dict[str, Any] | list[Any], where: str) -> Iterator[tuple[Any, str]]:
    if isinstance(value, list):
        yield from ((inner, f"{where}[{i}]") for i, inner in enumerate(value))
        return
    if isinstance(value, _Repeating):
        path = f"{where}.{value.key}" if where else value.key
        raise invalid(path, f"{path} is given twice; keep one of them.")
    for key, inner in value.items():
        if not _is_unicode(key):
            raise invalid(where, f"{where or 'The body'} has a key that is not valid Unicode: {key!a}.")
        yield inner, f"{where}.{key}" if where else key


def _reason_against(value: Any) -> str | None:
    """Return why a single value cannot be kept; None if it can."""
    match value:
        case str() if not _is_unicode(value):
            return "is not valid Unicode: it has half of a surrogate pair."
        case bool():
            return None
        case int() if not _LOWEST <= value <= _HIGHEST:
            return "is a whole number of more than 64 bits; write it as a float, or as text."
        case float() if not math.isfinite(value):
            return "is a number outside the range of a float."
        case _:
            return None


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_deep(what: str) -> str:
    return f"{what} has more than {MAX_DEPTH} lists and objects inside each other."


def _shortened(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:200]}..."
