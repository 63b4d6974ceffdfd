"""`@serve.multiplexed`, without a replica."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_lite import multiplex
from serve_lite.multiplex import loaded_model_ids, multiplexed, on_models_changed, unload_all

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


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
    assert multiplex._listener is None


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


@settings(max_examples=60, deadline=None)
@given(
    wanted=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.booleans()), max_size=40),
    limit=st.sampled_from([1, 2, 3, -1]),
)
def test_an_answer_always_comes_from_the_model_asked_for_and_the_limit_holds(
    wanted: list[tuple[str, int, bool]], limit: int
) -> None:
    alive: Counter[str] = Counter()
    most = 0

    class Model:
        def __init__(self, name: str) -> None:
            self.name = name

        async def __del__(self) -> None:
            await asyncio.sleep(0)
            alive[self.name] -= 1

    @multiplexed(max_num_models_per_replica=limit)
    async def load(model_id: str) -> Model:
        nonlocal most
        alive[model_id] += 1
        most = max(most, alive.total())
        await asyncio.sleep(0)
        return Model(model_id)

    async def call(model_id: str, pause: int) -> str:
        for _ in range(pause):
            await asyncio.sleep(0)
        return (await load(model_id)).name

    async def main() -> None:
        tasks = [asyncio.create_task(call(m, p)) for m, p, _ in wanted]
        await asyncio.sleep(0)
        for task, (_, _, cancel) in zip(tasks, wanted, strict=True):
            if cancel:
                task.cancel()
        async with asyncio.timeout(30):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result, (model_id, _, _) in zip(results, wanted, strict=True):
            assert result == model_id or isinstance(result, asyncio.CancelledError)
        await unload_all()
        while asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.sleep(0)
            await unload_all()

    asyncio.run(main())
    assert limit == -1 or most <= limit
    assert alive.total() == 0
