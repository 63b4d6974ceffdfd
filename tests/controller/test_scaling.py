"""What is remembered between two scaling decisions: callers' loads, and what custom policies said."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest

from serve_lite import instruments
from serve_lite.config import AutoscalingConfig, AutoscalingPolicy
from serve_lite.controller.load import LoadBoard
from serve_lite.controller.scaling import Scaler
from serve_lite.instruments import Family
from serve_lite.schema import ReplicaState
from serve_lite.state.goal import DeploymentGoal, Goal
from serve_lite.state.ids import DeploymentId
from serve_lite.state.observed import Observed
from serve_lite.wire.connection import RemoteControlError
from serve_lite.wire.messages import (
    DecideAppReply,
    DecideAppRequest,
    DecideReply,
    DecideRequest,
    DeploymentLoad,
)
from tests.policy.cases import MODEL, application, goal_of, replicas, wanted

CONFIG = AutoscalingConfig(min_replicas=0, max_replicas=9, upscale_delay_s=0, downscale_delay_s=5)


def load(caller: str = "a", queued: int = 0, **running: int) -> DeploymentLoad:
    return DeploymentLoad(app="shop", deployment="Model", caller=caller, queued=queued, running=running)


# --- the board ----------------------------------------------------------------------------------


def test_each_caller_is_a_step_function_as_far_back_as_is_looked() -> None:
    board = LoadBoard()
    for at in (0.0, 10.0, 35.0, 40.0):
        board.take(MODEL, load(queued=1, r1=2, r2=1), at)
    board.take(MODEL, load("b", r1=4), 40.0)
    queued, running = board.series(MODEL, CONFIG, 41.0)
    assert queued == [[(35.0, 1), (40.0, 1)], [(40.0, 0)]]
    assert running == [[(35.0, 3), (40.0, 3)], [(40.0, 4)]]
    assert board.by_replica() == {"r1": 6, "r2": 1}


def test_a_caller_that_has_gone_counts_no_more() -> None:
    board = LoadBoard()
    board.take(MODEL, load("a", r1=2), 0.0)
    board.take(MODEL, load("b", r1=3), 0.0)
    board.forget_caller(MODEL, "a")
    assert board.series(MODEL, CONFIG, 1.0)[1] == [[(0.0, 3)]]
    board.forget_caller(MODEL, "b")
    board.forget_caller(MODEL, "b")
    assert board.series(MODEL, CONFIG, 1.0) == ([], [])


def test_a_caller_that_is_silent_about_its_calls_is_believed_for_two_intervals() -> None:
    board = LoadBoard()
    board.take(MODEL, load(r1=2), 0.0)
    assert board.series(MODEL, CONFIG, 20.0)[1] == [[(0.0, 2)]]
    assert board.series(MODEL, CONFIG, 20.1) == ([], [])


def test_a_caller_that_was_idle_all_the_time_is_dropped() -> None:
    board = LoadBoard()
    board.take(MODEL, load(), 0.0)
    assert board.series(MODEL, CONFIG, 30.0)[0]
    assert board.series(MODEL, CONFIG, 30.1) == ([], [])


# --- custom policies ----------------------------------------------------------------------------


class Oracle:
    """A policy whose answers the test gives."""

    is_up = True
    is_over = False

    def __init__(self) -> None:
        self.says: float | Exception = 1.0
        self.asked: list[DecideRequest] = []
        self.closed = 0

        self.says_of: dict[str, float] = {}
        self.asked_of_all: list[DecideAppRequest] = []

    async def decide(self, request: DecideRequest) -> DecideReply:
        self.asked.append(request)
        if isinstance(self.says, Exception):
            raise self.says
        return DecideReply(self.says, {"n": len(self.asked)}, took_ms=1.5)

    async def decide_app(self, request: DecideAppRequest) -> DecideAppReply:
        self.asked_of_all.append(request)
        if isinstance(self.says, Exception):
            raise self.says
        states = {name: {"n": len(self.asked_of_all)} for name in self.says_of}
        return DecideAppReply(dict(self.says_of), states, took_ms=2.5)

    def close(self) -> None:
        self.closed += 1


class Scene:
    """A scaler, with one deployment whose replicas all run, and time."""

    def __init__(self, *, custom: bool = True, **options: Any) -> None:
        policy = {"policy": "shop:policy"} if custom else {}
        values = {"min_replicas": 1, "max_replicas": 9, "upscale_delay_s": 0, "downscale_delay_s": 0}
        self.config = AutoscalingConfig(**{**values, **policy, **options})
        self.now, self.target = 100.0, 1
        self.work: list[Coroutine[Any, Any, None]] = []
        self.oracle = Oracle()
        self.wall = 1_783_317_540.0  # Monday, 6 July 2026, 05:59 in London
        self.lines: list[str] = []
        self.scaler = Scaler(
            clock=lambda: self.now,
            wake=lambda: None,
            spawn=self.work.append,
            wall=lambda: self.wall,
            record=self.record,
        )
        self.scaler.policy_of = lambda _: self.oracle

    def record(self, subject: str, text: str, level: int) -> None:
        self.lines.append(text)
        logging.getLogger("scene").log(level, "%s: %s", subject, text)

    def goal(self) -> DeploymentGoal:
        return wanted(target=self.target, autoscaling_config=self.config)

    async def look(self, after_s: float = 0.0, *, running: int | None = None) -> float | None:
        """Let time pass, decide, take over what was decided, and have questions answered."""
        self.now += after_s
        self.wall += after_s
        count = self.target if running is None else running
        alive = {r.id: r for r in replicas("v2", count, ReplicaState.RUNNING)}
        scalings, wake_at = self.scaler.plan(
            goal_of(application(self.goal())), Observed(replicas=alive), self.now
        )
        for scaling in scalings:
            self.target = scaling.target
            self.scaler.done(scaling, is_stored=True)
        while self.work:
            await self.work.pop()
        return wake_at


async def test_a_policy_is_asked_and_its_state_comes_back() -> None:
    scene = Scene()
    scene.oracle.says = 2.2
    await scene.look()
    await scene.look(1.0)
    assert scene.target == 3
    await scene.look(1.0)
    contexts = [request.context for request in scene.oracle.asked]
    assert [c["current_num_replicas"] for c in contexts[:2]] == [1, 1]
    assert scene.oracle.asked[-1].state["n"] == len(contexts) - 1
    assert contexts[-1]["last_scale_up_time"] == 101.0 and contexts[-1]["last_scale_down_time"] is None


async def test_decisions_and_what_a_policy_fails_with_are_told() -> None:
    scene = Scene()
    goal = goal_of(application(scene.goal()))
    assert scene.scaler.details(goal) == {}, "nothing is known before the first look"
    for says in (3, 1, 4):
        scene.oracle.says = says
        for _ in range(2):
            await scene.look(20.0)
    scene.oracle.says = TimeoutError()
    await scene.look(20.0)

    (detail,) = scene.scaler.details(goal).values()
    steps = [(d.prev_num_replicas, d.curr_num_replicas) for d in detail.decisions]
    assert steps == [(1, 3), (3, 1), (1, 4)]
    assert {d.policy for d in detail.decisions} == {"shop:policy"}
    assert all(d.reason for d in detail.decisions)
    assert detail.errors == ["TimeoutError: it did not answer in time"]
    assert detail.metrics["target_ongoing_requests"] == scene.config.target_ongoing_requests
    scene.scaler.plan(Goal(), Observed(), scene.now)
    assert scene.scaler.details(goal) == {}, "a deployment that is gone is forgotten"


async def test_only_the_last_decisions_are_told_and_the_first_moments_are_called_so() -> None:
    scene = Scene()
    await scene.look()
    goal = goal_of(application(scene.goal()))
    assert [d.metrics_health for d in scene.scaler.details(goal).values()] == ["delayed"]
    for i in range(12):
        scene.oracle.says = 2 + i % 2
        for _ in range(2):
            await scene.look(10.0)
    (detail,) = scene.scaler.details(goal).values()
    assert len(detail.decisions) == 10
    assert detail.decisions[-1].curr_num_replicas == scene.target
    assert detail.metrics_health == "healthy"


async def test_it_is_asked_at_most_once_for_each_pace() -> None:
    scene = Scene()
    for _ in range(20):
        wake_at = await scene.look(0.1)
    assert len(scene.oracle.asked) in (2, 3) and wake_at is not None and wake_at > scene.now


async def test_while_a_policy_fails_the_number_stays_and_each_kind_of_failure_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene()
    scene.oracle.says = 4
    await scene.look()
    await scene.look(1.0)
    for error in (RemoteControlError("ValueError", "no idea"), TimeoutError()):
        scene.oracle.says = error
        with caplog.at_level(logging.ERROR):
            for _ in range(5):
                await scene.look(1.0)
    assert scene.target == 4
    assert [record.message.rsplit(": ", 1)[1] for record in caplog.records] == [
        "no idea",
        "it did not answer in time",
    ]


async def test_a_replaced_or_deleted_deployment_lets_go_of_its_policy() -> None:
    scene = Scene()
    await scene.look()
    scene.config = AutoscalingConfig(max_replicas=8, policy="shop:policy")
    await scene.look(1.0)
    assert scene.oracle.closed == 1
    scene.scaler.plan(Goal(), Observed(), scene.now)
    assert scene.oracle.closed == 2


async def test_waiting_calls_are_answered_before_any_policy_is_asked() -> None:
    scene = Scene(min_replicas=0)
    scene.target = 0
    scene.scaler.take_load(load(queued=3))
    await scene.look(running=0)
    assert scene.target == 1 and not scene.oracle.asked


# --- the built-in one ---------------------------------------------------------------------------


async def test_nothing_is_scaled_down_before_every_caller_had_time_to_tell() -> None:
    scene = Scene(custom=False)
    scene.target = 4
    due = await scene.look()
    assert scene.target == 4 and due is not None and due > scene.now
    await scene.look(due - scene.now)
    assert scene.target == 1


async def test_an_idle_deployment_is_not_looked_at() -> None:
    scene = Scene(custom=False)
    assert await scene.look() is None
    scene.scaler.take_load(load(r1=1))
    assert await scene.look(1.0) is not None
    scene.scaler.take_load(load())
    await scene.look(100.0)
    assert await scene.look(100.0) is None


async def test_a_target_is_proposed_once_and_again_if_it_was_not_stored() -> None:
    scene = Scene(custom=False)
    scene.scaler.take_load(load(r1=6))
    observed = Observed(replicas={r.id: r for r in replicas("v2", 1)})
    goal = goal_of(application(scene.goal()))
    [scaling], _ = scene.scaler.plan(goal, observed, scene.now)
    assert scene.scaler.plan(goal, observed, scene.now) == ([], None)
    scene.scaler.done(scaling, is_stored=False)
    assert scene.scaler.plan(goal, observed, scene.now + 0.5) == ([], scene.now + 1)
    assert scene.scaler.plan(goal, observed, scene.now + 1)[0][0].target == 3


def test_replicas_are_ordered_by_what_callers_told() -> None:
    scene = Scene(custom=False)
    scene.scaler.take_load(load("a", r1=6, r2=1))
    scene.scaler.take_load(load("b", r2=2))
    assert scene.scaler.load_by_replica() == {"r1": 6, "r2": 3}


# --- policies of a whole application ------------------------------------------------------------

OTHER = DeploymentId("Other", "shop")


class Troupe(Scene):
    """Two deployments that scale by themselves, and a policy that decides for both."""

    def __init__(self, **options: Any) -> None:
        super().__init__(custom=False, **options)
        self.targets = {MODEL: 1, OTHER: 1}
        self.policy: AutoscalingPolicy | None = AutoscalingPolicy(
            policy_function="shop:for_all", policy_kwargs={"a": 1}
        )
        self.revision = 1

    async def look(self, after_s: float = 1.0, *, running: int | None = None) -> float | None:
        self.now += after_s
        deployments = [
            wanted(target=target, deployment=id, autoscaling_config=self.config)
            for id, target in self.targets.items()
        ]
        app = msgspec.structs.replace(
            application(*deployments),
            revision=self.revision,
            autoscaling_policy=self.policy,
        )
        alive = {
            r.id: r
            for id, target in self.targets.items()
            for r in replicas("v2", target if running is None else running, deployment=id)
        }
        self.goal_now = goal_of(app)
        scalings, wake_at = self.scaler.plan(self.goal_now, Observed(replicas=alive), self.now)
        for scaling in scalings:
            self.targets[scaling.deployment] = scaling.target
            self.scaler.done(scaling, is_stored=True)
        while self.work:
            await self.work.pop()
        return wake_at


async def test_an_applications_policy_decides_for_all_of_its_deployments_in_one_question() -> None:
    scene = Troupe()
    scene.oracle.says_of = {"Model": 2.2, "Other": 4}
    for _ in range(2):
        await scene.look()
    assert scene.targets == {MODEL: 3, OTHER: 4} and not scene.oracle.asked
    await scene.look()
    last = scene.oracle.asked_of_all[-1]
    assert (last.app, last.policy, last.kwargs) == ("shop", "shop:for_all", {"a": 1})
    assert {name: c["current_num_replicas"] for name, c in last.contexts.items()} == {"Model": 3, "Other": 4}
    assert last.states["Model"]["n"] == len(scene.oracle.asked_of_all) - 1
    details = scene.scaler.details(scene.goal_now)
    assert {d.decisions[-1].policy for d in details.values()} == {"shop:for_all"}
    families = {f.name: f for f in scene.scaler.families(scene.goal_now)}
    times = families["serve_autoscaling_policy_execution_time_ms"]
    assert [(s.labels, s.values) for s in times.series] == [(["", "shop", "application"], [2.5])]


async def test_a_deployment_that_the_policy_leaves_out_keeps_its_number() -> None:
    scene = Troupe()
    scene.oracle.says_of = {"Model": 5, "Other": 4}
    for _ in range(2):
        await scene.look()
    scene.oracle.says_of = {"Model": 2}
    for _ in range(3):
        await scene.look(10.0)
    assert scene.targets == {MODEL: 2, OTHER: 4}
    assert scene.oracle.asked_of_all[-1].states["Other"] == {}


async def test_an_applications_policy_that_fails_leaves_all_numbers_and_every_deployment_tells() -> None:
    scene = Troupe()
    scene.oracle.says_of = {"Model": 5, "Other": 4}
    for _ in range(2):
        await scene.look()
    scene.oracle.says = RemoteControlError("ValueError", "no idea")
    for _ in range(5):
        await scene.look()
    assert scene.targets == {MODEL: 5, OTHER: 4}
    assert [d.errors for d in scene.scaler.details(scene.goal_now).values()] == [["ValueError: no idea"]] * 2
    assert len([line for line in scene.lines if "keeps its numbers of replicas" in line]) == 1
    scene.oracle.says = 1.0
    await scene.look()
    assert [d.errors for d in scene.scaler.details(scene.goal_now).values()] == [[], []]
    assert scene.lines[-1] == "the autoscaling policy 'shop:for_all' answers again"


async def test_it_takes_the_place_of_the_deployments_own_and_says_so_once_for_each_deploy() -> None:
    scene = Troupe(policy="shop:policy")
    scene.oracle.says_of = {"Model": 5}
    for _ in range(3):
        await scene.look()
    told = [line for line in scene.lines if "'shop:policy' is not asked" in line]
    assert len(told) == 2 and not scene.oracle.asked and scene.targets[MODEL] == 5
    scene.revision, scene.policy = 2, None
    scene.oracle.says = 2
    for _ in range(3):
        await scene.look(10.0)
    assert scene.targets == {MODEL: 2, OTHER: 2}, "without it each is asked again"
    assert scene.oracle.closed == 1


async def test_waiting_calls_wake_a_deployment_whatever_the_applications_policy_says() -> None:
    scene = Troupe(min_replicas=0)
    scene.targets = {MODEL: 0, OTHER: 0}
    scene.oracle.says_of = {"Model": 0, "Other": 0}
    await scene.look()
    scene.scaler.take_load(load(queued=3))
    await scene.look(running=0)
    assert scene.targets == {MODEL: 1, OTHER: 0}


# --- schedules ----------------------------------------------------------------------------------

WORK = {"cron": "0 6 * * mon-fri", "until": "18:00", "timezone": "Etc/UTC", "min_replicas": 3}


async def test_a_schedule_raises_the_number_in_time_and_lets_the_load_lower_it_again() -> None:
    scene = Scene(custom=False, schedules=[WORK], downscale_delay_s=10)
    due = await scene.look()
    assert scene.target == 1 and due == scene.now + 60  # it is 05:59
    await scene.look(59.9)
    assert scene.target == 1
    due = await scene.look(0.1)
    assert scene.target == 3
    assert scene.lines == ["schedule '0 6 * * mon-fri' Etc/UTC begins"]
    (detail,) = scene.scaler.details(goal_of(application(scene.goal()))).values()
    assert "the bounds are 3 and 9 (schedule '0 6 * * mon-fri' Etc/UTC)" in detail.decisions[-1].reason
    assert detail.metrics["min_replicas"] == 3
    await scene.look(12 * 3600 - 1)
    assert scene.target == 3
    due = await scene.look(1.0)
    assert scene.target == 3 and due == scene.now + 10 and scene.lines[-1].endswith("is over")
    await scene.look(10.0)
    assert scene.target == 1


async def test_it_is_not_looked_at_more_than_once_a_minute_and_follows_a_clock_that_is_set() -> None:
    scene = Scene(custom=False, schedules=[WORK])
    scene.wall -= 5 * 3600
    await scene.look(10.0)
    due = await scene.look()
    assert due == scene.now + 60
    scene.wall += 8 * 3600  # somebody sets the clock
    await scene.look(60.0)
    assert scene.target == 3
    scene.wall -= 8 * 3600  # and back
    await scene.look(60.0)
    assert scene.lines[-1].endswith("is over")


async def test_a_new_scaler_in_the_middle_of_a_window_keeps_what_it_raised() -> None:
    scene = Scene(custom=False, schedules=[{**WORK, "max_replicas": 12, "min_replicas": 11}])
    scene.target = 11
    scene.wall += 3600
    for _ in range(3):
        await scene.look(30.0)
    assert scene.target == 11


async def test_a_custom_policy_stays_within_a_window() -> None:
    scene = Scene(schedules=[WORK])
    scene.oracle.says = 1
    scene.wall += 3600
    for _ in range(3):
        await scene.look(1.0)
    assert scene.target == 3


# --- what is told -------------------------------------------------------------------------------


async def test_options_that_keep_autoscaling_from_happening_are_told_once_a_deploy() -> None:
    scene = Scene(custom=False, target_ongoing_requests=500)
    for _ in range(3):
        await scene.look(1.0)
    assert [line for line in scene.lines if "autoscaling will never happen" in line] == scene.lines[:1]


def test_callers_that_have_fallen_silent_are_told() -> None:
    board = LoadBoard()
    assert board.health(MODEL, 6.0, 0.0) == "healthy"
    board.take(MODEL, load("a", r1=1), 0.0)
    assert [board.health(MODEL, 6.0, now) for now in (12.0, 14.0)] == ["healthy", "unavailable"]
    board.take(MODEL, load("b", r1=1), 13.0)
    assert board.health(MODEL, 6.0, 14.0) == "delayed"
    board.take(MODEL, load("a"), 14.0)
    assert board.health(MODEL, 6.0, 15.0) == "healthy"


async def test_decisions_and_delays_of_reports_are_counted() -> None:
    scene = Scene(custom=False)
    before = {f.name: f for f in instruments.collect()}
    count = _count(before, "serve_autoscaling_decisions", ["Model", "shop", "up"])
    delays = _count(before, "serve_autoscaling_handle_metrics_delay_ms", ["Model", "shop"])
    told = load(r1=6)
    told.at = scene.now - 0.015
    scene.scaler.take_load(told)
    await scene.look()
    after = {f.name: f for f in instruments.collect()}
    assert _count(after, "serve_autoscaling_decisions", ["Model", "shop", "up"]) == count + 1
    assert _count(after, "serve_autoscaling_handle_metrics_delay_ms", ["Model", "shop"]) == pytest.approx(
        delays + 15
    )


def _count(families: dict[str, Family], name: str, labels: list[str]) -> float:
    """Return the last value of a series: of a counter its number, of a histogram its sum."""
    found = [s.values[-1] for s in families[name].series if s.labels == labels] if name in families else []
    return found[0] if found else 0.0
