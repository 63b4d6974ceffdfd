"""How user code and constructor arguments travel from where they were written to a replica.

By reference (module and qualified name) wherever the module can be imported, by value with
cloudpickle for `__main__`, notebooks and classes made inside functions. Only drivers, importers
and replicas call this; the daemon passes the bytes on unread.
"""

from __future__ import annotations

import ast
import importlib
import io
import os
import sys
import threading
import types
from collections import ChainMap
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from operator import attrgetter
from typing import Any

import cloudpickle
import msgspec

from serve_lite.exceptions import ServeLiteError
from serve_lite.unpicklable import find_culprit
from serve_lite.wire import codec


class CannotTravelError(TypeError):
    """User code or an argument holds something that cannot be sent to another process."""


def dump_code(func_or_class: Callable[..., Any], *, owner: str = "") -> bytes:
    """Return how a replica gets this class or function; `owner` is its deployment's name.

    Raises:
        TypeError: it must travel by value and holds something that cannot; the message says where.
    """
    where = _reference(func_or_class)
    if where is not None:
        return msgspec.msgpack.encode(["ref", *where])
    name = owner or getattr(func_or_class, "__name__", repr(func_or_class))
    value = dump_value(func_or_class, what=f"deployment {name!r}")
    return msgspec.msgpack.encode(["value", value, sys.version_info[:2]])


def load_code(data: bytes) -> Callable[..., Any]:
    """Return the class or function; imports its module, or unpickles it.

    Raises:
        ImportError, AttributeError: the module or the name in it is not there, or another Python would be needed.
    """
    kind, *rest = msgspec.msgpack.decode(data)
    if kind == "value":
        if rest[1:] and tuple(rest[1]) != sys.version_info[:2]:
            there, here = (".".join(map(str, version[:2])) for version in (rest[1], sys.version_info))
            raise ImportError(
                f"The code was handed over as Python {there} compiled it, and this replica runs on Python {here} "
                f"({sys.executable}), which cannot load that. Put the class or function into a module that both "
                "can import, or give the deployment an interpreter of the same version."
            )
        return codec.loads(rest[:1])  # type: ignore[no-any-return]  # user objects enter here
    module, qualname = rest
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # something that the module imports
        raise ModuleNotFoundError(
            f"The replica cannot import {module!r}, the module of {qualname!r}: there is none from "
            f"{os.getcwd()!r} on this sys.path: {sys.path}.",
            name=error.name,
        ) from None
    try:
        found = attrgetter(qualname)(home)
    except AttributeError:
        raise AttributeError(
            f"The replica found no {qualname!r} in module {module!r} ({getattr(home, '__file__', None)}). It was "
            "there when the application was built: was the file changed, or is it defined only on a condition?"
        ) from None
    return getattr(found, "func_or_class", found)  # type: ignore[no-any-return]


def travels_by_reference(module: str) -> bool:
    """Whether another process may import this module by name and gets what is loaded here under it.

    Not so for `__main__`, for modules registered with `cloudpickle.register_pickle_by_value`, and for those
    that exist only here: made in memory, or loaded from a file that no entry of `sys.path` leads to.
    """
    if module in ("", "__main__") or module not in sys.modules:
        return False
    top = module.partition(".")[0]
    by_value = cloudpickle.list_registry_pickle_by_value()
    if any(module == name or module.startswith(f"{name}.") for name in by_value):
        return False
    found = _find_module(top)
    if found is None:
        return False
    file: str | None = getattr(sys.modules.get(top), "__file__", None)
    if not found.has_location or not found.origin or not file:
        return True  # built in, frozen, or a namespace package
    return os.path.realpath(found.origin) == os.path.realpath(file)


def dump_init(args: tuple[Any, ...], kwargs: dict[str, Any], *, owner: str = "") -> bytes:
    """Return constructor arguments as bytes.

    Raises:
        TypeError: an argument cannot be pickled; the message says which.
    """
    try:
        return dump_value((args, kwargs), what="arguments")
    except TypeError:
        named = [(f"argument {n}", value) for n, value in enumerate(args, 1)]
        named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
        for label, value in named:
            dump_value(value, what=f"{label} of {owner or 'the deployment'}")
        raise


def load_init(data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return `(args, kwargs)` as `dump_init` got them."""
    args, kwargs = codec.loads([data])
    return args, kwargs


def dump_value(value: Any, *, what: str) -> bytes:
    """Pickle by value where needed; `what` names the thing in the error."""
    out = io.BytesIO()
    try:
        _Pickler(out, protocol=5).dump(value)
    except (ServeLiteError, CannotTravelError):
        raise  # said by the walk through an application's graph
    except Exception as error:  # pickling runs users' __reduce__ and fails in many ways
        if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
            raise CannotTravelError(f"Cannot send {what} to a replica: it is nested too deeply.") from error
        culprit = find_culprit(value, _can_travel)
        raise CannotTravelError(
            f"Cannot send {what} to a replica: {str(error).rstrip('.')}. It holds {culprit}. Create such objects "
            "inside the constructor, where each replica makes its own, or make them picklable."
        ) from error
    return out.getvalue()


def copy_value(value: Any, *, what: str) -> Any:
    """Return a copy made by pickling, as a replica would get it."""
    return codec.loads([dump_value(value, what=what)])


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle ships no types
    """cloudpickle, with what user code of notebooks and scripts needs besides.

    Locks arrive as new, unlocked locks (FastAPI and others hold some). What belongs to a module that only exists
    in this process travels by value, helpers included. Functions bring along what the text of their annotations
    names, for FastAPI reads those again where the function arrives.
    """

    #: a chain, so that what libraries register with `copyreg` later is seen
    dispatch_table = ChainMap(
        {
            type(threading.Lock()): lambda _: (threading.Lock, ()),
            type(threading.RLock()): lambda _: (threading.RLock, ()),
            threading.local: lambda _: (threading.local, ()),
        },
        cloudpickle.Pickler.dispatch_table,
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        starlette = sys.modules.get("starlette.datastructures")
        if starlette is not None:  # its State, which every FastAPI app holds, recurses when unpickled
            self.dispatch_table = ChainMap({starlette.State: _reduce_state}, type(self).dispatch_table)
        self._known_modules: set[str] = set()
        super().__init__(*args, **kwargs)  # reads the table

    def reducer_override(self, obj: Any) -> Any:
        """Called by pickle for everything that is not a plain value."""
        is_function = isinstance(obj, types.FunctionType)
        if is_function or isinstance(obj, type):
            self._look_at_module(getattr(obj, "__module__", None))
        reduced = super().reducer_override(obj)
        return _with_annotated_names(obj, reduced) if is_function else reduced

    def _look_at_module(self, name: Any) -> None:
        if not isinstance(name, str) or name in self._known_modules or name == "__main__":
            return
        self._known_modules.add(name)
        if name in sys.modules and not travels_by_reference(name):
            cloudpickle.register_pickle_by_value(sys.modules[name])


def _with_annotated_names(function: types.FunctionType, reduced: Any) -> Any:
    """Return how a function is made again, with the globals that only the text of its annotations names."""
    if not (isinstance(reduced, tuple) and len(reduced) == 6):
        return reduced  # by reference
    texts = [text for text in function.__annotations__.values() if isinstance(text, str)]
    names = {name for text in texts for name in _names_in(text)}
    if not (named := {n: function.__globals__[n] for n in sorted(names) if n in function.__globals__}):
        return reduced
    make, arguments, state, items, entries, restore = reduced
    return make, arguments, (restore, state, named), items, entries, _restore_function


def _restore_function(function: types.FunctionType, state: tuple[Any, Any, dict[str, Any]]) -> None:
    restore, own, named = state
    restore(function, own)
    for name, value in named.items():
        function.__globals__.setdefault(name, value)


def _names_in(annotation: str) -> Iterator[str]:
    """Yield the names in the text of an annotation, also those in strings inside it."""
    try:
        tree = ast.parse(annotation.strip(), mode="eval")
    except SyntaxError:
        return  # the text of a Literal, for example
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _names_in(node.value)


def _reduce_state(state: Any) -> Any:
    return type(state), (), dict(vars(state)), None, None, _set_state


def _set_state(state: Any, attributes: dict[str, Any]) -> None:
    vars(state).update(attributes)


def _can_travel(value: Any) -> bool:
    try:
        _Pickler(io.BytesIO(), protocol=5).dump(value)
    except Exception:  # the same boundary as in `dump_value`
        return False
    return True


def _reference(obj: Any) -> tuple[str, str] | None:
    """Return `(module, qualname)` if importing that in another process gives this very object."""
    module, qualname = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not module or not qualname or "<locals>" in qualname or not travels_by_reference(module):
        return None
    try:
        found = attrgetter(qualname)(sys.modules[module])
    except AttributeError:
        return None
    return (module, qualname) if getattr(found, "func_or_class", found) is obj else None


def _find_module(name: str) -> ModuleSpec | None:
    """Return where an import of a top-level module would find it. (`importlib.util.find_spec` asks `sys.modules`.)"""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = find(name, None) if find is not None else None
        if spec is not None:
            return spec
    return None
