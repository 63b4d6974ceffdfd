"""Capacity, back-off, health times and the choice between two replicas: small rules with exact numbers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.config import AutoscalingConfig, DeploymentConfig
from serve_lite.policy.capacity import adjusted, initial_target
from serve_lite.policy.choice import less_loaded
from serve_lite.policy.health import is_unhealthy, next_check_at
from serve_lite.policy.restart import LONGEST_WAIT_S, budget, plan_start, wait_s
from serve_lite.state.observed import Health, StartRecord
from tests.policy.cases import replicas


@pytest.mark.parametrize(
    ("replicas", "capacity", "expected"),
    [
        (1, 50, 1), (3, 50, 2), (5, 50, 3), (10, 25, 3), (10, 1, 1), (1, 0, 0), (7, 33, 2), (10, 100, 10),
        (10, None, 10), (0, 50, 0), (5, 10, 1), (3, 83.3, 2),
    ],
)  # fmt: skip
def test_target_capacity_scales_as_ray_serve_does(
    replicas: int, capacity: float | None, expected: int
) -> None:
    assert adjusted(replicas, capacity) == expected


def test_autoscaling_keeps_the_present_number_within_its_bounds() -> None:
    config = DeploymentConfig(autoscaling_config=AutoscalingConfig(min_replicas=2, max_replicas=4))
    assert [initial_target(config, None, now) for now in (None, 1, 3, 9)] == [2, 2, 3, 4]


@pytest.mark.parametrize(("target", "retries", "expected"), [(1, 20, 3), (7, 20, 20), (7, 2, 2), (0, 20, 3)])
def test_the_budget_of_failures_is_three_for_each_replica_and_bounded(
    target: int, retries: int, expected: int
) -> None:
    assert budget(target, retries) == expected


def test_a_rollout_is_given_up_after_six_failures_for_each_place_at_the_latest() -> None:
    assert [budget(10, 20, places) for places in (1, 2, 10)] == [6, 12, 20]


def test_the_wait_doubles_from_one_second_to_64_after_a_first_try_at_once() -> None:
    assert [wait_s(n, 0.0) for n in range(10)] == [0, 0, 1, 2, 4, 8, 16, 32, 64, 64]


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_the_wait_is_bounded_however_long_it_goes_on(rounds: int, spread: float) -> None:
    assert 0 <= wait_s(rounds, spread) <= 1.5 * LONGEST_WAIT_S


def gate(record: StartRecord, *, has_older: bool = False, now: float = 100.0):  # type: ignore[no-untyped-def]
    return plan_start(record, budget(1, 20), has_older=has_older, now=now)


def test_a_version_that_never_started_is_given_up_when_the_budget_is_used() -> None:
    assert gate(StartRecord(failures=2, rounds=2, failed_at=90)).is_open
    assert gate(StartRecord(failures=3, rounds=3, failed_at=90)).has_given_up


def test_a_version_that_has_served_is_tried_for_ever_but_slowly() -> None:
    record = StartRecord(failures=50, rounds=50, failed_at=90, has_started=True)
    assert not gate(record).has_given_up
    assert gate(record).opens_at == 90 + 64
    assert gate(record, now=154).is_open


def test_a_version_that_has_served_is_given_up_if_an_older_one_still_serves() -> None:
    assert gate(
        StartRecord(failures=3, rounds=3, failed_at=90, has_started=True), has_older=True
    ).has_given_up


def test_a_failure_from_before_a_reboot_does_not_delay_a_start() -> None:
    assert gate(StartRecord(failures=2, rounds=2, failed_at=5000, has_started=True)).is_open


def test_health_is_asked_one_period_after_the_last_question_give_or_take_a_tenth() -> None:
    config = DeploymentConfig(health_check_period_s=10)
    [replica] = replicas("v1", 1, health=Health(asked_at=50.0, spread=0.0))
    assert next_check_at(replica, config) == 59.0
    [replica] = replicas("v1", 1, health=Health(asked_at=50.0, is_asked=True))
    assert next_check_at(replica, config) is None


def test_three_failed_checks_make_a_replica_unhealthy() -> None:
    [two] = replicas("v1", 1, health=Health(strikes=2))
    [three] = replicas("v1", 1, health=Health(strikes=3))
    assert (is_unhealthy(two), is_unhealthy(three)) == (False, True)


@dataclass
class Load:
    ongoing: int


def test_of_two_replicas_the_less_loaded_is_chosen_and_the_first_on_a_tie() -> None:
    first, second = Load(2), Load(1)
    assert less_loaded(first, second) is second
    assert less_loaded(second, first) is second
    assert less_loaded(first, Load(2)) is first
