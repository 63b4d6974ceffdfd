"""`@serve.batch` and `@serve.multiplexed` in real replica processes, through handles and HTTP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import serve_lite as serve
from serve_lite.config import DeploymentConfig
from serve_lite.context import RequestContext, _serve_request_context
from serve_lite.handle import DeploymentHandle
from serve_lite.routing import runtime as caller_runtime
from serve_lite.routing.runtime import Runtime
from serve_lite.wire.messages import Empty, MetricsReply, StopRequest
from tests.instances import Instance
from tests.replica.conftest import ReplicaProcess, Stage
from tests.replica.test_http import Http, ask

pytestmark = pytest.mark.anyio
DEADLINE_S = 20.0


@pytest.fixture
async def handle(stage: Stage) -> AsyncIterator[DeploymentHandle[Any]]:
    """A handle to what the test starts on the stage."""
    runtime = Runtime(asyncio.get_running_loop(), "", stage.membership)
    caller_runtime.install(runtime)
    try:
        yield DeploymentHandle("D", "app")
    finally:
        await runtime.aclose()
        caller_runtime.install(None)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


async def together(*calls: Any) -> list[Any]:
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.gather(*calls, return_exceptions=True)


async def measured(replica: ReplicaProcess, name: str) -> dict[tuple[str, ...], list[float]]:
    reply = await replica.control.control("metrics", Empty(), MetricsReply, timeout_s=DEADLINE_S)
    return {tuple(s.labels): s.values for f in reply.families if f.name == name for s in f.series}


class Batched:
    """Batches whose work waits for a gate, a file."""

    def __init__(self, directory: str = "") -> None:
        self.directory = Path(directory)

    async def gate(self, name: str) -> None:
        (self.directory / f"{name}.entered").touch()
        while not (self.directory / name).exists():
            await asyncio.sleep(0.005)

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=10)
    async def four(self, items: list[int]) -> list[Any]:
        context = _serve_request_context.get()
        return [(item, len(items), context.request_id, context.route) for item in items]

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0)
    async def gated(self, names: list[str], numbers: list[int]) -> list[Any]:
        await self.gate(names[0])
        return [(number, len(numbers)) for number in numbers]

    @serve.batch(max_batch_size=3, batch_wait_timeout_s=10)
    async def fails(self, items: list[int]) -> list[int]:
        raise LookupError("all of them")

    @serve.batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def leaves(self, items: list[int]) -> list[int]:
        raise SystemExit(3)

    @serve.batch(max_batch_size=2, batch_wait_timeout_s=10)
    async def counts(self, limits: list[int]) -> AsyncIterator[list[Any]]:
        for i in range(max(limits)):
            yield [i if i < limit else StopIteration for limit in limits]

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0)
    async def endless(self, names: list[str]) -> AsyncIterator[list[str]]:
        try:
            while True:
                yield names
                await asyncio.sleep(0.005)
        finally:
            (self.directory / names[0]).touch()

    @serve.batch(max_batch_size=2, batch_wait_timeout_s=10)
    async def which_model(self, items: list[int]) -> list[Any]:
        return [(serve.get_multiplexed_model_id(), item, len(items)) for item in items]

    def resize(self, size: int) -> None:
        self.four.set_max_batch_size(size)  # type: ignore[attr-defined]


async def test_calls_through_handles_share_lists_outside_any_request(
    stage: Stage, handle: DeploymentHandle[Any]
) -> None:
    replica = await stage.start(Batched)
    results = await together(*(handle.four.remote(i) for i in range(8)))
    assert results == [(i, 4, "", "") for i in range(8)]
    await handle.resize.remote(2)
    assert await together(*(handle.four.remote(i) for i in range(2))) == [(i, 2, "", "") for i in range(2)]
    sizes = await measured(replica, "serve_actual_batch_size")
    assert {labels[-1]: values[-1] for labels, values in sizes.items() if values[-1]} == {"four": 10}


async def test_a_failing_batch_fails_every_call_and_the_replica_lives_on(
    stage: Stage, handle: DeploymentHandle[Any]
) -> None:
    await stage.start(Batched)
    errors = await together(*(handle.fails.remote(i) for i in range(3)))
    assert [(type(e), str(e)) for e in errors] == [(LookupError, "'all of them'")] * 3 or [
        type(e) for e in errors
    ] == [LookupError] * 3
    (error,) = await together(handle.leaves.remote(1))
    assert "'leaves' raised SystemExit: 3" in str(error)
    assert await together(*(handle.four.remote(i) for i in range(4))) == [(i, 4, "", "") for i in range(4)]


async def test_callers_that_give_up_leave_working_batches_behind(
    stage: Stage, handle: DeploymentHandle[Any], tmp_path: Path
) -> None:
    await stage.start(Batched, str(tmp_path))
    running = [handle.gated.remote("gate", i) for i in range(2)]
    await until((tmp_path / "gate.entered").exists)
    waiting = [handle.gated.remote("gate", i) for i in range(2, 14)]
    for response in [running[0], *waiting[:8]]:
        response.cancel()
    gone = await together(running[0], *waiting[:8])
    assert all(isinstance(error, Exception) for error in gone)
    (tmp_path / "gate").touch()
    results = await together(running[1], *waiting[8:])
    assert [number for number, _ in results] == [1, 10, 11, 12, 13]
    assert {size for _, size in results[1:]} == {4}


async def test_streams_of_one_batch_end_each_at_their_own_time(
    stage: Stage, handle: DeploymentHandle[Any]
) -> None:
    await stage.start(Batched)

    async def collect(limit: int) -> list[int]:
        return [item async for item in handle.options(stream=True).counts.remote(limit)]

    assert await together(collect(1), collect(3)) == [[0], [0, 1, 2]]


async def test_a_stream_whose_caller_goes_makes_room_for_the_next(
    stage: Stage, handle: DeploymentHandle[Any], tmp_path: Path
) -> None:
    await stage.start(Batched, str(tmp_path))
    for name in ("first", "second"):
        stream = handle.options(stream=True).endless.remote(name)
        async with asyncio.timeout(DEADLINE_S):
            assert await anext(stream) == name
        stream.cancel()
        await until((tmp_path / name).exists)


async def test_a_batch_never_mixes_model_ids(stage: Stage, handle: DeploymentHandle[Any]) -> None:
    await stage.start(Batched)
    calls = [handle.options(multiplexed_model_id=m).which_model.remote(i) for i, m in enumerate("aabb")]
    assert await together(*calls) == [("a", 0, 2), ("a", 1, 2), ("b", 2, 2), ("b", 3, 2)]


class Door:
    """A batched `__call__` that gets requests."""

    @serve.batch(max_batch_size=3, batch_wait_timeout_s=10)
    async def __call__(self, requests: list[Any]) -> list[Any]:
        return [
            {
                "body": (await request.body()).decode(),
                "of": len(requests),
                "name": request.query_params["name"],
                "model": serve.get_multiplexed_model_id(),
            }
            for request in requests
        ]


async def test_a_batched_call_gets_requests_whose_bodies_can_be_read(stage: Stage) -> None:
    await stage.start(Door)
    answers = await together(
        *(ask(stage, Http("POST", b"/?name=n%d" % i, b"body %d" % i, model_id="m")) for i in range(3))
    )
    assert [answer.body for answer in answers] == [
        b'{"body":"body %d","of":3,"name":"n%d","model":"m"}' % (i, i) for i in range(3)
    ]


async def test_a_client_that_stops_uploading_holds_up_nobody_elses_batch(stage: Stage) -> None:
    await stage.start(Door)
    stuck = Http("POST", b"/?name=stuck", streams_body=True)
    stage.router.submit(stuck)
    others = [ask(stage, Http("POST", b"/?name=n%d" % i, b"body")) for i in range(3)]
    assert [answer.body for answer in await together(*others)] == [
        b'{"body":"body","of":3,"name":"n%d","model":""}' % i for i in range(3)
    ]
    assert not stuck.end.is_set() and stuck.outgoing is not None
    stuck.outgoing.cancel()
    again = [ask(stage, Http("POST", b"/?name=n%d" % i, b"body")) for i in range(3)]
    assert all(b'"of":3' in answer.body for answer in await together(*again))


class Model:
    def __init__(self, name: str, directory: str) -> None:
        self.name, self.directory = name, directory

    def __del__(self) -> None:
        with (Path(self.directory) / "unloaded").open("a") as file:
            file.write(self.name + "\n")


class Multiplexed:
    """Loads models by id."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.loads: Counter[str] = Counter()

    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> Model:
        self.loads[model_id] += 1
        await asyncio.sleep(0)
        return Model(model_id, self.directory)

    async def __call__(self, request: Any = None) -> str:
        return (await self.get_model(serve.get_multiplexed_model_id())).name

    def sync(self) -> str:
        return serve.get_multiplexed_model_id()

    async def hold(self, name: str) -> str:
        model = await self.get_model(serve.get_multiplexed_model_id())
        directory = Path(self.directory)
        (directory / f"{name}.entered").touch()
        while not (directory / name).exists():
            await asyncio.sleep(0.005)
        assert model.name not in self.unloaded()
        return model.name

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.01)
    async def predict(self, items: list[int]) -> list[Any]:
        model = await self.get_model(serve.get_multiplexed_model_id())
        await asyncio.sleep(0)
        return [(model.name, item) for item in items]

    def unloaded(self) -> list[str]:
        file = Path(self.directory) / "unloaded"
        return file.read_text().split() if file.exists() else []

    def loaded(self) -> dict[str, int]:
        return dict(self.loads)


@serve.deployment
class Inner:
    async def __call__(self) -> str:
        return serve.get_multiplexed_model_id()


@serve.deployment
class Outer:
    """Says which id came with the request, and which with the calls it makes."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    @serve.batch(max_batch_size=2, batch_wait_timeout_s=0)
    async def __call__(self, requests: list[Any]) -> list[Any]:
        passed_on = self.inner.options(multiplexed_model_id="chosen")
        return [
            [serve.get_multiplexed_model_id(), await self.inner.remote(), await passed_on.remote()]
            for _ in requests
        ]


async def test_any_spelling_of_the_header_brings_the_id_and_nested_calls_do_not_inherit_it(
    daemon: Instance,
) -> None:
    await daemon.run(Outer.bind(Inner.bind()))  # type: ignore[attr-defined]
    for name in (
        "serve_multiplexed_model_id", "Serve-Multiplexed-Model-Id", "SERVE_MULTIPLEXED_MODEL-ID",
    ):  # fmt: skip
        answer = await daemon.http.get("/", headers={name: "m1"})
        assert answer.json() == ["m1", "", "chosen"], name
    assert (await daemon.http.get("/")).json() == ["", "", "chosen"]


async def test_the_id_reaches_async_and_sync_handlers_batches_and_plain_http(
    stage: Stage, handle: DeploymentHandle[Any], tmp_path: Path
) -> None:
    await stage.start(Multiplexed, str(tmp_path))
    m1 = handle.options(multiplexed_model_id="m1")
    assert await together(m1.remote(), m1.sync.remote(), m1.predict.remote(5)) == ["m1", "m1", ("m1", 5)]
    assert await handle.sync.remote() == ""
    assert (await ask(stage, Http(model_id="m2"))).body == b"m2"
    assert await handle.loaded.remote() == {"m1": 1, "m2": 1}


async def test_calls_made_inside_a_request_do_not_inherit_its_id(
    stage: Stage, handle: DeploymentHandle[Any], tmp_path: Path
) -> None:
    await stage.start(Multiplexed, str(tmp_path))
    token = _serve_request_context.set(RequestContext("outer", multiplexed_model_id="outer"))
    try:
        assert await handle.sync.remote() == ""
        assert await handle.options(multiplexed_model_id="inner").sync.remote() == "inner"
    finally:
        _serve_request_context.reset(token)


async def test_without_an_id_the_error_says_where_it_should_have_come_from(
    stage: Stage, handle: DeploymentHandle[Any], tmp_path: Path
) -> None:
    await stage.start(Multiplexed, str(tmp_path))
    with pytest.raises(ValueError, match="serve_multiplexed_model_id"):
        await handle.remote()


async def test_models_are_unloaded_when_others_need_their_place_and_when_the_replica_stops(
    stage: Stage, handle: DeploymentHandle[Any], tmp_path: Path
) -> None:
    replica = await stage.start(Multiplexed, str(tmp_path))
    for model_id in ("a", "b", "a", "c"):
        assert await handle.options(multiplexed_model_id=model_id).remote() == model_id
    assert await handle.unloaded.remote() == ["b"]
    assert sorted(k[-1] for k in await measured(replica, "serve_registered_multiplexed_model_id")) == [
        "a",
        "c",
    ]
    await replica.control.control("stop", StopRequest(), MetricsReply, timeout_s=DEADLINE_S)
    assert sorted((tmp_path / "unloaded").read_text().split()) == ["a", "b", "c"]


async def test_a_model_in_use_is_not_unloaded_and_is_when_its_request_has_ended(
    stage: Stage, handle: DeploymentHandle[Any], tmp_path: Path
) -> None:
    await stage.start(Multiplexed, str(tmp_path))
    held = [handle.options(multiplexed_model_id=m).hold.remote(f"gate-{m}") for m in "ab"]
    for m in "ab":
        await until((tmp_path / f"gate-{m}.entered").exists)
    waiting = handle.options(multiplexed_model_id="c").remote()
    given_up = handle.options(multiplexed_model_id="d").remote()
    given_up.cancel()
    await together(given_up)
    assert await handle.unloaded.remote() == []
    (tmp_path / "gate-b").touch()
    assert await together(held[1], waiting) == ["b", "c"]
    assert await handle.unloaded.remote() == ["b"]
    (tmp_path / "gate-a").touch()
    assert await together(held[0]) == ["a"]


async def test_a_cancelled_request_lets_go_of_its_model(
    stage: Stage, handle: DeploymentHandle[Any], tmp_path: Path
) -> None:
    await stage.start(Multiplexed, str(tmp_path))
    held = [handle.options(multiplexed_model_id=m).hold.remote(f"never-{m}") for m in "ab"]
    for m in "ab":
        await until((tmp_path / f"never-{m}.entered").exists)
    held[0].cancel()
    assert await together(handle.options(multiplexed_model_id="c").remote()) == ["c"]
    held[1].cancel()


async def test_mixed_requests_are_answered_by_the_model_they_asked_for(
    stage: Stage, handle: DeploymentHandle[Any], tmp_path: Path
) -> None:
    await stage.start(Multiplexed, str(tmp_path))
    wanted = [("abcd"[i * i % 7 % 4], i) for i in range(80)]
    by_handle = [handle.options(multiplexed_model_id=m).predict.remote(i) for m, i in wanted]
    by_http = [ask(stage, Http(model_id=m)) for m, _ in wanted[:20]]
    results = await together(*by_handle, *by_http)
    assert results[:80] == [(m, i) for m, i in wanted]
    assert [answer.body.decode() for answer in results[80:]] == [m for m, _ in wanted[:20]]


async def test_batches_larger_than_the_replica_takes_requests_are_warned_of(
    stage: Stage, handle: DeploymentHandle[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    await stage.start(Batched, config=DeploymentConfig(max_ongoing_requests=3))
    await together(handle.four.remote(1), handle.leaves.remote(1), *(handle.four.remote(i) for i in range(2)))
    text = capfd.readouterr().err
    assert text.count("Batches of 'four' take up to 4 calls") == 1
    assert "max_ongoing_requests=3" in text
    assert "Batches of 'leaves'" not in text
