"""Handle calls to real replica processes: results, errors, streams, limits, cancel, death."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serve_lite.config import DeploymentConfig
from serve_lite.exceptions import (
    BackPressureError,
    DeploymentNotFoundError,
    RayServeException,
    ReplicaDiedError,
    RequestCancelledError,
)
from serve_lite.routing.router import PendingCall
from serve_lite.wire import codec
from serve_lite.wire.connection import RemoteControlError, connect
from serve_lite.wire.frames import Kind
from serve_lite.wire.messages import (
    AdoptRequest,
    Empty,
    ErrorHead,
    MemberState,
    PythonHead,
    ReplicaReport,
    StopRequest,
)
from tests.replica.conftest import Stage

pytestmark = pytest.mark.anyio
DEADLINE_S = 20.0


class Call(PendingCall):
    """A call whose end can be awaited."""

    kind = Kind.CALL_PYTHON

    def __init__(self, method: str, *args: Any, stream: bool = False, deadline: float = 0.0) -> None:
        self.envelope = msgspec.msgpack.encode(PythonHead(method, stream, deadline=deadline))
        self.buffers = codec.dumps((args, {}))
        self.items: list[Any] = []
        self.sent_to: list[str] = []
        self.end: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def on_sent(self, replica_id: str) -> None:
        self.sent_to.append(replica_id)

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self.end.set_result(codec.loads(buffers))

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self.items.append(codec.loads(buffers))
        assert self.outgoing is not None
        self.outgoing.consumed(sum(b.nbytes for b in buffers))

    def on_end(self, envelope: bytes) -> None:
        self.end.set_result(self.items)

    def on_error(self, envelope: bytes, buffers: list[memoryview]) -> None:
        head = msgspec.msgpack.decode(envelope, type=ErrorHead)
        self.end.set_exception(codec.loads(buffers) if buffers else RuntimeError(head.text))

    def on_failed(self, error: Exception) -> None:
        self.end.set_exception(error)

    def __await__(self) -> Any:
        return asyncio.wait_for(self.end, DEADLINE_S).__await__()


class Worker:
    """What the tests deploy. Gates are files: a call waits until its file exists."""

    def __init__(self, note: str = "") -> None:
        self.note = note
        self.task = asyncio.get_running_loop().create_task(asyncio.sleep(0))

    async def __call__(self, value: int) -> int:
        return value + 1

    def blocking(self, value: int) -> tuple[int, bool]:
        import threading

        return value, threading.current_thread() is threading.main_thread()

    async def pid(self) -> int:
        return os.getpid()

    async def fail(self) -> None:
        raise KeyError("lost")

    async def wait(self, entered: str, gate: str) -> str:
        Path(entered).touch()
        try:
            while not Path(gate).exists():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            Path(entered + ".cancelled").touch()
            raise
        return "done"

    def wait_in_thread(self, entered: str, gate: str) -> str:
        Path(entered).touch()
        while not Path(gate).exists():
            time.sleep(0.005)
        return "done"

    async def count(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    def count_in_thread(self, n: int) -> Iterator[int]:
        yield from range(n)

    async def big(self, n: int) -> AsyncIterator[bytes]:
        for _ in range(n):
            yield b"x" * 100_000

    async def array(self, data: Any) -> Any:
        return data * 2


async def until(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def ongoing(replica: Any) -> int:
    report = await replica.control.control("report", Empty(), ReplicaReport, timeout_s=DEADLINE_S)
    return int(report.ongoing)


async def test_calls_reach_async_and_sync_methods(stage: Stage) -> None:
    await stage.start(Worker)
    first, second = Call("__call__", 1), Call("blocking", 5)
    stage.router.submit(first)
    stage.router.submit(second)
    assert await first == 2
    assert await second == (5, False)


async def test_a_function_is_a_deployment(stage: Stage) -> None:
    async def double(x: int) -> int:
        return 2 * x

    await stage.start(double)
    call = Call("__call__", 21)
    stage.router.submit(call)
    assert await call == 42


async def test_a_users_exception_arrives_as_itself_and_the_slot_is_free(stage: Stage) -> None:
    replica = await stage.start(Worker)
    call = Call("fail")
    stage.router.submit(call)
    with pytest.raises(KeyError, match="lost"):
        await call
    assert await ongoing(replica) == 0
    assert stage.router.num_ongoing == 0


async def test_a_missing_method_is_named_with_those_there_are(stage: Stage) -> None:
    await stage.start(Worker)
    call = Call("nope")
    stage.router.submit(call)
    with pytest.raises(
        Exception, match=r"'nope' that does not exist. Available methods: \['array', 'big', 'blocking'"
    ):
        await call


@pytest.mark.parametrize("method", ["count", "count_in_thread"])
async def test_generators_stream(stage: Stage, method: str) -> None:
    replica = await stage.start(Worker)
    call = Call(method, 1000, stream=True)
    stage.router.submit(call)
    assert await call == list(range(1000))
    assert await ongoing(replica) == 0


async def test_streaming_and_unary_calls_are_told_apart(stage: Stage) -> None:
    await stage.start(Worker)
    unary, streamed = Call("count", 3), Call("__call__", 1, stream=True)
    stage.router.submit(unary)
    stage.router.submit(streamed)
    with pytest.raises(TypeError, match=r"options\(stream=True\)"):
        await unary
    with pytest.raises(TypeError, match="Remove `stream=True`"):
        await streamed


async def test_large_arrays_go_out_of_band_both_ways(stage: Stage) -> None:
    numpy = pytest.importorskip("numpy")
    await stage.start(Worker)
    data = numpy.arange(500_000, dtype="float64")
    call = Call("array", data)
    assert len(call.buffers) == 2
    stage.router.submit(call)
    assert numpy.array_equal(await call, data * 2)


async def test_a_slow_consumer_stops_the_producer(stage: Stage) -> None:
    await stage.start(Worker)
    call = Call("big", 50, stream=True)
    held: list[list[memoryview]] = []
    call.on_item = lambda envelope, buffers: held.append(buffers)  # type: ignore[method-assign]  # takes, gives no credit
    stage.router.submit(call)
    await until(lambda: len(held) == 3)  # 256 KiB of window
    probe = Call("__call__", 1)
    stage.router.submit(probe)
    assert await probe == 2  # whatever the producer could still send has arrived before this answer
    assert len(held) == 3
    outgoing = call.outgoing
    assert outgoing is not None
    for used in range(50):
        await until(lambda used=used: len(held) > used)
        outgoing.consumed(100_000)
    assert await call == []
    assert len(held) == 50


async def test_max_ongoing_requests_is_strict_and_what_waits_goes_when_there_is_room(
    stage: Stage, tmp_path: Path
) -> None:
    replica = await stage.start(Worker, config=DeploymentConfig(max_ongoing_requests=2))
    gate = str(tmp_path / "gate")
    calls = [Call("wait", str(tmp_path / f"in{i}"), gate) for i in range(4)]
    for call in calls:
        stage.router.submit(call)
    await until(lambda: len(list(tmp_path.glob("in*"))) == 2)
    assert await ongoing(replica) == 2
    assert (stage.router.num_queued, stage.router.num_ongoing) == (2, 2)
    Path(gate).touch()
    assert [await call for call in calls] == ["done"] * 4
    assert await ongoing(replica) == 0


async def test_a_router_tells_its_load_while_there_is_some_and_once_that_it_is_over(
    stage: Stage, tmp_path: Path
) -> None:
    replica = await stage.start(Worker, config=DeploymentConfig(max_ongoing_requests=1))
    loads = stage.membership.loads
    stage.route(replica, load_every_s=0.02)
    gate = str(tmp_path / "gate")
    calls = [Call("wait", str(tmp_path / f"in{i}"), gate) for i in range(3)]
    for call in calls:
        stage.router.submit(call)
    await until(lambda: len(loads) >= 3 and loads[-1].running)
    assert (loads[-1].queued, loads[-1].running) == (2, {replica.endpoint.replica_id: 1})
    Path(gate).touch()
    assert [await call for call in calls] == ["done"] * 3
    await until(lambda: loads[-1].is_none)
    told = len(loads)
    await asyncio.sleep(0.2)
    assert len(loads) == told


async def test_a_call_that_finds_no_replica_is_told_at_once_and_others_are_not(stage: Stage) -> None:
    loads = stage.membership.loads
    stage.route()
    calls = [Call("__call__", i) for i in range(3)]
    stage.router.submit(calls[0])
    assert loads == []  # nobody wants to know
    stage.route(load_every_s=3600.0)
    assert [load.queued for load in loads] == [1]  # what waited when somebody began to want it
    stage.router.submit(calls[1])
    stage.router.submit(calls[2])
    assert [load.queued for load in loads] == [1, 2]
    for call in calls:
        stage.router.cancel(call)


async def test_two_routers_share_one_slot_without_losing_a_call(stage: Stage) -> None:
    from serve_lite.routing.router import Routers

    await stage.start(Worker, config=DeploymentConfig(max_ongoing_requests=1))
    others = Routers(stage.membership)
    try:
        calls = []
        for i in range(200):
            call = Call("__call__", i)
            (stage.router if i % 2 else others.get("app", "D")).submit(call)
            calls.append(call)
        assert [await call for call in calls] == list(range(1, 201))
    finally:
        await others.aclose()


async def test_the_queue_limit_refuses_at_once(stage: Stage, tmp_path: Path) -> None:
    replica = await stage.start(Worker, config=DeploymentConfig(max_ongoing_requests=1))
    stage.route(replica, max_queued=1, backpressure_status=429, retry_after_s=3.0)
    gate = str(tmp_path / "gate")
    running, waiting, refused = (Call("wait", str(tmp_path / f"in{i}"), gate) for i in range(3))
    stage.router.submit(running)
    await until(lambda: running.sent_to)
    stage.router.submit(waiting)
    stage.router.submit(refused)
    with pytest.raises(BackPressureError) as caught:
        await refused
    assert (caught.value.status_code, caught.value.retry_after_s, caught.value.num_queued_requests) == (
        429,
        3.0,
        1,
    )
    Path(gate).touch()
    assert await running == await waiting == "done"


async def test_cancel_reaches_the_handler_and_frees_the_slot(stage: Stage, tmp_path: Path) -> None:
    replica = await stage.start(Worker)
    call = Call("wait", str(tmp_path / "in"), str(tmp_path / "never"))
    stage.router.submit(call)
    await until((tmp_path / "in").exists)
    stage.router.cancel(call)
    await until((tmp_path / "in.cancelled").exists)
    async with asyncio.timeout(DEADLINE_S):
        while await ongoing(replica):
            await asyncio.sleep(0.005)
    assert not call.end.done()
    assert stage.router.num_ongoing == 0


async def test_a_cancelled_sync_handler_keeps_its_slot_until_its_thread_ends(
    stage: Stage, tmp_path: Path
) -> None:
    replica = await stage.start(Worker)
    gate = tmp_path / "gate"
    call = Call("wait_in_thread", str(tmp_path / "in"), str(gate))
    stage.router.submit(call)
    await until((tmp_path / "in").exists)
    stage.router.cancel(call)
    assert await ongoing(replica) == 1
    gate.touch()
    async with asyncio.timeout(DEADLINE_S):
        while await ongoing(replica):
            await asyncio.sleep(0.005)


async def test_a_call_past_its_deadline_is_not_started(stage: Stage) -> None:
    await stage.start(Worker)
    call = Call("__call__", 1, deadline=time.monotonic() - 1)
    stage.router.submit(call)
    with pytest.raises(TimeoutError):
        await call


async def test_calls_wait_for_a_first_replica_and_fail_when_the_deployment_is_gone(stage: Stage) -> None:
    waiting = Call("__call__", 1)
    stage.router.submit(waiting)
    assert not waiting.end.done()
    await stage.start(Worker)
    assert await waiting == 2
    stage.route(state=MemberState.MISSING)
    late = Call("__call__", 1)
    stage.router.submit(late)
    with pytest.raises(DeploymentNotFoundError, match="does not exist"):
        await late


async def test_a_killed_replica_fails_what_it_had_accepted_and_nothing_else(
    stage: Stage, tmp_path: Path
) -> None:
    first = await stage.start(Worker, config=DeploymentConfig(max_ongoing_requests=1))
    accepted = Call("wait", str(tmp_path / "in"), str(tmp_path / "never"))
    stage.router.submit(accepted)
    await until((tmp_path / "in").exists)
    queued = Call("pid")
    stage.router.submit(queued)
    first.kill()
    with pytest.raises(ReplicaDiedError):
        await accepted
    second = await stage.start(Worker)
    assert await queued == second.process.pid


async def test_calls_that_a_stopped_replica_never_read_go_to_another(stage: Stage) -> None:
    import signal

    first = await stage.start(Worker)
    probe = Call("pid")
    stage.router.submit(probe)
    await probe
    first.process.send_signal(signal.SIGSTOP)  # it accepts bytes into its socket and reads none
    calls = [Call("pid") for _ in range(20)]
    for call in calls:
        stage.router.submit(call)
    await until(lambda: all(c.sent_to for c in calls))
    await asyncio.sleep(0)  # one pass of the loop: the frames are written
    second = await stage.start(Worker)
    first.kill()
    assert {await call for call in calls} == {second.process.pid}


async def test_a_draining_replica_finishes_what_it_has_and_the_rest_goes_elsewhere(
    stage: Stage, tmp_path: Path
) -> None:
    first = await stage.start(Worker)
    gate = tmp_path / "gate"
    running = Call("wait", str(tmp_path / "in"), str(gate))
    stage.router.submit(running)
    await until((tmp_path / "in").exists)
    stopping = asyncio.ensure_future(
        first.control.control("stop", StopRequest(), Empty, timeout_s=DEADLINE_S)
    )
    async with asyncio.timeout(DEADLINE_S):
        while not (
            await first.control.control("report", Empty(), ReplicaReport, timeout_s=DEADLINE_S)
        ).draining:
            await asyncio.sleep(0.005)
    late = Call("pid")
    stage.router.submit(late)  # still routed to it: it refuses
    second = await stage.start(Worker)
    assert await late == second.process.pid
    gate.touch()
    assert await running == "done"
    await stopping
    assert await asyncio.to_thread(first.process.wait, DEADLINE_S) == 0


async def test_constructor_errors_are_the_answer_to_init(stage: Stage) -> None:
    class Broken:
        def __init__(self) -> None:
            raise ValueError("no weights here")

    with pytest.raises(RemoteControlError, match="no weights here") as caught:
        await stage.start(Broken)
    assert caught.value.type_name == "ValueError"
    assert "test_calls.py" in caught.value.traceback


async def test_the_destructor_runs_once_before_the_process_ends(stage: Stage, tmp_path: Path) -> None:
    class Tidy:
        def __init__(self, path: str) -> None:
            self.path = path

        def __del__(self) -> None:
            with open(self.path, "a") as file:
                file.write("x")

    replica = await stage.start(Tidy, str(tmp_path / "tidied"))
    await replica.control.control("stop", StopRequest(), Empty, timeout_s=DEADLINE_S)
    await asyncio.to_thread(replica.process.wait, DEADLINE_S)
    assert (tmp_path / "tidied").read_text() == "x"


async def test_what_outlasts_the_grace_is_cancelled_before_the_destructor(
    stage: Stage, tmp_path: Path
) -> None:
    class Slow(Worker):
        def __del__(self) -> None:
            Path(self.note).write_text(str(Path(self.note + ".in.cancelled").exists()))

    replica = await stage.start(Slow, str(tmp_path / "gone"))
    call = Call("wait", str(tmp_path / "gone.in"), str(tmp_path / "never"))
    stage.router.submit(call)
    await until((tmp_path / "gone.in").exists)
    await replica.control.control("stop", StopRequest(timeout_s=0.05), Empty, timeout_s=DEADLINE_S)
    with pytest.raises(RequestCancelledError):
        await call
    assert await asyncio.to_thread(replica.process.wait, DEADLINE_S) == 0
    assert (tmp_path / "gone").read_text() == "True"


async def test_an_orphan_stops_by_itself(stage: Stage) -> None:
    replica = await stage.start(Worker, orphan_grace_s=0.05)
    stage.route()
    replica.control.close()
    assert await asyncio.to_thread(replica.process.wait, DEADLINE_S) == 0


async def test_a_replica_that_is_adopted_in_time_is_no_orphan(stage: Stage) -> None:
    replica = await stage.start(Worker, orphan_grace_s=DEADLINE_S)
    replica.control.close()
    again = await connect(replica.endpoint.socket)
    report = await again.control("adopt", AdoptRequest(epoch=2), ReplicaReport, timeout_s=DEADLINE_S)
    assert (report.ready, report.pid) == (True, replica.process.pid)
    with pytest.raises(RayServeException, match="obeys daemon epoch 2, not the older 1"):
        await again.control("adopt", AdoptRequest(epoch=1), ReplicaReport, timeout_s=DEADLINE_S)
    again.close()


async def test_sigterm_is_a_graceful_stop(stage: Stage, tmp_path: Path) -> None:
    replica = await stage.start(Worker)
    gate = tmp_path / "gate"
    call = Call("wait", str(tmp_path / "in"), str(gate))
    stage.router.submit(call)
    await until((tmp_path / "in").exists)
    replica.process.terminate()
    gate.touch()
    assert await call == "done"
    assert await asyncio.to_thread(replica.process.wait, DEADLINE_S) == 0
