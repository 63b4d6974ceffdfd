"""What inside an object keeps it from being pickled, and by which way it is reached.

Only asked once pickling has failed, so it may take its time: it tries parts of the object until it comes
to one that fails although all of its own parts are fine.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_MOST_STEPS = 40  #: longer ways say nothing to a reader
_PLAIN = (str, bytes, bytearray, int, float, complex, bool, type(None), types.ModuleType)
#: entries of every class that are not its author's
_CLASS_NOISE = frozenset(
    ("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__")
)


class Culprit(NamedTuple):
    """The innermost object that cannot be pickled."""

    value: Any
    way: tuple[
        str, ...
    ]  #: from the outside in, for example `("method 'predict'", "global variable 'client'")`

    def __str__(self) -> str:
        kind = type(self.value)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        text = f"an object of type {module}{kind.__qualname__}"
        return f"{text} ({', '.join(self.way)})" if self.way else text


def find_culprit(value: Any, can_be_pickled: Callable[[Any], bool]) -> Culprit:
    """Return the innermost part of `value` that cannot be pickled; `value` itself if no part of it is to blame."""
    found = _Search(can_be_pickled).inside(value, ())
    return found or Culprit(value, ())


class _Search:
    """A depth-first search that tries each part once."""

    def __init__(self, can_be_pickled: Callable[[Any], bool]) -> None:
        self._can_be_pickled = can_be_pickled
        self._verdicts: dict[int, bool] = {}
        self._alive: list[Any] = []  #: keeps identities unique while the search runs

    def inside(self, value: Any, way: tuple[str, ...]) -> Culprit | None:
        """Return the culprit; None if what fails in `value` was met before, as in a cycle."""
        self._note(value, False)
        met_failing = False
        for label, part in _parts(value) if len(way) < _MOST_STEPS else ():
            if isinstance(part, _PLAIN):
                continue
            verdict = self._verdicts.get(id(part))
            if verdict is None:
                verdict = self._can_be_pickled(part)
                self._note(part, verdict)
                if not verdict:
                    found = self.inside(part, (*way, label) if label else way)
                    if found is not None:
                        return found
            met_failing = met_failing or not verdict
        return None if met_failing else Culprit(value, way)

    def _note(self, value: Any, verdict: bool) -> None:
        self._verdicts[id(value)] = verdict
        self._alive.append(value)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a pickle of `value` would hold, each part with how to name it; "" where it needs no name."""
    if isinstance(value, type):
        yield from _parts_of_class(value)
    elif isinstance(value, types.FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, types.MethodType):
        yield f"method {value.__name__!r}", value.__func__
        yield "the object of a bound method", value.__self__
    elif isinstance(value, staticmethod | classmethod):
        yield "", value.__func__
    elif isinstance(value, property):
        yield from (("", f) for f in (value.fget, value.fset, value.fdel) if f is not None)
    elif isinstance(value, functools.partial):
        yield "function of a partial", value.func
        yield "arguments of a partial", value.args
        yield "arguments of a partial", value.keywords
    elif isinstance(value, dict):
        for key, entry in tuple(value.items()):
            yield f"key {key!r}", key
            yield f"entry {key!r}", entry
    elif isinstance(value, list | tuple | set | frozenset):
        for n, entry in enumerate(tuple(value), 1):
            yield f"item {n}", entry
    else:
        yield from ((f"attribute {name!r}", part) for name, part in _attributes(value))


def _parts_of_class(cls: type) -> Iterator[tuple[str, Any]]:
    for base in cls.__bases__:
        if base is not object:
            same = base.__qualname__ == cls.__qualname__  # the class below a decorator's subclass
            yield ("" if same else f"base class {base.__name__!r}"), base
    for name, part in tuple(vars(cls).items()):
        if name not in _CLASS_NOISE:
            kind = (
                "method" if isinstance(part, types.FunctionType | staticmethod | classmethod) else "attribute"
            )
            yield f"{kind} {name!r}", part


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        yield ("" if name == "__class__" else f"enclosed variable {name!r}"), content
    for name in sorted(_names_in(function.__code__)):
        if name in function.__globals__:
            yield f"global variable {name!r}", function.__globals__[name]
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield "default of a parameter", default
    for name, part in vars(function).items():
        yield ("" if name == "__wrapped__" else f"attribute {name!r}"), part


def _names_in(code: types.CodeType) -> set[str]:
    """Return the names that a function's code looks up, those of functions inside it too."""
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*map(_names_in, inner))


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    yield from tuple(getattr(value, "__dict__", {}).items())
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)
