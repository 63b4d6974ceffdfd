"""Handles over a real instance: calls from everywhere to everywhere, and what becomes of them when something ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

import serve_lite as serve
from serve_lite.context import _serve_request_context
from serve_lite.exceptions import DeploymentNotFoundError, RayServeException, RequestCancelledError
from serve_lite.handle import DeploymentHandle, RayServeHandle, RayServeSyncHandle
from tests.instances import DEADLINE_S, Instance, until

pytestmark = pytest.mark.anyio


async def aside(function: Callable[[], Any]) -> Any:
    """Run what blocks as a script would, off this loop."""
    return await anyio.to_thread.run_sync(function)


async def value_of(response: Any) -> Any:
    async with asyncio.timeout(DEADLINE_S):
        return await response


@serve.deployment
class Leaf:
    """Where chains of calls end."""

    def add(self, value: int, step: int = 1) -> int:
        return value + step

    async def hang(self, note: str) -> None:
        Path(note).touch()
        try:
            await asyncio.sleep(3600)
        finally:
            Path(note + ".ended").touch()

    async def wait_for(self, note: str, gate: str) -> str:
        Path(note).touch()
        while not Path(gate).exists():
            await asyncio.sleep(0.005)
        return "done"

    async def fail(self) -> None:
        raise LookupError("in the leaf")

    async def facts(self) -> tuple[str, str, str]:
        request = _serve_request_context.get()
        return request.request_id, request.multiplexed_model_id, request.session_id

    async def pid(self) -> int:
        return os.getpid()

    async def count(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i


@serve.deployment
class Middle:
    """Calls the leaf in every way there is."""

    def __init__(self, leaf: RayServeHandle) -> None:  # what is annotated changes nothing
        self.leaf: Any = leaf
        self.background: set[asyncio.Task[Any]] = set()

    def sync_add(self, value: int) -> int:
        return int(self.leaf.add.remote(value).result(timeout_s=DEADLINE_S))

    async def async_add(self, value: int) -> int:
        return int(await self.leaf.add.remote(self.leaf.add.remote(value)))

    def sync_sum(self, n: int) -> int:
        return sum(self.leaf.options(stream=True).count.remote(n))

    async def async_sum(self, n: int) -> int:
        return sum([i async for i in self.leaf.options(stream=True).count.remote(n)])

    async def in_a_thread_of_its_own(self, value: int) -> int:
        return await asyncio.to_thread(lambda: asyncio.run(self.async_add(value)))

    async def blocks(self) -> None:
        self.leaf.add.remote(1).result()

    def sync_hang(self, note: str) -> None:
        self.leaf.hang.remote(note).result()

    async def hang(self, note: str) -> None:
        await self.leaf.hang.remote(note)

    async def hang_in_tasks(self, note: str) -> None:
        async def work(i: int) -> None:
            await self.leaf.hang.remote(f"{note}.{i}")

        tasks = [asyncio.create_task(work(i)) for i in range(2)]
        self.background.update(tasks)
        await asyncio.sleep(3600)

    async def leave_behind(self, note: str, gate: str) -> str:
        async def work() -> None:
            Path(note + ".said").write_text(await self.leaf.wait_for.remote(note, gate))

        self.background.add(asyncio.create_task(work()))
        return "left"

    async def call_while_cancelled(self, note: str) -> None:
        try:
            await self.leaf.hang.remote(note)
        finally:
            try:
                await self.leaf.add.remote(1)
            except RequestCancelledError:
                Path(note + ".refused").touch()
                raise

    async def fail(self) -> None:
        await self.leaf.fail.remote()

    async def facts(self) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
        request = _serve_request_context.get()
        mine = request.request_id, request.multiplexed_model_id, request.session_id
        return mine, await self.leaf.facts.remote()

    async def call_with(self, handle: DeploymentHandle, value: int) -> int:
        return int(await handle.add.remote(value))

    async def pids(self) -> list[int]:
        return sorted(await self.leaf.broadcast("pid").results_async(timeout_s=DEADLINE_S))

    async def pids_from_a_thread(self) -> list[int]:
        return sorted(await asyncio.to_thread(self.leaf.broadcast("pid").results))

    async def chosen(self) -> tuple[str, int]:
        async with self.leaf.choose_replica() as selection:
            return selection.replica_id, await self.leaf.pid.dispatch(selection)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    async def older(self, value: int) -> tuple[str, str, int]:
        older = self.leaf.options(use_new_handle_api=False)
        return type(self.leaf).__name__, type(older).__name__, await (await older.add.remote(value))


@serve.deployment
class Top:
    """A third level."""

    def __init__(self, middle: DeploymentHandle) -> None:
        self.middle = middle

    async def relay(self, method: str, *args: Any) -> Any:
        return await self.middle.options(method_name=method).remote(*args)

    async def spawn(self, method: str, *args: Any) -> None:
        self.task = asyncio.create_task(self.relay(method, *args))
        await asyncio.sleep(3600)


@serve.deployment
class Recursive:
    """Calls itself."""

    async def factorial(self, n: int) -> int:
        own = serve.get_deployment_handle("Recursive")
        return n * int(await own.factorial.remote(n - 1)) if n > 1 else 1

    def power(self, n: int) -> int:
        own = serve.get_deployment_handle("Recursive")
        return 2 * int(own.power.remote(n - 1).result(timeout_s=DEADLINE_S)) if n else 1


def middle() -> serve.Application:
    return Middle.bind(Leaf.bind())


# --- from everywhere ---


async def test_calls_start_in_sync_and_async_handlers_and_in_their_threads(daemon: Instance) -> None:
    handle = await daemon.run(middle())
    assert await value_of(handle.sync_add.remote(1)) == 2
    assert await value_of(handle.async_add.remote(1)) == 3
    assert await value_of(handle.sync_sum.remote(10)) == 45
    assert await value_of(handle.async_sum.remote(10)) == 45
    assert await value_of(handle.in_a_thread_of_its_own.remote(1)) == 3
    with pytest.raises(RuntimeError, match="Use `await response` instead"):
        await value_of(handle.blocks.remote())


async def test_one_handle_serves_threads_and_loops_of_a_driver_at_once(daemon: Instance) -> None:
    handle = await daemon.run(middle())
    together = threading.Barrier(5)

    def as_a_thread(n: int) -> list[int]:
        together.wait(DEADLINE_S)
        return [handle.async_add.remote(n + i).result(timeout_s=DEADLINE_S) for i in range(20)]

    def on_a_loop_of_its_own(n: int) -> list[int]:
        async def work() -> list[int]:
            together.wait(DEADLINE_S)
            return await asyncio.gather(*(value_of(handle.async_add.remote(n + i)) for i in range(20)))

        return asyncio.run(work())

    async with anyio.create_task_group() as group:
        found: dict[int, list[int]] = {}

        async def collect(function: Callable[[int], list[int]], n: int) -> None:
            found[n] = await aside(lambda: function(n))

        for i, function in enumerate([as_a_thread, on_a_loop_of_its_own] * 2):
            group.start_soon(collect, function, 100 * i)
        await aside(lambda: together.wait(DEADLINE_S))
        here = await asyncio.gather(*(value_of(handle.async_add.remote(i)) for i in range(20)))
    assert here == [i + 2 for i in range(20)]
    assert found == {n: [n + i + 2 for i in range(20)] for n in (0, 100, 200, 300)}


async def test_a_response_of_one_loop_is_awaited_on_another_and_passed_on(daemon: Instance) -> None:
    handle = await daemon.run(middle())
    response = await aside(lambda: handle.async_add.remote(1))

    async def elsewhere() -> int:
        return int(await handle.async_add.remote(response))

    assert await aside(lambda: asyncio.run(elsewhere())) == 5
    assert await value_of(response) == 3


async def test_a_constructor_may_not_block_on_a_call_but_may_await_one(daemon: Instance) -> None:
    @serve.deployment
    class Blocking:
        def __init__(self, leaf: Any) -> None:
            leaf.add.remote(1).result()

    @serve.deployment
    class Awaiting:
        async def __init__(self, leaf: Any) -> None:  # type: ignore[misc]  # as Serve allows
            self.value = await leaf.add.remote(1)

        async def __call__(self) -> int:
            return int(self.value)

    with pytest.raises(RuntimeError, match="(?s)Use `await response` instead"):
        await daemon.run(Blocking.bind(Leaf.bind()), name="blocking", route_prefix="/blocking")
    handle = await daemon.run(Awaiting.bind(Leaf.bind()), name="awaiting", route_prefix="/awaiting")
    assert await value_of(handle.remote()) == 2


async def test_a_deployment_may_call_itself(daemon: Instance) -> None:
    handle = await daemon.run(Recursive.bind())
    assert await value_of(handle.factorial.remote(6)) == 720
    assert await value_of(handle.power.remote(4)) == 16


async def test_a_handle_can_be_an_argument(daemon: Instance) -> None:
    handle = await daemon.run(middle())
    leaf = await aside(lambda: serve.get_deployment_handle("Leaf", "default"))
    assert await value_of(handle.call_with.remote(leaf.options(multiplexed_model_id="m"), 4)) == 5


async def test_a_handle_finds_the_instance_in_a_fresh_process(daemon: Instance) -> None:
    await daemon.run(Leaf.options(num_replicas=2).bind())
    code = (
        "from serve_lite.handle import DeploymentHandle\n"
        "handle = DeploymentHandle('Leaf')\n"
        "print(len(set(handle.broadcast('pid').results(timeout_s=30))), handle.add.remote(1).result())"
    )
    done = await aside(
        lambda: subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "SERVE_LITE_HOME": daemon.home},
            capture_output=True,
            text=True,
            timeout=2 * DEADLINE_S,
        )
    )
    assert done.stdout == "2 2\n", done.stderr


async def test_where_nothing_runs_a_call_says_so_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVE_LITE_HOME", str(tmp_path))
    handle = DeploymentHandle("Leaf")
    with pytest.raises(RayServeException, match="Serve is not running here"):
        handle.add.remote(1)
    with pytest.raises(RayServeException, match="Serve is not running here"):
        handle.broadcast("add", 1)


async def test_nested_calls_inherit_the_request_id_and_nothing_that_was_meant_for_one_call(
    daemon: Instance,
) -> None:
    handle = await daemon.run(middle())
    response = handle.options(multiplexed_model_id="m", session_id="s").facts.remote()
    mine, below = await value_of(response)
    assert mine == (response.request_id, "m", "s")
    assert below == (response.request_id, "", "")


async def test_an_error_from_three_levels_down_has_one_note_with_the_whole_way(daemon: Instance) -> None:
    handle = await daemon.run(Top.bind(middle()))
    with pytest.raises(LookupError, match="in the leaf") as caught:
        await value_of(handle.relay.remote("fail"))
    assert len(caught.value.__notes__) == 1
    note = caught.value.__notes__[0]
    assert "in relay" in note
    assert note.count('raise LookupError("in the leaf")') == 1


# --- every replica, one replica ---


async def test_broadcasts_and_choices_work_from_drivers_and_replicas(daemon: Instance) -> None:
    handle = await daemon.run(Middle.bind(Leaf.options(num_replicas=2).bind()))
    pids = sorted(daemon.pids("replica default/Leaf"))
    assert len(pids) == 2
    assert await value_of(handle.pids.remote()) == pids
    assert await value_of(handle.pids_from_a_thread.remote()) == pids
    replica_id, pid = await value_of(handle.chosen.remote())
    assert replica_id.startswith("default#Leaf#")
    assert pid in pids
    leaf = await aside(lambda: serve.get_deployment_handle("Leaf", "default"))
    assert sorted(await aside(leaf.broadcast("pid").results)) == pids
    async with leaf.choose_replica() as selection:
        first = await value_of(leaf.pid.dispatch(selection))
    assert first in pids
    await until(leaf.running_replicas_populated)


# --- cancelling ---


@pytest.mark.parametrize("method", ["hang", "sync_hang", "hang_in_tasks"])
@pytest.mark.parametrize("way", ["relay", "spawn"])
async def test_a_cancel_reaches_the_third_level_through_tasks_and_threads(
    daemon: Instance, tmp_path: Path, method: str, way: str
) -> None:
    handle = await daemon.run(Top.bind(middle()))
    note = str(tmp_path / "note")
    notes = [f"{note}.0", f"{note}.1"] if method == "hang_in_tasks" else [note]
    response = handle.options(method_name=way).remote(method, note)
    for each in notes:
        await until(Path(each).exists)
    response.cancel()
    with pytest.raises(RequestCancelledError):
        await value_of(response)
    for each in notes:
        await until(Path(each + ".ended").exists)


async def test_calls_for_a_request_that_is_being_cancelled_are_refused(
    daemon: Instance, tmp_path: Path
) -> None:
    handle = await daemon.run(middle())
    response = handle.call_while_cancelled.remote(str(tmp_path / "note"))
    await until((tmp_path / "note").exists)
    response.cancel()
    await until((tmp_path / "note.refused").exists)


async def test_what_a_request_leaves_behind_goes_on_when_it_has_ended(
    daemon: Instance, tmp_path: Path
) -> None:
    handle = await daemon.run(middle())
    note, gate = tmp_path / "note", tmp_path / "gate"
    response = handle.leave_behind.remote(str(note), str(gate))
    assert await value_of(response) == "left"
    await until(note.exists)
    response.cancel()  # too late
    gate.touch()
    await until(lambda: Path(f"{note}.said").exists() and Path(f"{note}.said").read_text() == "done")


async def test_no_slot_is_lost_to_cancelled_calls(daemon: Instance, tmp_path: Path) -> None:
    handle = await daemon.run(Leaf.options(max_ongoing_requests=1).bind())
    for i in range(3):
        response = handle.hang.remote(str(tmp_path / f"note{i}"))
        await until((tmp_path / f"note{i}").exists)
        waiting = handle.add.remote(i)
        response.cancel()
        assert await value_of(waiting) == i + 1


# --- deploys and deletes ---


async def test_a_handle_stays_good_when_its_application_is_deployed_again(daemon: Instance) -> None:
    @serve.deployment(name="Versioned")
    class One:
        async def __call__(self) -> int:
            return 1

    @serve.deployment(name="Versioned")
    class Two:
        async def __call__(self) -> int:
            return 2

    handle = await daemon.run(One.bind())
    assert await value_of(handle.remote()) == 1
    stop = threading.Event()
    seen: list[int] = []

    def keep_calling() -> None:
        while not stop.is_set():
            seen.append(handle.remote().result(timeout_s=DEADLINE_S))

    async with anyio.create_task_group() as group:
        group.start_soon(aside, keep_calling)
        await daemon.run(Two.bind())
        assert await value_of(handle.remote()) == 2
        stop.set()
    assert set(seen) <= {1, 2}, "every call was answered, by the old code or the new"


async def test_calls_to_a_deleted_application_fail_whether_they_come_late_or_wait(
    daemon: Instance, tmp_path: Path
) -> None:
    handle = await daemon.run(Leaf.options(max_ongoing_requests=1).bind(), name="gone", route_prefix=None)
    running = handle.wait_for.remote(str(tmp_path / "note"), str(tmp_path / "gate"))
    await until((tmp_path / "note").exists)
    waiting = handle.add.remote(1)
    deleted = asyncio.ensure_future(aside(lambda: serve.delete("gone")))
    with pytest.raises(DeploymentNotFoundError):
        await value_of(waiting)
    for _ in range(2):
        with pytest.raises(DeploymentNotFoundError):
            await value_of(handle.add.remote(1))
    with pytest.raises(DeploymentNotFoundError):
        await value_of(aiter_first(handle.options(stream=True).count.remote(1)))
    with pytest.raises(DeploymentNotFoundError):
        await handle.broadcast("add", 1).results_async(timeout_s=DEADLINE_S)
    (tmp_path / "gate").touch()
    assert await value_of(running) == "done"  # it had been accepted: the replica finishes it before it stops
    await deleted


async def aiter_first(stream: Any) -> Any:
    return await anext(stream)


async def test_calls_that_a_draining_replica_refuses_are_not_forgotten(daemon: Instance) -> None:
    """A burst while the application is deleted: each call is answered or fails, none waits for ever."""
    handle = await daemon.run(Leaf.bind(), name="gone", route_prefix=None)
    assert await value_of(handle.add.remote(0)) == 1
    responses: list[Any] = []
    stop = threading.Event()

    def burst() -> None:
        while not stop.is_set():
            responses.append(handle.add.remote(len(responses)))
            if len(responses) % 50 == 0:
                time.sleep(0.001)

    async with anyio.create_task_group() as group:
        group.start_soon(aside, burst)
        await aside(lambda: serve.delete("gone"))
        stop.set()
    async with asyncio.timeout(DEADLINE_S):
        results = await asyncio.gather(*(value_of(r) for r in responses), return_exceptions=True)
    assert {type(r) for r in results} <= {int, DeploymentNotFoundError}


# --- 2.7 ---


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
async def test_older_handles_fit_where_they_are_made(daemon: Instance) -> None:
    handle = await daemon.run(middle())
    assert await value_of(handle.older.remote(1)) == ("DeploymentHandle", "RayServeHandle", 2)

    def script() -> tuple[int, list[int], list[int]]:
        older: Any = handle.options(use_new_handle_api=False)
        assert type(older) is RayServeSyncHandle
        one = serve.get(older.async_add.remote(1))
        some = serve.get([older.async_add.remote(i) for i in range(3)], timeout=DEADLINE_S)
        leaf: Any = serve.get_deployment_handle("Leaf", "default").options(use_new_handle_api=False)
        return one, some, [serve.get(r) for r in leaf.options(stream=True).count.remote(3)]

    assert await aside(script) == (3, [2, 3, 4], [0, 1, 2])
