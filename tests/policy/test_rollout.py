from __future__ import annotations

import pytest

from serve_lite.policy.actions import Action, ReconfigureReplica, StartReplica, StopReplica
from serve_lite.policy.restart import StartGate
from serve_lite.policy.rollout import plan_rollout
from serve_lite.schema import ReplicaState
from tests.policy.cases import GIVEN_UP, OPEN, replicas, wanted

STARTING, RUNNING, RECOVERING = ReplicaState.STARTING, ReplicaState.RUNNING, ReplicaState.RECOVERING


def brief(actions: tuple[Action, ...]) -> list[str]:
    """Return "start 0" (rank), "stop v1-running-0" and so on."""
    words = []
    for action in actions:
        match action:
            case StartReplica(rank=rank):
                words.append(f"start {rank}")
            case StopReplica(replica=replica):
                words.append(f"stop {replica.rsplit('#', 1)[1]}")
            case ReconfigureReplica(replica=replica):
                words.append(f"reconfigure {replica.rsplit('#', 1)[1]}")
    return words


def plan(goal, *groups, gate=OPEN):  # type: ignore[no-untyped-def]
    everyone = [replica for group in groups for replica in group]
    return brief(plan_rollout(goal, everyone, gate))


def test_of_replicas_that_are_too_many_the_least_loaded_stop_and_the_newest_of_equals() -> None:
    three = replicas("v2", 3)
    load = {three[1].id: 1, three[2].id: 5, three[0].id: 2}
    for options in ({}, {"max_surge_percent": 0}):
        [stop] = plan_rollout(wanted("v2", target=2, **options), three, OPEN, load)
        assert brief((stop,)) == ["stop v2-running-1"]
        [stop] = plan_rollout(wanted("v2", target=2, **options), three, OPEN)
        assert brief((stop,)) == ["stop v2-running-2"]


def test_a_new_deployment_starts_all_its_replicas_at_once() -> None:
    assert plan(wanted(target=3)) == ["start 0", "start 1", "start 2"]


def test_a_rollout_starts_a_new_replica_before_it_stops_an_old_one() -> None:
    goal = wanted("v2", target=2)
    assert plan(goal, replicas("v1", 2)) == ["start 2"]
    assert plan(goal, replicas("v1", 2), replicas("v2", 1, STARTING, rank=2)) == []
    assert plan(goal, replicas("v1", 2), replicas("v2", 1, rank=2)) == ["stop v1-running-0", "start 0"]


def test_a_single_replica_is_replaced_without_an_outage() -> None:
    goal = wanted("v2", target=1)
    assert plan(goal, replicas("v1", 1)) == ["start 1"]
    assert plan(goal, replicas("v1", 1), replicas("v2", 1, rank=1)) == ["stop v1-running-0"]


def test_old_replicas_that_never_served_are_stopped_at_once() -> None:
    goal = wanted("v2", target=1)
    [stop, _start] = plan_rollout(goal, replicas("v1", 1, STARTING), OPEN)
    assert isinstance(stop, StopReplica)
    assert not stop.is_graceful


def test_max_surge_percent_starts_that_many_extra() -> None:
    assert plan(wanted("v2", target=10, max_surge_percent=30), replicas("v1", 10)) == [
        "start 10",
        "start 11",
        "start 12",
    ]


def test_without_surge_a_fraction_stops_first_as_in_ray_serve() -> None:
    goal = wanted("v2", target=10, max_surge_percent=0)
    assert plan(goal, replicas("v1", 10)) == [
        "stop v1-running-9",
        "stop v1-running-8",
        "start 8",
        "start 9",
    ]
    assert plan(goal, replicas("v1", 8), replicas("v2", 2, STARTING, rank=8)) == []
    assert plan(goal, replicas("v1", 8), replicas("v2", 2, rank=8)) == [
        "stop v1-running-7",
        "stop v1-running-6",
        "start 6",
        "start 7",
    ]


def test_a_new_version_that_keeps_failing_stops_no_old_replica() -> None:
    for surge in (None, 0, 50):
        goal = wanted("v2", target=2, max_surge_percent=surge)
        assert plan(goal, replicas("v1", 2), gate=GIVEN_UP) == []
        assert plan(goal, replicas("v1", 1), gate=GIVEN_UP) == []


def test_a_failing_versions_own_replicas_go_first_when_there_are_too_many() -> None:
    goal = wanted("v2", target=2)
    assert plan(goal, replicas("v1", 2), replicas("v2", 1, rank=2), gate=GIVEN_UP) == ["stop v2-running-0"]


def test_nothing_is_started_while_the_gate_is_closed_for_a_time() -> None:
    assert plan(wanted(target=2), gate=StartGate(is_open=False, opens_at=7.0)) == []


def test_scaling_down_takes_unready_replicas_first_then_the_newest() -> None:
    goal = wanted("v2", target=2)
    group = [*replicas("v2", 3), *replicas("v2", 1, STARTING, rank=3, begun_at=9)]
    assert plan(goal, group) == ["stop v2-starting-0", "stop v2-running-2"]


def test_no_replicas_wanted_stops_all_of_them() -> None:
    assert plan(wanted(target=0), replicas("v2", 1), replicas("v2", 1, RECOVERING)) == [
        "stop v2-running-0",
        "stop v2-recovering-0",
    ]


def test_replicas_that_are_being_adopted_are_waited_for() -> None:
    assert plan(wanted("v2", target=1), replicas("v2", 1, RECOVERING)) == []
    assert plan(wanted("v2", target=1), replicas("v1", 2, RECOVERING)) == []


def test_other_settings_are_tried_on_one_replica_and_then_on_a_fraction() -> None:
    goal = wanted("v1", target=10, settings="s2", rolling_update_percentage=0.3)
    assert plan(goal, replicas("v1", 10)) == ["reconfigure v1-running-0"]
    proven = replicas("v1", 1, settings="s2", rank=20)
    assert plan(goal, proven, [r for r in replicas("v1", 10) if r.rank]) == [
        "reconfigure v1-running-1",
        "reconfigure v1-running-2",
        "reconfigure v1-running-3",
    ]


def test_a_replica_that_refused_its_settings_serves_until_a_new_one_has_them() -> None:
    goal = wanted("v1", target=1, settings="s2")
    refused = replicas("v1", 1, refused="s2")
    assert plan(goal, refused) == ["start 1"]
    assert plan(goal, refused, replicas("v1", 2, settings="s2")[1:]) == ["stop v1-running-0"]
    assert plan(goal, refused, gate=GIVEN_UP) == []


def test_a_replica_that_refused_settings_is_replaced_whatever_is_wanted_by_then() -> None:
    half = replicas("v1", 1, refused="s2")  # "s1" is what it had, and it may have taken half of "s2"
    assert plan(wanted("v1", 1, "s1"), half) == ["start 1"]
    assert plan(wanted("v1", 1, "s3"), half) == ["start 1"]


def test_settings_that_one_replica_refused_are_tried_by_a_new_one_before_the_others_hear_of_them() -> None:
    goal = wanted("v1", 3, "s2", rolling_update_percentage=1.0)
    refused, others = replicas("v1", 1, refused="s2"), replicas("v1", 3)[1:]
    assert plan(goal, refused, others) == ["start 3"]
    new = replicas("v1", 4, settings="s2")[3:]
    assert plan(goal, refused, others, new) == [
        "stop v1-running-0", "reconfigure v1-running-1", "reconfigure v1-running-2",
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_settled_deployment_is_left_alone(count: int) -> None:
    for surge in (None, 0, 50):
        assert plan(wanted("v2", target=count, max_surge_percent=surge), replicas("v2", count)) == []
