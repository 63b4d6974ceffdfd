"""`@serve.multiplexed`: a replica loads models by id when asked for, and keeps the ones used last.

Each decorated method of each instance has its own cache. A model is loaded once however many calls want
it; different models load at the same time, as far as the limit has room. Which ids a replica holds is
told to `on_models_changed`, for routers to prefer it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from serve_lite.checks import wrong
from serve_lite.context import (
    RequestContext,
    _serve_request_context,
    detached_context,
    get_multiplexed_model_id,
)

__all__ = ["get_multiplexed_model_id", "loaded_model_ids", "multiplexed", "on_models_changed", "unload_all"]

F = TypeVar("F", bound=Callable[..., Any])

log = logging.getLogger("serve_lite.multiplex")

_CACHES = "_serve_model_caches"  # on instances: caches by method name


@overload
def multiplexed(func: F, /) -> F: ...
@overload
def multiplexed(func: None = None, max_num_models_per_replica: int = 3) -> Callable[[F], F]: ...
def multiplexed(func: Any = None, max_num_models_per_replica: int = 3) -> Any:
    """Decorate an async function or method that loads a model by id so that it remembers the latest ones.

    Awaiting it with an id gives the loaded model. When there is no room, the one used least recently is
    unloaded first; if it has `__del__`, that is called (in a thread, or awaited if async). A load that
    fails raises in every call that waited for it and is not remembered.

    Args:
        func: takes the id as its one parameter besides `self`.
        max_num_models_per_replica: how many models to keep; -1 for no limit.

    Raises:
        TypeError, ValueError: at decoration, for a wrong limit or function; when called, for a wrong id.
    """
    limit = max_num_models_per_replica
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise wrong(limit, "max_num_models_per_replica", "an integer", wrong_type=True)
    if limit != -1 and limit < 1:
        raise wrong(limit, "max_num_models_per_replica", "at least 1, or -1 for no limit")

    def decorate(loader: Callable[..., Any]) -> Callable[..., Any]:
        return _wrap(loader, limit, is_method=_check_loader(loader))

    return decorate if func is None else decorate(func)


def _check_loader(loader: Any) -> bool:
    """Return whether the loader is a method."""
    if not inspect.iscoroutinefunction(loader):
        raise TypeError(f"@serve.multiplexed needs an 'async def' function or method, but got {loader!r}.")
    count = len(inspect.signature(loader).parameters)
    if count not in (1, 2):
        raise TypeError(
            f"@serve.multiplexed needs a function with one parameter, the model id (besides self), but "
            f"{loader.__qualname__!r} has {count} parameters."
        )
    return count == 2


def _wrap(loader: Callable[..., Awaitable[Any]], limit: int, *, is_method: bool) -> Callable[..., Any]:
    own: list[_ModelCache] = []  # of a free function: the one cache, once used

    @functools.wraps(loader)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        model_id = _model_id(args[1:] if is_method else args, kwargs, loader)
        if is_method:
            cache = _cache_of(args[0], loader, limit)
        elif own:
            cache = own[0]
        else:
            own.append(cache := _ModelCache(loader, limit))
        return await cache.get(model_id)

    return wrapper


def _model_id(args: tuple[Any, ...], kwargs: dict[str, Any], loader: Callable[..., Any]) -> str:
    name = getattr(loader, "__qualname__", "the loader")
    if kwargs or len(args) != 1:
        raise TypeError(f"{name} takes exactly one positional argument, the model id.")
    (model_id,) = args
    if not isinstance(model_id, str):
        raise TypeError(f"The model id given to {name} must be a string, but it is {model_id!r}.")
    if not model_id:
        raise ValueError(
            f"The model id given to {name} is empty. Did the request carry one (header serve_multiplexed_model_id, "
            "or handle.options(multiplexed_model_id=...))?"
        )
    return model_id


def _cache_of(instance: Any, loader: Callable[..., Awaitable[Any]], limit: int) -> _ModelCache:
    caches: dict[str, _ModelCache] | None = getattr(instance, _CACHES, None)
    if caches is None:
        caches = {}
        object.__setattr__(instance, _CACHES, caches)
    name = loader.__qualname__
    if name not in caches:
        caches[name] = _ModelCache(functools.partial(loader, instance), limit)
    return caches[name]


# --- the process's models ------------------------------------------------------------------------

_all_caches: weakref.WeakSet[_ModelCache] = weakref.WeakSet()
_listener: Callable[[list[str]], None] | None = None


def on_models_changed(listener: Callable[[list[str]], None] | None) -> None:
    """Call `listener` with the ids that are loaded or being loaded, on each change; None for nobody."""
    global _listener
    _listener = listener


def loaded_model_ids() -> list[str]:
    """Return the ids that are loaded or being loaded in this process, sorted."""
    return sorted({model_id for cache in _all_caches for model_id in cache.ids()})


async def unload_all() -> None:
    """Unload every model; the replica does so when it stops, after the user's own destructor."""
    for cache in tuple(_all_caches):
        await cache.unload_all()


class _ModelCache:
    """The models of one loader, the one used last at the end.

    Room is counted when a load begins, so that there are never more than `limit` models, loading ones
    included.
    """

    def __init__(self, load: Callable[[str], Awaitable[Any]], limit: int) -> None:
        self._load = load
        self._limit = limit
        self._models: OrderedDict[str, Any] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Any]] = {}
        self._taken = 0  #: places used by loaded, loading and unloading models
        self._changed: asyncio.Event | None = None
        _all_caches.add(self)

    def ids(self) -> list[str]:
        return [*self._models, *self._loading]

    async def get(self, model_id: str) -> Any:
        """Return the model, loaded if need be."""
        if model_id in self._models:
            self._models.move_to_end(model_id)
            return self._models[model_id]
        task = self._loading.get(model_id)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._fetch(model_id), context=detached_context())
            task.add_done_callback(_seen)
            self._loading[model_id] = task
            self._tell()
        return await asyncio.shield(task)  # a caller that goes away must not stop it for the others

    async def _fetch(self, model_id: str) -> Any:
        """Load one model in the place of another. Runs outside the request that happened to be first."""
        _serve_request_context.set(RequestContext(multiplexed_model_id=model_id))
        try:
            await self._take_place()
            try:
                model = await self._load(model_id)
            except BaseException:
                self._taken -= 1
                raise
            self._models[model_id] = model
            return model
        finally:
            del self._loading[model_id]
            self._tell()

    async def _take_place(self) -> None:
        while 0 < self._limit <= self._taken:
            if self._models:
                await self._unload(next(iter(self._models)))
            else:
                if self._changed is None:
                    self._changed = asyncio.Event()
                self._changed.clear()
                await self._changed.wait()  # ends when one of the loads that hold all places ends
        self._taken += 1

    async def unload_all(self) -> None:
        while self._models:
            await self._unload(next(iter(self._models)))

    async def _unload(self, model_id: str) -> None:
        model = self._models.pop(model_id)
        try:
            await _destroy(model)
        except Exception:  # boundary: the user's destructor
            log.exception("The destructor of model %r failed.", model_id)
        finally:
            self._taken -= 1
            self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.set()
        if _listener is not None:
            _listener(loaded_model_ids())


def _seen(task: asyncio.Task[Any]) -> None:
    """Take note of a load's error, so that asyncio does not complain when every caller has gone."""
    if not task.cancelled():
        task.exception()


async def _destroy(model: Any) -> None:
    """Run the model's `__del__` now, once: memory is needed before the garbage collector would come."""
    destructor = getattr(type(model), "__del__", None)
    if destructor is None:
        return
    if inspect.iscoroutinefunction(destructor):
        await destructor(model)
    else:
        await asyncio.get_running_loop().run_in_executor(None, destructor, model)
    with contextlib.suppress(
        TypeError
    ):  # a class whose layout does not allow it: collected with __del__ again
        kind = type(model)
        model.__class__ = type(
            kind.__name__, (kind,), {"__del__": lambda self: None, "__module__": kind.__module__}
        )
