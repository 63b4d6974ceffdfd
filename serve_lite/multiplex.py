"""`@serve.multiplexed`: a replica loads models by id when asked for, and keeps the ones asked for last.

Each decorated method of each instance has a cache of its own for each event loop that uses it. A model is
loaded once however many calls want it; different models load at the same time, as far as the limit has room.
Here is the decorator; `model_cache` has the rules.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from serve_lite.checks import wrong
from serve_lite.context import get_multiplexed_model_id
from serve_lite.model_cache import ModelCache, loaded_model_ids, on_models_changed, unload_all

__all__ = ["get_multiplexed_model_id", "loaded_model_ids", "multiplexed", "on_models_changed", "unload_all"]

F = TypeVar("F", bound=Callable[..., Any])

_CACHES = "_serve_model_caches"  # on instances and classes, their caches
_lock = threading.Lock()  # loops of several threads come and go


@overload
def multiplexed(func: F, /) -> F: ...
@overload
def multiplexed(func: None = None, max_num_models_per_replica: int = 3) -> Callable[[F], F]: ...
def multiplexed(func: Any = None, max_num_models_per_replica: int = 3) -> Any:
    """Decorate an async function or method that loads a model by id so that it remembers the latest ones.

    Awaiting it with an id gives the loaded model, which is not unloaded before the request that asked has
    ended (in a batched function: before the batch has). When there is no room, the one asked for least
    recently that nobody holds is unloaded first; if it has `__del__`, that is called (in a thread, or awaited
    if async). If all are held, the call waits, unless its request holds one itself: then it gets one more
    than the limit for as long as it runs. A load that fails raises in every call that waited for it and is not
    remembered.

    Args:
        func: takes the id as its one parameter besides `self`.
        max_num_models_per_replica: how many models to keep; -1 for no limit.

    Raises:
        TypeError, ValueError: at decoration, for a wrong limit or function; when called, for a wrong id.
        Exception: when called, what the loader raised.
    """
    limit = max_num_models_per_replica
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise wrong(limit, "max_num_models_per_replica", "an integer", wrong_type=True)
    if limit != -1 and limit < 1:
        raise wrong(limit, "max_num_models_per_replica", "at least 1, or -1 for no limit")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return _wrap(_Loader(function, limit))

    return decorate if func is None else decorate(func)


def _wrap(loader: _Loader) -> Callable[..., Any]:
    """Return the function that callers see."""

    @functools.wraps(loader.function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        model_id = loader.model_id(args, kwargs)
        return await loader.cache(args).get(model_id)

    return wrapper


class _Loader:
    """One decorated function; finds the cache of a call."""

    def __init__(self, function: Callable[..., Awaitable[Any]], limit: int) -> None:
        self.function = function
        self.limit = limit
        self.is_method = _is_method(function)
        self._own = _Caches(None)  #: of a function that is no method

    def __reduce__(self) -> Any:
        return _Loader, (self.function, self.limit)  # models stay where they are

    def model_id(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the id that a call asks for.

        Raises:
            TypeError, ValueError: there is none, or it is not a string, or empty.
        """
        name = _name(self.function)
        given = args[1:] if self.is_method else args
        if kwargs or len(given) != 1:
            raise TypeError(f"{name} takes exactly one positional argument, the model id.")
        (model_id,) = given
        if not isinstance(model_id, str):
            raise TypeError(f"The model id given to {name} must be a string, but it is {model_id!r}.")
        if not model_id:
            raise ValueError(
                f"The model id given to {name} is empty. Did the request carry one (header "
                "serve_multiplexed_model_id, or handle.options(multiplexed_model_id=...))?"
            )
        return model_id

    def cache(self, args: tuple[Any, ...]) -> ModelCache:
        """Return the cache for the owner of this call on the running loop."""
        loop = asyncio.get_running_loop()
        caches = _caches_of(args[0]) if self.is_method else self._own
        known = caches.by_loader.setdefault(self, [])
        for cache in known:
            if cache.loop is loop:
                return cache
        with _lock:
            for cache in known:
                if cache.moves_to(loop):
                    return cache
            load = functools.partial(self.function, args[0]) if self.is_method else self.function
            known.append(cache := ModelCache(load, self.limit, loop))
            return cache


class _Caches:
    """The caches of one instance or class, by loader: one for each loop that uses it."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.by_loader: dict[_Loader, list[ModelCache]] = {}

    def __reduce__(self) -> Any:
        return _Caches, (None,)  # a copy of an instance has to load its own


def _caches_of(owner: Any) -> _Caches:
    """Return the caches of an instance or class, made if there are none.

    Raises:
        TypeError: nothing can be kept on it.
    """
    found = getattr(owner, "__dict__", {}).get(_CACHES)
    if found is None or found.owner is not owner:  # a shallow copy has the original's
        found = _Caches(owner)
        keep: Any = type.__setattr__ if isinstance(owner, type) else object.__setattr__
        try:
            keep(owner, _CACHES, found)
        except AttributeError as error:
            raise TypeError(
                f"{type(owner).__name__!r} has `__slots__` without `__dict__`, so that its @serve.multiplexed method "
                f"cannot keep models on the instance. Add '__dict__' to `__slots__`."
            ) from error
    return found


def _is_method(function: Any) -> bool:
    """Return whether the loader is a method.

    Raises:
        TypeError: it is not async, or has other parameters than an id.
    """
    if not (callable(function) and inspect.iscoroutinefunction(inspect.unwrap(function))):
        raise TypeError(f"@serve.multiplexed needs an 'async def' function or method, but got {function!r}.")
    count = len(inspect.signature(function).parameters)
    if count not in (1, 2):
        raise TypeError(
            f"@serve.multiplexed needs a function with one parameter, the model id (besides self), but "
            f"{_name(function)!r} has {count} parameters."
        )
    return count == 2


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", function))
