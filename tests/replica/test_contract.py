"""What a replica promises to the class it runs: order of its life, hooks, threads, and what its answers become."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pydantic
import pytest

import serve_lite as serve
from serve_lite.config import DeploymentConfig
from serve_lite.context import ReplicaRank
from serve_lite.exceptions import RayServeException
from serve_lite.replica import answers
from serve_lite.replica.user_code import UserCode
from serve_lite.wire.connection import RemoteControlError
from serve_lite.wire.messages import Empty, ReconfigureRequest, ReplicaReport, StopRequest
from tests.instances import Instance
from tests.replica.conftest import Stage
from tests.replica.test_calls import DEADLINE_S, Call
from tests.replica.test_http import Http, ask

pytestmark = pytest.mark.anyio


async def call(stage: Stage, method: str, *args: Any) -> Any:
    pending = Call(method, *args)
    stage.router.submit(pending)
    return await pending


# --- the order of a life ------------------------------------------------------------------------------


class Life:
    """Writes down what is called, in order, and on which thread."""

    def __new__(cls, *args: Any) -> Life:
        instance = super().__new__(cls)
        instance.notes = [("new", len(args))]
        return instance

    def __init__(self, path: str) -> None:
        self.notes: list[Any]
        self.path = path
        self.on_main = threading.current_thread() is threading.main_thread()
        self.note("init", serve.get_replica_context().servable_object)
        self.beats = 0
        self.background = asyncio.get_running_loop().create_task(self.beat())

    async def beat(self) -> None:
        self.beats += 1
        await asyncio.get_running_loop().create_future()  # until the process ends

    def note(self, what: str, value: Any) -> None:
        self.notes.append((what, value))

    def record_replica_metadata(self) -> dict[str, Any]:
        self.note("metadata", threading.current_thread() is threading.main_thread())
        return {"card": 0}

    async def reconfigure(self, user_config: Any) -> None:
        await asyncio.sleep(0)
        self.note("reconfigure", user_config)

    def check_health(self) -> None:
        self.note("health", threading.current_thread() is threading.main_thread())

    def told(self) -> Any:
        return self.notes, self.beats, self.on_main

    async def __del__(self) -> None:
        await asyncio.sleep(0)
        with Path(self.path).open("a") as file:
            file.write("destroyed\n")


async def test_the_steps_of_a_start_come_in_their_order(stage: Stage, tmp_path: Path) -> None:
    replica = await stage.start(Life, str(tmp_path / "end"), config=DeploymentConfig(user_config={"a": 1}))
    notes, beats, on_main = await call(stage, "told")
    assert notes == [
        ("new", 1), ("init", None), ("metadata", True), ("reconfigure", {"a": 1}), ("health", False),
    ]  # fmt: skip
    assert (beats, on_main) == (1, True)  # the constructor's own task runs on the loop it was made on
    stage.route()
    await replica.control.control("stop", StopRequest(), Empty, timeout_s=DEADLINE_S)
    assert await asyncio.to_thread(replica.process.wait, DEADLINE_S) == 0
    assert (tmp_path / "end").read_text() == "destroyed\n"


class Failing:
    def __init__(self, hook: str) -> None:
        def fail(*_: Any) -> Any:
            raise LookupError(f"no luck in {hook}")

        setattr(self, hook, fail)


@pytest.mark.parametrize("hook", ["record_replica_metadata", "reconfigure", "check_health"])
async def test_a_hook_that_fails_is_a_failed_start(stage: Stage, hook: str) -> None:
    with pytest.raises(RemoteControlError, match=f"no luck in {hook}"):
        config = DeploymentConfig(user_config=1 if hook == "reconfigure" else None)
        await stage.start(Failing, hook, config=config)


async def test_metadata_must_be_a_dict_or_none(stage: Stage) -> None:
    class Answers:
        def __init__(self, metadata: Any) -> None:
            self.metadata = metadata

        async def record_replica_metadata(self) -> Any:
            return self.metadata

    await stage.start(Answers, None)
    with pytest.raises(
        RemoteControlError, match="must return a dict or None, but it returned 'list'"
    ) as failed:
        await stage.start(Answers, [1])
    assert failed.value.type_name == "TypeError"


async def test_a_destructor_that_fails_does_not_run_again_nor_keep_the_process(
    stage: Stage, tmp_path: Path
) -> None:
    class Fails:
        def __init__(self, path: str) -> None:
            self.path = path

        def __del__(self) -> None:
            with Path(self.path).open("a") as file:
                file.write("x")
            raise ValueError("in the destructor")

    replica = await stage.start(Fails, str(tmp_path / "end"))
    await replica.control.control("stop", StopRequest(), Empty, timeout_s=DEADLINE_S)
    assert await asyncio.to_thread(replica.process.wait, DEADLINE_S) == 0
    assert (tmp_path / "end").read_text() == "x"


# --- reconfigure -----------------------------------------------------------------------------------------


class Ranked:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def reconfigure(self, user_config: Any, rank: ReplicaRank) -> None:
        self.seen.append((user_config, rank.rank, type(rank).__name__))

    def told(self) -> Any:
        return self.seen


async def test_reconfigure_gets_the_rank_if_it_asks_for_it_even_without_a_config(stage: Stage) -> None:
    replica = await stage.start(Ranked)
    assert await call(stage, "told") == [(None, 0, "ReplicaRank")]
    for config in (
        DeploymentConfig(user_config="b"),
        DeploymentConfig(user_config="b", max_ongoing_requests=7),
    ):
        request = ReconfigureRequest(config=config)
        await replica.control.control("reconfigure", request, ReplicaReport, timeout_s=DEADLINE_S)
    assert await call(stage, "told") == [(None, 0, "ReplicaRank"), ("b", 0, "ReplicaRank")]


async def test_a_config_that_nobody_takes_is_a_failed_start(stage: Stage) -> None:
    class Deaf:
        pass

    def function() -> None: ...

    config = DeploymentConfig(user_config={"a": 1})
    with pytest.raises(RayServeException, match=r"'Deaf' has no `reconfigure\(user_config\)` method"):
        await stage.start(Deaf, config=config)
    with pytest.raises(RemoteControlError, match="this deployment is a function"):
        await stage.start(function, config=config)


# --- statistics ------------------------------------------------------------------------------------------


async def user_code(source: Callable[..., Any], *args: Any) -> UserCode:
    user = UserCode(source, DeploymentConfig())
    await user.build(args, {})
    return user


class Stats:
    def __init__(self, routing: Any, autoscaling: Any) -> None:
        self.routing, self.autoscaling = routing, autoscaling

    async def record_routing_stats(self) -> Any:
        return self.routing

    def record_autoscaling_stats(self) -> Any:
        return self.autoscaling


async def test_statistics_are_what_the_hooks_say_with_numbers_as_python_has_them() -> None:
    user = await user_code(
        Stats, {"cache": [1]}, {"queue": 3, "load": numpy.float32(0.5), "n": numpy.int64(2)}
    )
    assert user.has_routing_stats and user.has_autoscaling_stats
    assert await user.routing_stats() == {"cache": [1]}
    stats = await user.autoscaling_stats()
    assert stats == {"queue": 3, "load": 0.5, "n": 2.0}
    assert [type(value) for value in stats.values()] == [int, float, float]
    await user.destroy()


@pytest.mark.parametrize(
    ("autoscaling", "said"),
    [
        ([1], "must return a dict of names and numbers, but it returned 'list'"),
        (None, "it returned 'NoneType'"),
        ({"queue": "3"}, "it holds 'queue': '3'"),
        ({1: 3}, "it holds 1: 3"),
    ],
)
async def test_wrong_statistics_are_a_type_error_that_says_what_was_wrong(
    autoscaling: Any, said: str
) -> None:
    user = await user_code(Stats, "text", autoscaling)
    with pytest.raises(TypeError, match="`record_routing_stats` must return a dict, but it returned 'str'"):
        await user.routing_stats()
    with pytest.raises(TypeError, match=said):
        await user.autoscaling_stats()
    await user.destroy()


async def test_without_hooks_there_are_no_statistics() -> None:
    class Plain:
        record_routing_stats = "not a method"

    user = await user_code(Plain)
    assert not user.has_routing_stats and not user.has_autoscaling_stats
    assert (await user.routing_stats(), await user.autoscaling_stats(), user.metadata) == (None, None, None)
    await user.record_metadata()
    await user.destroy()


# --- threads ----------------------------------------------------------------------------------------------

word: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="none")


class Threads:
    """Sync calls meet at a barrier, which only calls that run at the same time can pass."""

    def __init__(self, parties: int) -> None:
        self.barrier = threading.Barrier(parties)
        self.running, self.most = 0, 0

    def meet(self) -> bool:
        self.barrier.wait(DEADLINE_S)
        return threading.current_thread() is threading.main_thread()

    def count(self) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        threading.Event().wait(0.002)  # gives others the chance to run, if they may
        self.running -= 1
        return self.most

    async def most_at_once(self) -> int:
        return self.most

    def context(self) -> tuple[str, bool]:
        return serve.get_replica_context().deployment, threading.current_thread() is threading.main_thread()


async def test_sync_handlers_run_in_parallel_threads_that_know_their_replica(stage: Stage) -> None:
    await stage.start(Threads, 3)
    calls = [Call("meet") for _ in range(3)]
    for pending in calls:
        stage.router.submit(pending)
    assert [await pending for pending in calls] == [False] * 3
    assert await call(stage, "context") == ("D", False)


async def most_at_once(stage: Stage) -> int:
    calls = [Call("count") for _ in range(20)]
    for pending in calls:
        stage.router.submit(pending)
    for pending in calls:
        await pending
    return int(await call(stage, "most_at_once"))


async def test_serialised_sync_handlers_run_one_at_a_time(stage: Stage) -> None:
    await stage.start(Threads, 1, config=DeploymentConfig(serialize_sync=True))
    assert await most_at_once(stage) == 1
    assert await call(stage, "context") == ("D", False)


async def test_the_environment_puts_sync_handlers_on_the_loop_with_a_warning(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_SERVE_RUN_SYNC_IN_THREADPOOL", "0")
    await stage.start(Threads, 1)
    assert await most_at_once(stage) == 1
    assert await call(stage, "context") == ("D", True)
    assert capfd.readouterr().err.count("runs on the event loop (RAY_SERVE_RUN_SYNC_IN_THREADPOOL=0)") == 1


async def test_callable_objects_run_on_the_loop(stage: Stage) -> None:
    class Object:
        def __call__(self) -> bool:
            return threading.current_thread() is threading.main_thread()

    class Holds:
        def __init__(self) -> None:
            self.held = Object()

    await stage.start(Holds)
    assert await call(stage, "held") is True


# --- handles in constructors -------------------------------------------------------------------------------


@serve.deployment
class Other:
    def word(self) -> str:
        return "word"


@serve.deployment(max_constructor_retry_count=1)
class Blocks:
    def __init__(self, other: Any) -> None:
        self.word = other.word.remote().result()


@serve.deployment
class Awaits:
    async def __init__(self, other: Any) -> None:
        self.word = await other.word.remote()

    def tell(self) -> str:
        return self.word


async def test_a_constructor_awaits_other_deployments_and_may_not_block_for_them(daemon: Instance) -> None:
    handle = await daemon.run(Awaits.bind(Other.bind()), name="awaits", route_prefix=None)
    assert await handle.tell.remote() == "word"
    with pytest.raises(RuntimeError, match="(?s)RuntimeError.*await") as failed:
        await daemon.run(Blocks.bind(Other.bind()), name="blocks", route_prefix=None)
    assert "test_contract.py:" in str(failed.value)


# --- what HTTP handlers return -------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


class Named(NamedTuple):
    n: int


@dataclasses.dataclass
class Point:
    x: int
    inner: Any = None


class Item(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)

    first_name: str = pydantic.Field(alias="firstName")
    when: datetime.date = datetime.date(2026, 1, 2)


class Frame:
    """Looks like a table of pandas."""

    columns = ("a",)

    def to_dict(self, orient: str) -> Any:
        return [{"a": 1}] if orient == "records" else None


TEXT, BYTES, JSON = "text/plain; charset=utf-8", "text/plain", "application/json"


@pytest.mark.parametrize(
    ("value", "content_type", "body"),
    [
        ("é", TEXT, "é".encode()),
        ("", TEXT, b""),
        (b"\xff", BYTES, b"\xff"),
        (bytearray(b"ab"), BYTES, b"ab"),
        (memoryview(b"ab"), BYTES, b"ab"),
        (None, BYTES, b""),
        (7, JSON, b"7"),
        (1.5, JSON, b"1.5"),
        (float("nan"), JSON, b"NaN"),
        (True, JSON, b"true"),
        ({"b": [1, None], "ü": "ü"}, JSON, b'{"b":[1,null],"\\u00fc":"\\u00fc"}'),
        ({}, JSON, b"{}"),
        ((1, "a"), JSON, b'[1,"a"]'),
        ({5}, JSON, b"[5]"),
        (frozenset([5]), JSON, b"[5]"),
        (Named(1), JSON, b"[1]"),
        (datetime.datetime(2026, 1, 2, 3, 4, 5), JSON, b'"2026-01-02T03:04:05"'),
        (datetime.date(2026, 1, 2), JSON, b'"2026-01-02"'),
        (datetime.time(3, 4), JSON, b'"03:04:00"'),
        (datetime.timedelta(seconds=90), JSON, b"90.0"),
        (uuid.UUID(int=1), JSON, b'"00000000-0000-0000-0000-000000000001"'),
        (pathlib.Path("/a/b"), JSON, b'"/a/b"'),
        (decimal.Decimal("1.5"), JSON, b"1.5"),
        (decimal.Decimal("2"), JSON, b"2"),
        (Colour.RED, JSON, b'"red"'),
        (Size.BIG, JSON, b"3"),
        ({Colour.RED: Size.BIG}, JSON, b'{"red":3}'),
        (Point(1, Point(2, {3})), JSON, b'{"x":1,"inner":{"x":2,"inner":[3]}}'),
        (Item(first_name="a"), JSON, b'{"firstName":"a","when":"2026-01-02"}'),
        ([Item(first_name="a")], JSON, b'[{"firstName":"a","when":"2026-01-02"}]'),
        (numpy.arange(4).reshape(2, 2), JSON, b"[[0,1],[2,3]]"),
        (numpy.int64(3), JSON, b"3"),
        (numpy.float64(0.5), JSON, b"0.5"),
        (numpy.bool_(True), JSON, b"true"),
        (numpy.datetime64("2026-01-02"), JSON, b'"2026-01-02"'),
        ({"m": numpy.zeros(1)}, JSON, b'{"m":[0.0]}'),
        (Frame(), JSON, b'[{"a":1}]'),
        (ValueError("said"), JSON, b'"said"'),
        ({"raw": b"ab"}, JSON, b'{"raw":"ab"}'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_value_has_its_answer(value: Any, content_type: str, body: bytes) -> None:
    head, answered = answers.convert(value)
    assert (head.status, answered) == (200, body)
    assert f"content-type: {content_type}\r\n".encode() in head.headers


def test_a_table_of_pandas_is_a_list_of_its_rows() -> None:
    pandas = pytest.importorskip("pandas")
    _, body = answers.convert(pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}))
    assert json.loads(body) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.mark.parametrize("value", [object(), {"a": object()}, [lambda: None]])
def test_what_has_no_form_is_refused_by_its_type(value: Any) -> None:
    with pytest.raises(TypeError, match="type '(object|function)', which has no JSON form"):
        answers.convert(value)


async def test_a_handler_gets_the_request_only_if_it_has_a_parameter(stage: Stage) -> None:
    class Bare:
        def __call__(self) -> str:
            return "nothing"

    class WithDefault:
        def __call__(self, request: Any = None) -> str:
            return type(request).__name__

    class Keywords:
        def __call__(self, *, flag: bool = True) -> str:
            return str(flag)

    for target, answer in ((Bare, b"nothing"), (WithDefault, b"Request"), (Keywords, b"True")):
        replica = await stage.start(target)
        stage.route(replica)
        assert (await ask(stage, Http())).body == answer
