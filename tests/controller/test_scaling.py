"""What is remembered between two scaling decisions: callers' loads, and what custom policies said."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any

import pytest

from serve_lite.config import AutoscalingConfig
from serve_lite.controller.load import LoadBoard
from serve_lite.controller.scaling import Scaler
from serve_lite.schema import ReplicaState
from serve_lite.state.goal import DeploymentGoal, Goal
from serve_lite.state.observed import Observed
from serve_lite.wire.connection import RemoteControlError
from serve_lite.wire.messages import DecideReply, DecideRequest, DeploymentLoad
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

    async def decide(self, request: DecideRequest) -> DecideReply:
        self.asked.append(request)
        if isinstance(self.says, Exception):
            raise self.says
        return DecideReply(self.says, {"n": len(self.asked)})

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
        self.scaler = Scaler(clock=lambda: self.now, wake=lambda: None, spawn=self.work.append)
        self.scaler.policy_of = lambda _: self.oracle

    def goal(self) -> DeploymentGoal:
        return wanted(target=self.target, autoscaling_config=self.config)

    async def look(self, after_s: float = 0.0, *, running: int | None = None) -> float | None:
        """Let time pass, decide, take over what was decided, and have questions answered."""
        self.now += after_s
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
    assert detail.errors == ["TimeoutError"]
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
