"""Handles and their responses, over a real replica."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serve_lite.context import RequestContext, _serve_request_context
from serve_lite.exceptions import RayServeException, RemoteUserError, RequestCancelledError
from serve_lite.handle import DeploymentHandle
from serve_lite.routing import runtime as caller_runtime
from serve_lite.routing.runtime import Runtime
from serve_lite.wire.messages import Empty, ReplicaReport
from tests.replica.conftest import ReplicaProcess, Stage

pytestmark = pytest.mark.anyio
DEADLINE_S = 20.0


class Odd(Exception):
    """Pickles, but cannot be made again from its args."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a}/{b}")


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

    async def request_facts(self) -> tuple[str, str]:
        from serve_lite import get_multiplexed_model_id

        return _serve_request_context.get().request_id, get_multiplexed_model_id()


@pytest.fixture
async def replica(stage: Stage) -> AsyncIterator[ReplicaProcess]:
    runtime = Runtime(asyncio.get_running_loop(), "", stage.membership)
    caller_runtime.install(runtime)
    try:
        yield await stage.start(Echo)
    finally:
        await runtime.aclose()
        caller_runtime.install(None)


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
