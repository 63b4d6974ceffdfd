"""Arrays through handles, between real processes: through the socket first, then through shared memory."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve_lite.exceptions import ReplicaDiedError
from serve_lite.handle import DeploymentHandle
from serve_lite.routing import runtime as caller_runtime
from serve_lite.routing.router import Routers
from serve_lite.routing.runtime import Runtime
from serve_lite.wire.memory_files import FROM_BYTES, are_supported
from tests.replica.conftest import Stage

pytestmark = pytest.mark.anyio
DEADLINE_S = 20.0
LARGE = 2 * FROM_BYTES
needs_files = pytest.mark.skipif(
    not are_supported(), reason="this system has no memory files that others can open"
)


def filled(value: int, size: int = LARGE) -> Any:
    return np.full(size, value, dtype=np.uint8)


def mapped(process: int | str = "self") -> int:
    """How many memory files a process has mapped."""
    gc.collect()  # what earlier tests left in circles does not count
    return Path(f"/proc/{process}/maps").read_text().count("memfd:serve-lite")


def descriptors(process: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


class Keeper:
    def __init__(self) -> None:
        self.kept: list[Any] = []

    async def echo(self, *values: Any) -> Any:
        return values

    async def add_one(self, array: Any) -> Any:
        return array + 1

    async def write(self, array: Any) -> Any:
        array[0] = 77
        return array

    async def keep(self, array: Any) -> int:
        self.kept.append(array)
        return len(self.kept)

    async def forget(self) -> None:
        self.kept.clear()

    async def seen(self) -> list[tuple[int, int]]:
        return [(int(a.min()), int(a.max())) for a in self.kept]

    async def mine(self) -> Any:
        self.own = filled(5)
        return self.own

    async def items(self, n: int) -> AsyncIterator[Any]:
        for i in range(n):
            yield filled(i)

    def sync_items(self, n: int) -> Iterator[Any]:
        for i in range(n):
            yield filled(i)

    async def hold(self, array: Any, entered: str) -> None:
        Path(entered).touch()
        await asyncio.Event().wait()

    async def fail(self, array: Any) -> None:
        raise ValueError(array)

    def fork(self, gate: str, verdict: str) -> int:
        """Start a child that looks at the kept array once the gate is there."""
        child = os.fork()
        if child == 0:
            status = 1
            try:
                while not Path(gate).exists():
                    os.sched_yield()
                [array] = self.kept
                Path(verdict + ".part").write_text(f"{array.min()} {array.max()}")
                os.rename(verdict + ".part", verdict)
                status = 0
            finally:
                os._exit(status)
        return child

    def reap(self, child: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
async def handle(stage: Stage) -> AsyncIterator[DeploymentHandle[Any]]:
    runtime = Runtime(asyncio.get_running_loop(), "", stage.membership)
    caller_runtime.install(runtime)
    try:
        await stage.start(Keeper)
        yield DeploymentHandle("D", "app")
    finally:
        await runtime.aclose()
        caller_runtime.install(None)


def replica_pid(stage: Stage) -> int:
    return stage.replicas[0].process.pid


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


ARRAYS: dict[str, Any] = {
    "flat": np.arange(LARGE, dtype=np.float64),
    "fortran": np.asfortranarray(np.arange(LARGE, dtype=np.int32).reshape(-1, 64)),
    "with gaps": np.arange(2 * LARGE, dtype=np.int16)[::2],
    "of records": np.zeros(LARGE, dtype=[("a", "i4"), ("b", "f8")]),
    "not writable": np.frombuffer(bytes(LARGE), dtype=np.uint8),
    "in one read": filled(3, 50_000),
    "inside the pickle": filled(3, 5_000),
    "exactly at the threshold": filled(3, FROM_BYTES),
    "one byte below": filled(3, FROM_BYTES - 1),
    "tens of megabytes": np.arange(4_000_000, dtype=np.float64),
}


@pytest.mark.parametrize("name", ARRAYS)
async def test_arrays_arrive_equal_and_are_writable_if_they_were(handle: Any, name: str) -> None:
    sent = ARRAYS[name]
    for _ in range(4):  # through the socket, then through files
        [received] = await handle.echo.remote(sent)
        np.testing.assert_array_equal(received, sent)
        assert (received.dtype, received.shape) == (sent.dtype, sent.shape)
        assert received.flags.writeable == sent.flags.writeable


async def test_bytes_and_several_buffers_arrive_equal(handle: Any) -> None:
    sent = (b"x" * LARGE, filled(1), "small", bytearray(b"y" * LARGE), filled(2, 100), filled(3, 3 * LARGE))
    for _ in range(4):
        received = await handle.echo.remote(*sent)
        for a, b in zip(received, sent, strict=True):
            assert type(a) is type(b)
            np.testing.assert_array_equal(a, b)


@needs_files
async def test_large_arrays_go_through_files_and_small_ones_do_not(handle: Any, stage: Stage) -> None:
    before = mapped()
    for _ in range(4):
        await handle.add_one.remote(filled(1, FROM_BYTES // 2))
    assert (mapped(), mapped(replica_pid(stage))) == (before, 0)
    for _ in range(4):
        await handle.add_one.remote(filled(1))
    assert mapped() > before
    assert mapped(replica_pid(stage)) > 0


@needs_files
async def test_the_daemon_s_connections_do_not_ask_for_files(handle: Any, stage: Stage) -> None:
    caller_runtime.current().routers = routers = Routers(stage.membership)
    before = mapped()
    try:
        for _ in range(4):
            assert (await handle.add_one.remote(filled(1)))[-1] == 2
        assert (mapped(), mapped(replica_pid(stage))) == (before, 0)
    finally:
        await routers.aclose()


async def test_what_a_replica_keeps_never_changes(handle: Any) -> None:
    for n in range(60):  # more than there are files for one connection
        await handle.keep.remote(filled(n))
        await handle.add_one.remote(filled(200))
    assert await handle.seen.remote() == [(n, n) for n in range(60)]


async def test_what_a_caller_keeps_never_changes(handle: Any) -> None:
    kept = [await handle.add_one.remote(filled(n)) for n in range(60)]
    assert [(int(a.min()), int(a.max())) for a in kept] == [(n + 1, n + 1) for n in range(60)]


async def test_a_part_of_an_array_keeps_all_of_it(handle: Any) -> None:
    parts = []
    for n in range(10):
        parts.append((await handle.add_one.remote(filled(n)))[-3:])
    assert [list(p) for p in parts] == [[n + 1] * 3 for n in range(10)]


async def test_writing_to_what_was_received_changes_nobody_elses(handle: Any) -> None:
    sent = filled(1)
    for _ in range(4):
        changed = await handle.write.remote(sent)
        assert (changed[0], sent[0]) == (77, 1)
        mine = await handle.mine.remote()
        mine[:] = 9
        assert (await handle.mine.remote())[0] == 5


@needs_files
async def test_a_result_outlives_the_replica_that_was_killed(handle: Any, stage: Stage) -> None:
    results = [await handle.add_one.remote(filled(n)) for n in range(5)]
    stage.replicas[0].kill()
    stage.replicas[0].process.wait(10)
    await until(lambda: not caller_runtime.current().routers.get("app", "D").num_replicas)
    assert [(int(a.min()), int(a.max())) for a in results] == [(n + 1, n + 1) for n in range(5)]


_CALLER = """
import asyncio, sys
import numpy as np
from serve_lite.handle import DeploymentHandle
from serve_lite.routing import runtime
from serve_lite.wire.messages import ReplicaEndpoint, Membership, MemberState
from tests.replica.conftest import StaticMembership

async def main():
    source = StaticMembership()
    endpoint = ReplicaEndpoint(replica_id="app#D#rep00000", socket=sys.argv[1], max_ongoing=100)
    source.set(Membership(app="app", deployment="D", state=MemberState.AVAILABLE, replicas=(endpoint,)))
    runtime.install(runtime.Runtime(asyncio.get_running_loop(), "", source))
    handle = DeploymentHandle("D", "app")
    for n in range(10):
        await handle.keep.remote(np.full(int(sys.argv[2]), n, dtype=np.uint8))
    print("kept", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@needs_files
async def test_arguments_outlive_the_caller_that_was_killed(handle: Any, stage: Stage) -> None:
    path = stage.replicas[0].endpoint.socket
    caller = subprocess.Popen(
        [sys.executable, "-c", _CALLER, path, str(LARGE)], stdout=subprocess.PIPE, text=True
    )
    assert caller.stdout is not None
    try:
        assert await asyncio.wait_for(asyncio.to_thread(caller.stdout.readline), DEADLINE_S) == "kept\n"
        assert mapped(replica_pid(stage)) > 0
    finally:
        caller.send_signal(signal.SIGKILL)
        caller.wait(10)
        caller.stdout.close()
    assert await handle.seen.remote() == [(n, n) for n in range(10)]
    await handle.forget.remote()
    await until(lambda: mapped(replica_pid(stage)) == 0)


@needs_files
async def test_a_replica_killed_while_it_looks_leaves_nothing_at_the_caller(
    handle: Any, stage: Stage, tmp_path: Path
) -> None:
    before = mapped()
    for _ in range(4):
        await handle.add_one.remote(filled(1))
    held = handle.hold.remote(filled(1), str(tmp_path / "in"))
    await until((tmp_path / "in").exists)
    stage.replicas[0].kill()
    with pytest.raises(ReplicaDiedError):
        await held
    del held
    await until(lambda: mapped() == before)


async def test_threads_may_call_and_let_go_as_they_like(handle: Any) -> None:
    def work(n: int) -> bool:
        for i in range(10):
            value = (n * 10 + i) % 200
            answer = handle.add_one.remote(filled(value)).result(DEADLINE_S)
            if not (answer == value + 1).all():
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        loop = asyncio.get_running_loop()
        assert all(await asyncio.gather(*(loop.run_in_executor(pool, work, n) for n in range(16))))


async def test_calls_that_run_together_get_each_its_own(handle: Any) -> None:
    answers = await asyncio.gather(*(handle.add_one.remote(filled(n)) for n in range(100)))
    assert [(int(a.min()), int(a.max())) for a in answers] == [(n + 1, n + 1) for n in range(100)]


@pytest.mark.parametrize("method", ["items", "sync_items"])
async def test_streamed_items_arrive_in_order_and_stay(handle: Any, method: str) -> None:
    stream = getattr(handle.options(stream=True), method).remote(40)
    items = [item async for item in stream]
    assert [(int(a.min()), int(a.max())) for a in items] == [(n, n) for n in range(40)]


async def test_a_stream_that_nobody_reads_to_its_end_frees_its_files(handle: Any) -> None:
    for _ in range(5):
        stream = handle.options(stream=True).items.remote(40)
        assert (await anext(stream))[0] == 0
        await stream.aclose()
    assert (await handle.add_one.remote(filled(1)))[-1] == 2


async def test_responses_are_passed_on_as_arguments(handle: Any) -> None:
    for n in range(4):
        response = handle.add_one.remote(filled(n))
        for _ in range(3):
            response = handle.add_one.remote(response)
        answer = await response
        assert (answer.min(), answer.max()) == (n + 4, n + 4)


async def test_errors_may_carry_arrays(handle: Any) -> None:
    for n in range(4):
        with pytest.raises(ValueError) as caught:
            await handle.fail.remote(filled(n))
        assert (caught.value.args[0] == n).all()


@needs_files
async def test_a_thousand_calls_leave_no_more_files_than_a_few(handle: Any, stage: Stage) -> None:
    replica = replica_pid(stage)
    for n in range(20):
        await handle.add_one.remote(filled(n))
    there = (descriptors(), descriptors(replica), mapped(), mapped(replica))
    for n in range(1000):
        answer = await handle.add_one.remote(filled(n % 200))
        assert answer[-1] == n % 200 + 1
    now = (descriptors(), descriptors(replica), mapped(), mapped(replica))
    assert all(a <= b + 4 for a, b in zip(now, there, strict=True)), (there, now)


@needs_files
async def test_a_child_forked_by_user_code_sees_what_was_there(
    handle: Any, stage: Stage, tmp_path: Path
) -> None:
    for n in range(4):
        await handle.add_one.remote(filled(n))  # so that there are files
    assert await handle.keep.remote(filled(5)) == 1
    gate, verdict = tmp_path / "gate", tmp_path / "verdict"
    child = await handle.fork.remote(str(gate), str(verdict))
    await handle.forget.remote()  # the parent lets go, the child does not
    for _ in range(40):
        await handle.add_one.remote(filled(99))
    gate.touch()
    assert await handle.reap.remote(child) == 0
    assert verdict.read_text() == "5 5"
