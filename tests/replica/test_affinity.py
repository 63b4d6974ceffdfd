"""Calls for a model go to a replica that holds it; calls of a session to the session's replica."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import serve_lite as serve
from serve_lite.config import DeploymentConfig
from serve_lite.exceptions import ReplicaUnavailableError
from serve_lite.handle import DeploymentHandle
from serve_lite.request_router import PendingRequest, RequestRouter, RunningReplica
from serve_lite.responses import DeploymentResponseGenerator, StreamCall, UnaryCall
from serve_lite.routing import runtime as caller_runtime
from serve_lite.routing.runtime import Runtime
from serve_lite.state.ids import DeploymentId
from serve_lite.wire import codec
from serve_lite.wire.messages import RESERVE, PythonHead, RouterChoice
from tests.replica.conftest import Stage

pytestmark = pytest.mark.anyio
DEADLINE_S = 20.0
TARGET = DeploymentId(name="D", app_name="app")


class Models:
    """Counts its loads; can be told to keep a call."""

    def __init__(self) -> None:
        self.loads: list[str] = []

    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> str:
        self.loads.append(model_id)
        return model_id.upper()

    async def __call__(self) -> tuple[int, str]:
        return os.getpid(), await self.get_model(serve.get_multiplexed_model_id())

    async def hold(self, gate: str) -> int:
        await self.get_model(serve.get_multiplexed_model_id())
        while not Path(gate).exists():
            await asyncio.sleep(0.005)
        return os.getpid()

    def loaded(self) -> list[str]:
        return self.loads

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture
async def handle(stage: Stage) -> AsyncIterator[DeploymentHandle]:
    runtime = Runtime(asyncio.get_running_loop(), "", stage.membership)
    runtime.routers = stage.routers
    caller_runtime.install(runtime)
    yield DeploymentHandle("D", "app")
    caller_runtime.install(None)


def choice_of(router: type[RequestRouter], **kwargs: Any) -> RouterChoice:
    return RouterChoice(path=f"{router.__module__}:{router.__qualname__}", kwargs=kwargs)


async def until_usable(stage: Stage, count: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while len(stage.router._replicas.usable) != count:
            await asyncio.sleep(0.005)


async def test_calls_for_a_model_stay_with_the_replica_that_holds_it(
    stage: Stage, handle: DeploymentHandle
) -> None:
    for _ in range(3):
        await stage.start(Models)
    await until_usable(stage, 3)
    names = [f"m{i}" for i in range(6)]
    homes: dict[str, int] = {}
    for _ in range(5):
        for name in names:
            pid, model = await handle.options(multiplexed_model_id=name).remote()
            assert model == name.upper()
            assert homes.setdefault(name, pid) == pid
    assert sorted(Counter(homes.values()).values()) == [2, 2, 2]  # spread: the one with the fewest loads next


async def test_models_are_spread_even_when_all_are_asked_for_at_once(
    stage: Stage, handle: DeploymentHandle
) -> None:
    for _ in range(2):
        await stage.start(Models)
    await until_usable(stage, 2)
    calls = [handle.options(multiplexed_model_id=f"m{i % 4}").remote() for i in range(40)]
    async with asyncio.timeout(DEADLINE_S):
        answers = await asyncio.gather(*calls)
    homes = {model: {pid for pid, m in answers if m == model} for _, model in answers}
    assert all(len(pids) == 1 for pids in homes.values())


async def test_a_busy_home_is_left_for_another_replica(
    stage: Stage, handle: DeploymentHandle, tmp_path: Path
) -> None:
    config = DeploymentConfig(max_ongoing_requests=1)
    for _ in range(2):
        await stage.start(Models, config=config)
    await until_usable(stage, 2)
    gate = tmp_path / "gate"
    held = handle.options(multiplexed_model_id="a").hold.remote(str(gate))
    async with asyncio.timeout(DEADLINE_S):
        elsewhere, _ = await handle.options(multiplexed_model_id="a").remote()
        gate.touch()
        assert await held != elsewhere


async def test_routers_hear_of_models_that_they_did_not_ask_for(stage: Stage) -> None:
    """The replica tells: a caller that comes later knows what is loaded where."""
    for _ in range(2):
        await stage.start(Models)
    await until_usable(stage, 2)
    first = stage.router
    call = UnaryCall(
        Runtime(asyncio.get_running_loop(), "", stage.membership), TARGET, PythonHead(model_id="x")
    )
    call.runtime.routers = stage.routers
    call.start((), {})
    async with asyncio.timeout(DEADLINE_S):
        while not call.done:
            await call.changed()
        pid, _ = call.value()
        late = type(first)(TARGET, stage.membership, stage.routers.spawn, lambda _: None)
        while not any("x" in link.facts.model_ids for link in late._replicas.usable):
            await asyncio.sleep(0.005)
    (warm,) = [link for link in late._replicas.usable if "x" in link.model_ids]
    assert warm is late._replicas.choose("x")
    by_id = {r.endpoint.replica_id: r.process.pid for r in stage.replicas}
    assert by_id[warm.endpoint.replica_id] == pid
    late.close()


class Favourite(RequestRouter):
    """Prefers the replica whose id sorts last; falls back to the others only if it is full."""

    def initialize_state(self, fails: bool = False, **kwargs: Any) -> None:
        self.fails = fails
        self.routed: list[str] = []

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if self.fails:
            raise RuntimeError("no opinion")
        assert pending_request is not None
        if pending_request.args[:1] == ["first"]:
            return [[min(candidate_replicas, key=lambda r: r.replica_id.unique_id)]]
        ranked = sorted(candidate_replicas, key=lambda r: r.replica_id.unique_id, reverse=True)
        return [[replica] for replica in ranked]


class Pid:
    async def __call__(self, *_: Any) -> int:
        return os.getpid()

    async def hold(self, gate: str) -> int:
        while not Path(gate).exists():
            await asyncio.sleep(0.005)
        return os.getpid()


@pytest.fixture
def advised(stage: Stage, handle: DeploymentHandle) -> DeploymentHandle:
    from serve_lite.routing.advised import local_adviser
    from serve_lite.routing.router import Routers

    stage.routers = Routers(stage.membership, local_adviser)
    runtime = caller_runtime.current()
    runtime.routers = stage.routers
    return handle


async def test_a_router_of_the_user_chooses(stage: Stage, advised: DeploymentHandle, tmp_path: Path) -> None:
    config = DeploymentConfig(max_ongoing_requests=1)
    replicas = [await stage.start(Pid, config=config) for _ in range(3)]
    pids = [r.process.pid for r in replicas]
    stage.route(*replicas, router=choice_of(Favourite))
    await until_usable(stage, 3)
    async with asyncio.timeout(DEADLINE_S):
        assert {await advised.remote() for _ in range(10)} == {pids[2]}
        assert {await advised.remote("first") for _ in range(10)} == {pids[0]}  # it sees the arguments
        gate = tmp_path / "gate"
        held = advised.hold.remote(str(gate))
        assert await advised.remote() == pids[1]  # its favourite is full: the next group
        waiting = [advised.remote("first") for _ in range(5)]  # only one replica will do, one at a time
        assert {await call for call in waiting} == {pids[0]}
        gate.touch()
        assert await held == pids[2]
    stage.route(*replicas)  # the built-in choice again
    seen: set[int] = set()
    async with asyncio.timeout(DEADLINE_S):
        while seen != set(pids):
            seen.add(await advised.remote("first"))


async def test_a_router_that_fails_is_passed_over(stage: Stage, advised: DeploymentHandle) -> None:
    replicas = [await stage.start(Pid)]
    stage.route(*replicas, router=choice_of(Favourite, fails=True))
    async with asyncio.timeout(DEADLINE_S):
        assert await advised.remote() == replicas[0].process.pid
    stage.route(*replicas, router=RouterChoice(path="tests.replica.test_affinity:Nothing"))
    async with asyncio.timeout(DEADLINE_S):
        assert await advised.remote() == replicas[0].process.pid


async def test_a_call_that_waits_for_a_router_can_be_cancelled(
    stage: Stage, advised: DeploymentHandle, tmp_path: Path
) -> None:
    replicas = [await stage.start(Pid, config=DeploymentConfig(max_ongoing_requests=1))]
    stage.route(*replicas, router=choice_of(Favourite))
    await until_usable(stage, 1)
    gate = tmp_path / "gate"
    held = advised.hold.remote(str(gate))
    waiting = [advised.remote() for _ in range(3)]
    while stage.router.num_queued != 3:
        await asyncio.sleep(0.005)
    waiting[1].cancel()
    gate.touch()
    async with asyncio.timeout(DEADLINE_S):
        assert await held == await waiting[0] == await waiting[2]
        while stage.router.num_ongoing or stage.router.num_queued:
            await asyncio.sleep(0.005)


async def test_round_robin_takes_turns_and_sessions_stay(stage: Stage, advised: DeploymentHandle) -> None:
    replicas = [await stage.start(Pid) for _ in range(3)]
    pids = {r.process.pid for r in replicas}
    stage.route(*replicas, router=RouterChoice(path="serve_lite.request_router:RoundRobinRouter"))
    await until_usable(stage, 3)
    async with asyncio.timeout(DEADLINE_S):
        turns = [await advised.remote() for _ in range(9)]
        assert set(turns[:3]) == pids and turns[:3] == turns[3:6] == turns[6:]
        stage.route(*replicas, router=RouterChoice(path="serve_lite.request_router:ConsistentHashRouter"))
        homes = {}
        for name in (f"session-{i}" for i in range(30)):
            homes[name] = await advised.options(session_id=name).remote()
            assert await advised.options(session_id=name).remote() == homes[name]
        assert set(homes.values()) == pids
        stage.route(*replicas[:2], router=stage.membership.current.router)
        await until_usable(stage, 2)
        left = {r.process.pid for r in replicas[:2]}
        for name, home in homes.items():  # only the sessions of the replica that went have moved
            now = await advised.options(session_id=name).remote()
            assert now == home if home in left else now in left


# --- places that are held, calls to every replica ------------------------------------------------


async def reserve(runtime: Runtime, slot: str) -> DeploymentResponseGenerator:
    call = StreamCall(runtime, TARGET, PythonHead(RESERVE, True, slot=slot))
    holding = DeploymentResponseGenerator(call)
    call.start((), {})
    async with asyncio.timeout(DEADLINE_S):
        await anext(holding)
    return holding


async def test_a_place_is_held_for_the_call_that_names_it(stage: Stage, handle: DeploymentHandle) -> None:
    replica = await stage.start(Pid, config=DeploymentConfig(max_ongoing_requests=1))
    await until_usable(stage, 1)
    runtime = caller_runtime.current()
    holding = await reserve(runtime, "place-1")
    other = handle.remote()
    while stage.router.num_queued != 1:
        await asyncio.sleep(0.005)
    call = UnaryCall(runtime, TARGET, PythonHead(slot="place-1"))
    call.pinned = replica.endpoint.replica_id
    call.start((), {})
    async with asyncio.timeout(DEADLINE_S):
        while not call.done:
            await call.changed()
        assert call.value() == replica.process.pid == await other
        assert [item async for item in holding] == []
        while stage.router.num_ongoing:
            await asyncio.sleep(0.005)


async def test_a_place_that_is_let_go_is_free_again(stage: Stage, handle: DeploymentHandle) -> None:
    replica = await stage.start(Pid, config=DeploymentConfig(max_ongoing_requests=1))
    await until_usable(stage, 1)
    holding = await reserve(caller_runtime.current(), "place-1")
    other = handle.remote()
    holding.cancel()
    async with asyncio.timeout(DEADLINE_S):
        assert await other == replica.process.pid


async def test_a_call_bound_to_a_replica_that_is_gone_fails(stage: Stage, handle: DeploymentHandle) -> None:
    await stage.start(Pid)
    await until_usable(stage, 1)
    call = UnaryCall(caller_runtime.current(), TARGET, PythonHead())
    call.pinned = "app#D#other"
    call.start((), {})
    assert isinstance(call.error, ReplicaUnavailableError)


async def test_every_replica_gets_a_broadcast_with_or_without_room(
    stage: Stage, handle: DeploymentHandle, tmp_path: Path
) -> None:
    config = DeploymentConfig(max_ongoing_requests=1)
    replicas = [await stage.start(Pid, config=config) for _ in range(2)]
    await until_usable(stage, 2)
    gate = tmp_path / "gate"
    held = [handle.hold.remote(str(gate)) for _ in range(2)]
    while stage.router.num_ongoing != 2:
        await asyncio.sleep(0.005)
    calls: list[UnaryCall] = []

    def make(replica_id: str) -> UnaryCall:
        call = UnaryCall(caller_runtime.current(), TARGET, PythonHead(beyond_limit=True))
        call.envelope, call.buffers = msgspec.msgpack.encode(call.head), codec.dumps(((), {}))
        calls.append(call)
        return call

    assert stage.router.broadcast(make) == 2
    async with asyncio.timeout(DEADLINE_S):
        for call in calls:
            while not call.done:
                await call.changed()
        assert {call.value() for call in calls} == {r.process.pid for r in replicas}
        gate.touch()
        assert {await call for call in held} == {r.process.pid for r in replicas}
