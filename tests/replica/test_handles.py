"""Handles and their responses, over a real replica."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import pickle
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from serve_lite.config import DeploymentConfig
from serve_lite.context import RequestContext, _serve_request_context
from serve_lite.exceptions import (
    DeploymentNotFoundError,
    RayServeException,
    RemoteUserError,
    ReplicaDiedError,
    RequestCancelledError,
)
from serve_lite.handle import DeploymentHandle
from serve_lite.routing import runtime as caller_runtime
from serve_lite.routing.runtime import Runtime
from serve_lite.wire.messages import Empty, MemberState, ReplicaReport, StopRequest
from tests.replica.conftest import ReplicaProcess, Stage

pytestmark = pytest.mark.anyio
DEADLINE_S = 20.0


class Odd(Exception):
    """Pickles, but cannot be made again from its args."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a}/{b}")


class Closed(Exception):
    """Takes no attribute, so no note either."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


class Shy(Exception):
    def __str__(self) -> str:
        raise RuntimeError("I do not say")


meeting: threading.Barrier | None = None  #: where threads of this process meet that unpickle a `Meeting`


class Meeting:
    def __reduce__(self) -> Any:
        return _meet, ()


def _meet() -> Meeting:
    if meeting is not None:
        meeting.wait(DEADLINE_S)
    return Meeting()


class Echo:
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    async def plus(self, value: int, n: int = 1) -> int:
        return value + n

    async def fail(self) -> None:
        raise ValueError("wrong value", 7)

    async def fail_oddly(self) -> None:
        raise Odd(1, 2)

    async def wait(self, entered: str, gate: str) -> str:
        Path(entered).touch()
        try:
            while not Path(gate).exists():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            Path(entered + ".cancelled").touch()
            raise
        return "done"

    async def count(self, n: int, touched: str = "") -> AsyncIterator[int]:
        try:
            for i in range(n):
                yield i
                await asyncio.sleep(0)
        finally:
            if touched:
                Path(touched).touch()

    async def break_at(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i
        raise LookupError("broke")

    def sync_count(self, n: int) -> Iterator[int]:
        yield from range(n)

    async def produce(self, n: int, size: int) -> AsyncIterator[bytes]:
        self.produced = 0
        for _ in range(n):
            self.produced += 1
            yield bytes(size)

    async def produced_so_far(self) -> int:
        return self.produced

    async def touching(self, path: str) -> AsyncIterator[int]:
        Path(path).touch()
        yield 1

    def touching_too(self, path: str) -> Iterator[int]:
        Path(path).touch()
        yield 1

    async def stream_if(self, wanted: bool) -> Any:
        return self.count(3) if wanted else 3

    def touch(self, path: str, *_: Any) -> str:
        Path(path).touch()
        return "touched"

    def fail_as(self, name: str) -> None:
        errors: dict[str, Exception] = {
            "closed": Closed("closed to notes"),
            "shy": Shy(),
            "stop": StopIteration("odd"),
            "group": ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
        }
        raise errors[name]

    async def request_facts(self) -> tuple[str, str]:
        from serve_lite import get_multiplexed_model_id

        return _serve_request_context.get().request_id, get_multiplexed_model_id()


@contextlib.asynccontextmanager
async def running(stage: Stage) -> AsyncIterator[Runtime]:
    """A runtime for handles, on the test's loop."""
    runtime = Runtime(asyncio.get_running_loop(), "", stage.membership)
    caller_runtime.install(runtime)
    try:
        yield runtime
    finally:
        await runtime.aclose()
        caller_runtime.install(None)


@pytest.fixture
async def replica(stage: Stage) -> AsyncIterator[ReplicaProcess]:
    async with running(stage):
        yield await stage.start(Echo)


@pytest.fixture
def handle(replica: ReplicaProcess) -> DeploymentHandle:
    return DeploymentHandle("D", "app")


async def exists(path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not path.exists():
            await asyncio.sleep(0.005)


async def test_a_response_may_be_awaited_again_and_again(handle: DeploymentHandle) -> None:
    response = handle.remote(1, b=2)
    assert await response == await response == ((1,), {"b": 2})


async def test_calls_start_at_once_and_run_together(handle: DeploymentHandle, tmp_path: Path) -> None:
    first = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "gate"))
    await exists(tmp_path / "in")  # nobody has awaited it
    (tmp_path / "gate").touch()
    assert await first == "done"


async def test_result_works_from_threads_and_is_refused_on_a_loop(handle: DeploymentHandle) -> None:
    response = handle.plus.remote(1)
    with pytest.raises(RuntimeError, match="Use `await response` instead"):
        response.result()
    assert await asyncio.to_thread(lambda: handle.plus.remote(4, n=2).result(10)) == 6
    assert await asyncio.to_thread(response.result, timeout_s=10) == 2


async def test_result_times_out_without_cancelling(handle: DeploymentHandle, tmp_path: Path) -> None:
    response = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "gate"))

    def impatient() -> str:
        with pytest.raises(TimeoutError):
            response.result(timeout_s=0)
        (tmp_path / "gate").touch()
        return response.result()  # type: ignore[no-any-return]

    assert await asyncio.to_thread(impatient) == "done"


async def test_a_response_can_be_awaited_on_another_loop(handle: DeploymentHandle) -> None:
    response = handle.plus.remote(1)

    async def elsewhere() -> int:
        return await response  # type: ignore[no-any-return]

    assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) == 2


async def test_user_exceptions_keep_class_and_args_and_carry_the_remote_traceback(
    handle: DeploymentHandle,
) -> None:
    with pytest.raises(ValueError, match="wrong value") as caught:
        await handle.fail.remote()
    assert caught.value.args == ("wrong value", 7)
    assert "test_handles.py" in "".join(caught.value.__notes__)
    with pytest.raises(RemoteUserError, match="Odd: 1/2"):
        await handle.fail_oddly.remote()


async def test_responses_are_arguments_and_nested_ones_are_refused(handle: DeploymentHandle) -> None:
    first, second = handle.plus.remote(1), handle.plus.remote(10)
    assert await handle.remote(first, k=second) == ((2,), {"k": 11})
    with pytest.raises(RayServeException, match="top-level argument"):
        await handle.remote([first])
    with pytest.raises(RuntimeError, match="Streaming deployment handle results"):
        await handle.remote(handle.options(stream=True).count.remote(1))
    with pytest.raises(ValueError, match="wrong value"):
        await handle.remote(handle.fail.remote())


async def test_arguments_that_cannot_be_pickled_fail_when_the_response_is_awaited(
    handle: DeploymentHandle,
) -> None:
    response = handle.remote(threading.Lock())
    with pytest.raises(TypeError, match="lock"):
        await response


async def test_streams_iterate_once_in_order(handle: DeploymentHandle) -> None:
    stream = handle.options(stream=True).count.remote(100)
    assert [item async for item in stream] == list(range(100))
    assert await asyncio.to_thread(lambda: list(handle.count.options(stream=True).remote(5))) == [
        0,
        1,
        2,
        3,
        4,
    ]
    with pytest.raises(TypeError, match="async for"):
        await stream
    with pytest.raises(TypeError):
        stream.result()


async def test_a_stream_delivers_what_came_before_its_error(handle: DeploymentHandle) -> None:
    got = []
    with pytest.raises(LookupError, match="broke"):
        async for item in handle.options(stream=True).break_at.remote(3):
            got.append(item)
    assert got == [0, 1, 2]


async def test_an_abandoned_stream_stops_its_producer(handle: DeploymentHandle, tmp_path: Path) -> None:
    stream = handle.options(stream=True).count.remote(10**9, str(tmp_path / "ended"))
    assert await anext(stream) == 0
    del stream
    gc.collect()
    await exists(tmp_path / "ended")


async def test_cancel_raises_here_and_stops_the_work_there(handle: DeploymentHandle, tmp_path: Path) -> None:
    response = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "never"))
    await exists(tmp_path / "in")
    response.cancel()
    assert response.cancelled()
    with pytest.raises(RequestCancelledError):
        await response
    await exists(tmp_path / "in.cancelled")


async def test_cancelling_a_request_cancels_the_calls_made_for_it(
    handle: DeploymentHandle, tmp_path: Path
) -> None:
    parent = RequestContext("parent-id")
    token = _serve_request_context.set(parent)
    response = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "never"))
    _serve_request_context.reset(token)
    await exists(tmp_path / "in")
    assert response.request_id == "parent-id"
    parent.cancel_children()
    await exists(tmp_path / "in.cancelled")
    with pytest.raises(RequestCancelledError):
        await response
    assert not parent.children


async def test_request_id_and_model_id_reach_the_replica(handle: DeploymentHandle) -> None:
    response = handle.options(multiplexed_model_id="m7").request_facts.remote()
    assert await response == (response.request_id, "m7")
    assert (await handle.request_facts.remote())[1] == ""


async def test_all_gauges_return_to_zero(handle: DeploymentHandle, replica: ReplicaProcess) -> None:
    await asyncio.gather(*(handle.plus.remote(i) for i in range(300)))
    runtime = caller_runtime.current()
    assert runtime.routers.totals() == (0, 0)
    report = await replica.control.control("report", Empty(), ReplicaReport, timeout_s=DEADLINE_S)
    assert report.ongoing == 0


def test_handles_pickle_and_copy_without_connecting() -> None:
    handle = DeploymentHandle("D", "app").options(stream=True, multiplexed_model_id="m").method
    for twin in (pickle.loads(pickle.dumps(handle)), copy.deepcopy(handle)):
        assert (twin.deployment_name, twin.app_name, twin.handle_options) == (
            "D",
            "app",
            handle.handle_options,
        )
    assert repr(handle) == "DeploymentHandle(deployment='D')"


def test_dunder_names_are_no_methods_and_unknown_options_are_refused() -> None:
    handle = DeploymentHandle("D")
    with pytest.raises(AttributeError):
        handle.__array__  # noqa: B018
    assert handle._private.handle_options.method_name == "_private"
    with pytest.raises(TypeError):
        handle.options(nonsense=1)  # type: ignore[call-arg]


# --- waiting, from wherever and however often ---


async def test_result_takes_its_timeout_by_position_or_name_and_may_be_asked_again(
    handle: DeploymentHandle, tmp_path: Path
) -> None:
    response = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "gate"))

    def ask() -> list[str]:
        for _ in range(50):
            with pytest.raises(TimeoutError, match=response.request_id):
                response.result(0)
        with pytest.raises(TimeoutError):
            response.result(timeout_s=0.001)
        assert not response._call._waiters, "those who gave up are still kept"
        (tmp_path / "gate").touch()
        return [response.result(DEADLINE_S), response.result(timeout_s=DEADLINE_S), response.result()]

    assert await asyncio.to_thread(ask) == ["done"] * 3
    assert not response.cancelled()


async def test_a_wait_that_is_given_up_leaves_nothing_behind_and_the_request_running(
    handle: DeploymentHandle, tmp_path: Path
) -> None:
    response = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "gate"))
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_value(response), 0.001)
    task = asyncio.ensure_future(_value(response))
    await exists(tmp_path / "in")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not response._call._waiters
    (tmp_path / "gate").touch()
    assert await response == "done"


async def test_loops_and_threads_may_wait_for_one_response_together_and_get_one_object(
    handle: DeploymentHandle, tmp_path: Path
) -> None:
    waiting = threading.Barrier(9)

    def on_a_loop() -> Any:
        async def wait() -> Any:
            waiting.wait(DEADLINE_S)
            return await response

        return asyncio.run(wait())

    def in_a_thread() -> Any:
        waiting.wait(DEADLINE_S)
        return response.result(DEADLINE_S)

    gate = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "gate"))
    response = handle.remote([2], gate)
    with ThreadPoolExecutor(9) as threads:
        others = [threads.submit(f) for f in [on_a_loop, in_a_thread] * 4]
        await asyncio.wrap_future(threads.submit(waiting.wait, DEADLINE_S))
        (tmp_path / "gate").touch()
        values = [await asyncio.wrap_future(f) for f in others]
    assert values[0] == (([2], "done"), {})
    here = await response
    assert all(value is here for value in values)


async def test_threads_that_unpickle_a_value_at_the_same_time_get_one_object(
    handle: DeploymentHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = handle.remote(Meeting())
    async with asyncio.timeout(DEADLINE_S):
        await response._call.changed()
    monkeypatch.setattr(sys.modules[__name__], "meeting", threading.Barrier(2))
    ((first,), _), ((second,), _) = await asyncio.gather(
        *(asyncio.to_thread(response.result, DEADLINE_S) for _ in range(2))
    )
    assert isinstance(first, Meeting)
    assert first is second


async def test_an_error_raised_again_does_not_grow(handle: DeploymentHandle) -> None:
    response = handle.fail.remote()
    depths, notes = [], []
    for _ in range(5):
        with pytest.raises(ValueError) as caught:
            await response
        depths.append(len(caught.traceback))
        notes.append(len(caught.value.__notes__))
    assert len(set(depths)) == 1
    assert notes == [1] * 5


async def test_errors_that_are_hard_to_carry_still_arrive(handle: DeploymentHandle) -> None:
    with pytest.raises(Closed, match="closed to notes"):
        await handle.fail_as.remote("closed")
    with pytest.raises(ExceptionGroup) as group:
        await handle.fail_as.remote("group")
    assert [type(e) for e in group.value.exceptions] == [ValueError, KeyError]
    with pytest.raises(Shy):
        await asyncio.wait_for(_value(handle.fail_as.remote("shy")), DEADLINE_S)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(_value(handle.fail_as.remote("stop")), DEADLINE_S)


async def test_a_missing_method_is_named_with_those_there_are(handle: DeploymentHandle) -> None:
    with pytest.raises(RayServeException, match=r"'nope' that does not exist.*'plus'"):
        await handle.nope.remote()


async def test_calls_run_though_nobody_keeps_their_response(handle: DeploymentHandle, tmp_path: Path) -> None:
    handle.touch.remote(str(tmp_path / "there"))
    gc.collect()
    await exists(tmp_path / "there")


# --- responses as arguments ---


async def test_responses_as_arguments_are_waited_for_together(
    handle: DeploymentHandle, tmp_path: Path
) -> None:
    gates = [str(tmp_path / f"gate{i}") for i in range(2)]
    first, second = (handle.wait.remote(str(tmp_path / f"in{i}"), gates[i]) for i in range(2))
    both = handle.remote(first, also=second, twice=first)
    await exists(tmp_path / "in0")
    await exists(tmp_path / "in1")
    Path(gates[1]).touch()
    assert await second == "done"
    assert not both._call.done
    Path(gates[0]).touch()
    assert await both == (("done",), {"also": "done", "twice": "done"})


async def test_a_call_is_not_sent_if_an_argument_failed_and_fails_with_the_same_error(
    handle: DeploymentHandle, tmp_path: Path
) -> None:
    upstream = handle.fail.remote()
    never_ends = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "gate"))
    downstream = handle.touch.remote(str(tmp_path / "ran"), never_ends, upstream)
    with pytest.raises(ValueError) as first:
        await upstream
    with pytest.raises(ValueError) as second:
        await downstream  # does not wait for the argument that is still to come
    assert first.value is second.value
    assert len(second.value.__notes__) == 1
    (tmp_path / "gate").touch()
    await never_ends
    await handle.remote()
    assert not (tmp_path / "ran").exists()


async def test_a_call_that_waits_for_arguments_can_be_cancelled(
    handle: DeploymentHandle, tmp_path: Path
) -> None:
    upstream = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "gate"))
    downstream = handle.touch.remote(str(tmp_path / "ran"), upstream)
    downstream.cancel()
    with pytest.raises(RequestCancelledError):
        await downstream
    (tmp_path / "gate").touch()
    assert await upstream == "done"
    await handle.remote()
    assert not (tmp_path / "ran").exists()


# --- cancelling ---


async def test_cancel_may_be_said_twice_from_any_thread_and_late(
    handle: DeploymentHandle, tmp_path: Path
) -> None:
    response = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "never"))
    await exists(tmp_path / "in")
    await asyncio.gather(*(asyncio.to_thread(response.cancel) for _ in range(4)))
    for _ in range(2):
        with pytest.raises(RequestCancelledError, match=response.request_id):
            await response
    await exists(tmp_path / "in.cancelled")
    finished = handle.plus.remote(1)
    assert await finished == 2
    finished.cancel()
    assert finished.cancelled()
    assert await finished == 2


async def test_a_call_cancelled_before_a_replica_had_room_never_runs(stage: Stage, tmp_path: Path) -> None:
    async with running(stage):
        await stage.start(Echo, config=DeploymentConfig(max_ongoing_requests=1))
        handle = DeploymentHandle("D", "app")
        holder = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "gate"))
        await exists(tmp_path / "in")
        queued = handle.touch.remote(str(tmp_path / "ran"))
        behind = handle.plus.remote(1)
        queued.cancel()
        (tmp_path / "gate").touch()
        assert (await holder, await behind) == ("done", 2)
        with pytest.raises(RequestCancelledError):
            await queued
        assert not (tmp_path / "ran").exists()


async def test_calls_for_a_request_that_was_cancelled_are_cancelled_at_once(
    handle: DeploymentHandle, tmp_path: Path
) -> None:
    parent = RequestContext("parent-id")
    parent.cancel_children()
    token = _serve_request_context.set(parent)
    response = handle.touch.remote(str(tmp_path / "ran"))
    stream = handle.options(stream=True).touching.remote(str(tmp_path / "ran"))
    _serve_request_context.reset(token)
    assert response.cancelled()
    with pytest.raises(RequestCancelledError):
        await response
    with pytest.raises(RequestCancelledError):
        await anext(stream)
    await handle.remote()
    assert not (tmp_path / "ran").exists()
    assert not parent.children


async def test_a_call_inherits_the_deadline_of_its_request(handle: DeploymentHandle, tmp_path: Path) -> None:
    late = RequestContext("late", deadline=time.monotonic() - 1)
    token = _serve_request_context.set(late)
    response = handle.touch.remote(str(tmp_path / "ran"))
    _serve_request_context.reset(token)
    with pytest.raises(TimeoutError, match="deadline"):
        await response
    await handle.remote()
    assert not (tmp_path / "ran").exists()
    assert not late.children
    in_time = RequestContext("in time", deadline=time.monotonic() + 3600)
    token = _serve_request_context.set(in_time)
    response = handle.plus.remote(1)
    _serve_request_context.reset(token)
    assert response._call.head.deadline == in_time.deadline
    assert await response == 2


async def test_a_call_after_the_deadline_does_not_wait_for_room(stage: Stage, tmp_path: Path) -> None:
    async with running(stage):
        await stage.start(Echo, config=DeploymentConfig(max_ongoing_requests=1))
        handle = DeploymentHandle("D", "app")
        handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "never"))
        await exists(tmp_path / "in")
        token = _serve_request_context.set(RequestContext("late", deadline=time.monotonic() - 1))
        response = handle.plus.remote(1)
        _serve_request_context.reset(token)
        with pytest.raises(TimeoutError, match="deadline"):
            await asyncio.wait_for(_value(response), DEADLINE_S)


async def test_a_call_refused_by_a_replica_that_stops_fails_if_its_deployment_is_gone(
    stage: Stage, tmp_path: Path
) -> None:
    async with running(stage):
        replica = await stage.start(Echo)
        handle = DeploymentHandle("D", "app")
        held = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "gate"))
        await exists(tmp_path / "in")
        stop = asyncio.ensure_future(
            replica.control.control("stop", StopRequest(), Empty, timeout_s=DEADLINE_S)
        )
        async with asyncio.timeout(DEADLINE_S):
            while not (
                await replica.control.control("report", Empty(), ReplicaReport, timeout_s=20)
            ).draining:
                await asyncio.sleep(0.005)
        sent = handle.plus.remote(1)  # to a replica that is not known to be stopping
        stage.route(state=MemberState.MISSING)
        with pytest.raises(DeploymentNotFoundError):
            await asyncio.wait_for(_value(sent), DEADLINE_S)
        (tmp_path / "gate").touch()
        assert await held == "done"
        await stop


async def test_a_call_that_no_replica_has_read_fails_when_the_runtime_ends(stage: Stage) -> None:
    async with running(stage) as runtime:
        replica = await stage.start(Echo)
        handle = DeploymentHandle("D", "app")
        assert await handle.plus.remote(1) == 2
        replica.process.send_signal(signal.SIGSTOP)
        unread = handle.plus.remote(1)
        await runtime.aclose()
        with pytest.raises(DeploymentNotFoundError):
            await asyncio.wait_for(_value(unread), DEADLINE_S)


async def test_open_calls_fail_when_the_runtime_ends(stage: Stage, tmp_path: Path) -> None:
    async with running(stage):
        await stage.start(Echo, config=DeploymentConfig(max_ongoing_requests=1))
        handle = DeploymentHandle("D", "app")
        accepted = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "never"))
        await exists(tmp_path / "in")
        queued = handle.plus.remote(1)
        depends = handle.plus.remote(accepted)
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(ReplicaDiedError):
            await accepted
        with pytest.raises(DeploymentNotFoundError):
            await queued
        with pytest.raises(ReplicaDiedError):
            await depends


# --- streams ---


@pytest.mark.parametrize("method", ["count", "sync_count"])
async def test_streams_of_both_kinds_are_read_on_loops_and_in_threads(
    handle: DeploymentHandle, method: str
) -> None:
    streaming = handle.options(method_name=method, stream=True)
    assert [i async for i in streaming.remote(10)] == list(range(10))
    assert await asyncio.to_thread(lambda: list(streaming.remote(10))) == list(range(10))

    async def elsewhere() -> list[int]:
        return [i async for i in streaming.remote(10)]

    assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) == list(range(10))
    with pytest.raises(RuntimeError, match="Use `async for`"):
        next(streaming.remote(1))


async def test_a_thread_reads_a_long_stream_of_small_items_to_its_end(handle: DeploymentHandle) -> None:
    """What it gives back is worth what the items cost, or the producer stops for ever in the middle."""
    n = 50_000

    def read() -> int:
        stream = handle.options(stream=True).sync_count.remote(n)
        while not stream._call.is_ready() or len(stream._call._items) < 100:  # let some gather
            time.sleep(0.001)
        return sum(1 for _ in stream)

    assert await asyncio.wait_for(asyncio.to_thread(read), 60) == n


async def test_the_producer_waits_while_nobody_takes_items(handle: DeploymentHandle) -> None:
    stream = handle.options(stream=True).produce.remote(500, 64 * 1024)
    assert len(await anext(stream)) == 64 * 1024
    for _ in range(20):  # answered between two items: a producer that runs ahead would be done by then
        assert await handle.produced_so_far.remote() < 20
    async with asyncio.timeout(DEADLINE_S):
        assert sum([1 async for _ in stream]) == 499


async def test_stream_and_method_must_fit(handle: DeploymentHandle, tmp_path: Path) -> None:
    stream = handle.options(stream=True).plus.remote(1)  # raises nothing yet
    with pytest.raises(TypeError, match="instead of a generator"):
        await anext(stream)
    for method in ("touching", "touching_too"):
        with pytest.raises(TypeError, match="stream=True"):
            await handle.options(method_name=method).remote(str(tmp_path / "ran"))
    assert not (tmp_path / "ran").exists()
    assert [i async for i in handle.options(stream=True).stream_if.remote(True)] == [0, 1, 2]
    with pytest.raises(TypeError, match="stream=True"):
        await handle.stream_if.remote(True)


async def test_a_stream_that_is_cancelled_raises_and_one_that_is_closed_ends(
    handle: DeploymentHandle, tmp_path: Path
) -> None:
    cancelled, closed, closed_too = (
        handle.options(stream=True).count.remote(10**9, str(tmp_path / f"ended{i}")) for i in range(3)
    )
    for stream in (cancelled, closed, closed_too):
        assert await anext(stream) == 0
    cancelled.cancel()
    assert cancelled.cancelled()
    with pytest.raises(RequestCancelledError):
        await anext(cancelled)
    await closed.aclose()
    await closed.aclose()
    assert [i async for i in closed] == []
    closed_too.close()
    assert await asyncio.to_thread(lambda: list(closed_too)) == []
    for i in range(3):
        await exists(tmp_path / f"ended{i}")


async def test_a_thread_that_waits_for_an_item_hears_of_the_cancel(
    handle: DeploymentHandle, tmp_path: Path
) -> None:
    stream = handle.options(stream=True).wait.remote(str(tmp_path / "in"), str(tmp_path / "never"))
    reading = asyncio.ensure_future(asyncio.to_thread(list, stream))
    await exists(tmp_path / "in")
    stream.cancel()
    with pytest.raises(RequestCancelledError):
        await asyncio.wait_for(reading, DEADLINE_S)


async def test_leaving_a_loop_over_a_stream_stops_its_producer(
    handle: DeploymentHandle, tmp_path: Path
) -> None:
    def leave() -> None:
        for item in handle.options(stream=True).count.remote(10**9, str(tmp_path / "ended")):
            if item == 3:
                break

    await asyncio.to_thread(leave)
    await exists(tmp_path / "ended")


async def test_nothing_of_a_call_is_kept_that_its_result_does_not_need(handle: DeploymentHandle) -> None:
    response = handle.remote(bytes(1_000_000))
    await response
    assert not response._call.buffers
    assert response._call.arguments == ((), {})


async def _value(response: Any) -> Any:
    return await response
