"""Properties that hold in every history: random deploys, failures, kills and waits."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_lite.policy.actions import StartReplica, StopReplica
from serve_lite.policy.rollout import batch_size, is_usable, stops_first, surge
from serve_lite.schema import DeploymentStatus, ReplicaState
from tests.policy.cases import MODEL, wanted
from tests.policy.world import Behaviour, Pass, World

GOOD, BAD, CRASHING = Behaviour(), Behaviour(starts=False), Behaviour(runs_s=2.0)
SLOW = Behaviour(start_s=40.0, stop_s=15.0)

deploys = st.fixed_dictionaries(
    {
        "kind": st.just("deploy"),
        "behaviour": st.sampled_from([GOOD, GOOD, BAD, CRASHING, SLOW]),
        "is_same_version": st.booleans(),
        "target": st.integers(1, 5),
        "settings": st.sampled_from(["s1", "s2", "bad settings"]),
        "max_surge_percent": st.sampled_from([None, None, 0, 50, 100]),
        "rolling_update_percentage": st.sampled_from([0.2, 0.5, 1.0]),
    }
)
kills = st.fixed_dictionaries({"kind": st.just("kill"), "victim": st.integers(0, 10)})
waits = st.fixed_dictionaries({"kind": st.just("wait"), "for_s": st.floats(0.01, 60)})
histories = st.lists(st.one_of(deploys, kills, waits, waits), max_size=14)


class Rules:
    """What no pass may ever do."""

    def __init__(self) -> None:
        self.version = "v0"

    def __call__(self, done: Pass) -> None:
        goal = done.goal.apps["shop"].deployments[0]
        alive = [r for r in done.after.replicas.values() if r.is_alive]
        ranks = [r.rank for r in alive]
        assert len(set(ranks)) == len(ranks), "two replicas have the same rank"

        stopped = {a.replica for a in done.actions if isinstance(a, StopReplica) and not a.is_failure}
        served = [r for r in done.before.replicas.values() if r.is_running and r.id in stopped]
        # One that is taking other settings is back in a moment, and calls wait for it.
        left = sum(r.state in (ReplicaState.RUNNING, ReplicaState.UPDATING) for r in alive)
        if served:
            promised = goal.target - (batch_size(goal) if stops_first(goal) else 0)
            assert left >= promised, f"only {left} serve, {promised} were promised"

        if any(isinstance(a, StartReplica) for a in done.actions):
            extra = 0 if stops_first(goal) else surge(goal)
            assert len(alive) <= goal.target + extra, "more replicas than allowed"
            assert sum(is_usable(goal, r) for r in alive) <= goal.target, "more new replicas than wanted"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories)
def test_whatever_happens_the_rules_hold_and_a_good_version_is_reached(history: list[dict[str, Any]]) -> None:
    world = World({"bad settings": BAD, "v0": GOOD}, check=Rules())
    world.deploy(wanted("v0", 2))
    number, settings_now = 0, "s1"
    for step in history:
        if step["kind"] == "kill":
            victims = sorted(world.observed.replicas)
            if victims:
                world.kill(victims[step["victim"] % len(victims)])
        elif step["kind"] == "wait":
            world.run(step["for_s"])
        else:
            number += not step["is_same_version"]
            version, settings_now = f"v{number}", step["settings"]
            world.behaviours.setdefault(version, step["behaviour"])
            world.deploy(
                wanted(
                    version,
                    step["target"],
                    settings_now,
                    max_surge_percent=step["max_surge_percent"],
                    rolling_update_percentage=step["rolling_update_percentage"],
                )
            )

    world.deploy(wanted("last", 3, "s1"))
    world.settle()
    assert [(r.version, r.settings, r.state) for r in world.observed.replicas.values()] == [
        ("last", "s1", ReplicaState.RUNNING)
    ] * 3
    assert world.observed.deployments[MODEL].status is DeploymentStatus.HEALTHY
    before = world.starts, world.stops
    world.settle()
    assert (world.starts, world.stops) == before, "a settled deployment was touched"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([None, 0, 50, 100]),
    st.sampled_from([0.2, 0.5, 1.0]),
    st.lists(st.floats(0.01, 30), max_size=5),
)
def test_a_version_that_never_starts_takes_no_more_than_its_batch_from_the_old_one(
    before: int, target: int, surge_percent: int | None, fraction: float, waits: list[float]
) -> None:
    world = World({"bad": BAD}, check=Rules())
    world.deploy(wanted("v1", before))
    world.settle()
    goal = wanted("bad", target, max_surge_percent=surge_percent, rolling_update_percentage=fraction)
    world.deploy(goal)
    for for_s in waits:
        world.run(for_s)
    world.settle()
    lost = batch_size(goal) if stops_first(goal) else 0
    assert len(world.running("v1")) >= min(before, target - lost)
    status = world.observed.deployments[MODEL].status
    # With one replica stopped first nothing is left of the old version: Ray Serve's order promises no more.
    assert status is DeploymentStatus.DEPLOY_FAILED
    tries = world.starts
    world.settle()
    assert world.starts == tries, "a version that was given up was started again"
