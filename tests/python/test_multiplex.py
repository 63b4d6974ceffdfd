"""`@serve.multiplexed`, without a replica."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import cloudpickle
import pytest

from serve_lite import instruments
from serve_lite.batching import batch
from serve_lite.context import RequestContext, _serve_request_context, current_request
from serve_lite.exceptions import RayServeException, RequestCancelledError
from serve_lite.multiplex import (
    get_multiplexed_model_id,
    loaded_model_ids,
    multiplexed,
    on_models_changed,
    unload_all,
)

pytestmark = pytest.mark.anyio
DEADLINE_S = 30.0


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0)


async def turns(n: int = 20) -> None:
    """Let everything happen that can happen without us."""
    for _ in range(n):
        await asyncio.sleep(0)


@contextlib.contextmanager
def request(request_id: str = "", model_id: str = "") -> Iterator[RequestContext]:
    """Code inside runs for a request of its own."""
    context = RequestContext(request_id, multiplexed_model_id=model_id)
    token = _serve_request_context.set(context)
    try:
        yield context
    finally:
        _serve_request_context.reset(token)
        context.end()


class World:
    """Models that say whether they are still there, and a loader that counts them."""

    def __init__(self, limit: int) -> None:
        self.alive: list[str] = []
        self.most = 0
        self.log: list[str] = []
        world = self

        class Model:
            def __init__(self, name: str) -> None:
                self.name = name
                self.is_gone = False

            async def __del__(self) -> None:
                self.is_gone = True
                world.log.append("-" + self.name)
                await asyncio.sleep(0)
                world.alive.remove(self.name)

        @multiplexed(max_num_models_per_replica=limit)
        async def get(model_id: str) -> Model:
            world.alive.append(model_id)
            world.most = max(world.most, len(world.alive))
            world.log.append("+" + model_id)
            await asyncio.sleep(0)
            return Model(model_id)

        self.get: Any = get

    def ask(self, model_id: str, context: RequestContext | None = None) -> asyncio.Task[Any]:
        """Ask for a model in a request that does not end by itself."""
        context = context or RequestContext()

        async def run() -> Any:
            _serve_request_context.set(context)
            return await self.get(model_id)

        return asyncio.create_task(run())


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(autouse=True)
async def nothing_is_left_loaded(anyio_backend: Any) -> AsyncIterator[None]:
    yield
    await unload_all()


class Loader:
    """A deployment with a gate in its loader."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    @multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> str:
        self.loads.append(model_id)
        await self.gate.wait()
        return "model " + model_id


async def test_a_model_is_loaded_once_and_the_least_recently_used_gives_way() -> None:
    loader = Loader()
    for model_id in ("a", "b", "a", "c", "a", "b"):
        assert await loader.get_model(model_id) == "model " + model_id
    assert loader.loads == ["a", "b", "c", "b"]


async def test_calls_for_one_id_share_a_load_and_other_ids_load_meanwhile() -> None:
    loader = Loader()
    loader.gate.clear()
    calls = [asyncio.ensure_future(loader.get_model(i)) for i in ("a", "a", "b", "a")]
    while len(loader.loads) < 2:
        await asyncio.sleep(0)
    loader.gate.set()
    assert await asyncio.gather(*calls) == ["model a", "model a", "model b", "model a"]
    assert loader.loads == ["a", "b"]


async def test_a_load_waits_while_every_place_is_loading() -> None:
    loader = Loader()
    loader.gate.clear()
    calls = [asyncio.ensure_future(loader.get_model(i)) for i in "abc"]
    while len(loader.loads) < 2:
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert loader.loads == ["a", "b"]
    loader.gate.set()
    async with asyncio.timeout(30):
        assert await asyncio.gather(*calls) == ["model a", "model b", "model c"]


async def test_a_caller_that_goes_away_does_not_stop_the_load_for_others() -> None:
    loader = Loader()
    loader.gate.clear()
    first, second = (asyncio.ensure_future(loader.get_model("a")) for _ in range(2))
    while not loader.loads:
        await asyncio.sleep(0)
    first.cancel()
    loader.gate.set()
    assert await second == "model a"


async def test_a_failed_load_raises_in_every_caller_and_is_tried_again() -> None:
    attempts = 0

    @multiplexed
    async def load(model_id: str) -> str:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise OSError("no such model")
        return model_id

    results = await asyncio.gather(load("a"), load("a"), return_exceptions=True)
    assert [type(r) for r in results] == [OSError, OSError]
    assert await load("a") == "a" and attempts == 2


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_destructor_runs_once_when_a_model_is_unloaded(is_async: bool) -> None:
    destroyed: list[str] = []

    class Sync:
        def __init__(self, name: str) -> None:
            self.name = name

        def __del__(self) -> None:
            destroyed.append(self.name)

    class Async(Sync):
        async def __del__(self) -> None:  # type: ignore[override]
            destroyed.append(self.name)

    @multiplexed(max_num_models_per_replica=1)
    async def load(model_id: str) -> Any:
        return (Async if is_async else Sync)(model_id)

    held = await load("a")
    await load("b")
    assert destroyed == ["a"]
    del held
    gc.collect()
    assert destroyed == ["a"]
    await unload_all()
    assert destroyed == ["a", "b"]


async def test_each_method_has_its_own_cache() -> None:
    class Two:
        @multiplexed
        async def first(self, model_id: str) -> str:
            return "first " + model_id

        @multiplexed
        async def second(self, model_id: str) -> str:
            return "second " + model_id

    two = Two()
    assert (await two.first("a"), await two.second("a")) == ("first a", "second a")


async def test_the_listener_hears_of_loads_and_unloads() -> None:
    gc.collect()
    heard: list[list[str]] = []
    before = set(loaded_model_ids())
    on_models_changed(lambda ids: heard.append(sorted(set(ids) - before)))
    try:
        loader = Loader()
        for model_id in ("x1", "x2", "x3"):
            await loader.get_model(model_id)
    finally:
        on_models_changed(None)
    assert heard[0] == ["x1"] and heard[-1] == ["x2", "x3"]


@pytest.mark.parametrize(
    ("args", "kwargs", "error"),
    [
        ((), {}, TypeError),
        (("a", "b"), {}, TypeError),
        ((), {"model_id": "a"}, TypeError),
        ((3,), {}, TypeError),
        (("",), {}, ValueError),
    ],
)
async def test_wrong_ids_are_refused(args: Any, kwargs: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        await Loader().get_model(*args, **kwargs)


def test_wrong_limits_and_loaders_are_refused_at_decoration() -> None:
    def sync(model_id: str) -> None: ...

    async def three(a: int, b: int, c: int) -> None: ...

    for limit, error in (
        (0, ValueError),
        (-2, ValueError),
        (1.0, TypeError),
        (True, TypeError),
        ("3", TypeError),
    ):
        with pytest.raises(error):
            multiplexed(max_num_models_per_replica=limit)  # type: ignore[call-overload]
    for loader in (sync, three, 5):
        with pytest.raises(TypeError):
            multiplexed(loader)  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            multiplexed(max_num_models_per_replica=2)(loader)  # type: ignore[type-var]


# --- models in use ---------------------------------------------------------------------------------


async def test_a_model_stays_while_the_request_runs_that_it_was_given_to() -> None:
    world = World(limit=1)
    first, second = RequestContext(), RequestContext()
    a = await world.ask("a", first)
    waiting = world.ask("b", second)
    await turns()
    assert not waiting.done() and not a.is_gone
    first.end()
    async with asyncio.timeout(DEADLINE_S):
        b = await waiting
    assert a.is_gone and not b.is_gone
    assert world.log == ["+a", "-a", "+b"] and world.most == 1
    second.end()


async def test_what_is_unloaded_is_what_nobody_holds_and_was_asked_for_longest_ago() -> None:
    world = World(limit=3)
    holds_a = RequestContext()
    await world.ask("a", holds_a)
    for model_id in ("b", "c", "b"):
        with request():
            await world.get(model_id)
    with request():
        await world.get("d")
    assert sorted(world.alive) == ["a", "b", "d"]
    holds_a.end()


async def test_a_request_that_gives_up_waiting_has_changed_nothing() -> None:
    world = World(limit=1)
    first = RequestContext()
    a = await world.ask("a", first)
    waiting = world.ask("b")
    await turns()
    waiting.cancel()
    await asyncio.wait([waiting])
    with request():
        assert await world.get("a") is a
    first.end()
    await turns()
    assert world.log == ["+a"] and not a.is_gone
    assert "b" not in loaded_model_ids()


async def test_a_request_that_holds_a_model_gets_another_at_once_and_the_excess_goes_when_it_ends() -> None:
    world = World(limit=1)
    with request():
        async with asyncio.timeout(DEADLINE_S):
            a, b = await world.get("a"), await world.get("b")
        assert not a.is_gone and not b.is_gone
    await until(lambda: world.alive == ["b"])
    assert world.log == ["+a", "+b", "-a"]


async def test_a_free_model_makes_room_before_the_limit_is_passed() -> None:
    world = World(limit=2)
    with request():
        await world.get("a")
    with request():
        await world.get("b")
        await world.get("c")
    assert world.most == 2


async def test_one_request_may_ask_for_several_models_at_the_same_time() -> None:
    world = World(limit=1)
    with request():
        async with asyncio.timeout(DEADLINE_S):
            models = await asyncio.gather(*(world.get(i) for i in "abc"))
        assert [m.name for m in models] == ["a", "b", "c"] and not any(m.is_gone for m in models)
    await until(lambda: len(world.alive) == 1)


async def test_a_call_made_by_a_request_that_holds_a_model_does_not_wait_for_that_request() -> None:
    world = World(limit=1)
    outer, inner = RequestContext("r1"), RequestContext("r1")  # what it calls has the same id
    await world.ask("a", outer)
    async with asyncio.timeout(DEADLINE_S):
        assert (await world.ask("b", inner)).name == "b"
    inner.end()
    outer.end()


async def test_a_busy_model_does_not_keep_its_place_for_ever() -> None:
    world = World(limit=1)
    before = RequestContext()
    a = await world.ask("a", before)
    for_b, after = RequestContext(), RequestContext()
    waiting_b = world.ask("b", for_b)
    await turns()
    waiting_a = world.ask("a", after)  # came later, and would keep the place busy
    await turns()
    assert not waiting_a.done()
    before.end()
    async with asyncio.timeout(DEADLINE_S):
        b = await waiting_b
    assert a.is_gone and not waiting_a.done()
    for_b.end()
    async with asyncio.timeout(DEADLINE_S):
        a = await waiting_a
    assert b.is_gone and not a.is_gone
    after.end()


async def test_those_who_waited_for_a_model_to_come_back_get_it_if_it_need_not_go() -> None:
    world = World(limit=1)
    before = RequestContext()
    a = await world.ask("a", before)
    waiting_b = world.ask("b")
    await turns()
    waiting_a = world.ask("a")
    await turns()
    waiting_b.cancel()
    async with asyncio.timeout(DEADLINE_S):
        assert await waiting_a is a
    before.end()
    assert world.log == ["+a"]


async def test_a_model_waits_for_its_callers_to_run_after_it_was_loaded() -> None:
    world = World(limit=1)

    async def outside(model_id: str) -> tuple[str, bool]:  # no request: nothing is held
        model = await world.get(model_id)
        return model.name, model.is_gone

    async with asyncio.timeout(DEADLINE_S):
        results = await asyncio.gather(*(outside(i) for i in "abab"))
    assert results == [("a", False), ("b", False), ("a", False), ("b", False)]
    assert world.most == 1


async def test_what_runs_on_after_its_request_holds_nothing() -> None:
    world = World(limit=1)
    context = RequestContext()
    await world.ask("a", context)
    context.end()
    await world.ask("a", context)  # a background task, for example
    async with asyncio.timeout(DEADLINE_S):
        assert (await world.ask("b", context)).name == "b"
        assert (await world.ask("c")).name == "c"


async def test_two_caches_that_are_used_in_either_order_do_not_wait_for_each_other() -> None:
    first, second = World(limit=1), World(limit=1)
    one, two = RequestContext(), RequestContext()
    await asyncio.gather(first.ask("x", one), second.ask("y", two))

    async def rest(world: World, model_id: str, context: RequestContext) -> None:
        await world.ask(model_id, context)
        context.end()

    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(rest(second, "p", one), rest(first, "q", two))


async def test_a_caller_that_is_cancelled_just_when_its_model_has_come_holds_nothing() -> None:
    callers: list[asyncio.Task[Any]] = []

    @multiplexed(max_num_models_per_replica=1)
    async def load(model_id: str) -> str:
        context = current_request()
        assert context is not None
        if model_id == "a":
            context.at_end(lambda: callers[0].cancel())  # after the answer, before its caller runs
        return model_id

    callers.append(asyncio.create_task(load("a")))  # type: ignore[arg-type]
    await asyncio.wait(callers)
    assert callers[0].cancelled()
    async with asyncio.timeout(DEADLINE_S):
        assert await load("b") == "b"


# --- together with batches ---------------------------------------------------------------------------


async def test_a_model_that_a_batch_asked_for_is_held_until_the_batch_has_ended() -> None:
    world = World(limit=1)
    gate = asyncio.Event()
    models: dict[str, Any] = {}

    @batch(max_batch_size=4, batch_wait_timeout_s=0)
    async def predict(items: list[int]) -> list[str]:
        model = models[get_multiplexed_model_id()] = await world.get(get_multiplexed_model_id())
        await gate.wait()
        assert not model.is_gone
        return [model.name] * len(items)

    async def call(model_id: str, item: int) -> str:
        with request("r", model_id):
            return await predict(item)  # type: ignore[no-any-return]

    calls = [asyncio.create_task(call(m, i)) for i, m in enumerate("abab")]
    await until(lambda: models)
    await turns()
    assert len(world.alive) == 1
    gate.set()
    async with asyncio.timeout(DEADLINE_S):
        assert await asyncio.gather(*calls) == ["a", "b", "a", "b"]
    assert world.most == 1


async def test_a_batch_works_for_its_callers_and_those_behind_it_and_waits_for_none_of_them() -> None:
    world = World(limit=1)

    @batch(max_batch_size=1)
    async def predict(models: list[str]) -> list[str]:
        return [(await world.get(m)).name for m in models]

    async def call(context: RequestContext, model_id: str) -> str:
        _serve_request_context.set(context)
        return await predict(model_id)  # type: ignore[no-any-return]

    holder, other = RequestContext(), RequestContext()
    await world.ask("a", holder)
    async with asyncio.timeout(DEADLINE_S):
        assert await asyncio.create_task(call(holder, "b")) == "b"  # its caller holds "a"
        ahead = asyncio.create_task(call(other, "c"))
        await turns()
        assert not ahead.done()
        behind = asyncio.create_task(call(holder, "a"))  # cannot run before the one ahead has ended
        assert (await ahead, await behind) == ("c", "a")
    holder.end()


async def test_who_only_waits_for_others_to_join_does_not_hurry_the_batch_that_runs() -> None:
    world = World(limit=1)

    @batch(max_batch_size=2, batch_wait_timeout_s=60, max_concurrent_batches=2)
    async def predict(models: list[str]) -> list[str]:
        return [(await world.get(m)).name for m in models]

    async def call(context: RequestContext, model_id: str) -> str:
        _serve_request_context.set(context)
        return await predict(model_id)  # type: ignore[no-any-return]

    holder, other = RequestContext(), RequestContext()
    await world.ask("a", holder)
    ahead = [asyncio.create_task(call(other, "c")) for _ in range(2)]
    joining = asyncio.create_task(call(holder, "a"))  # in the next batch, which has a place and is not full
    await turns()
    assert world.log == ["+a"]
    holder.end()
    async with asyncio.timeout(DEADLINE_S):
        assert await asyncio.gather(*ahead) == ["c", "c"]
    joining.cancel()


# --- loading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [StopIteration(), asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt(), SystemExit()],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
async def test_whatever_a_loader_raises_its_callers_get_an_exception(error: BaseException) -> None:
    fail = True

    @multiplexed(max_num_models_per_replica=1)
    async def load(model_id: str) -> str:
        if fail:
            raise error
        return model_id

    async with asyncio.timeout(DEADLINE_S):
        first, second = await asyncio.gather(load("a"), load("a"), return_exceptions=True)
    assert isinstance(first, Exception) and first is second
    fail = False
    assert await load("a") == "a"


async def test_a_failed_load_leaves_its_place_free_and_the_other_models_alone() -> None:
    world = World(limit=2)
    attempts = 0

    class Failing:
        @multiplexed(max_num_models_per_replica=2)
        async def get(self, model_id: str) -> Any:
            nonlocal attempts
            if model_id == "bad":
                attempts += 1
                raise OSError("no such model")
            return await world.get(model_id)

    failing = Failing()
    await failing.get("a")
    await failing.get("b")
    for _ in range(3):
        with pytest.raises(OSError):
            await failing.get("bad")
    assert attempts == 3
    assert "b" in loaded_model_ids() and "bad" not in loaded_model_ids()
    await failing.get("c")
    assert {"b", "c"} <= set(loaded_model_ids())  # the place was free: "b" did not have to go


async def test_a_loader_may_ask_for_other_models_but_not_for_its_own() -> None:
    @multiplexed(max_num_models_per_replica=1)
    async def load(model_id: str) -> str:
        base = {"adapter": "base", "self": "self", "x": "y", "y": "x"}.get(model_id)
        return model_id + (" on " + await load(base) if base else "")

    async with asyncio.timeout(DEADLINE_S):
        assert await load("adapter") == "adapter on base"
        for model_id in ("self", "x"):
            with pytest.raises(RuntimeError, match="can never be loaded"):
                await load(model_id)
        assert await load("base") == "base"


async def test_the_loader_runs_outside_the_request_and_sees_its_id() -> None:
    seen: list[tuple[str, str]] = []

    @multiplexed
    async def load(model_id: str) -> str:
        context = current_request()
        assert context is not None
        seen.append((context.request_id, get_multiplexed_model_id()))
        return model_id

    with request("r1", "other"):
        await load("a")
        assert get_multiplexed_model_id() == "other"
    assert seen == [("", "a")]


async def test_loads_and_unloads_together_never_take_more_places_than_there_are() -> None:
    begun, gate = threading.Event(), threading.Event()
    alive: list[str] = []

    class Model:
        def __init__(self, name: str) -> None:
            self.name = name
            alive.append(name)

        def __del__(self) -> None:
            begun.set()
            gate.wait(DEADLINE_S)
            alive.remove(self.name)

    @multiplexed(max_num_models_per_replica=1)
    async def load(model_id: str) -> Model:
        assert not alive
        return Model(model_id)

    await load("a")
    waiting = asyncio.create_task(load("b"))  # type: ignore[arg-type]
    await until(begun.is_set)  # in a thread: the loop goes on
    await turns()
    assert alive == ["a"] and not waiting.done()
    gate.set()
    async with asyncio.timeout(DEADLINE_S):
        assert (await waiting).name == "b"
    await unload_all()


# --- unloading ---------------------------------------------------------------------------------------


async def test_destructors_run_once_whatever_the_class_is_like() -> None:
    destroyed: list[str] = []

    class WithSlots:
        __slots__ = ("name",)

        def __del__(self) -> None:
            destroyed.append(self.name)

    class Child(WithSlots):
        def __del__(self) -> None:
            super().__del__()
            destroyed.append("child " + self.name)

    class Registered:
        subclasses: list[type] = []

        def __init_subclass__(cls) -> None:
            Registered.subclasses.append(cls)

        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(name)

        def __del__(self) -> None:
            destroyed.append("registered")

    @multiplexed(max_num_models_per_replica=1)
    async def load(model_id: str) -> Any:
        if model_id == "registered":
            return Registered()
        model = Child() if model_id == "child" else WithSlots()
        model.name = model_id
        return model

    for model_id in ("slots", "child", "registered", "last"):
        await load(model_id)
    gc.collect()
    assert destroyed == ["slots", "child", "child child", "registered"]
    assert Registered.subclasses == []
    await unload_all()
    gc.collect()
    assert destroyed[-1] == "last" and len(destroyed) == 5
    unmanaged = WithSlots()
    unmanaged.name = "unmanaged"
    del unmanaged
    assert destroyed[-1] == "unmanaged"  # the class itself works as before


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_destructor_that_fails_is_logged_and_frees_its_place(
    error: BaseException, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Sync:
        def __del__(self) -> None:
            raise error

    class Async:
        async def __del__(self) -> None:
            raise error

    @multiplexed(max_num_models_per_replica=1)
    async def load(model_id: str) -> Any:
        return Async() if is_async else Sync()

    with caplog.at_level(logging.ERROR, "serve_lite.multiplex"):
        await load("a")
        async with asyncio.timeout(DEADLINE_S):
            await load("b")
    assert "destructor of model 'a' failed" in caplog.text
    await unload_all()


async def test_an_object_that_two_ids_share_is_destroyed_with_the_last_of_them() -> None:
    destroyed: list[str] = []

    class Model:
        async def __del__(self) -> None:
            destroyed.append("x")

    shared = Model()

    @multiplexed(max_num_models_per_replica=2)
    async def load(model_id: str) -> Any:
        return shared if model_id in "ab" else model_id

    for model_id in "abc":
        await load(model_id)
    assert not destroyed
    await load("d")
    assert destroyed == ["x"]


async def test_unload_all_gives_up_loads_and_tells_those_who_wait() -> None:
    entered, cancelled = asyncio.Event(), []

    @multiplexed(max_num_models_per_replica=1)
    async def load(model_id: str) -> str:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(model_id)
            raise
        return model_id

    loading, waiting = (asyncio.create_task(load(i)) for i in "ab")  # type: ignore[arg-type]
    await entered.wait()
    async with asyncio.timeout(DEADLINE_S):
        await unload_all()
        with pytest.raises(RequestCancelledError):
            await loading
        with pytest.raises(RayServeException, match="replica stops"):
            await waiting
    assert cancelled == ["a"]


# --- where the models are kept -----------------------------------------------------------------------


async def test_copies_classes_and_pickles_do_not_share_models() -> None:
    class Owner:
        def __init__(self, name: str) -> None:
            self.name = name

        @multiplexed
        async def get(self, model_id: str) -> str:
            return f"{self.name} {model_id}"

        @classmethod
        @multiplexed
        async def of_class(cls, model_id: str) -> str:
            return f"{cls.__name__} {model_id}"

    class Child(Owner):
        pass

    owner = Owner("one")
    assert await owner.get("a") == "one a"
    for make in (copy.copy, copy.deepcopy, lambda o: cloudpickle.loads(cloudpickle.dumps(o))):
        other = make(owner)
        other.name = "two"
        assert await other.get("a") == "two a"
    assert await owner.get("a") == "one a"
    assert (await Owner.of_class("m"), await Child.of_class("m")) == ("Owner m", "Child m")


async def test_an_instance_that_can_keep_nothing_is_named() -> None:
    class Bare:
        __slots__ = ()

        @multiplexed
        async def get(self, model_id: str) -> str:
            return model_id

    with pytest.raises(TypeError, match="'Bare' has `__slots__` without `__dict__`"):
        await Bare().get("a")


def test_a_function_that_was_used_can_be_pickled_with_what_refers_to_it() -> None:
    @multiplexed
    async def load(model_id: str) -> str:
        return model_id

    async def main() -> str:
        return await load("a")

    assert asyncio.run(main()) == "a"
    assert asyncio.run(cloudpickle.loads(cloudpickle.dumps(main))()) == "a"


def test_models_outlive_their_loop_and_what_the_loop_left_undone_does_not() -> None:
    loads: list[str] = []
    never: list[asyncio.Event] = []

    @multiplexed(max_num_models_per_replica=2)
    async def load(model_id: str) -> str:
        loads.append(model_id)
        if model_id == "slow" and not never:
            never.append(asyncio.Event())
            await never[0].wait()
        return model_id

    async def first() -> None:
        _serve_request_context.set(RequestContext())  # it does not end: its loop does
        await load("a")
        asyncio.ensure_future(load("slow"))  # type: ignore[arg-type]  # noqa: RUF006
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def second() -> list[str]:
        async with asyncio.timeout(DEADLINE_S):
            return [await load(i) for i in ("a", "slow", "b", "c")]

    asyncio.run(first())
    assert asyncio.run(second()) == ["a", "slow", "b", "c"]
    assert loads == ["a", "slow", "slow", "b", "c"]


def test_loops_that_run_at_the_same_time_have_models_of_their_own() -> None:
    loads: list[int] = []
    barrier = threading.Barrier(3)

    @multiplexed(max_num_models_per_replica=1)
    async def load(model_id: str) -> int:
        loads.append(threading.get_ident())
        return threading.get_ident()

    async def main() -> None:
        assert await load("a") == threading.get_ident()
        await asyncio.to_thread(barrier.wait, DEADLINE_S)
        assert await load("a") == threading.get_ident()

    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * DEADLINE_S)
    assert not failures and len(set(loads)) == 3 == len(loads)


# --- measurements -------------------------------------------------------------------------------------


def measured(name: str) -> dict[tuple[str, ...], list[float]]:
    for family in instruments.collect():
        if family.name == name:
            return {tuple(s.labels): s.values for s in family.series}
    return {}


async def test_models_are_measured() -> None:
    await unload_all()
    gc.collect()
    counters = [
        f"serve_multiplexed_{n}_counter" for n in ("get_model_requests", "models_load", "models_unload")
    ]
    histograms = [f"serve_multiplexed_model_{n}_latency_ms" for n in ("load", "unload")]

    def numbers() -> list[float]:
        return [measured(n).get((), [0])[0] for n in counters] + [
            sum(measured(n).get((), [0])[:-1]) for n in histograms
        ]

    world = World(limit=2)
    before = numbers()
    for model_id in ("a", "b", "a", "c"):
        await world.get(model_id)
    assert [n - b for n, b in zip(numbers(), before, strict=True)] == [4, 3, 1, 3, 1]
    assert measured("serve_num_multiplexed_models") == {(): [2]}
    assert measured("serve_registered_multiplexed_model_id") == {("a",): [1], ("c",): [1]}
    await unload_all()
    assert measured("serve_num_multiplexed_models") == {(): [0]}
    assert measured("serve_registered_multiplexed_model_id") == {}
