"""What handles offer besides plain calls: their own attributes, broadcasts, chosen replicas, the older kinds."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import threading
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serve_lite
from serve_lite import context, instruments
from serve_lite.config import DeploymentConfig
from serve_lite.context import make_replica_context, set_replica_context
from serve_lite.exceptions import (
    DeploymentNotFoundError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from serve_lite.handle import (
    DeploymentBroadcastResponse,
    DeploymentHandle,
    DeploymentResponse,
    DeploymentResponseGenerator,
    RayServeDeploymentHandle,
    RayServeHandle,
    RayServeSyncHandle,
)
from serve_lite.legacy_handles import ObjectRef, ObjectRefGenerator, get
from serve_lite.routing import runtime as caller_runtime
from serve_lite.routing.runtime import Runtime
from serve_lite.wire.messages import MemberState
from tests.replica.conftest import Stage

pytestmark = pytest.mark.anyio
DEADLINE_S = 20.0

ONE_AT_A_TIME = DeploymentConfig(max_ongoing_requests=1)


class Worker:
    def __call__(self, value: Any = None, *more: Any) -> Any:
        return value

    async def pid(self, *_: Any) -> int:
        return os.getpid()

    async def wait(self, note: str, gate: str) -> str:
        Path(f"{note}.{os.getpid()}").touch()
        try:
            while not Path(gate).exists():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            Path(f"{note}.{os.getpid()}.cancelled").touch()
            raise
        return "done"

    def touch(self, path: str) -> None:
        Path(path).touch()

    async def fail_in(self, pid: int) -> int:
        if os.getpid() == pid:
            raise ValueError(f"not in {pid}")
        return os.getpid()

    async def count(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    async def options(self) -> str:
        return "a method named like an attribute of handles"

    async def _private(self) -> str:
        return "private"


@pytest.fixture
async def stage(stage: Stage) -> AsyncIterator[Stage]:
    """The stage, with a runtime for handles on the test's loop."""
    runtime = Runtime(asyncio.get_running_loop(), "", stage.membership)
    caller_runtime.install(runtime)
    try:
        yield stage
    finally:
        await runtime.aclose()
        caller_runtime.install(None)


@pytest.fixture
def handle() -> DeploymentHandle[Any]:
    return DeploymentHandle("D", "app")


async def until(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


def seen(tmp_path: Path, pattern: str) -> set[str]:
    return {p.name for p in tmp_path.glob(pattern)}


# --- the handle itself ---


def test_a_handle_tells_what_it_is_without_a_connection(handle: DeploymentHandle[Any]) -> None:
    assert (handle.deployment_name, handle.app_name) == ("D", "app")
    assert str(handle.deployment_id) == "Deployment(name='D', app='app')"
    assert handle.is_initialized is False
    assert handle.init_options is None
    assert handle.handle_id == handle.options(stream=True).handle_id == DeploymentHandle("D", "app").handle_id
    assert handle.handle_id != DeploymentHandle("E", "app").handle_id
    with pytest.raises(AttributeError):
        handle.deployment_name = "E"


def test_options_that_are_not_given_stay(handle: DeploymentHandle[Any]) -> None:
    first = handle.options(method_name="m", multiplexed_model_id="x", session_id="s", stream=True)
    second = first.options(request_serialization="pickle", response_serialization="orjson")
    kept = second.handle_options
    assert (kept.method_name, kept.multiplexed_model_id, kept.session_id, kept.stream) == (
        "m",
        "x",
        "s",
        True,
    )
    assert (kept.request_serialization, kept.response_serialization) == ("pickle", "orjson")
    assert second.options(stream=False).handle_options.stream is False
    assert handle.options(
        _by_reference=True, _router_cls=object, _prefer_local_routing=True
    ).handle_options == (handle.handle_options)
    assert first.other.handle_options.method_name == "other"
    assert first.other.handle_options.stream is True
    assert handle.options(method_name=Worker.pid).handle_options.method_name == "pid"


def test_wrong_options_are_refused(handle: DeploymentHandle[Any]) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        handle.options(nonsense=1)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="request_serialization is 'json'.*'msgpack'"):
        handle.options(request_serialization="json")
    with pytest.raises(ValueError, match="response_serialization is 'json'"):
        handle.options(response_serialization="json")
    with pytest.raises(TypeError, match="method_name"):
        handle.options(method_name=3)  # type: ignore[call-overload]


def test_probes_find_what_is_there_and_nothing_else(handle: DeploymentHandle[Any]) -> None:
    for name in ("__array__", "__len__", "__deepcopy__", "__fspath__", "__wrapped__", "__iter__"):
        assert not hasattr(handle, name)
    assert handle.__call__.handle_options.method_name == "__call__"
    assert not callable(handle)
    array = np.asarray(handle)
    assert (array.dtype, array.shape, array[()]) == (np.dtype(object), (), handle)
    assert np.array([handle, handle]).shape == (2,)
    # IPython asks for a name that nobody has, and trusts no object that claims to have it
    assert hasattr(handle, "_ipython_canary_method_should_not_exist_")
    handle.cached  # noqa: B018  # a copy has the options only, not what was looked up before
    for twin in (copy.copy(handle), copy.deepcopy([handle])[0], pickle.loads(pickle.dumps(handle))):
        assert type(twin) is DeploymentHandle
        assert (twin.deployment_id, twin.handle_options) == (handle.deployment_id, handle.handle_options)
        assert twin.handle_id == handle.handle_id
    assert repr(handle.method) == "DeploymentHandle(deployment='D')"


async def test_every_method_can_be_called_whatever_its_name(
    stage: Stage, handle: DeploymentHandle[Any]
) -> None:
    await stage.start(Worker)
    assert await handle._private.remote() == "private"
    assert "attribute of handles" in await handle.options(method_name="options").remote()
    assert await handle.__call__.remote(3) == 3


async def test_init_connects_once(stage: Stage, handle: DeploymentHandle[Any]) -> None:
    assert handle.is_initialized
    handle._init(_prefer_local_routing=True)
    assert dict(handle.init_options or {}) == {"_prefer_local_routing": True}
    with pytest.raises(RuntimeError, match="initialized already"):
        handle._init()
    handle.shutdown()
    await handle.shutdown_async()
    await stage.start(Worker)
    assert await handle.remote(1) == 1  # it held nothing that could have been closed


async def test_whether_replicas_are_known_can_be_asked_from_any_thread(
    stage: Stage, handle: DeploymentHandle[Any]
) -> None:
    assert handle.running_replicas_populated() is False
    await stage.start(Worker)
    while not await asyncio.to_thread(handle.running_replicas_populated):
        await asyncio.sleep(0.005)


async def test_calls_are_counted_by_handle_and_route(stage: Stage, handle: DeploymentHandle[Any]) -> None:
    await stage.start(Worker)
    token = context._serve_request_context.set(context.RequestContext("r", route="/way"))
    await asyncio.gather(*(handle.remote(i) for i in range(3)))
    context._serve_request_context.reset(token)
    await handle.broadcast("pid").results_async()
    labels = [handle.handle_id, "D", "/way", "app"]
    family = next(f for f in instruments.collect() if f.name == handle.request_counter.name)
    assert family.label_names == ["handle", "deployment", "route", "application"]
    counts = {tuple(s.labels): s.values for s in family.series}
    assert counts[tuple(labels)] == [3.0]
    assert counts[handle.handle_id, "D", "", "app"][0] >= 1


# --- broadcasts ---


async def test_a_broadcast_reaches_every_replica_the_first_time_too(
    stage: Stage, handle: DeploymentHandle[Any]
) -> None:
    replicas = [await stage.start(Worker) for _ in range(3)]
    response = handle.broadcast("pid")  # nothing was connected before
    assert isinstance(response, DeploymentBroadcastResponse)
    pids = {r.process.pid for r in replicas}
    assert set(await response.results_async(timeout_s=DEADLINE_S)) == pids
    assert set(await asyncio.to_thread(response.results)) == pids
    assert set(await handle.broadcast(Worker.pid).results_async()) == pids


async def test_a_broadcast_goes_beyond_the_limit_and_past_the_queue(
    stage: Stage, handle: DeploymentHandle[Any], tmp_path: Path
) -> None:
    replica = await stage.start(Worker, config=ONE_AT_A_TIME)
    stage.route(replica, max_queued=1)
    holder = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "gate"))
    await until(lambda: seen(tmp_path, "in.*"))
    queued = handle.remote("queued")
    assert await handle.broadcast("pid").results_async(timeout_s=DEADLINE_S) == [replica.process.pid]
    assert not queued._call.done
    (tmp_path / "gate").touch()
    assert (await holder, await queued) == ("done", "queued")


async def test_broadcast_errors_are_raised_or_given_among_the_results(
    stage: Stage, handle: DeploymentHandle[Any]
) -> None:
    good, bad = [await stage.start(Worker) for _ in range(2)]
    response = handle.broadcast("fail_in", bad.process.pid)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"not in {bad.process.pid}"):
            await response.results_async()
    results = await response.results_async(return_exceptions=True)
    assert {type(r) for r in results} == {int, ValueError}
    assert good.process.pid in results
    with pytest.raises(TypeError, match="pickle"):
        await handle.broadcast("pid", threading.Lock()).results_async()


async def test_waiting_for_broadcast_results_has_its_limits(
    stage: Stage, handle: DeploymentHandle[Any], tmp_path: Path
) -> None:
    for _ in range(2):
        await stage.start(Worker)
    response = handle.broadcast("wait", str(tmp_path / "in"), str(tmp_path / "gate"))
    with pytest.raises(RuntimeError, match="results_async"):
        response.results()
    with pytest.raises(ValueError, match="at least 0"):
        await asyncio.to_thread(lambda: response.results(timeout_s=-1))
    with pytest.raises(ValueError, match="at least 0"):
        await response.results_async(timeout_s=-0.1)
    await until(lambda: len(seen(tmp_path, "in.*")) == 2)
    for timeout_s in (0, 0.01):
        with pytest.raises(TimeoutError, match="every replica"):
            await asyncio.to_thread(lambda t=timeout_s: response.results(timeout_s=t))  # type: ignore[misc]
        with pytest.raises(TimeoutError, match="every replica"):
            await response.results_async(timeout_s=timeout_s)
    (tmp_path / "gate").touch()
    assert await response.results_async(timeout_s=DEADLINE_S) == ["done", "done"]


async def test_a_broadcast_without_replicas_says_so(stage: Stage, handle: DeploymentHandle[Any]) -> None:
    with pytest.raises(DeploymentUnavailableError):
        await handle.broadcast("pid").results_async(return_exceptions=True, timeout_s=DEADLINE_S)
    stage.route(state=MemberState.FAILED)
    with pytest.raises(DeploymentUnavailableError):
        await handle.broadcast("pid").results_async(timeout_s=DEADLINE_S)
    stage.route(state=MemberState.MISSING)
    with pytest.raises(DeploymentNotFoundError):
        await handle.broadcast("pid").results_async(timeout_s=DEADLINE_S)


async def test_responses_given_to_a_broadcast_arrive_as_values(
    stage: Stage, handle: DeploymentHandle[Any]
) -> None:
    for _ in range(2):
        await stage.start(Worker)
    assert await handle.broadcast("__call__", handle.remote({"a": 1})).results_async() == [{"a": 1}] * 2
    with pytest.raises(RayServeException, match="cannot be passed"):
        await handle.remote(handle.broadcast("pid"))


async def test_cancelling_a_broadcast_stops_the_work_everywhere(
    stage: Stage, handle: DeploymentHandle[Any], tmp_path: Path
) -> None:
    for _ in range(2):
        await stage.start(Worker)
    response = handle.broadcast("wait", str(tmp_path / "in"), str(tmp_path / "never"))
    await until(lambda: len(seen(tmp_path, "in.*")) == 2)
    response.cancel()
    assert response.cancelled()
    with pytest.raises(RequestCancelledError):
        await response.results_async(return_exceptions=True)
    await until(lambda: len(seen(tmp_path, "in.*.cancelled")) == 2)


async def test_a_replica_that_dies_under_a_broadcast_is_one_error_and_no_second_run(
    stage: Stage, handle: DeploymentHandle[Any], tmp_path: Path
) -> None:
    first, second = [await stage.start(Worker) for _ in range(2)]
    response = handle.broadcast("wait", str(tmp_path / "in"), str(tmp_path / "gate"))
    await until(lambda: len(seen(tmp_path, "in.*")) == 2)
    first.kill()
    await asyncio.to_thread(first.process.wait, DEADLINE_S)
    (tmp_path / "gate").touch()
    results = await response.results_async(return_exceptions=True, timeout_s=DEADLINE_S)
    assert "done" in results
    assert sum(isinstance(r, RayServeException) for r in results) == 1
    assert len(seen(tmp_path, "in.*")) == 2
    assert second.process.poll() is None


# --- chosen replicas ---


async def test_a_chosen_replica_keeps_a_place_and_runs_the_call(
    stage: Stage, handle: DeploymentHandle[Any], tmp_path: Path
) -> None:
    replica = await stage.start(Worker, config=ONE_AT_A_TIME)
    async with handle.choose_replica() as selection:
        assert selection.replica_id == replica.endpoint.replica_id
        waiting = handle.remote("after it")  # the one place is kept
        response = handle.pid.dispatch(selection)
        assert isinstance(response, DeploymentResponse)
        assert await asyncio.wait_for(_value(response), DEADLINE_S) == replica.process.pid
        with pytest.raises(RuntimeError, match="used by another call"):
            handle.pid.dispatch(selection)
    assert await asyncio.wait_for(_value(waiting), DEADLINE_S) == "after it"


async def test_a_place_that_is_not_used_is_given_back(stage: Stage, handle: DeploymentHandle[Any]) -> None:
    await stage.start(Worker, config=ONE_AT_A_TIME)
    for _ in range(3):
        async with handle.choose_replica("some", argument=1) as selection:
            waiting = handle.remote(1)
            assert not waiting._call.done
        assert await asyncio.wait_for(_value(waiting), DEADLINE_S) == 1
        with pytest.raises(RuntimeError, match="given back"):
            handle.dispatch(selection)


async def test_a_stream_can_be_dispatched_and_outlives_the_block(
    stage: Stage, handle: DeploymentHandle[Any]
) -> None:
    await stage.start(Worker, config=ONE_AT_A_TIME)
    async with handle.choose_replica() as selection:
        stream = handle.options(method_name="count", stream=True).dispatch(selection, 5)
        assert isinstance(stream, DeploymentResponseGenerator)
    assert [i async for i in stream] == list(range(5))
    assert await asyncio.wait_for(_value(handle.remote(2)), DEADLINE_S) == 2


async def test_a_selection_serves_its_own_deployment_and_a_living_replica(
    stage: Stage, handle: DeploymentHandle[Any]
) -> None:
    replica, _ = await stage.start(Worker), await stage.start(Worker)
    async with handle.choose_replica() as selection:
        with pytest.raises(ValueError, match="name='E'"):
            DeploymentHandle("E", "app").dispatch(selection)
        chosen = next(r for r in stage.replicas if r.endpoint.replica_id == selection.replica_id)
        chosen.kill()
        await asyncio.to_thread(chosen.process.wait, DEADLINE_S)
        router = caller_runtime.current().routers.get("app", "D")
        await until(lambda: not router.is_connected(selection.replica_id))
        with pytest.raises(ReplicaUnavailableError, match=selection.replica_id):
            await handle.pid.dispatch(selection)
    assert replica


# --- the handles of 2.7 ---


@pytest.fixture
def old() -> RayServeHandle:
    return RayServeHandle("D", "app")


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
async def test_an_older_handle_gives_a_reference_that_gives_the_value(
    stage: Stage, old: RayServeHandle
) -> None:
    await stage.start(Worker)
    assigned = old.remote([1])
    reference = await assigned
    assert isinstance(reference, ObjectRef)
    assert await assigned is reference
    assert await reference == await reference == [1]
    assert await (await old.pid.remote()) == stage.replicas[0].process.pid
    results = await asyncio.gather(*[old.remote(i) for i in range(3)])
    assert [await r for r in results] == [0, 1, 2]
    with pytest.raises(ValueError, match="not in"):
        await (await old.fail_in.remote(stage.replicas[0].process.pid))
    with pytest.raises(RayServeException, match="top-level"):
        pickle.dumps(reference)


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
async def test_references_are_arguments_of_both_kinds_of_handles(
    stage: Stage, old: RayServeHandle, handle: DeploymentHandle[Any]
) -> None:
    await stage.start(Worker)
    reference = await old.remote("value")
    assert await (await old.remote(reference)) == "value"
    assert await (await old.remote(old.remote("on its way"))) == "on its way"
    assert await handle.remote(reference) == "value"
    assert await (await old.remote(handle.remote("new"))) == "new"
    assert await (await handle.remote("same")._to_object_ref()) == "same"


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
async def test_a_sync_handle_blocks_until_a_replica_has_the_call(stage: Stage, tmp_path: Path) -> None:
    await stage.start(Worker, config=ONE_AT_A_TIME)
    handle = RayServeSyncHandle("D", "app")

    def script() -> list[Any]:
        first = handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "gate"))
        assert isinstance(first, ObjectRef)
        with pytest.raises(TimeoutError):
            get(first, timeout=0)
        opener = threading.Timer(0.01, (tmp_path / "gate").touch)
        opener.start()
        second = handle.remote("second")  # there is room only when the first has ended
        assert first._call.done
        opener.join()
        values = get([first, second, second], timeout=DEADLINE_S)
        assert serve_lite.get(second) == get(handle.options(use_new_handle_api=True).remote("second"))
        return [*values, [get(item) for item in handle.options(stream=True).count.remote(3)]]

    assert await asyncio.to_thread(script) == ["done", "second", "second", [0, 1, 2]]
    (tmp_path / "gate").unlink()
    handle.wait.remote(str(tmp_path / "in"), str(tmp_path / "gate"))
    with pytest.raises(RuntimeError, match="Use `RayServeHandle` there"):
        handle.remote("there is no room, and this is the loop that would hear of some")


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
async def test_older_streams_give_references(stage: Stage, old: RayServeHandle) -> None:
    await stage.start(Worker)
    stream = await old.options(stream=True).count.remote(4)
    assert isinstance(stream, ObjectRefGenerator)
    references = [item async for item in stream]
    assert all(isinstance(r, ObjectRef) for r in references)
    assert [await r for r in references] == [0, 1, 2, 3]


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
async def test_get_says_what_it_takes(stage: Stage, old: RayServeHandle, tmp_path: Path) -> None:
    await stage.start(Worker)
    with pytest.raises(TypeError, match="got int: 3"):
        get(3)
    with pytest.raises(TypeError, match="Await it first"):
        get([old.remote(1)])
    with pytest.raises(RuntimeError, match="on this very thread"):
        get(await old.wait.remote(str(tmp_path / "in"), str(tmp_path / "never")))


async def test_each_older_call_warns_and_names_the_way_out(stage: Stage, old: RayServeHandle) -> None:
    await stage.start(Worker)
    with pytest.warns(
        DeprecationWarning, match="`RayServeHandle` is deprecated.*use_new_handle_api=True"
    ) as w:
        await (await old.remote(1))
    assert w[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert await old.options(use_new_handle_api=True).remote(1) == 1
        assert (
            await old.method.options(use_new_handle_api=True).options(method_name="__call__").remote(2) == 2
        )


def test_kinds_of_handles_are_switched_by_option_and_environment(
    handle: DeploymentHandle[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type(handle.options(use_new_handle_api=True)) is DeploymentHandle
    sync = handle.options(use_new_handle_api=False, method_name="m", stream=True)
    assert type(sync) is RayServeSyncHandle
    assert (sync.handle_options.method_name, sync.handle_options.stream) == ("m", True)
    assert type(sync.other) is RayServeSyncHandle
    assert type(pickle.loads(pickle.dumps(sync))) is RayServeSyncHandle
    assert type(sync.options(use_new_handle_api=True)) is DeploymentHandle
    assert issubclass(RayServeDeploymentHandle, RayServeHandle)
    set_replica_context(make_replica_context("app#D#abcdefgh", "app", "D", world_size=1))
    try:
        assert type(handle.options(use_new_handle_api=False)) is RayServeHandle
    finally:
        set_replica_context(None)
    monkeypatch.setenv("RAY_SERVE_ENABLE_NEW_HANDLE_API", "1")
    assert type(handle.options(use_new_handle_api=False)) is DeploymentHandle


async def _value(response: Any) -> Any:
    return await response
