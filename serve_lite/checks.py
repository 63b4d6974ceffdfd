"""What a configured value may be: small checks that return the clean value or say what would be right.

Used by the classes in `config.py`, by the table of deployment options in `options.py` and by the
documents in `schema.py`, so that a wrong value reads the same in a decorator and in a file. A check
gets the value, where it stands ("applications[0].deployments[1].num_replicas", or only the option's
name in code) and `lax`: whether numbers may also arrive as text, as they do from the command line.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from enum import Enum
from types import FrameType
from typing import Any, Protocol, TypeVar

from serve_lite.exceptions import InvalidConfigError

E = TypeVar("E", bound=Enum)

#: A JSON Schema, or how to make it where that is only worth it when somebody asks.
Described = dict[str, Any] | Callable[[], dict[str, Any]]


class Check(Protocol):
    """Returns the value, made clean, or raises `InvalidConfigError` that names `where`."""

    def __call__(self, value: Any, where: str, lax: bool) -> Any: ...


C = TypeVar("C", bound=Check)


def described(schema: Described) -> Callable[[C], C]:
    """Mark a check with the JSON Schema of what it takes in documents. It may take more, and never less."""

    def mark(check: C) -> C:
        vars(check)["json_schema"] = schema
        return check

    return mark


def schema_of(check: Check) -> dict[str, Any]:
    """Return the JSON Schema of what a check takes; everything if it does not say."""
    schema: Described = getattr(check, "json_schema", {})
    return schema() if callable(schema) else schema


def or_null(schema: dict[str, Any], none: bool = True) -> dict[str, Any]:
    """Return the schema, or one that takes null too."""
    return {"anyOf": [schema, {"type": "null"}]} if none else schema


def fields_schema(fields: Mapping[str, Check], **more: Any) -> dict[str, Any]:
    """Return the schema of a mapping with these keys and no others."""
    return {
        "type": "object",
        "properties": {name: schema_of(check) for name, check in fields.items()},
        "additionalProperties": False,
        **more,
    }


class ConfigTypeError(InvalidConfigError, TypeError):
    """A configured value is of the wrong kind. A TypeError too, as Ray Serve raises there."""


def invalid(where: str, text: str, *, wrong_type: bool = False) -> InvalidConfigError:
    """Return the error for a wrong value; `where` stays readable as its `path`."""
    error = (ConfigTypeError if wrong_type else InvalidConfigError)(text)
    error.path = where
    return error


#: Where secrets stand: values of environment variables, and passwords.
_SECRET_PLACE = re.compile(r"(^|\.)env_vars(\.|\[|$)|password")


def wrong(value: Any, where: str, expected: str, *, wrong_type: bool = False) -> InvalidConfigError:
    """Return the error "<where> is <value>; it must be <expected>.".

    Of what may be a secret only the type is told, since errors end up in answers and logs; but numbers, true and false
    are shown, which are texts without their quotes most of the time.
    """
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    if _SECRET_PLACE.search(where) and not isinstance(value, int | float):
        shown = f"of type {type(value).__name__}"
    return invalid(where, f"{where} is {shown}; it must be {expected}.", wrong_type=wrong_type)


def unknown_key(
    key: object, where: str, known: Collection[str], *, thing: str, elsewhere: Mapping[str, str] | None = None
) -> InvalidConfigError:
    """Return the error for a key that does not exist, with the nearest right name or its right place.

    Args:
        thing: what has the keys, for example "a deployment".
        elsewhere: names known in other places, with a phrase for the place.
    """
    text = f"{key!r} is not an option of {thing}"
    place = (elsewhere or {}).get(str(key))
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
    if place:
        text += f"; it belongs to {place}."
    elif near:
        text += f"; did you mean {near[0]!r}?"
    else:
        text += f". Known options: {', '.join(sorted(known))}."
    full = f"{where}.{key}" if where else str(key)
    return invalid(full, f"{full}: {text}")


def warn_deprecated(text: str) -> None:
    """Warn of an old name or option, pointing at the line outside serve_lite that used it."""
    warn(text, DeprecationWarning)


def warn(text: str, category: type[Warning]) -> None:
    """Warn, pointing at the line outside serve_lite that led here."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and is_ours(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


def is_ours(frame: FrameType) -> bool:
    """Whether a frame runs code of this package."""
    name: str = frame.f_globals.get("__name__", "")
    return name.startswith("serve_lite.")


# --- checks of single values ---------------------------------------------------------------------


def integer(*, at_least: int | None = None, at_most: int | None = None, none: bool = False) -> Check:
    """Whole numbers in a range; 3.0 is 3, True is refused."""
    expected = _range("an integer", at_least=at_least, at_most=at_most, none=none)

    @described(_number_schema("integer", none, minimum=at_least, maximum=at_most))
    def check(value: Any, where: str, lax: bool) -> int | None:
        if value is None and none:
            return None
        number = _as_number(value, lax)
        if number is None or (isinstance(number, float) and not number.is_integer()):
            raise wrong(value, where, expected, wrong_type=number is None)
        whole = int(number)
        if (at_least is not None and whole < at_least) or (at_most is not None and whole > at_most):
            raise wrong(value, where, expected)
        return whole

    return check


def real(
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    none: bool = False,
) -> Check:
    """Finite numbers in a range, as float."""
    expected = _range("a number", at_least=at_least, above=above, at_most=at_most, none=none)

    @described(_number_schema("number", none, minimum=at_least, exclusiveMinimum=above, maximum=at_most))
    def check(value: Any, where: str, lax: bool) -> float | None:
        if value is None and none:
            return None
        number = _as_number(value, lax)
        if number is None or not _is_finite(number):
            raise wrong(value, where, expected, wrong_type=number is None)
        too_low = (at_least is not None and number < at_least) or (above is not None and number <= above)
        if too_low or (at_most is not None and number > at_most):
            raise wrong(value, where, expected)
        return float(number)

    return check


def text(*, none: bool = False, empty: bool = True) -> Check:
    """Strings."""
    expected = "a string" + ("" if empty else " that is not empty") + (" or null" if none else "")

    @described({"type": ["string", "null"] if none else "string", **({} if empty else {"minLength": 1})})
    def check(value: Any, where: str, lax: bool) -> str | None:
        if value is None and none:
            return None
        if not isinstance(value, str):
            raise wrong(value, where, expected, wrong_type=True)
        if not value and not empty:
            raise wrong(value, where, expected)
        return value

    return check


@described({"type": "boolean"})
def flag(value: Any, where: str, lax: bool) -> bool:
    """True or False; "true" and "false" where text is allowed."""
    if isinstance(value, bool):
        return value
    if lax and isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    raise wrong(value, where, "true or false", wrong_type=True)


@described({"type": ["boolean", "null"]})
def flag_or_null(value: Any, where: str, lax: bool) -> bool | None:
    """True or False, or None for what is the rule elsewhere."""
    if value is None:
        return None
    if not isinstance(value, bool):
        raise wrong(value, where, "true, false or null", wrong_type=True)
    return value


def one_of(members: type[E]) -> Check:
    """A member of an enumeration, or its value as a string."""
    expected = "one of " + ", ".join(repr(m.value) for m in members)

    @described({"enum": [m.value for m in members]})
    def check(value: Any, where: str, lax: bool) -> E:
        if isinstance(value, members):
            return value
        if not isinstance(value, str):
            raise wrong(value, where, expected, wrong_type=True)
        try:
            return members(value)
        except ValueError:
            raise wrong(value, where, expected) from None

    return check


def list_of(item: Check, *, none: bool = False) -> Check:
    """Lists (or tuples) whose items pass `item`."""

    @described(lambda: or_null({"type": "array", "items": schema_of(item)}, none))
    def check(value: Any, where: str, lax: bool) -> list[Any] | None:
        if value is None and none:
            return None
        if not isinstance(value, list | tuple):
            raise wrong(value, where, "a list", wrong_type=True)
        return [item(v, f"{where}[{i}]", lax) for i, v in enumerate(value)]

    return check


def either(*members: int) -> Check:
    """One of a few whole numbers."""
    expected = " or ".join(str(m) for m in members)

    @described({"enum": list(members)})
    def check(value: Any, where: str, lax: bool) -> int:
        number = integer()(value, where, lax)
        if number not in members:
            raise wrong(value, where, expected)
        return int(number)

    return check


def mapping_of(item: Check | None = None, *, none: bool = False) -> Check:
    """Dicts with string keys whose values pass `item`."""

    @described(
        lambda: or_null(
            {"type": "object", **({} if item is None else {"additionalProperties": schema_of(item)})}, none
        )
    )
    def check(value: Any, where: str, lax: bool) -> dict[str, Any] | None:
        if value is None and none:
            return None
        if not isinstance(value, Mapping):
            raise wrong(value, where, "a mapping", wrong_type=True)
        for key in value:
            if not isinstance(key, str):
                raise invalid(where, f"{where} has the key {key!r}; keys must be strings.", wrong_type=True)
        if item is None:
            return dict(value)
        return {k: item(v, f"{where}.{k}", lax) for k, v in value.items()}

    return check


def json_value(value: Any, where: str, lax: bool) -> Any:
    """Anything `json.dumps` accepts; bytes are let through as Ray Serve does.

    A document may hold no NaN and no infinity: JSON has neither, so they would not arrive.
    """
    if isinstance(value, bytes):
        return value
    try:
        json.dumps(value, allow_nan=lax)
    except (TypeError, ValueError) as error:
        raise invalid(where, f"{where} is not JSON-serializable: {error}.") from error
    return plain(value)


def anything(value: Any, where: str, lax: bool) -> Any:
    """Every value."""
    return value


def plain(value: Any) -> Any:
    """Return a JSON-like value with exact builtin types, so that it encodes to msgpack as well."""
    match value:
        case bool() | None:
            return value
        case str():
            return str(value) if type(value) is str else str.__str__(value)
        case int():
            return int(value)
        case float():
            return float(value)
        case Mapping():
            return {plain(k): plain(v) for k, v in value.items()}
        case list() | tuple():
            return [plain(v) for v in value]
        case _:
            return value.__fspath__() if hasattr(value, "__fspath__") else value  # a path, as its text


# --- checks of whole records ---------------------------------------------------------------------


def check_fields(
    given: Any,
    fields: Mapping[str, Check],
    where: str,
    lax: bool,
    *,
    thing: str,
    required: Collection[str] = (),
    elsewhere: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the given fields, each checked; refuses unknown and missing ones."""
    if not isinstance(given, Mapping):
        expected = (
            f"{where or 'the document'} must be a mapping with the options of {thing}, not {given!r:.80}."
        )
        raise invalid(where, expected, wrong_type=True)
    for key in given:
        if key not in fields:
            raise unknown_key(key, where, fields, thing=thing, elsewhere=elsewhere)
    prefix = f"{where}." if where else ""
    for key in required:
        if key not in given:
            raise invalid(prefix + key, f"{where or 'the document'} has no {key!r}; {thing} needs one.")
    return {key: fields[key](value, prefix + key, lax) for key, value in given.items()}


def _as_number(value: Any, lax: bool) -> float | int | None:
    """Return the number, or None if this is not one. numpy scalars count, booleans do not."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if not lax:
            return None
        try:
            return float(value) if not value.strip().lstrip("+-").isdigit() else int(value)
        except ValueError:
            return None
    if isinstance(value, int | float):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return _as_number(value.item(), lax)
    return None


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond the range of floats
        return False


def _number_schema(kind: str, none: bool, **bounds: float | None) -> dict[str, Any]:
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    return {"type": [kind, "null"] if none else kind, **given}


def _range(
    kind: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    none: bool = False,
) -> str:
    parts = []
    if at_least is not None:
        parts.append(f"at least {at_least:.15g}")
    if above is not None:
        parts.append(f"larger than {above:.15g}")
    if at_most is not None:
        parts.append(f"at most {at_most:.15g}")
    return kind + (", " + " and ".join(parts) if parts else "") + (" or null" if none else "")


# --- checks of names of code ---------------------------------------------------------------------


@described({"type": "string", "pattern": r"^([^\s:]+:[^\s:]+|[^\s:]+\.[^\s:.]+)$"})
def import_path(value: Any, where: str, lax: bool = False) -> str:
    """Check an import path: `module:attribute`, or `module.attribute`."""
    text()(value, where, lax)
    separator = ":" if ":" in value else "."
    module, _, attribute = value.rpartition(separator)
    if not module or not attribute or value.count(":") > 1 or any(c.isspace() for c in value):
        raise invalid(
            where,
            f"{where}: got invalid import path {value!r}; write module:attribute, for example 'main:app'.",
        )
    if module.endswith(".py") or "/" in module:
        better = f"{module.removesuffix('.py').strip('./').replace('/', '.')}:{attribute}"
        raise invalid(
            where, f"{where}: got invalid import path {value!r}: it names a file; write {better!r}."
        )
    return str(value)


@described(lambda: schema_of(import_path))
def importable(value: Any, where: str, lax: bool = False) -> str:
    """A class or function as its import path, or an import path as it is.

    The value is used in processes other than the one that configures it, and those only have its name. So what
    has no name that works everywhere is refused: lambdas, what is defined inside a function or class, and
    what the script that was started defines.
    """
    if isinstance(value, str):
        return import_path(value, where, lax)
    module = getattr(value, "__module__", None)
    qualname = getattr(value, "__qualname__", None)
    advice = "define it at the top of a module, or give its import path, such as 'my_module:name'"
    if not callable(value) or not isinstance(module, str) or not isinstance(qualname, str):
        raise wrong(value, where, "a class, a function or an import path", wrong_type=True)
    if "<lambda>" in qualname:
        raise invalid(where, f"{where} is a lambda, which other processes cannot import; {advice}.")
    if "." in qualname:
        raise invalid(
            where, f"{where} is {qualname}, which is not at the top of its module {module}; {advice}."
        )
    if module == "__main__":
        raise invalid(
            where,
            f"{where} is {qualname} of the script that was started, which other processes cannot import; "
            "move it into a module beside the script and import it from there.",
        )
    return f"{module}:{qualname}"
