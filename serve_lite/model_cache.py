"""The models that one `@serve.multiplexed` loader has loaded, and who may use them how long.

A cache has `limit` places. A model takes one from the moment its load begins until its unload has ended, so that
there are never more than `limit` models in memory, whatever overlaps.

- A model that was given to a request is not unloaded before that request has ended.
- What must go is what was asked for longest ago, of those that nobody holds. If all are held, the ones that were
  asked for longest ago are given to no further requests: otherwise a busy model could keep its place for ever.
- A request waits for a place only if it holds nothing in this cache or in one made later; one that does gets a
  place beyond the limit at once. So requests that wait for each other's models cannot exist: in the last cache
  that anybody waits in, every holder goes on. What goes beyond the limit is unloaded when its holders have ended.

"Holds" includes the requests that wait for a request: those that share its batch, or the load it runs in.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import logging
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from serve_lite.context import (
    RequestContext,
    SharedContext,
    _serve_request_context,
    current_request,
    detached_context,
    on_wait,
)
from serve_lite.exceptions import RayServeException
from serve_lite.instruments import Counter, Family, Histogram, Series, add_source
from serve_lite.user_errors import Failure

log = logging.getLogger("serve_lite.multiplex")

_LOAD_MS = Histogram("serve_multiplexed_model_load_latency_ms", "How long loading a model took.").labels()
_UNLOAD_MS = Histogram(
    "serve_multiplexed_model_unload_latency_ms", "How long unloading a model took."
).labels()
_ASKED = Counter("serve_multiplexed_get_model_requests_counter", "Times a model was asked for.").labels()
_LOADED = Counter("serve_multiplexed_models_load_counter", "Models that were loaded.").labels()
_UNLOADED = Counter("serve_multiplexed_models_unload_counter", "Models that were unloaded.").labels()


class _Model:
    """A loaded model."""

    __slots__ = ("holders", "id", "pins", "value")

    def __init__(self, model_id: str, value: Any) -> None:
        self.id = model_id
        self.value = value
        self.holders: set[RequestContext] = set()  #: requests that may be using it
        self.pins = 0  #: callers that have been answered and did not run since

    @property
    def is_held(self) -> bool:
        return self.pins > 0 or bool(self.holders)


class _Join:
    """One caller that waits for a model."""

    __slots__ = ("answered", "context", "failure", "model")

    def __init__(self, context: RequestContext | None, answered: asyncio.Future[None]) -> None:
        self.context = context
        self.answered = answered
        self.model: _Model | None = None
        self.failure: Failure | None = None


class _Flight:
    """A model on its way, and those who wait for it. It has a place once it has a task."""

    __slots__ = ("cache", "context", "id", "joins", "task")

    def __init__(self, cache: ModelCache, model_id: str) -> None:
        self.cache = cache
        self.id = model_id
        self.joins: set[_Join] = set()
        self.context = SharedContext(model_id, self._waiters)
        self.task: asyncio.Task[tuple[Any, Failure | None]] | None = None

    def _waiters(self) -> list[RequestContext]:
        return [join.context for join in self.joins if join.context is not None]


_order = itertools.count()


class ModelCache:
    """The models of one loader on one event loop.

    Lifetime: tasks load and unload; each ends by itself, or in `unload_all`.

    Args:
        load: the user's loader; may raise anything.
        limit: places, or -1 for as many as are asked for.
    """

    def __init__(
        self, load: Callable[[str], Awaitable[Any]], limit: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._load_model = load
        self._limit = limit
        self._order = next(_order)
        self._begin_on(loop)
        self._models: OrderedDict[str, _Model] = OrderedDict()  #: the one asked for last at the end
        _all_caches.add(self)

    def _begin_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._flights: dict[str, _Flight] = {}
        self._waiting: dict[_Flight, None] = {}  #: those without a place, first come first
        self._draining: frozenset[_Model] = frozenset()  #: held, and given to no further requests
        self._n_loading = 0
        self._unloading: set[asyncio.Task[None]] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that it is used on; None if that is gone."""
        return self._loop()

    def moves_to(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Take the models to this loop if the one that they were used on has stopped; False if it has not."""
        before = self._loop()
        if before is not None and before.is_running():
            return False
        if before is not None and not before.is_closed() and (self._flights or self._unloading):
            return False  # it may run again
        _waiting_anywhere.difference_update(self._waiting)
        self._begin_on(loop)
        for model in self._models.values():
            model.holders, model.pins = set(), 0  # nothing of that loop runs any more
        return True

    def ids(self) -> list[str]:
        """Return the ids that are loaded, being loaded, or waiting for a place."""
        return [*self._models, *self._flights]

    @property
    def loaded(self) -> list[str]:
        """The ids that are loaded."""
        return list(self._models)

    # --- asking ---

    async def get(self, model_id: str) -> Any:
        """Return the model, loaded if need be; held until the request that runs now has ended.

        Raises:
            Exception: what the loader raised.
            RuntimeError: the loader of a model asks, directly or not, for that model.
        """
        _ASKED.value += 1
        context = current_request()
        model = self._models.get(model_id)
        if model is None or (model in self._draining and not self._is_holding(context)):
            model = await self._join(model_id, context)
            model.pins -= 1
        elif model not in self._draining:
            self._models.move_to_end(model_id)
        if context is not None:
            self._hold(model, context)
        if not model.is_held:
            self._settle()
        return model.value

    async def _join(self, model_id: str, context: RequestContext | None) -> _Model:
        """Wait for the model and return it, with a pin for the caller to take away."""
        flight = self._flights.get(model_id)
        if flight is None:
            flight = self._flights[model_id] = _Flight(self, model_id)
            self._waiting[flight] = None
            _waiting_anywhere.add(flight)
        elif context is not None and flight.context in _everybody([context]):
            raise RuntimeError(
                f"Model {model_id!r} can never be loaded: its loader asks for {model_id!r} and waits for itself."
            )
        join = _Join(context, asyncio.get_running_loop().create_future())
        flight.joins.add(join)
        reconsider()  # the load may now be waited for by a request that must not wait
        _tell()
        try:
            await join.answered  # ends with the load, or when all who wait have gone
        except BaseException:  # cancelled; perhaps after the answer
            flight.joins.discard(join)
            if join.model is not None:
                join.model.pins -= 1
            elif not flight.joins and flight in self._waiting:
                self._remove(flight)
            self._settle()
            _tell()
            raise
        if join.failure is not None:
            join.failure.throw()
        assert join.model is not None
        return join.model

    def _hold(self, model: _Model, context: RequestContext) -> None:
        if context not in model.holders:
            model.holders.add(context)
            context.at_end(functools.partial(self._release, model, context))
            reconsider()  # it must not wait for another model from now on

    def _release(self, model: _Model, context: RequestContext) -> None:
        model.holders.discard(context)
        if not model.is_held:
            self._settle()

    # --- places ---

    @property
    def _taken(self) -> int:
        return len(self._models) + self._n_loading + len(self._unloading)

    def _settle(self) -> None:
        """Give out places and take back what is due, until nothing more can be done now."""
        loop = self._loop()
        if loop is None or loop.is_closed():
            return
        if self._limit < 0:
            for flight in tuple(self._waiting):
                self._start(flight)
            return
        if self._waiting or self._draining or self._taken > self._limit:
            while self._settle_one():
                pass

    def _settle_one(self) -> bool:
        """Make one move; False if there is none."""
        holding = self._holding() if self._waiting else set()
        urgent = [f for f in self._waiting if any(_is_among(join.context, holding) for join in f.joins)]
        queue = urgent + [f for f in self._waiting if f not in urgent]

        for ahead, flight in enumerate(queue):  # each of those ahead needs a place
            model = self._models.get(flight.id)  # loaded, but it was to go when this flight came
            if model is not None and (ahead == 0 or flight in urgent or model not in self._victims(ahead)):
                self._models.move_to_end(flight.id)
                self._arrive(flight, model)
                return True

        if queue and self._taken < self._limit:
            self._start(queue[0])
            return True

        victims = self._victims(len(queue))
        self._draining = frozenset(model for model in victims if model.is_held)
        for model in victims:
            if not model.is_held:
                self._unload(model)
                return True

        if len(urgent) > len(self._unloading):  # as many will have a place in any case
            self._start(urgent[0])
            return True
        return False

    def _victims(self, n_wanted: int) -> list[_Model]:
        """Return the models that must go for so many others to come; held ones last, and only if any come."""
        surplus = len(self._models) + self._n_loading + n_wanted - self._limit
        if surplus <= 0:
            return []
        free = [model for model in self._models.values() if not model.is_held]
        held = [model for model in self._models.values() if model.is_held] if n_wanted else []
        return (free + held)[:surplus]

    def _is_holding(self, context: RequestContext | None) -> bool:
        return _is_among(context, self._holding())

    def _holding(self) -> set[RequestContext | str]:
        """Return the requests that must not wait here: as objects and, for their calls to others, as ids."""
        found: set[RequestContext | str] = set()
        for cache in tuple(_all_caches):
            if cache._order < self._order or cache._loop() is not self._loop():
                continue
            for model in cache._models.values():
                found.update(model.holders)
            found.update(flight.context for flight in cache._flights.values() if flight.task is not None)
        return found | {context.request_id for context in found if isinstance(context, RequestContext)} - {""}

    # --- loading ---

    def _start(self, flight: _Flight) -> None:
        """Give the flight a place and begin to load."""
        del self._waiting[flight]
        _waiting_anywhere.discard(flight)
        self._n_loading += 1
        loop = asyncio.get_running_loop()
        begun = loop.time()
        flight.task = loop.create_task(self._load(flight), context=detached_context())
        flight.task.add_done_callback(functools.partial(self._on_loaded, flight, begun))

    async def _load(self, flight: _Flight) -> tuple[Any, Failure | None]:
        """Run the loader, in a context of its own and not in that of the request that was first."""
        _serve_request_context.set(flight.context)
        try:
            return await self._load_model(flight.id), None
        except BaseException as error:  # boundary: user code. The loop must survive KeyboardInterrupt, too
            if isinstance(error, asyncio.CancelledError):
                flight.context.cancel_children()
            return None, _failed(flight, error)

    def _on_loaded(
        self, flight: _Flight, begun: float, task: asyncio.Task[tuple[Any, Failure | None]]
    ) -> None:
        if self._flights.get(flight.id) is not flight:
            return  # of a loop that had stopped and runs again
        value, failure = (
            (None, _failed(flight, asyncio.CancelledError())) if task.cancelled() else task.result()
        )
        self._n_loading -= 1
        if failure is None:
            _LOADED.value += 1
            _LOAD_MS.observe((task.get_loop().time() - begun) * 1000)
            model = self._models[flight.id] = _Model(flight.id, value)
            self._arrive(flight, model)
        else:
            self._refuse(flight, failure)
        flight.context.end()
        self._settle()
        _tell()

    def _arrive(self, flight: _Flight, model: _Model) -> None:
        """Give the model to all who wait for it."""
        self._remove(flight)
        for join in flight.joins:
            if not join.answered.done():
                model.pins += 1
                join.model = model
                join.answered.set_result(None)

    def _refuse(self, flight: _Flight, failure: Failure) -> None:
        self._remove(flight)
        for join in flight.joins:
            if not join.answered.done():
                join.failure = failure
                join.answered.set_result(None)

    def _remove(self, flight: _Flight) -> None:
        del self._flights[flight.id]
        self._waiting.pop(flight, None)
        _waiting_anywhere.discard(flight)

    # --- unloading ---

    async def unload_all(self) -> None:
        """Give up loads and unload every model, held or not. Ends when all loaders and destructors have."""
        while self._flights or self._models or self._unloading:
            for flight in tuple(self._waiting):
                error = RayServeException(f"Model {flight.id!r} is not loaded any more: its replica stops.")
                self._refuse(flight, Failure(error, ""))
            loads = [flight.task for flight in self._flights.values() if flight.task is not None]
            for task in loads:
                task.cancel()
            for model in tuple(self._models.values()):
                self._unload(model)
            if loads or self._unloading:
                await asyncio.wait([*loads, *self._unloading])
                await asyncio.sleep(0)  # their callbacks come next

    def _unload(self, model: _Model) -> None:
        """Take the model out; its destructor, if it has one, keeps the place until it has run."""
        del self._models[model.id]
        _UNLOADED.value += 1
        is_shared = any(other.value is model.value for other in self._models.values())
        if is_shared or _destructor_of(type(model.value)) is None:
            _UNLOAD_MS.observe(0)
        else:
            loop = asyncio.get_running_loop()
            task = loop.create_task(_destroy(model), context=detached_context())
            self._unloading.add(task)
            task.add_done_callback(functools.partial(self._on_unloaded, loop.time()))
        _tell()

    def _on_unloaded(self, begun: float, task: asyncio.Task[None]) -> None:
        _UNLOAD_MS.observe((task.get_loop().time() - begun) * 1000)
        self._unloading.discard(task)
        self._settle()


def _failed(flight: _Flight, error: BaseException) -> Failure:
    return Failure(error, f"The loader of model {flight.id!r}")


# --- who waits for whom --------------------------------------------------------------------------

_all_caches: weakref.WeakSet[ModelCache] = weakref.WeakSet()
_waiting_anywhere: set[_Flight] = set()  #: those without a place, of all caches


def reconsider() -> None:
    """Look again who must not wait: a request of this loop has begun to hold something, or to wait."""
    if _waiting_anywhere:
        loop = asyncio.get_running_loop()
        for cache in {flight.cache for flight in tuple(_waiting_anywhere)}:  # other loops may add meanwhile
            if cache._loop() is loop:
                cache._settle()


on_wait(reconsider)


def _is_among(context: RequestContext | None, holding: set[RequestContext | str]) -> bool:
    """Whether this request, or one that waits for it, is among them."""
    if context is None or not holding:
        return False
    return any(other in holding or other.request_id in holding for other in _everybody([context]))


def _everybody(contexts: Iterable[RequestContext]) -> set[RequestContext]:
    """Return these requests and all that wait for one of them, directly or not."""
    found: set[RequestContext] = set()
    todo = list(contexts)
    while todo:
        context = todo.pop()
        if context not in found:
            found.add(context)
            if isinstance(context, SharedContext):
                todo.extend(context.waiters())
    return found


# --- destructors ---------------------------------------------------------------------------------

_destroyed: set[int] = set()  #: ids of models whose destructor has run; each is alive while it is in here


def _destructor_of(kind: type) -> Callable[[Any], Any] | None:
    """Return the user's `__del__`, and make sure that the garbage collector will not run it a second time."""
    found: Any = getattr(kind, "__del__", None)
    if found is None or hasattr(found, "_serve_original"):
        return getattr(found, "_serve_original", None)

    @functools.wraps(found)
    def unless_destroyed(model: Any) -> Any:
        if id(model) in _destroyed:
            _destroyed.discard(id(model))
            return None
        return found(model)

    unless_destroyed._serve_original = found  # type: ignore[attr-defined]  # how it is known again
    try:
        kind.__del__ = unless_destroyed  # type: ignore[attr-defined]
    except TypeError:  # a type of an extension module cannot be changed
        log.debug("the destructor of %r will run again when it is collected", kind)
    return found  # type: ignore[no-any-return]


async def _destroy(model: _Model) -> None:
    """Run the model's `__del__` now: memory is needed before the garbage collector would come."""
    value = model.value
    destructor = _destructor_of(type(value))
    assert destructor is not None
    try:
        if inspect.iscoroutinefunction(destructor):
            await destructor(value)
        else:
            await asyncio.get_running_loop().run_in_executor(None, destructor, value)
    except asyncio.CancelledError:
        raise
    except BaseException:  # boundary: the user's destructor. The loop must survive SystemExit, too
        log.exception("The destructor of model %r failed.", model.id)
    finally:
        if hasattr(type(value).__del__, "_serve_original"):
            _destroyed.add(id(value))


# --- the process's models ------------------------------------------------------------------------

_listener: Callable[[list[str]], None] | None = None
_told: list[str] | None = None


def on_models_changed(listener: Callable[[list[str]], None] | None) -> None:
    """Call `listener` with the ids that are loaded or being loaded, on each change; None for nobody."""
    global _listener, _told
    _listener, _told = listener, None


def _tell() -> None:
    global _told
    if _listener is not None:
        ids = loaded_model_ids()
        if ids != _told:
            _told = ids
            _listener(ids)


def loaded_model_ids() -> list[str]:
    """Return the ids that are loaded, being loaded or waiting for that in this process, sorted."""
    return sorted({model_id for cache in tuple(_all_caches) for model_id in cache.ids()})


async def unload_all() -> None:
    """Unload every model of this loop; the replica does so when it stops, after the user's own destructor."""
    loop = asyncio.get_running_loop()
    for cache in tuple(_all_caches):
        if cache.loop is loop or cache.moves_to(loop):
            await cache.unload_all()


def _picture() -> list[Family]:
    """Return the gauges, which follow the caches: one that is collected with its instance takes its models along."""
    if not _ASKED.value:
        return []
    loaded = [model_id for cache in tuple(_all_caches) for model_id in cache.loaded]
    return [
        Family(
            "serve_num_multiplexed_models",
            "gauge",
            "Models that are loaded.",
            [],
            [Series([], [len(loaded)])],
        ),
        Family(
            "serve_registered_multiplexed_model_id",
            "gauge",
            "1 for each model that is loaded.",
            ["model_id"],
            [Series([model_id], [1]) for model_id in sorted(set(loaded))],
        ),
    ]


add_source(_picture)
