"""`@serve.batch`, without a replica."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import logging
import threading
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from serve_lite import instruments
from serve_lite.batching import batch
from serve_lite.context import (
    RequestContext,
    _serve_request_context,
    current_request,
    get_multiplexed_model_id,
    make_replica_context,
    note_ongoing_limit,
    set_local_replica_context,
)
from serve_lite.exceptions import RayServeException, RequestCancelledError

pytestmark = pytest.mark.anyio
DEADLINE_S = 30.0


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


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


ODD_ERRORS = [
    StopIteration(1),
    StopAsyncIteration(),
    asyncio.CancelledError(),
    GeneratorExit(),
    KeyboardInterrupt(),
    SystemExit(3),
    BaseExceptionGroup("several", [KeyboardInterrupt()]),
    ValueError("plain"),
]


@pytest.mark.parametrize("error", ODD_ERRORS, ids=lambda e: type(e).__name__)
async def test_whatever_a_function_raises_every_caller_gets_an_exception_and_the_loop_goes_on(
    error: BaseException,
) -> None:
    fail = True

    @batch(max_batch_size=2, batch_wait_timeout_s=60)
    async def f(items: list[int]) -> list[int]:
        if fail:
            raise error
        return items

    async with asyncio.timeout(DEADLINE_S):
        first, second = await asyncio.gather(f(1), f(2), return_exceptions=True)
    assert isinstance(first, Exception) and first is second
    assert first is error or first.__cause__ is error or isinstance(first, RuntimeError)
    fail = False
    async with asyncio.timeout(DEADLINE_S):
        assert await asyncio.gather(f(1), f(2)) == [1, 2]


@pytest.mark.parametrize("error", ODD_ERRORS, ids=lambda e: type(e).__name__)
async def test_whatever_a_generator_raises_every_caller_gets_an_exception(error: BaseException) -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=60)
    async def f(items: list[int]) -> AsyncIterator[list[int]]:
        yield items
        raise error

    async def collect(item: int) -> list[Any]:
        got: list[Any] = []
        try:
            async for x in f(item):
                got.append(x)
        except Exception as caught:
            got.append(caught)
        return got

    async with asyncio.timeout(DEADLINE_S):
        first, second = await asyncio.gather(collect(1), collect(2))
    assert (first[0], second[0]) == (1, 2)
    assert first[1] is second[1] and len(first) == len(second) == 2


async def test_a_function_that_ends_the_program_says_so_to_its_callers() -> None:
    @batch(batch_wait_timeout_s=0)
    async def leave(items: list[int]) -> list[int]:
        raise SystemExit("enough")

    with pytest.raises(RayServeException, match="'leave' raised SystemExit: enough"):
        await leave(1)


async def test_a_batch_that_somebody_cancels_is_no_cancellation_of_its_callers() -> None:
    @batch(batch_wait_timeout_s=0)
    async def f(items: list[int]) -> list[int]:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
        return items

    with pytest.raises(RequestCancelledError):
        await f(1)


async def test_one_exception_for_all_callers_carries_only_its_own_traceback_to_each() -> None:
    @batch(max_batch_size=50, batch_wait_timeout_s=60)
    async def f(items: list[int]) -> list[int]:
        raise ValueError("once")

    async def call(i: int) -> int:
        try:
            await f(i)
        except ValueError as error:
            return len(traceback.extract_tb(error.__traceback__))
        return 0

    depths = await asyncio.gather(*(call(i) for i in range(50)))
    assert len(set(depths)) == 1 and depths[0] > 0


async def test_an_exception_object_that_a_function_raises_again_and_again_does_not_grow() -> None:
    always_the_same = ValueError("same")

    @batch(max_batch_size=3, batch_wait_timeout_s=60)
    async def f(items: list[int]) -> list[int]:
        raise always_the_same

    async def depth() -> int:
        errors = await asyncio.gather(f(1), f(2), f(3), return_exceptions=True)
        assert all(error is always_the_same for error in errors)
        return len(traceback.extract_tb(always_the_same.__traceback__))

    await depth()
    await depth()
    settled = await depth()
    for _ in range(20):
        assert await depth() == settled


class LyingList:
    """Says that it has `length` items and gives others, or raises."""

    def __init__(self, length: Any, items: Any) -> None:
        self._length, self._items = length, items

    def __len__(self) -> int:
        if isinstance(self._length, BaseException):
            raise self._length
        return self._length  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self._items, BaseException):
            raise self._items
        return iter(self._items)


MISBEHAVING_LISTS: dict[str, Callable[[], Any]] = {
    "len raises": lambda: LyingList(ValueError("no length"), [1, 2]),
    "len raises TypeError": lambda: LyingList(TypeError("no length"), [1, 2]),
    "len ends the program": lambda: LyingList(SystemExit(), [1, 2]),
    "negative length": lambda: LyingList(-1, [1, 2]),
    "fewer than it says": lambda: LyingList(2, [1]),
    "more than it says": lambda: LyingList(2, [1, 2, 3]),
    "endless": lambda: LyingList(2, itertools.count()),
    "iter raises": lambda: LyingList(2, RuntimeError("no items")),
    "iter interrupts": lambda: LyingList(2, KeyboardInterrupt()),
    "second item raises": lambda: LyingList(2, (1 // (1 - i) for i in range(2))),
}


@pytest.mark.parametrize("make", MISBEHAVING_LISTS.values(), ids=MISBEHAVING_LISTS)
async def test_a_result_object_that_misbehaves_is_an_error_for_every_caller(make: Callable[[], Any]) -> None:
    is_bad = True

    @batch(max_batch_size=2, batch_wait_timeout_s=60)
    async def unary(items: list[int]) -> Any:
        return make() if is_bad else items

    @batch(max_batch_size=2, batch_wait_timeout_s=60)
    async def stream(items: list[int]) -> AsyncIterator[Any]:
        yield make() if is_bad else items

    async def collect(item: int) -> Any:
        return [x async for x in stream(item)]

    async with asyncio.timeout(DEADLINE_S):
        for call, right in ((unary, [1, 2]), (collect, [[1], [2]])):
            is_bad = True
            errors = await asyncio.gather(call(1), call(2), return_exceptions=True)
            assert isinstance(errors[0], Exception) and errors[0] is errors[1]
            is_bad = False
            assert await asyncio.gather(call(1), call(2)) == right


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
    async with asyncio.timeout(DEADLINE_S):
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
    async with asyncio.timeout(DEADLINE_S):
        assert await asyncio.gather(f("a"), f("odd"), f("b")) == ["a", "odd", "b"]


@pytest.mark.parametrize("error", ODD_ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("alone", [True, False])
async def test_whatever_a_size_function_raises_later_calls_work(error: BaseException, alone: bool) -> None:
    def size(items: list[Any]) -> int:
        if "bad" in items and (alone or len(items) > 1):
            raise error
        return len(items)

    @batch(max_batch_size=3, batch_wait_timeout_s=0, batch_size_fn=size)
    async def f(items: list[Any]) -> list[Any]:
        return items

    async with asyncio.timeout(DEADLINE_S):
        first, bad, last = await asyncio.gather(f(1), f("bad"), f(2), return_exceptions=True)
    assert (first, last) == (1, 2)
    assert isinstance(bad, Exception) if alone else bad == "bad"
    async with asyncio.timeout(DEADLINE_S):
        assert await f(3) == 3


@pytest.mark.parametrize("size", [None, "many", [1], np.array([1, 2])])
async def test_a_size_function_that_gives_no_number_is_named(size: Any) -> None:
    @batch(batch_size_fn=lambda items: size)
    async def f(items: list[Any]) -> list[Any]:
        return items

    with pytest.raises(TypeError, match="batch_size_fn of 'f' must return a number"):
        await f(1)


async def test_a_size_function_may_give_numbers_of_other_kinds() -> None:
    seen: list[int] = []

    @batch(max_batch_size=2, batch_wait_timeout_s=0, batch_size_fn=lambda items: np.int64(len(items)))
    async def f(items: list[Any]) -> list[Any]:
        seen.append(len(items))
        return items

    assert await asyncio.gather(f(1), f(2), f(3)) == [1, 2, 3]
    assert seen == [2, 1]


async def test_setters_leave_the_batch_alone_that_is_forming() -> None:
    sizes: list[int] = []

    @batch(max_batch_size=3, batch_wait_timeout_s=60)
    async def f(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return items

    first = asyncio.ensure_future(f(1))
    await asyncio.sleep(0)
    f.set_max_batch_size(new_max_batch_size=2)
    f.set_batch_wait_timeout_s(new_batch_wait_timeout_s=0)
    assert await asyncio.gather(first, *(f(i) for i in range(2, 7))) == [1, 2, 3, 4, 5, 6]
    assert sizes == [3, 2, 1]


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
    async with asyncio.timeout(DEADLINE_S):
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
        async with asyncio.timeout(DEADLINE_S):
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for i, ((model, _, _), result) in enumerate(zip(calls, results, strict=True)):
            assert result == (model, i) or isinstance(result, asyncio.CancelledError)

    asyncio.run(main())


# --- streams -------------------------------------------------------------------------------------


async def test_a_stream_that_never_yields_ends_when_every_caller_has_gone_and_makes_room() -> None:
    entered = asyncio.Event()
    cancelled: list[int] = []

    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def f(items: list[int]) -> AsyncIterator[list[int]]:
        if items == [9]:
            yield items
            return
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.extend(items)
            raise

    async def collect(item: int) -> list[int]:
        return [x async for x in f(item)]

    callers = [asyncio.create_task(collect(i)) for i in (1, 2)]
    await entered.wait()
    callers[0].cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not cancelled  # somebody still waits
    callers[1].cancel()
    async with asyncio.timeout(DEADLINE_S):
        assert await collect(9) == [9]
    assert cancelled == [1, 2]


async def test_calls_made_by_an_abandoned_stream_are_cancelled() -> None:
    class Child:
        is_cancelled = False

        def cancel(self) -> None:
            self.is_cancelled = True

    child, entered = Child(), asyncio.Event()

    @batch(batch_wait_timeout_s=0)
    async def f(items: list[int]) -> AsyncIterator[list[int]]:
        context = current_request()
        assert context is not None
        context.children.add(child)
        entered.set()
        await asyncio.Event().wait()
        yield items

    caller = asyncio.ensure_future(anext(f(1)))
    await entered.wait()
    caller.cancel()
    await until(lambda: child.is_cancelled)


async def test_a_generator_that_never_waits_lets_others_run_and_stops_ahead_of_its_callers() -> None:
    yields = 0

    @batch(batch_wait_timeout_s=0)
    async def endless(items: list[int]) -> AsyncIterator[list[int]]:
        nonlocal yields
        while True:
            yields += 1
            yield [yields] * len(items)

    async with asyncio.timeout(DEADLINE_S), AsyncExitStack() as stack:
        stream = endless(1)
        stack.push_async_callback(stream.aclose)
        assert await anext(stream) == 1
        assert yields < 5  # it has come at once, and not when there was enough
        before = -1
        while yields != before:
            before = yields
            for _ in range(10):
                await asyncio.sleep(0)
        assert yields < 1000
        assert [await anext(stream) for _ in range(yields + 10)] == list(range(2, before + 12))


async def test_a_stream_that_cannot_be_closed_still_frees_its_place() -> None:
    @batch(batch_wait_timeout_s=0)
    async def stubborn(items: list[int]) -> AsyncIterator[list[int]]:
        try:
            while True:
                yield items
                await asyncio.sleep(0)
        except GeneratorExit:
            raise OSError("no") from None

    for i in range(3):
        stream = stubborn(i)
        async with asyncio.timeout(DEADLINE_S):
            assert await anext(stream) == i
        await stream.aclose()


async def test_an_error_that_no_caller_hears_of_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    entered, gate = asyncio.Event(), asyncio.Event()

    @batch(batch_wait_timeout_s=0)
    async def f(items: list[int]) -> list[int]:
        entered.set()
        await gate.wait()
        raise ValueError("unheard")

    caller = asyncio.ensure_future(f(1))
    await entered.wait()
    caller.cancel()
    await asyncio.sleep(0)
    gate.set()
    await until(lambda: "unheard" in caplog.text)


# --- callers that go -----------------------------------------------------------------------------


async def test_the_places_of_callers_that_went_away_are_filled_by_those_behind() -> None:
    seen: list[list[int]] = []
    gate = asyncio.Event()

    @batch(max_batch_size=4, batch_wait_timeout_s=0)
    async def f(items: list[int]) -> list[int]:
        seen.append(items)
        await gate.wait()
        return items

    calls = [asyncio.create_task(f(0))]
    await until(lambda: seen)
    calls += [asyncio.create_task(f(i)) for i in range(1, 13)]
    await asyncio.sleep(0)
    gone = [1, 2, 4, 5, 6, 7, 8, 10]
    for i in gone:
        calls[i].cancel()
    gate.set()
    async with asyncio.timeout(DEADLINE_S):
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert [i for i, r in enumerate(results) if r != i] == gone
    assert seen == [[0], [3, 9, 11, 12]]


async def test_nothing_runs_for_callers_that_have_all_gone() -> None:
    seen: list[list[int]] = []

    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def f(items: list[int]) -> list[int]:
        seen.append(items)
        return items

    calls = [asyncio.create_task(f(i)) for i in range(4)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert await f(9) == 9
    assert seen in ([[9]], [[0, 1], [9]])  # the first batch may have been given its turn before


async def test_those_behind_a_batch_that_everybody_left_still_wait_for_others() -> None:
    seen: list[list[int]] = []
    gate = asyncio.Event()

    @batch(max_batch_size=2, batch_wait_timeout_s=60)
    async def f(items: list[int]) -> list[int]:
        seen.append(items)
        await gate.wait()
        return items

    calls = [asyncio.create_task(f(i)) for i in range(5)]
    await until(lambda: seen)
    calls[2].cancel()
    calls[3].cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.wait(calls[:2])
    assert await asyncio.gather(calls[4], f(5)) == [4, 5]
    assert seen == [[0, 1], [4, 5]]


async def test_a_batch_that_is_split_has_its_place_until_all_its_parts_have_ended() -> None:
    running: list[str] = []
    gates = {"a": asyncio.Event(), "b": asyncio.Event(), "c": asyncio.Event()}

    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def f(items: list[int]) -> list[str]:
        model = get_multiplexed_model_id()
        running.append(model)
        await gates[model].wait()
        return [model] * len(items)

    async def call(model: str) -> str:
        _serve_request_context.set(RequestContext(multiplexed_model_id=model))
        return await f(1)  # type: ignore[no-any-return]

    calls = [asyncio.create_task(call(m)) for m in "abc"]
    await until(lambda: len(running) == 2)
    gates["a"].set()
    assert await calls[0] == "a"
    for _ in range(10):
        await asyncio.sleep(0)
    assert running == ["a", "b"]
    gates["b"].set()
    gates["c"].set()
    async with asyncio.timeout(DEADLINE_S):
        assert await asyncio.gather(*calls) == ["a", "b", "c"]


# --- what is a method, and what may be decorated --------------------------------------------------


async def test_every_kind_of_method_gets_what_it_belongs_to_and_items_stay_items() -> None:
    def unnamed(func: Any) -> Any:
        async def outside(*args: Any) -> Any:
            return await func(*args)

        return outside

    @batch(batch_wait_timeout_s=0)
    async def elsewhere(this: Any, items: list[int]) -> list[Any]:
        return [(this, i) for i in items]

    class Model:
        renamed = elsewhere

        @classmethod
        @batch(batch_wait_timeout_s=0)
        async def of_class(cls, items: list[int]) -> list[Any]:
            return [(cls, i) for i in items]

        @staticmethod
        @batch(batch_wait_timeout_s=0)
        async def of_none(items: list[Any]) -> list[Any]:
            return [len(items)] * len(items)

        @unnamed
        @batch(batch_wait_timeout_s=0)
        async def hidden(self, items: list[int]) -> list[Any]:
            return [(self, i) for i in items]

    model: Any = Model()
    assert await model.renamed(1) == (model, 1)
    assert await model.of_class(2) == (Model, 2)
    assert await Model.of_class(3) == (Model, 3)
    assert await model.of_none(model) == 1
    assert await model.hidden(4) == (model, 4)
    assert await Model.renamed(model, 5) == (model, 5)


async def test_a_decorated_async_function_can_be_batched() -> None:
    def traced(func: Any) -> Any:
        @functools.wraps(func)
        def outside(*args: Any) -> Any:
            return func(*args)

        return outside

    @batch(batch_wait_timeout_s=0)
    @traced
    async def double(items: list[int]) -> list[int]:
        return [2 * i for i in items]

    @batch(batch_wait_timeout_s=0)
    @traced
    async def stream(items: list[int]) -> AsyncIterator[list[int]]:
        yield items

    assert await double(2) == 4
    assert [x async for x in stream(3)] == [3]
    assert await batch(functools.partial(double.__wrapped__.__wrapped__))(4) == 8


async def test_calls_of_different_shapes_do_not_share_a_list() -> None:
    @batch(max_batch_size=4, batch_wait_timeout_s=60)
    async def f(xs: list[int], ys: list[int] | None = None, **more: list[int]) -> list[Any]:
        return [(x, ys and ys[i], {k: v[i] for k, v in more.items()}) for i, x in enumerate(xs)]

    assert await asyncio.gather(f(1), f(2, 3), f(4, ys=5), f(6, z=7)) == [
        (1, None, {}), (2, 3, {}), (4, 5, {}), (6, None, {"z": 7}),
    ]  # fmt: skip
    with pytest.raises(TypeError):
        await f()


# --- loops, threads, memory -----------------------------------------------------------------------


def test_loops_of_several_threads_use_one_function_at_the_same_time() -> None:
    @batch(max_batch_size=3, batch_wait_timeout_s=0.001)
    async def f(items: list[int]) -> list[tuple[int, int]]:
        await asyncio.sleep(0)
        return [(threading.get_ident(), i) for i in items]

    async def main(i: int) -> None:
        for _ in range(20):
            async with asyncio.timeout(DEADLINE_S):
                results = await asyncio.gather(*(f(i * 100 + j) for j in range(5)))
            assert results == [(threading.get_ident(), i * 100 + j) for j in range(5)]

    failures: list[BaseException] = []

    def run(i: int) -> None:
        try:
            asyncio.run(main(i))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * DEADLINE_S)
    assert not failures and not any(thread.is_alive() for thread in threads)


async def test_instances_items_and_results_are_not_kept() -> None:
    class Thing:
        pass

    class Model:
        @batch(batch_wait_timeout_s=0)
        async def f(self, items: list[Thing]) -> list[Thing]:
            return [Thing() for _ in items]

        @batch(batch_wait_timeout_s=0)
        async def fail(self, items: list[Thing]) -> list[Thing]:
            raise ValueError

    async def use() -> list[weakref.ref[Any]]:
        model: Any = Model()
        item = Thing()
        result = await model.f(item)
        with pytest.raises(ValueError):
            await model.fail(item)
        return [weakref.ref(model), weakref.ref(item), weakref.ref(result)]

    refs = await use()
    await asyncio.sleep(0)
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3


def test_a_loop_that_has_ended_is_not_kept() -> None:
    @batch(batch_wait_timeout_s=0)
    async def f(items: list[int]) -> list[int]:
        if items == [2]:
            await asyncio.Event().wait()
        return items

    async def main(item: int) -> weakref.ref[Any]:
        if item == 2:
            asyncio.ensure_future(f(item))  # noqa: RUF006  (cancelled by the end of the loop)
            await asyncio.sleep(0.01)
        else:
            await f(item)
        return weakref.ref(asyncio.get_running_loop())

    refs = [asyncio.run(main(i)) for i in (1, 2, 3)]
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3


# --- context, metrics, warning ---------------------------------------------------------------------


async def test_what_a_batch_has_noted_to_give_back_is_given_back_when_it_ends() -> None:
    events: list[str] = []

    @batch(batch_wait_timeout_s=0)
    async def f(items: list[int]) -> list[int]:
        context = current_request()
        assert context is not None
        context.at_end(lambda: events.append("given back"))
        await asyncio.sleep(0)
        events.append("done")
        if items == [1]:
            raise ValueError
        return items

    with pytest.raises(ValueError):
        await f(1)
    assert await f(2) == 2
    await asyncio.sleep(0)
    assert events == ["done", "given back"] * 2


def measured(name: str, function: str) -> list[float]:
    for family in instruments.collect():
        if family.name == name:
            assert family.label_names == ["function_name"]
            return next((s.values for s in family.series if s.labels == [function]), [])
    return []


async def test_batches_are_measured() -> None:
    gate = asyncio.Event()

    async def function(items: list[int]) -> list[int]:
        await gate.wait()
        return items

    name = function.__name__ = f"measured_{id(gate)}"
    f = batch(max_batch_size=4, batch_wait_timeout_s=0)(function)
    calls = [asyncio.ensure_future(f(i)) for i in range(7)]
    await until(lambda: measured("serve_batch_queue_length", name) == [3])
    gate.set()
    await asyncio.gather(*calls)
    await until(lambda: measured("serve_batches_processed", name) == [2])
    assert measured("serve_batch_queue_length", name) == [0]
    assert measured("serve_actual_batch_size", name)[-1] == 7
    assert measured("serve_batch_utilization_percent", name)[-1] == 175
    assert sum(measured("serve_batch_wait_time_ms", name)[:-1]) == 2
    assert sum(measured("serve_batch_execution_time_ms", name)[:-1]) == 2


async def test_batches_that_the_replica_can_never_fill_are_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @batch(max_batch_size=8, batch_wait_timeout_s=0, max_concurrent_batches=2)
    async def large(items: list[int]) -> list[int]:
        return items

    @batch(max_batch_size=5, batch_wait_timeout_s=0)
    async def fitting(items: list[int]) -> list[int]:
        return items

    @batch(max_batch_size=5000, batch_wait_timeout_s=0, batch_size_fn=len)
    async def measured_otherwise(items: list[str]) -> list[str]:
        return items

    async def in_a_replica() -> None:
        replica = make_replica_context("app#D#r1", "app", "D", world_size=1)
        note_ongoing_limit(replica, 10)
        set_local_replica_context(replica)
        for f in (large, fitting, measured_otherwise):
            await f("x")
            await f("y")

    with caplog.at_level(logging.WARNING, "serve_lite.batching"):
        await large(0)  # outside a replica nothing is known
        assert not caplog.records
        await asyncio.create_task(in_a_replica())
    (record,) = caplog.records
    for part in ("'large'", "16", "max_batch_size=8", "max_concurrent_batches=2", "max_ongoing_requests=10"):
        assert part in record.getMessage()


# --- HTTP requests as items ------------------------------------------------------------------------


def upload(*pieces: bytes, gate: asyncio.Event | None = None, breaks: bool = False) -> Request:
    """A request whose last piece comes when the gate opens, or never because the client breaks off."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": i < len(pieces) - 1}
        for i, piece in enumerate(pieces)
    ]

    async def receive() -> dict[str, Any]:
        if len(messages) == 1 and gate is not None:
            await gate.wait()
        if len(messages) == 1 and breaks:
            return {"type": "http.disconnect"}
        return messages.pop(0)

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


async def test_a_slow_upload_does_not_hold_up_the_batch_of_others() -> None:
    seen: list[int] = []

    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def read(requests: list[Request]) -> list[bytes]:
        seen.append(len(requests))
        return [await request.body() for request in requests]

    gate = asyncio.Event()
    slow = asyncio.create_task(read(upload(b"sl", b"ow", gate=gate)))
    async with asyncio.timeout(DEADLINE_S):
        assert await asyncio.gather(read(upload(b"one")), read(upload(b"t", b"wo"))) == [b"one", b"two"]
        assert not slow.done()
        gate.set()
        assert await slow == b"slow"
    assert seen == [2, 1]


async def test_a_client_that_breaks_off_its_upload_breaks_nobody_elses_call() -> None:
    @batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def read(requests: list[Request]) -> list[bytes]:
        return [await request.body() for request in requests]

    results = await asyncio.gather(
        read(upload(b"br", b"oken", breaks=True)), read(upload(b"whole")), return_exceptions=True
    )
    assert type(results[0]).__name__ == "ClientDisconnect" and results[1] == b"whole"


async def test_a_request_whose_body_was_read_already_can_be_batched() -> None:
    @batch(batch_wait_timeout_s=0)
    async def method(requests: list[Request]) -> list[str]:
        return [request.method for request in requests]

    request = upload(b"x", b"y")
    assert [piece async for piece in request.stream()] == [b"x", b"y", b""]
    assert await method(request) == "POST"
