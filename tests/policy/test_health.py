"""When a replica is sent nothing more, and when it is replaced: by what is known of its process and its loop."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_lite.config import DeploymentConfig
from serve_lite.controller.probes import ProcessLook, judge
from serve_lite.controller.publisher import membership
from serve_lite.policy.health import diagnose, next_check_at
from serve_lite.schema import DeploymentStatus, ReplicaState
from serve_lite.state import events as ev
from serve_lite.state.observed import Health, ReplicaView
from serve_lite.state.pulse import PROBE_PERIOD_S, SUSPECT_MISSES, Doing, Pulse, Silence
from tests.policy.cases import MODEL, replicas, wanted
from tests.policy.world import World


def one(state: ReplicaState = ReplicaState.RUNNING, **fields: Any) -> ReplicaView:
    return replicas("v1", 1, state, **fields)[0]


def blocked(seconds: float, doing: Doing = Doing.COMPUTES, stuck_s: float = 0.0) -> Pulse:
    return Pulse(blocked_s=seconds, stuck_s=stuck_s, doing=doing, where="app.py:7 in f")


def reason(pulse: Pulse, state: ReplicaState = ReplicaState.RUNNING, **options: Any) -> str:
    illness = diagnose(one(state, pulse=pulse), DeploymentConfig(**options))
    return illness.reason if illness is not None else ""


def test_a_long_call_that_blocks_the_loop_is_legal_unless_the_deployment_says_otherwise() -> None:
    hour = blocked(3600)
    assert reason(hour) == ""
    assert reason(hour, progress_timeout_s=600) == (
        "its loop has been blocked for 3600 s at app.py:7 in f: the process uses CPU"
    )
    assert reason(hour, ReplicaState.UPDATING, progress_timeout_s=600) == ""


def test_a_deadlock_is_replaced_after_a_minute() -> None:
    assert reason(blocked(90, Doing.AWAITS_LOCK, stuck_s=59)) == ""
    assert reason(blocked(90, Doing.AWAITS_LOCK, stuck_s=60)).startswith(
        "it is deadlocked: its loop has been"
    )
    assert reason(blocked(90, Doing.AWAITS_LOCK, stuck_s=60), deadlock_timeout_s=None) == ""
    assert reason(blocked(90, Doing.SLEEPS, stuck_s=60)) == ""


@pytest.mark.parametrize("state", [ReplicaState.RUNNING, ReplicaState.UPDATING])
def test_silence_is_borne_for_alive_timeout_s(state: ReplicaState) -> None:
    silent = Pulse(misses=5, silence=Silence.STOPPED)
    assert reason(silent, state, alive_timeout_s=6) == ""
    assert reason(silent, state, alive_timeout_s=5) == (
        "it has not answered for 5 s: its process is stopped (SIGSTOP)"
    )
    assert reason(silent, state, alive_timeout_s=None) == ""


def test_what_a_debugger_holds_is_not_replaced() -> None:
    assert reason(Pulse(misses=10_000, silence=Silence.TRACED)) == ""


def test_what_cannot_hear_is_killed_and_what_fails_its_checks_is_asked() -> None:
    silent = diagnose(one(pulse=Pulse(misses=99, silence=Silence.UNKNOWN)), DeploymentConfig())
    failing = diagnose(one(health=Health(strikes=3, error="ValueError: ill")), DeploymentConfig())
    assert silent is not None and not silent.can_obey
    assert failing is not None and failing.can_obey
    assert failing.reason == "it failed 3 health checks: ValueError: ill"


def test_user_code_without_a_check_is_not_asked() -> None:
    assert next_check_at(one(has_health_check=False), DeploymentConfig()) is None


def test_one_miss_is_enough_if_it_is_known_why_and_three_if_not() -> None:
    assert Pulse(misses=1, silence=Silence.STOPPED).is_suspended
    assert not Pulse(misses=SUSPECT_MISSES - 1, silence=Silence.UNKNOWN).is_suspended
    assert Pulse(misses=SUSPECT_MISSES, silence=Silence.UNKNOWN).is_suspended
    assert not blocked(10_000).is_suspended


@pytest.mark.parametrize(
    ("before", "seen", "verdict"),
    [
        (None, None, Silence.UNKNOWN),
        (None, ProcessLook("T", 1.0), Silence.STOPPED),
        (None, ProcessLook("t", 1.0), Silence.TRACED),
        (None, ProcessLook("S", 1.0), Silence.UNKNOWN),
        (ProcessLook("S", 1.0), ProcessLook("S", 1.01), Silence.UNKNOWN),
        (ProcessLook("S", 1.0), ProcessLook("S", 1.5), Doing.HOLDS_INTERPRETER),
        (None, ProcessLook("R", 1.0), Doing.HOLDS_INTERPRETER),
        (None, ProcessLook("D", 1.0), Doing.WAITS),
    ],
)
def test_silence_is_judged_by_what_the_kernel_tells(
    before: ProcessLook | None, seen: ProcessLook | None, verdict: Silence | Doing
) -> None:
    assert judge(before, seen) is verdict


# --- in a world without processes ---


def unanswered(world: World, replica: str, silence: Silence, times: int) -> None:
    for _ in range(times):
        if replica in world.observed.replicas:
            world.fold([ev.ReplicaUnanswered(replica=replica, at=world.now, silence=silence)])
            world.look()
            world.run(PROBE_PERIOD_S)


def test_a_silent_replica_leaves_routing_and_its_calls_are_taken_back_until_it_answers() -> None:
    world = World()
    world.deploy(wanted("v1", 2))
    world.settle()
    victim, other = [r.id for r in world.running()]
    unanswered(world, victim, Silence.STOPPED, 1)
    told = membership(world.goal, world.observed, MODEL, lambda r: r)
    assert [e.replica_id for e in told.replicas] == [other] and told.silent == (victim,)
    assert world.observed.deployments[MODEL].status is DeploymentStatus.UNHEALTHY
    assert "is sent nothing more" in world.observed.deployments[MODEL].message
    world.fold([ev.ReplicaAnswered(replica=victim, at=world.now)])
    world.look()
    told = membership(world.goal, world.observed, MODEL, lambda r: r)
    assert len(told.replicas) == 2 and told.silent == ()
    assert world.observed.deployments[MODEL].status is DeploymentStatus.HEALTHY
    assert world.stops == 0


def test_a_replica_that_stays_silent_is_replaced() -> None:
    world = World()
    world.deploy(wanted("v1", 2, alive_timeout_s=5.0))
    world.settle()
    victim = world.running()[0].id
    unanswered(world, victim, Silence.UNKNOWN, 5)
    world.settle()
    assert victim not in world.observed.replicas and len(world.running()) == 2
    assert world.observed.deployments[MODEL].status is DeploymentStatus.HEALTHY


_NEWS = st.one_of(
    st.builds(lambda s: ("silent", s), st.sampled_from([s for s in Silence if s])),
    st.builds(lambda b: ("blocked", b), st.floats(0, 200)),
    st.just(("time", 3.0)),
)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 2), _NEWS), max_size=40))
def test_whatever_probes_tell_the_goal_is_reached_once_all_answer_again(
    told: list[tuple[int, tuple[str, Any]]],
) -> None:
    world = World()
    world.deploy(wanted("v1", 3, alive_timeout_s=4.0, progress_timeout_s=100.0))
    world.settle()
    for index, (kind, value) in told:
        running = world.running()
        if kind == "time" or index >= len(running):
            world.run(3.0)
            continue
        replica = running[index].id
        event: ev.Event = ev.ReplicaAnswered(
            replica=replica, at=world.now, blocked_s=value if kind == "blocked" else 0.0, doing=Doing.WAITS
        )
        if kind == "silent":
            event = ev.ReplicaUnanswered(replica=replica, at=world.now, silence=value)
        world.fold([event])
        world.look()
    world.fold([ev.ReplicaAnswered(replica=r.id, at=world.now) for r in world.running()])
    world.look()
    world.settle()
    assert len(world.running()) == 3 == len(world.observed.replicas)
    assert world.observed.deployments[MODEL].status is DeploymentStatus.HEALTHY
    assert all(r.pulse == Pulse() for r in world.running())
