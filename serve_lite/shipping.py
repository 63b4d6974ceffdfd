"""How user code and constructor arguments travel from where they were written to a replica.

By reference (module and qualified name) wherever the module can be imported, by value with
cloudpickle for `__main__`, notebooks and classes made inside functions. Only drivers, importers
and replicas call this; the daemon passes the bytes on unread.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
import threading
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import cloudpickle
import msgspec


def dump_code(func_or_class: Callable[..., Any]) -> bytes:
    """Return how a replica gets this class or function.

    Raises:
        TypeError: it must travel by value and holds something that cannot; the message names both.
    """
    where = _reference(func_or_class)
    if where is not None:
        return msgspec.msgpack.encode(["ref", *where])
    name = getattr(func_or_class, "__name__", repr(func_or_class))
    return msgspec.msgpack.encode(["value", dump_value(func_or_class, what=f"deployment {name!r}")])


def load_code(data: bytes) -> Callable[..., Any]:
    """Return the class or function; imports its module, or unpickles it.

    Raises:
        ImportError, AttributeError: the module or the name in it is not there.
    """
    kind, *rest = msgspec.msgpack.decode(data)
    if kind == "value":
        return pickle.loads(rest[0])  # type: ignore[no-any-return]  # user objects enter here
    module, qualname = rest
    found = attrgetter(qualname)(importlib.import_module(module))
    return getattr(found, "func_or_class", found)  # type: ignore[no-any-return]


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
    args, kwargs = pickle.loads(data)
    return args, kwargs


def dump_value(value: Any, *, what: str) -> bytes:
    """Pickle by value where needed; `what` names the thing in the error."""
    out = io.BytesIO()
    try:
        _Pickler(out, protocol=5).dump(value)
    except Exception as error:  # pickling runs users' __reduce__ and fails in many ways
        raise TypeError(
            f"Cannot send {what} to a replica: {type(error).__name__}: {error}. "
            "Create such objects inside the constructor, or make them picklable."
        ) from error
    return out.getvalue()


def copy_value(value: Any, *, what: str) -> Any:
    """Return a copy made by pickling, as a replica would get it."""
    return pickle.loads(dump_value(value, what=what))


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle ships no types
    """cloudpickle, except that locks arrive as new, unlocked locks (FastAPI and others hold some)."""

    dispatch_table = {
        **cloudpickle.Pickler.dispatch_table,
        type(threading.Lock()): lambda _: (threading.Lock, ()),
        type(threading.RLock()): lambda _: (threading.RLock, ()),
        threading.local: lambda _: (threading.local, ()),
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        starlette = sys.modules.get("starlette.datastructures")
        if starlette is not None:  # its State, which every FastAPI app holds, recurses when unpickled
            self.dispatch_table = {**type(self).dispatch_table, starlette.State: _reduce_state}
        super().__init__(*args, **kwargs)  # reads the table


def _reduce_state(state: Any) -> Any:
    return type(state), (), dict(vars(state)), None, None, _set_state


def _set_state(state: Any, attributes: dict[str, Any]) -> None:
    vars(state).update(attributes)


def _reference(obj: Any) -> tuple[str, str] | None:
    """Return `(module, qualname)` if importing that in another process gives this very object."""
    module, qualname = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not module or not qualname or module == "__main__" or "<locals>" in qualname:
        return None
    if module.split(".")[0] in {m.split(".")[0] for m in cloudpickle.list_registry_pickle_by_value()}:
        return None
    loaded = sys.modules.get(module)
    if loaded is None or not getattr(loaded, "__spec__", None):
        return None
    try:
        found = attrgetter(qualname)(loaded)
    except AttributeError:
        return None
    return (module, qualname) if getattr(found, "func_or_class", found) is obj else None
