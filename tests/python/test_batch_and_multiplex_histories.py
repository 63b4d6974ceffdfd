"""Random histories of requests that use `@serve.batch` and `@serve.multiplexed` at the same time.

They run on a loop whose clock jumps to the next timer, so that a history takes no time and says by itself when it
hangs: nothing is ready, no timer is set, and no thread works.
"""

from __future__ import annotations

import asyncio
import dataclasses
import selectors
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_lite import instruments
from serve_lite.batching import batch
from serve_lite.context import RequestContext, _serve_request_context, get_multiplexed_model_id
from serve_lite.multiplex import loaded_model_ids, multiplexed, unload_all

_THREAD_S = 30.0  #: the longest that a destructor in a thread may take before it counts as a hang
MODELS = "abcd"
BASE_OF = {"d": "a"}  #: loading "d" asks for "a"


class Hang(Exception):
    """Nothing will ever happen again, and somebody still waits."""


class JumpingLoop(asyncio.SelectorEventLoop):
    """Real asyncio, whose time passes only when nothing else is to be done."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            events = super().select(_THREAD_S)
            if not events:
                raise Hang
            return events
        events = super().select(0)
        if not events:
            self._loop.now += timeout
        return events


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main)


class LoadFailed(Exception):
    def __init__(self, model_id: str) -> None:
        super().__init__(model_id)
        self.model_id = model_id


class Poisoned(Exception):
    """A batch failed; says whose."""

    def __init__(self, members: list[int]) -> None:
        super().__init__(members)
        self.members = members


@dataclasses.dataclass(frozen=True)
class Req:
    """One request of a history; times in seconds of the jumping clock."""

    kind: str
    model: str
    other: str
    at: int
    works: int
    gives_up_after: int | None
    is_poison: bool

    def n_extra_models(self, concurrent: int) -> int:
        """Models that there may be because it holds one: another of its own and, if it has to wait for the batches that
        run before its own, those of theirs, since whom a holder waits for must not wait."""
        return {"two": 1, "both": 1, "holds and batches": 1 + concurrent}.get(self.kind, 0)


@dataclasses.dataclass(frozen=True)
class History:
    """What happens, and how the functions are decorated."""

    requests: list[Req]
    limit: int
    size: int
    wait_s: int
    concurrent: int
    load_s: dict[str, int]
    unload_s: int
    failing_loads: set[int]
    new_sizes: list[int]
    unloads_in_threads: bool

    @property
    def asks_for_one_model_each(self) -> bool:
        return not any(r.n_extra_models(self.concurrent) for r in self.requests) and not any(
            r.model in BASE_OF for r in self.requests
        )


KINDS = ["direct", "direct", "batched", "batched", "streamed", "outside", "two", "both", "holds and batches"]
SINGLE = ["direct", "batched", "streamed", "outside"]


def histories(kinds: list[str], models: str) -> st.SearchStrategy[History]:
    request = st.builds(
        Req,
        kind=st.sampled_from(kinds),
        model=st.sampled_from(models),
        other=st.sampled_from(models),
        at=st.integers(0, 12),
        works=st.integers(0, 4),
        gives_up_after=st.none() | st.integers(0, 6),
        is_poison=st.sampled_from([False, False, False, False, True]),
    )
    return st.builds(
        History,
        requests=st.lists(request, min_size=1, max_size=25),
        limit=st.sampled_from([1, 1, 2, 3, -1]),
        size=st.integers(1, 4),
        wait_s=st.integers(0, 2),
        concurrent=st.integers(1, 2),
        load_s=st.fixed_dictionaries({m: st.integers(0, 3) for m in MODELS}),
        unload_s=st.integers(0, 3),
        failing_loads=st.sets(st.integers(0, 12), max_size=3),
        new_sizes=st.lists(st.integers(1, 5), max_size=2),
        unloads_in_threads=st.sampled_from([False, False, False, True]),
    )


class Play:
    """Plays one history and checks every answer."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.in_memory: list[str] = []  #: from the begin of a load to the end of an unload
        self.unloading: list[str] = []
        self.n_loads = 0
        self.n_extra = 0  #: models that requests so far may hold beyond their first
        play = self

        class Model:
            def __init__(self, name: str) -> None:
                self.name = name
                self.unload_began = False

            def use(self) -> str:
                assert not self.unload_began, f"{self.name} is used after its unload began"
                return self.name

            def begin_unload(self) -> None:
                assert not self.unload_began
                self.unload_began = True
                play.unloading.append(self.name)

            def end_unload(self) -> None:
                play.unloading.remove(self.name)
                play.in_memory.remove(self.name)

        class InLoop(Model):
            async def __del__(self) -> None:
                self.begin_unload()
                await asyncio.sleep(history.unload_s)
                self.end_unload()

        class InThread(Model):
            def __del__(self) -> None:
                self.begin_unload()
                self.end_unload()

        self.model_class = InThread if history.unloads_in_threads else InLoop

        @multiplexed(max_num_models_per_replica=history.limit)
        async def get(model_id: str) -> Model:
            return await play.load(model_id)  # type: ignore[no-any-return]

        options: dict[str, Any] = {
            "max_batch_size": history.size,
            "batch_wait_timeout_s": history.wait_s,
            "max_concurrent_batches": history.concurrent,
        }

        @batch(**options)
        async def histories_predict(requests: list[Req], numbers: list[int]) -> list[Any]:
            model = await get(get_multiplexed_model_id())
            for _ in range(max(r.works for r in requests)):
                model.use()
                await asyncio.sleep(1)
            if any(r.is_poison for r in requests):
                raise Poisoned(numbers)
            return [(model.use(), number) for number in numbers]

        @batch(**options)
        async def histories_stream(requests: list[Req], numbers: list[int]) -> AsyncIterator[list[Any]]:
            model = await get(get_multiplexed_model_id())
            for k in range(max(r.works for r in requests) + 1):
                model.use()
                if k and any(r.is_poison for r in requests):
                    raise Poisoned(numbers)
                yield [
                    (model.use(), number, k) if k <= r.works else StopIteration
                    for r, number in zip(requests, numbers, strict=True)
                ]
                await asyncio.sleep(1)

        self.get: Any = get
        self.predict: Any = histories_predict
        self.stream: Any = histories_stream

    async def load(self, model_id: str) -> Any:
        number, self.n_loads = self.n_loads, self.n_loads + 1
        self.in_memory.append(model_id)
        try:
            self.check_places()
            await asyncio.sleep(self.history.load_s.get(model_id, 0))
            if model_id in BASE_OF:
                self.n_extra += 1
                (await self.get(BASE_OF[model_id])).use()
            if number in self.history.failing_loads:
                raise LoadFailed(model_id)
        except BaseException:
            self.in_memory.remove(model_id)
            raise
        return self.model_class(model_id)

    def check_places(self) -> None:
        limit = self.history.limit
        if limit == -1:
            return
        if self.history.asks_for_one_model_each:
            assert len(self.in_memory) <= limit
        assert len(self.in_memory) - len(self.unloading) <= limit + self.n_extra

    # --- requests ---

    async def request(self, number: int, req: Req) -> None:
        """Run one request to its end, whatever happens in it."""
        await asyncio.sleep(req.at)
        if req.kind == "outside":
            await self.attempt(number, req)
            return
        context = RequestContext(f"r{number}", multiplexed_model_id=req.model)
        _serve_request_context.set(context)
        self.n_extra += req.n_extra_models(self.history.concurrent)
        try:
            await self.attempt(number, req)
        finally:
            context.end()

    async def attempt(self, number: int, req: Req) -> None:
        try:
            async with asyncio.timeout(req.gives_up_after):
                await getattr(self, req.kind.replace(" ", "_"))(number, req)
        except LoadFailed as error:
            wanted = {req.model} | ({req.other} if req.n_extra_models(1) else set())
            assert error.model_id in wanted | {BASE_OF.get(m, m) for m in wanted}
        except Poisoned as error:
            assert number in error.members
        except TimeoutError:
            assert req.gives_up_after is not None

    async def work(self, req: Req, *models: Any) -> None:
        for _ in range(req.works):
            await asyncio.sleep(1)
            for model in models:
                model.use()

    async def direct(self, number: int, req: Req) -> None:
        model = await self.get(req.model)
        assert model.use() == req.model
        await self.work(req, model)

    async def outside(self, number: int, req: Req) -> None:
        assert (await self.get(req.model)).use() == req.model

    async def two(self, number: int, req: Req) -> None:
        first = await self.get(req.model)
        await self.work(req, first)
        second = await self.get(req.other)
        assert (first.use(), second.use()) == (req.model, req.other)
        await self.work(req, first, second)

    async def both(self, number: int, req: Req) -> None:
        first, second = await asyncio.gather(self.get(req.model), self.get(req.other))
        assert (first.use(), second.use()) == (req.model, req.other)
        await self.work(req, first, second)

    async def batched(self, number: int, req: Req) -> None:
        assert await self.predict(req, number) == (req.model, number)

    async def holds_and_batches(self, number: int, req: Req) -> None:
        other = await self.get(req.other)
        assert await self.predict(req, number) == (req.model, number)
        assert other.use() == req.other

    async def streamed(self, number: int, req: Req) -> None:
        got = [item async for item in self.stream(req, number)]
        assert got == [(req.model, number, k) for k in range(req.works + 1)]

    # --- the whole ---

    async def play(self) -> None:
        tasks = [asyncio.create_task(self.request(i, r)) for i, r in enumerate(self.history.requests)]
        for new_size in self.history.new_sizes:
            await asyncio.sleep(3)
            self.predict.set_max_batch_size(new_size)
            self.stream.set_max_batch_size(new_size)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if result is not None:
                raise result
        await self.everything_is_given_back()

    async def everything_is_given_back(self) -> None:
        me = asyncio.current_task()
        await asyncio.sleep(self.history.wait_s + 1.5)  # a batch may be due whose callers have all gone
        while rest := asyncio.all_tasks() - {me}:  # as there may be loads
            await asyncio.wait(rest)
            await asyncio.sleep(self.history.wait_s + 1.5)
        for family in instruments.collect():
            if family.name == "serve_batch_queue_length":
                assert {
                    s.labels[0]: s.values for s in family.series if s.labels[0].startswith("histories_")
                } == {
                    "histories_predict": [0],
                    "histories_stream": [0],
                }
        limit = self.history.limit
        if limit > 0:  # nothing is held any more: as many other models push all of them out
            assert len(self.in_memory) <= limit
            others = [f"other {i}" for i in range(limit)]
            for model_id in others:
                while True:
                    try:
                        assert (await self.get(model_id)).use() == model_id
                        break
                    except LoadFailed:
                        assert self.history.failing_loads
            while self.unloading:
                await asyncio.sleep(1)
            assert sorted(self.in_memory) == others
            assert set(others) <= set(loaded_model_ids())
        await unload_all()
        assert not self.in_memory and not self.unloading


@settings(max_examples=300, deadline=None)
@given(history=histories(SINGLE, "abc"))
def test_requests_for_one_model_each_get_it_and_the_limit_always_holds(history: History) -> None:
    run(Play(history).play())


@settings(max_examples=500, deadline=None)
@given(history=histories(KINDS, MODELS))
def test_requests_for_several_models_get_them_and_nobody_waits_for_ever(history: History) -> None:
    run(Play(history).play())


def test_a_history_that_hangs_is_noticed() -> None:
    async def wait_for_nothing() -> None:
        await asyncio.Event().wait()

    selector_s = _THREAD_S
    try:
        globals()["_THREAD_S"] = 0.01
        run(wait_for_nothing())
    except Hang:
        return
    finally:
        globals()["_THREAD_S"] = selector_s
    raise AssertionError("the hang went unnoticed")
