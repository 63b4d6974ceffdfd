"""`min_ready_s`: a new replica counts only when it has stayed well for a while."""

from __future__ import annotations

import pytest

from serve_lite.policy.available import is_available, next_available_at
from serve_lite.policy.rollout import plan_rollout
from serve_lite.schema import DeploymentStatus, ReplicaState
from serve_lite.state.observed import STABLE_S, Health
from tests.policy.cases import GIVEN_UP, MODEL, OPEN, replicas, wanted
from tests.policy.test_rollout import brief
from tests.policy.world import Behaviour, World


@pytest.mark.parametrize(
    ("version", "fields", "now", "expected"),
    [
        ("v2", {"ready_at": 100.0}, 129.9, False),
        ("v2", {"ready_at": 100.0}, 130.0, True),
        ("v1", {"ready_at": 100.0}, 100.0, True),
        ("v2", {"ready_at": 100.0, "health": Health(strikes=1, failed_at=125.0)}, 200.0, False),
        ("v2", {"ready_at": 100.0, "health": Health(failed_at=125.0)}, 154.9, False),
        ("v2", {"ready_at": 100.0, "health": Health(failed_at=125.0)}, 155.0, True),
        ("v2", {"ready_at": 100.0, "state": ReplicaState.UPDATING}, 200.0, False),
    ],
    ids=str,
)
def test_a_replica_is_available_when_it_has_been_well_for_long_enough(
    version: str, fields: dict[str, object], now: float, expected: bool
) -> None:
    goal = wanted("v2", min_ready_s=30.0)
    [replica] = replicas(version, 1, **fields)  # type: ignore[arg-type]
    assert is_available(goal, replica, now) is expected
    assert is_available(wanted("v2"), replica, now) is replica.is_running


def test_the_loop_looks_again_when_the_next_one_becomes_available() -> None:
    goal = wanted("v2", 3, min_ready_s=30.0)
    first, second = replicas("v2", 1, ready_at=100.0), replicas("v2", 1, ready_at=110.0)
    ill = replicas("v2", 1, ready_at=90.0, health=Health(strikes=1, failed_at=95.0))
    assert next_available_at(goal, [*first, *second, *ill], 120.0) == 130.0
    assert next_available_at(goal, [*first, *second, *ill], 135.0) == 140.0
    assert next_available_at(goal, [*first, *second, *ill], 140.0) is None  # the next answer is an event
    assert next_available_at(goal, replicas("v1", 1, ready_at=100.0), 100.0) is None


def test_an_old_replica_stops_only_when_the_new_one_has_stayed_well() -> None:
    goal = wanted("v2", 2, min_ready_s=30.0)
    everyone = [*replicas("v1", 2), *replicas("v2", 1, rank=2, ready_at=100.0)]
    assert brief(plan_rollout(goal, everyone, OPEN, now=129.0)) == []
    assert brief(plan_rollout(goal, everyone, OPEN, now=130.0)) == ["stop v1-running-0", "start 0"]


def test_without_surge_the_next_fraction_waits_too() -> None:
    goal = wanted("v2", 3, max_surge_percent=0, rolling_update_percentage=0.34, min_ready_s=30.0)
    everyone = [*replicas("v1", 2, rank=1), *replicas("v2", 1, ready_at=100.0)]
    assert brief(plan_rollout(goal, everyone, OPEN, now=129.0)) == []
    assert brief(plan_rollout(goal, everyone, OPEN, now=130.0)) == ["stop v1-running-1", "start 2"]


def test_a_failing_version_that_was_never_available_makes_way_at_once() -> None:
    goal = wanted("v2", 2, min_ready_s=30.0)
    everyone = [*replicas("v1", 2), *replicas("v2", 1, rank=2, ready_at=100.0)]
    assert brief(plan_rollout(goal, everyone, GIVEN_UP, now=110.0)) == ["stop v2-running-0"]


def test_what_is_too_many_and_not_available_goes_while_enough_serve() -> None:
    goal = wanted("v2", 1, min_ready_s=30.0)
    assert brief(plan_rollout(goal, replicas("v2", 2, ready_at=100.0), OPEN, now=101.0)) == [
        "stop v2-running-1"
    ]


def test_a_deploy_is_done_when_its_replicas_are_available() -> None:
    world = World()
    world.deploy(wanted("v1", 2, min_ready_s=30.0))
    world.run(20.0)
    view = world.observed.deployments[MODEL]
    assert (len(world.running("v1")), view.status) == (2, DeploymentStatus.UPDATING)
    assert "stayed so for 30 s (min_ready_s)" in view.message
    world.run(11.0)
    view = world.observed.deployments[MODEL]
    assert (view.status, view.message) == (DeploymentStatus.HEALTHY, "")


@pytest.mark.parametrize("target", [1, 3])
@pytest.mark.parametrize("bad", [Behaviour(runs_s=25.0), Behaviour(is_well=False), Behaviour(starts=False)])
def test_a_version_that_fails_within_its_time_is_given_up_and_the_old_one_serves(
    target: int, bad: Behaviour
) -> None:
    """Runs of 25 s are long enough to pass for good ones otherwise."""
    assert bad.runs_s is None or bad.runs_s > STABLE_S
    world = World({"bad": bad})
    world.deploy(wanted("good", target, min_ready_s=60.0))
    world.settle()
    world.deploy(wanted("bad", target, min_ready_s=60.0))
    world.settle()
    assert len(world.running("good")) == target
    assert not world.running("bad")
    assert world.observed.deployments[MODEL].status is DeploymentStatus.DEPLOY_FAILED
    tries = world.starts
    world.settle()
    assert world.starts == tries
