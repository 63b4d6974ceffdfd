"""Local testing mode: applications inside the test's own process, through handles."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import anyio
import pytest

import serve_lite as serve
from serve_lite.exceptions import (
    BackPressureError,
    DeploymentNotFoundError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaDiedError,
    RequestCancelledError,
)
from serve_lite.request_router import RequestRouter
from serve_lite.schema import ApplicationStatus
from tests.testing.conftest import DEADLINE_S, until

pytestmark = [pytest.mark.usefixtures("private"), pytest.mark.anyio]


def run(app: Any, **options: Any) -> Any:
    return serve.run(app, _local_testing_mode=True, **options)


def result(response: Any) -> Any:
    return response.result(timeout_s=DEADLINE_S)


@serve.deployment
class Adder:
    def __init__(self, step: int) -> None:
        self.step = step

    def add(self, value: int) -> int:
        return value + self.step


@serve.deployment
class Front:
    def __init__(self, adders: dict[str, list[Any]]) -> None:
        self.adders = adders

    async def chain(self, value: int) -> int:
        first, second = self.adders["all"]
        found: int = await second.add.remote(first.add.remote(value))
        return found


def test_large_values_are_copies_as_they_are_between_processes() -> None:
    @serve.deployment
    class Keeper:
        def __init__(self) -> None:
            self.kept: list[bytearray] = []

        def keep(self, value: bytearray) -> bytearray:
            self.kept.append(value)
            return value

        def seen(self) -> list[bytes]:
            return [bytes(kept[:1]) for kept in self.kept]

    handle = run(Keeper.bind())
    for n in range(6):
        sent = bytearray([n]) * 1_000_000
        received = result(handle.keep.remote(sent))
        assert received == sent
        received[0] = sent[0] = 99
    assert result(handle.seen.remote()) == [bytes([n]) for n in range(6)]


# --- composition ---------------------------------------------------------------------------------


def test_handles_inside_containers_reach_their_deployments_and_take_responses_as_arguments() -> None:
    handle = run(Front.bind({"all": [Adder.bind(1), Adder.bind(10)]}))
    assert result(handle.chain.remote(5)) == 16
    adder = serve.get_deployment_handle("Adder_1", "default")
    assert result(adder.add.remote(handle.chain.remote(0))) == 21


def test_an_async_constructor_may_call_the_deployments_it_was_given() -> None:
    @serve.deployment
    class Warm:
        async def __init__(self, adder: Any) -> None:
            self.first = await adder.add.remote(1)
            own = serve.get_deployment_handle("Adder")
            self.second = await own.add.remote(self.first)

        def numbers(self) -> tuple[int, int]:
            return self.first, self.second

    assert result(run(Warm.bind(Adder.bind(1))).numbers.remote()) == (2, 3)


def test_a_function_is_a_deployment_too() -> None:
    @serve.deployment
    def double(value: int) -> int:
        return 2 * value

    assert result(run(double.bind()).remote(4)) == 8


async def test_handles_are_awaited_on_the_loop_of_an_async_test() -> None:
    handle = run(Front.bind({"all": [Adder.bind(1), Adder.bind(10)]}))
    assert await asyncio.gather(*(handle.chain.remote(n) for n in range(20))) == [n + 11 for n in range(20)]


def test_calls_come_from_several_threads_and_loops() -> None:
    handle = run(Adder.bind(1))
    found: list[int] = []

    async def ask() -> None:
        found.append(await handle.add.remote(1))

    threads = [threading.Thread(target=lambda: asyncio.run(ask())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert found == [2, 2, 2, 2]


def test_several_applications_run_side_by_side() -> None:
    handles = serve.run_many(
        [serve.RunTarget(Adder.bind(n), name=f"app{n}", route_prefix=None) for n in range(3)],
        _local_testing_mode=True,
    )
    assert [result(h.add.remote(0)) for h in handles] == [0, 1, 2]
    serve.delete("app1")
    assert result(handles[2].add.remote(0)) == 2
    assert sorted(serve.status().applications) == ["app0", "app2"]


# --- what is shared with the test and what is not ------------------------------------------------


def test_the_class_itself_runs_so_closures_are_shared_and_methods_can_be_patched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built: list[int] = []

    @serve.deployment
    class Model:
        def __init__(self) -> None:
            built.append(1)

        def predict(self) -> str:
            return "slow"

    handle = run(Model.bind())
    assert built == [1]
    monkeypatch.setattr(Model.func_or_class, "predict", lambda self: "patched")
    assert result(handle.predict.remote()) == "patched"


def test_what_could_not_travel_to_a_process_is_no_hindrance() -> None:
    file = open("/dev/null")  # noqa: SIM115  (what matters is that it cannot be pickled)

    class Plain:
        def name(self) -> str:
            return file.name

    with file:
        Plain.__qualname__ = "Plain"  # as if it stood in a module, where its globals may be anything
        handle = run(serve.deployment(Plain).bind())
        assert result(handle.name.remote()) == "/dev/null"


def test_constructor_arguments_and_call_arguments_are_copies() -> None:
    @serve.deployment
    class Keeper:
        def __init__(self, items: list[int]) -> None:
            self.items = items
            items.append(0)

        def add(self, more: list[int]) -> list[int]:
            more.append(9)
            self.items += more
            return self.items

    items, more = [1], [2]
    handle = run(Keeper.bind(items))
    found = result(handle.add.remote(more))
    assert (items, more, found) == ([1], [2], [1, 0, 2, 9])
    found.append("mine")
    assert result(handle.add.remote([])) == [1, 0, 2, 9, 9]


class OurError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def test_exceptions_arrive_as_the_callers_own_classes() -> None:
    class LocalError(Exception):
        pass

    @serve.deployment
    class Failing:
        def ours(self) -> None:
            raise OurError(7)

        async def local(self) -> None:
            raise LocalError("gone")

    handle = run(Failing.bind())
    with pytest.raises(OurError) as raised:
        result(handle.ours.remote())
    assert raised.value.code == 7
    with pytest.raises(LocalError, match="gone"):
        result(handle.local.remote())


# --- starting ------------------------------------------------------------------------------------


def test_a_constructors_exception_is_raised_as_it_is() -> None:
    error = ValueError("the weights are missing")

    @serve.deployment
    class Broken:
        def __init__(self) -> None:
            raise error

    with pytest.raises(ValueError) as raised:
        run(Broken.bind())
    assert raised.value is error
    assert serve.status().applications == {}
    with pytest.raises(RayServeException, match="not running"):
        serve.get_app_handle("default")


def test_what_was_built_is_taken_down_when_a_later_constructor_fails() -> None:
    destroyed: list[str] = []

    @serve.deployment
    class First:
        def __del__(self) -> None:
            destroyed.append("first")

    @serve.deployment
    class Second:
        async def __init__(self, first: Any) -> None:
            raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        run(Second.bind(First.bind()))
    assert destroyed == ["first"]
    assert not [t for t in threading.enumerate() if t.name.startswith("serve-lite")]


def test_sys_exit_in_a_constructor_fails_the_run_and_nothing_more() -> None:
    @serve.deployment
    class Leaves:
        def __init__(self) -> None:
            sys.exit(3)

    with pytest.raises(SystemExit):
        run(Leaves.bind())


def test_ctrl_c_while_a_constructor_waits_takes_everything_down() -> None:
    @serve.deployment
    class Slow:
        async def __init__(self) -> None:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            await asyncio.Event().wait()  # for ever

    with pytest.raises(KeyboardInterrupt):
        run(Slow.bind())
    assert serve.status().applications == {}


@pytest.mark.parametrize("is_async", [False, True])
def test_user_config_is_given_to_reconfigure_before_the_first_request(is_async: bool) -> None:
    class Sync:
        config: Any = None

        def reconfigure(self, config: Any) -> None:
            self.config = config

        def get(self) -> Any:
            return self.config

    class Async(Sync):
        async def reconfigure(self, config: Any) -> None:  # type: ignore[override]
            self.config = config

    deployment = serve.deployment(user_config={"threshold": 3})(Async if is_async else Sync)
    assert result(run(deployment.bind()).get.remote()) == {"threshold": 3}


def test_hooks_that_fail_fail_the_run() -> None:
    @serve.deployment(user_config={"a": 1})
    class NoHook:
        pass

    @serve.deployment(user_config={"a": 1})
    class BadHook:
        async def reconfigure(self, config: Any) -> None:
            raise KeyError("threshold")

    @serve.deployment
    class Ill:
        def check_health(self) -> None:
            raise ConnectionError("no database")

    with pytest.raises(RayServeException, match="reconfigure"):
        run(NoHook.bind())
    with pytest.raises(KeyError, match="threshold"):
        run(BadHook.bind())
    with pytest.raises(ConnectionError, match="no database"):
        run(Ill.bind())


def test_wrong_targets_are_refused_like_everywhere() -> None:
    with pytest.raises(TypeError, match="bind"):
        run(Adder)
    with pytest.raises(RayServeException, match="non-empty"):
        run(Adder.bind(1), name="")
    with pytest.raises(ValueError, match="slash"):
        run(Adder.bind(1), route_prefix="no-slash")


def test_options_for_processes_have_no_effect_and_a_runtime_env_says_so_once() -> None:
    env = {"runtime_env": {"env_vars": {"A": "1"}}, "num_gpus": 1}

    @serve.deployment(num_replicas=3, ray_actor_options=env)
    class Child:
        def tag(self) -> str:
            return serve.get_replica_context().replica_tag

    @serve.deployment(autoscaling_config={"min_replicas": 2, "max_replicas": 4}, ray_actor_options=env)
    class Parent:
        def __init__(self, child: Any) -> None:
            self.child = child

        async def tags(self) -> set[str]:
            return {await self.child.tag.remote() for _ in range(20)}

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        handle = run(Parent.bind(Child.bind()))
    said = [w for w in caught if "runtime_env" in str(w.message)]
    assert len(said) == 1 and said[0].filename == __file__
    assert len(result(handle.tags.remote())) == 1


# --- what user code sees -------------------------------------------------------------------------


def test_each_instance_knows_its_own_replica_context_wherever_its_code_runs() -> None:
    seen: dict[str, Any] = {}

    @serve.deployment
    class Child:
        def __init__(self) -> None:
            seen["constructor"] = serve.get_replica_context()
            assert seen["constructor"].servable_object is None

        def sync(self) -> tuple[str, bool]:
            context = serve.get_replica_context()
            return context.deployment, context.servable_object is self

        async def stream(self) -> Any:
            yield serve.get_replica_context().deployment

        def sync_stream(self) -> Any:
            yield serve.get_replica_context().deployment

        def __del__(self) -> None:
            seen["destructor"] = serve.get_replica_context().deployment

    @serve.deployment
    class Parent:
        def __init__(self, child: Any) -> None:
            self.child = child

        async def look(self) -> list[Any]:
            context = serve.get_replica_context()
            streams = [
                [item async for item in self.child.options(stream=True, method_name=name).remote()]
                for name in ("stream", "sync_stream")
            ]
            return [context.app_name, context.deployment, await self.child.sync.remote(), *streams]

    handle = run(Parent.bind(Child.bind()), name="shop")
    assert result(handle.look.remote()) == ["shop", "Parent", ("Child", True), ["Child"], ["Child"]]
    assert seen["constructor"].deployment == "Child" and seen["constructor"].world_size == 1
    with pytest.raises(RayServeException):
        serve.get_replica_context()
    serve.shutdown()
    assert seen["destructor"] == "Child"


def test_batches_form_and_know_their_replica_and_model() -> None:
    sizes: list[int] = []

    @serve.deployment
    class Batched:
        @serve.batch(max_batch_size=4, batch_wait_timeout_s=DEADLINE_S)
        async def double(self, values: list[int]) -> list[Any]:
            sizes.append(len(values))
            name = serve.get_replica_context().deployment
            return [(name, serve.get_multiplexed_model_id(), 2 * v) for v in values]

    handle = run(Batched.bind())
    method = handle.options(method_name="double", multiplexed_model_id="m1")
    responses = [method.remote(n) for n in range(8)]
    assert [result(r) for r in responses] == [("Batched", "m1", 2 * n) for n in range(8)]
    assert sizes == [4, 4]


def test_models_are_loaded_by_id_evicted_and_unloaded_at_the_end() -> None:
    events: list[str] = []

    class Weights:
        def __init__(self, name: str) -> None:
            self.name = name
            events.append(f"load {name}")

        def __del__(self) -> None:
            events.append(f"unload {self.name}")

    @serve.deployment
    class Zoo:
        @serve.multiplexed(max_num_models_per_replica=2)
        async def get(self, model_id: str) -> Weights:
            assert serve.get_replica_context().deployment == "Zoo"
            return Weights(model_id)

        async def ask(self) -> str:
            model = await self.get(serve.get_multiplexed_model_id())
            return str(model.name)

    handle = run(Zoo.bind())
    for name in ("a", "b", "a", "c"):
        assert result(handle.options(method_name="ask", multiplexed_model_id=name).remote()) == name
    until(lambda: "unload b" in events, "the model used least recently is unloaded")
    serve.shutdown()
    gc.collect()
    assert sorted(events) == sorted(f"{what} {name}" for what in ("load", "unload") for name in "abc")


def test_the_models_of_one_deployment_outlive_another_one() -> None:
    events: list[str] = []

    def zoo(name: str) -> serve.Application:
        class Weights:
            def __del__(self) -> None:
                events.append(f"unload {name}")

        @serve.deployment
        class Zoo:
            @serve.multiplexed
            async def get(self, model_id: str) -> Weights:
                events.append(f"load {name}")
                return Weights()

            async def ask(self) -> None:
                await self.get("m")

        return Zoo.bind()

    handles = [run(zoo(name), name=name, route_prefix=None) for name in ("one", "two")]
    for handle in handles:
        result(handle.ask.remote())
    serve.delete("one")
    result(handles[1].ask.remote())
    assert events == ["load one", "load two", "unload one"]


# --- limits, cancelling, streams -----------------------------------------------------------------


class Gate:
    """Held open or shut by the test; entered by handlers."""

    def __init__(self) -> None:
        self.entered = 0
        self.most = 0
        self.inside = 0
        self.opened = threading.Event()
        self.cancelled = threading.Event()

    async def __call__(self) -> None:
        self.entered += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            while not self.opened.is_set():
                await anyio.sleep(0.002)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.inside -= 1


gates: dict[str, Gate] = {}


@pytest.fixture
def gate() -> Any:
    """A gate that a deployment finds by name: a class that holds it could not be decorated."""
    gates["gate"] = Gate()
    yield gates["gate"]
    gates["gate"].opened.set()


async def pass_gate() -> None:
    await gates["gate"]()


@serve.deployment
class Gated:
    async def __call__(self) -> str:
        await pass_gate()
        return "through"

    async def stream(self) -> Any:
        yield "first"
        await pass_gate()


@serve.deployment(name="Gated")
class Opener:
    """Takes the place of `Gated` and lets its requests through once it is built."""

    def __init__(self) -> None:
        gates["gate"].opened.set()

    async def __call__(self) -> str:
        return "new"


@serve.deployment
class Outer:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self) -> str:
        return str(await self.inner.remote())


def test_no_more_requests_run_at_once_than_allowed(gate: Gate) -> None:
    handle = run(Gated.options(max_ongoing_requests=2).bind())
    responses = [handle.remote() for _ in range(6)]
    until(lambda: gate.inside == 2, "two requests are inside")
    gate.opened.set()
    assert [result(r) for r in responses] == ["through"] * 6
    assert gate.most == 2


def test_a_full_queue_refuses(gate: Gate) -> None:
    handle = run(Gated.options(max_ongoing_requests=1, max_queued_requests=1).bind())
    first, responses = handle.remote(), []
    until(lambda: gate.inside == 1, "the first is inside")
    with pytest.raises(BackPressureError):
        for _ in range(3):  # one more may wait
            responses.append(handle.remote())
        result(responses[-1])
    gate.opened.set()
    assert [result(r) for r in (first, responses[0])] == ["through"] * 2


def test_cancelling_reaches_the_handler_and_what_it_called(gate: Gate) -> None:
    handle = run(Outer.bind(Gated.bind()))
    response = handle.remote()
    until(lambda: gate.inside == 1, "the inner request runs")
    response.cancel()
    with pytest.raises(RequestCancelledError):
        result(response)
    assert gate.cancelled.wait(DEADLINE_S)
    until(lambda: gate.inside == 0, "the inner request has ended")


def test_streams_arrive_item_by_item_and_end_when_their_reader_leaves(gate: Gate) -> None:
    handle = run(Gated.bind())
    stream = handle.options(stream=True).stream.remote()
    assert next(stream) == "first"
    until(lambda: gate.inside == 1, "the generator waits")
    stream.cancel()
    assert gate.cancelled.wait(DEADLINE_S)


def test_a_stream_waits_for_a_slow_reader() -> None:
    produced: list[int] = []

    @serve.deployment
    class Source:
        async def pieces(self) -> Any:
            for n in range(400):
                produced.append(n)
                yield b"x" * 64_000

    handle = run(Source.bind())
    stream = handle.options(stream=True).pieces.remote()
    next(stream)
    before = -1
    while before != len(produced):  # until it stands still
        before = len(produced)
        gc.collect()
        threading.Event().wait(0.1)
    assert len(produced) < 400
    assert sum(1 for _ in stream) == 399 and len(produced) == 400


def test_sync_handlers_run_beside_each_other_and_may_wait_for_handles() -> None:
    barrier = threading.Barrier(2, timeout=DEADLINE_S)
    barriers["both"] = barrier
    handle = run(Meeting.bind(Adder.bind(1)))
    responses = [handle.meet.remote(n) for n in range(2)]
    assert [result(r) for r in responses] == [1, 2]


barriers: dict[str, threading.Barrier] = {}


@serve.deployment
class Meeting:
    def __init__(self, adder: Any) -> None:
        self.adder = adder

    def meet(self, value: int) -> int:
        barriers["both"].wait()
        found: int = self.adder.add.remote(value).result(DEADLINE_S)
        return found


def test_every_kind_of_call_works() -> None:
    handle = run(Adder.bind(1))
    assert handle.broadcast("add", 1).results(timeout_s=DEADLINE_S) == [2]

    async def choose() -> int:
        async with handle.add.choose_replica() as selection:
            found: int = await handle.add.dispatch(selection, 2)
        return found

    assert asyncio.run(choose()) == 3
    with pytest.raises(TypeError, match="stream"):
        list(handle.options(stream=True).add.remote(1))


asked: list[str] = []


class Asked(RequestRouter):
    async def choose_replicas(self, candidate_replicas: Any, pending_request: Any = None) -> Any:
        asked.append(pending_request.metadata.call_method)
        return [candidate_replicas]


def test_a_request_router_of_the_users_is_asked() -> None:
    config = {"request_router_class": f"{__name__}:Asked"}
    handle = run(Adder.options(request_router_config=config).bind(1))
    assert result(handle.add.remote(1)) == 2
    assert asked == ["add"]


# --- ending and replacing ------------------------------------------------------------------------


def test_destructors_run_once_for_each_instance_callers_first() -> None:
    events: list[str] = []

    @serve.deployment
    class Inner:
        def __init__(self, name: str) -> None:
            self.name = name

        def __del__(self) -> None:
            events.append(self.name)

    @serve.deployment
    class Outer:
        def __init__(self, *inner: Any) -> None:
            self.inner = inner

        async def __del__(self) -> None:
            await asyncio.sleep(0)
            events.append("outer")

    run(Outer.bind(Inner.bind("one"), Inner.bind("two")))
    serve.delete("default")
    gc.collect()
    assert events == ["outer", "two", "one"]
    run(Inner.bind("three"))
    serve.shutdown()
    gc.collect()
    assert events == ["outer", "two", "one", "three"]


def test_an_instance_that_serve_never_had_keeps_its_destructor() -> None:
    events: list[str] = []

    class Plain:
        def __del__(self) -> None:
            events.append("gone")

    run(serve.deployment(Plain).bind())
    serve.shutdown()
    gc.collect()
    assert events == ["gone"]
    mine = Plain()
    del mine
    gc.collect()
    assert events == ["gone", "gone"]


def test_running_the_same_name_again_replaces_the_application() -> None:
    destroyed: list[str] = []

    def version(name: str) -> serve.Application:
        @serve.deployment
        class Versioned:
            def get(self) -> str:
                return name

            def __del__(self) -> None:
                destroyed.append(name)

        return Versioned.bind()

    first = run(version("one"))
    second = run(version("two"))
    assert destroyed == ["one"]
    assert result(first.get.remote()) == result(second.get.remote()) == "two"
    adder = run(Adder.bind(1))
    assert destroyed == ["one", "two"]
    assert result(adder.add.remote(1)) == 2
    with pytest.raises(DeploymentNotFoundError):
        result(first.get.remote())


def test_requests_of_a_replaced_application_end_where_they_began(gate: Gate) -> None:
    handle = run(Gated.bind())
    response = handle.remote()
    until(lambda: gate.inside == 1, "the request runs")
    handle = run(Opener.bind())
    assert (result(response), result(handle.remote())) == ("through", "new")


def test_an_application_that_cannot_be_replaced_goes_on_serving() -> None:
    @serve.deployment(name="Front")
    class Broken:
        def __init__(self, *children: Any) -> None:
            raise ValueError("no")

    handle = run(Front.bind({"all": [Adder.bind(1), Adder.bind(10)]}))
    with pytest.raises(ValueError, match="no"):
        run(Broken.bind(Adder.bind(1000)))
    assert result(handle.chain.remote(0)) == 11
    assert serve.status().applications["default"].status is ApplicationStatus.RUNNING


def test_a_request_that_does_not_end_is_cancelled_after_the_grace(gate: Gate) -> None:
    handle = run(Gated.options(graceful_shutdown_timeout_s=0.05).bind())
    response = handle.remote()
    until(lambda: gate.inside == 1, "the request runs")
    serve.delete("default")
    assert gate.cancelled.is_set()
    with pytest.raises((RequestCancelledError, ReplicaDiedError)):
        result(response)


def test_a_deleted_application_is_unknown() -> None:
    handle = run(Adder.bind(1))
    other = run(Adder.bind(2), name="other")
    serve.delete("default")
    serve.delete("default")
    with pytest.raises(DeploymentNotFoundError):
        result(handle.add.remote(1))
    with pytest.raises(RayServeException, match="does not exist"):
        serve.get_app_handle("default")
    with pytest.raises(KeyError):
        serve.get_deployment_handle("Adder", "default")
    assert result(other.add.remote(1)) == 3


async def test_shutdown_async_leaves_nothing_and_may_be_called_again() -> None:
    handle = run(Adder.bind(1))
    await serve.shutdown_async()
    assert serve.status().applications == {}
    with pytest.raises(RayServeException):
        await handle.add.remote(1)
    await serve.shutdown_async()


def test_status_and_handles_by_name() -> None:
    run(Front.bind({"all": [Adder.bind(1), Adder.bind(10)]}), name="sums")
    app = serve.status().applications["sums"]
    assert app.status == "RUNNING" and app.last_deployed_time_s > 0
    assert {n: (d.status, d.replica_states) for n, d in app.deployments.items()} == {
        name: ("HEALTHY", {"RUNNING": 1}) for name in ("Adder", "Adder_1", "Front")
    }
    assert result(serve.get_app_handle("sums").chain.remote(0)) == 11
    assert result(serve.get_deployment_handle("Adder_1", "sums").add.remote(0)) == 10


def test_code_that_ends_its_loop_is_a_replica_that_died() -> None:
    @serve.deployment
    class Leaving:
        async def leave(self) -> None:
            sys.exit(3)

        async def stay(self) -> str:
            return "here"

    handle = run(Leaving.bind())
    assert result(handle.stay.remote()) == "here"
    with pytest.raises(ReplicaDiedError):
        result(handle.leave.remote())
    with pytest.raises(DeploymentUnavailableError):
        result(handle.stay.remote())
    assert serve.status().applications["default"].status is ApplicationStatus.UNHEALTHY
    handle = run(Leaving.bind())
    assert result(handle.stay.remote()) == "here"


# --- choosing the mode ---------------------------------------------------------------------------


def test_the_environment_can_send_every_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_FORCE_LOCAL_TESTING_MODE", "1")
    serve.start(http_options={"port": 1})
    assert result(serve.run(Adder.bind(1)).add.remote(1)) == 2
    assert list(serve.status().applications) == ["default"]
    serve.delete("no such application")
    serve.shutdown()
    assert serve.status().applications == {}


def test_another_value_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("RAY_SERVE_FORCE_LOCAL_TESTING_MODE", "yes")
        with pytest.raises(ValueError, match="RAY_SERVE_FORCE_LOCAL_TESTING_MODE must be 0 or 1, not 'yes'"):
            serve.run(Adder.bind(1))


def test_a_long_temporary_directory_does_not_hinder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert result(run(Adder.bind(1)).add.remote(1)) == 2
    serve.shutdown()
