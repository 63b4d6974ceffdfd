"""The default autoscaling policy: Ray Serve 2.60's numbers, and what holds for every history of load."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.config import AggregationFunction, AutoscalingConfig, AutoscalingContext, DeploymentConfig
from serve_lite.policy.autoscaling import (
    Bounds,
    Decision,
    Load,
    Timer,
    aggregate,
    decide,
    default_autoscaling_policy,
    load_of,
    merge,
    plan_pace_s,
    report_every_s,
    wanted_by_load,
    window_start,
    with_factors,
)
from serve_lite.policy.capacity import initial_target, scaling_bounds

WIDE = Bounds(0, 1000)

R1 = [(0.2, 5.0), (0.8, 7.0), (1.5, 6.0)]
R2 = [(0.1, 3.0), (0.9, 4.0), (1.4, 8.0)]
H1 = [(0.3, 2.0), (1.0, 3.0)]


def scaling(**options: Any) -> AutoscalingConfig:
    return AutoscalingConfig(**{"min_replicas": 0, "max_replicas": 1000, **options})


# --- samples ------------------------------------------------------------------------------------


def test_step_functions_add_up_as_in_ray_serve() -> None:
    merged = merge([R1, R2, H1])
    assert merged == [
        (0.1, 3), (0.2, 8), (0.3, 10), (0.8, 12), (0.9, 13), (1.0, 14), (1.4, 18), (1.5, 17),
    ]  # fmt: skip
    assert window_start([R1, R2, H1], merged) == 0.3


@pytest.mark.parametrize(("function", "expected"), [("mean", 13.76), ("max", 18), ("min", 10)])
def test_samples_become_one_number_as_in_ray_serve(function: str, expected: float) -> None:
    value = aggregate([R1, R2, H1], AggregationFunction(function), 2.0)
    assert round(value, 2) == expected


def test_queued_calls_are_part_of_the_total_and_known_apart() -> None:
    load = load_of([H1], [R1, R2], scaling(aggregation_function="max"), 2.0)
    assert (load.total, load.queued, load.running) == (18, 3, 15)


def test_no_samples_are_no_load() -> None:
    assert aggregate([], AggregationFunction.MEAN, 5.0) == aggregate([[]], AggregationFunction.MIN, 5.0) == 0


def test_a_single_sample_counts_at_once() -> None:
    assert aggregate([[(5.0, 3.0)]], AggregationFunction.MEAN, 5.0) == 3


def test_samples_of_the_same_hundredth_of_a_second_count_together() -> None:
    assert merge([[(1.001, 1.0)], [(1.004, 2.0)]]) == [(1.0, 3.0)]


SERIES = st.lists(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 50)), min_size=1, max_size=6, unique_by=lambda s: s[0]),
    min_size=1, max_size=4,
)  # fmt: skip


@given(SERIES)
def test_the_mean_lies_between_the_least_and_the_most(raw: list[list[tuple[int, int]]]) -> None:
    series = [sorted((float(at), float(value)) for at, value in one) for one in raw]
    low, mean, high = (aggregate(series, AggregationFunction(name), 61.0) for name in ("min", "mean", "max"))
    assert low - 1e-9 <= mean <= high + 1e-9


@given(st.integers(1, 60), st.lists(st.floats(0.1, 7), min_size=1, max_size=20), st.integers(1, 9))
def test_a_constant_load_costs_no_replica_by_rounding(value: int, gaps: list[float], target: int) -> None:
    at, series = 0.0, []
    for gap in gaps:
        at += gap
        series.append((at, float(value * target)))
    load = load_of([], [series], scaling(target_ongoing_requests=target), at + 3.3)
    assert with_factors(wanted_by_load(load, scaling(target_ongoing_requests=target)), 1, scaling()) == value


# --- factors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("running", "total", "target", "up", "down", "expected"),
    [
        (1, 10, 2, 1, 1, 5), (1, 10, 2, 0.5, 1, 3), (4, 2, 2, 1, 1, 1), (4, 2, 2, 1, 0.1, 3), (4, 0, 2, 1, 0.1, 3),
        (3, 7, 2, 1, 1, 4), (10, 100, 2, 2, 1, 90), (2, 0, 2, 1, 0.6, 1), (1, 0, 2, 1, 1, 0), (5, 9.9, 2, 1, 1, 5),
    ],
)  # fmt: skip
def test_the_wish_is_ray_serves(
    running: int, total: float, target: float, up: float, down: float, expected: int
) -> None:
    config = scaling(target_ongoing_requests=target, upscaling_factor=up, downscaling_factor=down)
    assert with_factors(wanted_by_load(Load(total=total), config), running, config) == expected


# --- delays -------------------------------------------------------------------------------------


class Clock:
    """One deployment whose replicas are there as soon as they are wanted, looked at whenever `look` is called."""

    def __init__(self, target: int, bounds: Bounds = WIDE, **options: Any) -> None:
        self.config, self.bounds = scaling(**options), bounds
        self.target = self.running = target
        self.timer = Timer()

    def look(self, now: float, replicas_worth: float, *, running: int | None = None) -> Decision:
        load = Load(total=replicas_worth * self.config.target_ongoing_requests)
        running = self.running if running is None else running
        decision = decide(
            self.config, self.bounds, load, running=running, target=self.target, timer=self.timer, now=now
        )
        self.timer, self.target, self.running = decision.timer, decision.target, decision.target
        return decision


def test_more_are_wanted_for_the_whole_delay_before_they_come_and_the_latest_wish_counts() -> None:
    clock = Clock(1, upscale_delay_s=30)
    assert [clock.look(now, 5).target for now in (0.0, 10.0, 29.9)] == [1, 1, 1]
    assert clock.look(29.95, 5).due == 30.0
    decision = clock.look(30.0, 7)
    assert decision.target == 7 and "14 requests" in decision.reason


def test_a_moment_without_the_wish_begins_the_delay_anew() -> None:
    clock = Clock(1, upscale_delay_s=30)
    clock.look(0, 5)
    clock.look(20, 1)
    clock.look(21, 5)
    assert [clock.look(now, 5).target for now in (30, 50.9, 51)] == [1, 1, 5]


def test_from_three_to_none_is_two_steps_with_two_delays() -> None:
    clock = Clock(3, downscale_delay_s=600, downscale_to_zero_delay_s=60)
    assert [clock.look(now, 0).target for now in (0, 599, 600, 600.1, 659.9, 660.2)] == [3, 3, 1, 1, 1, 0]


def test_without_a_delay_of_its_own_the_last_step_waits_as_long_as_the_others() -> None:
    clock = Clock(1, downscale_delay_s=600)
    assert [clock.look(now, 0).target for now in (0, 599, 600)] == [1, 1, 0]


def test_waiting_calls_start_the_first_replica_without_delay() -> None:
    assert Clock(0, upscale_delay_s=30).look(0, 50).target == 1
    assert Clock(0, upscale_delay_s=30, upscaling_factor=2.5).look(0, 50).target == 3
    assert Clock(4, upscale_delay_s=30).look(0, 50, running=0).target == 4
    assert Clock(0, Bounds(0, 2), upscaling_factor=5).look(0, 50).target == 2


def test_a_deployment_whose_replicas_are_all_down_is_not_taken_for_idle() -> None:
    clock = Clock(2, downscale_delay_s=0)
    assert clock.look(0, 0, running=0).target == 2


def test_what_the_bounds_forbid_leaves_no_timer_behind() -> None:
    for clock, load in ((Clock(1, Bounds(1, 4)), 0.0), (Clock(4, Bounds(1, 4)), 9.0)):
        decision = clock.look(0, load)
        assert (decision.timer, decision.due) == (Timer(), None)


def test_bounds_that_changed_count_at_once() -> None:
    assert Clock(9, Bounds(1, 4), downscale_delay_s=600).look(0, 9).target == 4


def test_what_a_policy_says_goes_through_factors_delay_and_bounds() -> None:
    config = scaling(upscale_delay_s=10, upscaling_factor=0.5)
    common: dict[str, Any] = {"running": 2, "target": 2, "wish": 5.2}
    first = decide(config, Bounds(1, 3), Load(), timer=Timer(), now=0, **common)
    assert (first.target, first.due) == (2, 10)
    assert decide(config, Bounds(1, 3), Load(), timer=first.timer, now=10, **common).target == 3
    assert decide(config, WIDE, Load(), timer=first.timer, now=10, **common).target == 4


def test_the_built_in_policy_may_be_called_by_ones_own() -> None:
    context = AutoscalingContext(current_num_replicas=2, total_num_requests=7.0, config=scaling())
    assert default_autoscaling_policy(context) == (3.5, {})
    assert default_autoscaling_policy(AutoscalingContext(target_num_replicas=3)) == (3, {})


def test_callers_report_five_times_in_the_look_back_period() -> None:
    assert report_every_s(scaling()) == 6
    assert 0.1 <= plan_pace_s(scaling()) <= 1


# --- whatever happens ---------------------------------------------------------------------------

HISTORY = st.lists(st.tuples(st.floats(0.1, 20), st.floats(0, 40)), min_size=1, max_size=60)
BOUNDS = st.tuples(st.integers(0, 5), st.integers(1, 12)).map(lambda b: Bounds(min(b), max(b)))


@given(HISTORY, BOUNDS, st.floats(0.1, 3), st.floats(0.1, 3))
def test_the_bounds_are_never_left(
    history: list[tuple[float, float]], bounds: Bounds, up: float, down: float
) -> None:
    factors = {"upscaling_factor": up, "downscaling_factor": down}
    clock = Clock(bounds.lowest, bounds, upscale_delay_s=2, downscale_delay_s=3, **factors)
    now = 0.0
    for gap, load in history:
        now += gap
        assert bounds.lowest <= clock.look(now, load).target <= bounds.highest


@given(HISTORY, BOUNDS)
def test_two_changes_are_a_delay_apart_and_the_last_replica_goes_alone(
    history: list[tuple[float, float]], bounds: Bounds
) -> None:
    """But for the first replica, which is never waited for."""
    clock = Clock(bounds.lowest, bounds, upscale_delay_s=5, downscale_delay_s=7)
    now, last = 0.0, 0.0
    for gap, load in history:
        now += gap
        before = clock.target
        after = clock.look(now, load).target
        if after != before:
            assert before == 0 or now - last >= (5 if after > before else 7) - 1e-5
            assert after > 0 or (before == 1 and load < 1e-6)  # no request is that short
            last = now


@given(st.integers(1, 20), st.floats(0, 60), st.floats(0, 60), st.integers(0, 20))
def test_more_load_never_means_fewer_replicas(running: int, a: float, b: float, target: int) -> None:
    config = scaling(upscale_delay_s=0, downscale_delay_s=0)
    few, many = (
        decide(config, WIDE, Load(total=load), running=running, target=target, timer=Timer(), now=0).target
        for load in sorted((a, b))
    )
    assert few <= many


@given(st.integers(1, 50), st.floats(0.2, 1))
def test_a_deployment_with_the_right_number_stays_still(replicas: int, share: float) -> None:
    clock = Clock(replicas, Bounds(1, 100), upscale_delay_s=0, downscale_delay_s=0)
    load = replicas - 1 + share
    assert [clock.look(now, load).target for now in (0, 1, 2, 100)] == [replicas] * 4


# --- where it begins ----------------------------------------------------------------------------


def test_target_capacity_scales_the_bounds_and_initial_replicas_hold_while_it_rises() -> None:
    config = scaling(min_replicas=2, initial_replicas=6, max_replicas=10)
    assert scaling_bounds(config) == Bounds(2, 10)
    assert scaling_bounds(config, 50, "DOWN") == Bounds(1, 5)
    assert scaling_bounds(config, 50, "UP") == Bounds(3, 5)
    assert scaling_bounds(config, 0, "DOWN") == Bounds(0, 0)


def test_a_redeploy_keeps_the_present_number_unless_initial_replicas_are_new() -> None:
    config = DeploymentConfig(autoscaling_config=scaling(min_replicas=1, initial_replicas=3, max_replicas=6))
    assert initial_target(config, None, None) == 3
    assert initial_target(config, None, 5, is_changed=False) == 5
    assert initial_target(config, None, 5, is_changed=True) == 3
    assert initial_target(config, 50, 5, is_changed=False) == 3
    plain = DeploymentConfig(autoscaling_config=scaling(max_replicas=6))
    assert initial_target(plain, None, None) == 0
    assert initial_target(plain, None, 4) == 4
