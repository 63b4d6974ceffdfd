"""`@serve.batch`, without a replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_lite.batching import batch
from serve_lite.context import RequestContext, _serve_request_context, get_multiplexed_model_id
from serve_lite.exceptions import RayServeException

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_calls_that_arrive_together_share_a_list() -> None:
    sizes: list[int] = []

    @batch(max_batch_size=4, batch_wait_timeout_s=60)
    async def double(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return [2 * i for i in items]

    assert await asyncio.gather(*(double(i) for i in range(8))) == [2 * i for i in range(8)]
    assert sizes == [4, 4]


async def test_a_batch_that_is_not_full_starts_when_its_first_item_has_waited() -> None:
    @batch(max_batch_size=100, batch_wait_timeout_s=0.01)
    async def same(items: list[int]) -> list[int]:
        return items

    assert await asyncio.gather(same(1), same(2)) == [1, 2]


async def test_bare_form_zero_wait_and_keywords_work() -> None:
    @batch
    async def bare(xs: list[int]) -> list[int]:
        return [x + 1 for x in xs]

    @batch(batch_wait_timeout_s=0)
    async def pair(xs: list[int], ys: list[int]) -> list[int]:
        return [x - y for x, y in zip(xs, ys, strict=True)]

    assert await bare(1) == 2
    assert await asyncio.gather(pair(5, 2), pair(y=1, x=2) if False else pair(ys=1, xs=2)) == [3, 1]


async def test_methods_get_their_instance_and_instances_do_not_mix() -> None:
    class Model:
        def __init__(self, plus: int) -> None:
            self.plus = plus
            self.sizes: list[int] = []

        @batch(max_batch_size=4, batch_wait_timeout_s=0.01)
        async def __call__(self, items: list[int]) -> list[int]:
            self.sizes.append(len(items))
            return [i + self.plus for i in items]

    class Child(Model):
        @batch(max_batch_size=4, batch_wait_timeout_s=0.01)
        async def __call__(self, items: list[int]) -> list[int]:
            return [-(await super(Child, self).__call__(i)) for i in items]  # type: ignore[misc]

    one, ten = Model(1), Model(10)
    assert await asyncio.gather(one(0), ten(0), one(5), ten(5)) == [1, 10, 6, 15]
    assert (one.sizes, ten.sizes) == ([2], [2])
    assert await Child(1)(3) == -4


async def test_an_error_reaches_every_caller_and_later_calls_work() -> None:
    fail = True

    @batch(max_batch_size=3, batch_wait_timeout_s=0.01)
    async def f(items: list[int]) -> list[int]:
        if fail:
            raise KeyError("no")
        return items

    errors = await asyncio.gather(*(f(i) for i in range(3)), return_exceptions=True)
    assert [type(e) for e in errors] == [KeyError] * 3
    fail = False
    assert await f(7) == 7


@pytest.mark.parametrize("wrong", [[1], [1, 2, 3], None, 5])
async def test_a_result_of_the_wrong_length_is_an_error_for_every_caller(wrong: Any) -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=60)
    async def f(items: list[int]) -> Any:
        return wrong

    for error in await asyncio.gather(f(1), f(2), return_exceptions=True):
        assert isinstance(error, RayServeException)


@pytest.mark.parametrize(
    "error", [StopIteration(), StopAsyncIteration(), asyncio.CancelledError(), ValueError()]
)
async def test_nothing_that_a_function_raises_leaves_a_caller_waiting(error: BaseException) -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=60)
    async def f(items: list[int]) -> list[int]:
        raise error

    async with asyncio.timeout(30):
        results = await asyncio.gather(f(1), f(2), return_exceptions=True)
    assert all(isinstance(r, BaseException) for r in results)
    async with asyncio.timeout(30):
        assert len(await asyncio.gather(f(1), f(2), return_exceptions=True)) == 2


async def test_a_cancelled_caller_is_left_out_and_the_others_are_served() -> None:
    seen: list[list[int]] = []

    @batch(max_batch_size=3, batch_wait_timeout_s=60)
    async def f(items: list[int]) -> list[int]:
        seen.append(items)
        return items

    first = asyncio.ensure_future(f(1))
    second = asyncio.ensure_future(f(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    assert await f(3) == 3 and await second == 2
    assert seen == [[2, 3]]


async def test_a_running_batch_survives_the_cancellation_of_one_caller() -> None:
    entered, gate = asyncio.Event(), asyncio.Event()

    @batch(max_batch_size=2, batch_wait_timeout_s=60)
    async def f(items: list[int]) -> list[int]:
        entered.set()
        await gate.wait()
        return items

    first, second = asyncio.ensure_future(f(1)), asyncio.ensure_future(f(2))
    await entered.wait()
    first.cancel()
    gate.set()
    assert await second == 2


async def test_no_more_batches_run_than_allowed_and_waiting_calls_join_one_batch() -> None:
    sizes: list[int] = []
    gate = asyncio.Event()

    @batch(max_batch_size=10, batch_wait_timeout_s=0)
    async def f(items: list[int]) -> list[int]:
        sizes.append(len(items))
        await gate.wait()
        return items

    first = asyncio.ensure_future(f(0))
    while not sizes:
        await asyncio.sleep(0)
    later = []
    for i in range(5):
        later.append(asyncio.ensure_future(f(i)))
        await asyncio.sleep(0)
    assert sizes == [1]
    gate.set()
    assert await asyncio.gather(first, *later) == [0, 0, 1, 2, 3, 4]
    assert sizes == [1, 5]


async def test_several_batches_run_at_once_when_allowed() -> None:
    running = asyncio.Semaphore(0)
    gate = asyncio.Event()

    @batch(max_batch_size=1, max_concurrent_batches=2)
    async def f(items: list[int]) -> list[int]:
        running.release()
        await gate.wait()
        return items

    calls = [asyncio.ensure_future(f(i)) for i in range(2)]
    async with asyncio.timeout(30):
        await running.acquire()
        await running.acquire()
    gate.set()
    assert await asyncio.gather(*calls) == [0, 1]


async def test_a_size_function_cuts_batches_and_refuses_too_large_items() -> None:
    seen: list[list[str]] = []

    @batch(max_batch_size=5, batch_wait_timeout_s=0.01, batch_size_fn=lambda items: sum(map(len, items)))
    async def f(items: list[str]) -> list[str]:
        seen.append(items)
        return items

    assert await asyncio.gather(f("aaa"), f("bb"), f("cccc")) == ["aaa", "bb", "cccc"]
    assert seen == [["aaa", "bb"], ["cccc"]]
    with pytest.raises(RuntimeError, match="greater than max_batch_size"):
        await f("dddddd")


async def test_a_size_function_that_raises_hurts_only_its_caller() -> None:
    def size(items: list[Any]) -> int:
        if items == ["bad"]:
            raise ValueError("bad item")
        if "odd" in items and len(items) > 1:
            raise ValueError("odd item among others")
        return len(items)

    @batch(max_batch_size=5, batch_wait_timeout_s=0, batch_size_fn=size)
    async def f(items: list[Any]) -> list[Any]:
        return items

    with pytest.raises(ValueError, match="bad item"):
        await f("bad")
    async with asyncio.timeout(30):
        assert await asyncio.gather(f("a"), f("odd"), f("b")) == ["a", "odd", "b"]


async def test_setters_count_from_the_next_batch_on_through_the_bound_method() -> None:
    sizes: list[int] = []

    class Model:
        @batch(max_batch_size=4, batch_wait_timeout_s=60)
        async def f(self, items: list[int]) -> list[int]:
            sizes.append(len(items))
            return items

    model: Any = Model()
    model.f.set_max_batch_size(2)
    assert await asyncio.gather(*(model.f(i) for i in range(4))) == [0, 1, 2, 3]
    model.f.set_batch_wait_timeout_s(0)
    assert await model.f(9) == 9
    assert sizes == [2, 2, 1]
    assert (model.f._get_max_batch_size(), model.f._get_batch_wait_timeout_s()) == (2, 0)
    with pytest.raises(ValueError):
        model.f.set_max_batch_size(0)


async def test_calls_with_different_model_ids_never_share_a_list_and_see_their_id() -> None:
    seen: list[tuple[str, list[int]]] = []

    @batch(max_batch_size=4, batch_wait_timeout_s=60)
    async def f(items: list[int]) -> list[str]:
        seen.append((get_multiplexed_model_id(), items))
        await asyncio.sleep(0)
        return [get_multiplexed_model_id()] * len(items)

    async def call(model: str, item: int) -> str:
        _serve_request_context.set(RequestContext("r", multiplexed_model_id=model))
        return await f(item)  # type: ignore[no-any-return]

    results = await asyncio.gather(*(asyncio.create_task(call(m, i)) for i, m in enumerate("abab")))
    assert results == ["a", "b", "a", "b"]
    assert sorted(seen) == [("a", [0, 2]), ("b", [1, 3])]


async def test_a_batch_of_streams_gives_each_caller_its_own_stream() -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=60)
    async def count(limits: list[int]) -> AsyncIterator[list[Any]]:
        for i in range(max(limits)):
            yield [np.array([i, i]) if i < limit else StopIteration for limit in limits]

    async def collect(limit: int) -> list[int]:
        return [int(item[0]) async for item in count(limit)]

    assert await asyncio.gather(collect(1), collect(3)) == [[0], [0, 1, 2]]


async def test_a_stream_that_fails_gives_what_it_has_and_then_the_error() -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=60)
    async def f(items: list[int]) -> AsyncIterator[list[int]]:
        yield items
        raise KeyError("later")

    async def collect(item: int) -> list[Any]:
        got: list[Any] = []
        try:
            async for x in f(item):
                got.append(x)
        except KeyError:
            got.append("error")
        return got

    assert await asyncio.gather(collect(1), collect(2)) == [[1, "error"], [2, "error"]]


async def test_a_stream_ends_when_every_caller_has_gone() -> None:
    closed = asyncio.Event()

    @batch(max_batch_size=1)
    async def forever(items: list[int]) -> AsyncIterator[list[int]]:
        try:
            while True:
                yield items
                await asyncio.sleep(0)
        finally:
            closed.set()

    stream = forever(1)
    assert await anext(stream) == 1
    await stream.aclose()
    async with asyncio.timeout(30):
        await closed.wait()


def test_one_function_serves_several_loops_one_after_the_other() -> None:
    @batch
    async def f(items: list[int]) -> list[int]:
        return items

    async def main() -> int:
        return await f(1)  # type: ignore[no-any-return]

    assert (asyncio.run(main()), asyncio.run(main())) == (1, 1)


def test_a_class_with_a_batched_method_that_was_used_can_be_pickled() -> None:
    class Model:
        @batch
        async def f(self, items: list[int]) -> list[int]:
            return items

    async def main(model: Any) -> int:
        return await model.f(3)  # type: ignore[no-any-return]

    assert asyncio.run(main(Model())) == 3
    assert asyncio.run(main(cloudpickle.loads(cloudpickle.dumps(Model))())) == 3


async def test_the_batch_runs_outside_every_request() -> None:
    @batch
    async def f(items: list[int]) -> list[str]:
        return [_serve_request_context.get().request_id] * len(items)

    _serve_request_context.set(RequestContext("mine"))
    assert await f(1) == ""


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_batch_size": 0}, ValueError),
        ({"max_batch_size": 1.5}, TypeError),
        ({"max_batch_size": "3"}, TypeError),
        ({"batch_wait_timeout_s": -1}, ValueError),
        ({"batch_wait_timeout_s": "x"}, TypeError),
        ({"max_concurrent_batches": 0}, TypeError),
        ({"max_concurrent_batches": 1.0}, TypeError),
        ({"batch_size_fn": 3}, TypeError),
    ],
)
def test_wrong_options_are_refused_at_decoration(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        batch(**options)


def test_only_async_functions_can_be_batched() -> None:
    def sync(items: list[int]) -> list[int]:
        return items

    for wrong in (sync, 5):
        with pytest.raises(TypeError):
            batch(wrong)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="'async def'"):
        batch()(sync)


@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.booleans()), max_size=30),
    size=st.integers(1, 5),
    concurrent=st.integers(1, 3),
)
def test_every_caller_gets_the_answer_to_its_own_item_from_its_own_model(
    calls: list[tuple[str, int, bool]], size: int, concurrent: int
) -> None:
    @batch(max_batch_size=size, batch_wait_timeout_s=0, max_concurrent_batches=concurrent)
    async def f(items: list[int]) -> list[tuple[str, int]]:
        model = get_multiplexed_model_id()
        await asyncio.sleep(0)
        return [(model, i) for i in items]

    async def call(number: int, model: str, pause: int) -> tuple[str, int]:
        _serve_request_context.set(RequestContext("r", multiplexed_model_id=model))
        for _ in range(pause):
            await asyncio.sleep(0)
        return await f(number)  # type: ignore[no-any-return]

    async def main() -> None:
        tasks = [asyncio.create_task(call(i, m, p)) for i, (m, p, _) in enumerate(calls)]
        await asyncio.sleep(0)
        for task, (_, _, cancel) in zip(tasks, calls, strict=True):
            if cancel:
                task.cancel()
        async with asyncio.timeout(30):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for i, ((model, _, _), result) in enumerate(zip(calls, results, strict=True)):
            assert result == (model, i) or isinstance(result, asyncio.CancelledError)

    asyncio.run(main())
