"""Properties that hold in every history: random deploys, failures, kills and waits."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_lite.policy.actions import RollBack, StartReplica, StopReplica
from serve_lite.policy.callers import updated_before
from serve_lite.policy.rollout import batch_size, is_usable, stops_first, surge
from serve_lite.policy.standby import in_force
from serve_lite.schema import DeploymentStatus, ReplicaState
from serve_lite.state.ids import DeploymentId
from serve_lite.state.observed import ReplicaView
from tests.policy.cases import MODEL, wanted
from tests.policy.test_callers import chain
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
        "min_ready_s": st.sampled_from([0.0, 0.0, 3.0, 30.0]),
        "rollback_on_failure": st.booleans(),
    }
)
kills = st.fixed_dictionaries({"kind": st.just("kill"), "victim": st.integers(0, 10)})
waits = st.fixed_dictionaries({"kind": st.just("wait"), "for_s": st.floats(0.01, 60)})
jumps = st.fixed_dictionaries(
    {"kind": st.sampled_from(["suspend", "reboot", "restart daemon"]), "by_s": st.floats(0.01, 5000)}
)
histories = st.lists(st.one_of(deploys, kills, waits, waits, jumps), max_size=14)


class Rules:
    """What no pass may ever do."""

    def __init__(self) -> None:
        self.rolled_back: list[int] = []

    @staticmethod
    def is_counting_anew(done: Pass) -> bool:
        """Whether some of those that served are only found again: they are there, though not yet known to be."""
        return any(r.state is ReplicaState.RECOVERING for r in done.after.replicas.values())

    def __call__(self, done: Pass) -> None:
        [wanted_now] = done.goal.apps["shop"].deployments
        goal = in_force(wanted_now, done.before.deployments.get(wanted_now.id))
        alive = [r for r in done.after.replicas.values() if r.is_alive]
        ranks = [r.rank for r in alive]
        assert len(set(ranks)) == len(ranks), "two replicas have the same rank"

        assert sum(isinstance(a, RollBack) for a in done.actions) <= 1
        for action in done.actions:
            if isinstance(action, RollBack):
                self.rolled_back.append(action.revision)
        assert len(set(self.rolled_back)) == len(self.rolled_back), "a revision was rolled back twice"

        stopped = {a.replica for a in done.actions if isinstance(a, StopReplica) and not a.is_failure}
        served = [r for r in done.before.replicas.values() if r.is_running and r.id in stopped]
        # One that is taking other settings is back in a moment, and calls wait for it.
        left = sum(r.state in (ReplicaState.RUNNING, ReplicaState.UPDATING) for r in alive)
        if served and not self.is_counting_anew(done):
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
        elif step["kind"] == "suspend":
            world.suspend(step["by_s"])
        elif step["kind"] == "reboot":
            world.reboot(step["by_s"])
        elif step["kind"] == "restart daemon":
            world.restart_daemon()
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
                    min_ready_s=step["min_ready_s"],
                ),
                rollback_on_failure=step["rollback_on_failure"],
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
    # What the update had taken comes back, if something was left.
    assert len(world.running("v1")) in ({before} if target > lost else {0, before})
    status = world.observed.deployments[MODEL].status
    # With one replica stopped first nothing is left of the old version: Ray Serve's order promises no more.
    assert status is DeploymentStatus.DEPLOY_FAILED
    tries = world.starts
    world.settle()
    assert world.starts == tries, "a version that was given up was started again"


class Order:
    """In which order new versions of Front, which calls Middle, which calls Back, come."""

    def __call__(self, done: Pass) -> None:
        app = done.goal.apps["shop"]
        wanted_now = {d.id: d for d in app.deployments}
        first = updated_before(app)
        for action in done.actions:
            if not isinstance(action, StartReplica) or action.is_standby:
                continue
            own = _serving(done, action.deployment)
            goal = wanted_now[action.deployment]
            if any(r.version == goal.version for r in own) or not own:
                continue  # it has begun, or nothing of it serves
            if done.before.deployments[goal.id].starts.has_started:
                continue  # its version is not new
            for other in first[goal.id]:
                serving = _serving(done, other.id)
                assert {r.version for r in serving} == {other.version}, (
                    f"{goal.id.name} before {other.id.name}"
                )


def _serving(done: Pass, deployment: DeploymentId) -> list[ReplicaView]:
    """Return the replicas that calls may reach, or that are about to be found again."""
    return [
        r
        for r in done.before.replicas_of(deployment)
        if r.is_alive and r.state is not ReplicaState.STARTING and r.id not in _stopped(done)
    ]


def _stopped(done: Pass) -> set[str]:
    return {a.replica for a in done.actions if isinstance(a, StopReplica)}


updates = st.fixed_dictionaries(
    {
        "kind": st.just("update"),
        "bad": st.sampled_from(["", "", "back", "middle", "front"]),
        "behaviour": st.sampled_from([BAD, CRASHING, SLOW]),
        "target": st.integers(1, 3),
        "options": st.sampled_from([{}, {"max_surge_percent": 0}, {"min_ready_s": 5.0}]),
        "rollback_on_failure": st.booleans(),
    }
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(updates, updates, kills, waits, jumps), max_size=10))
def test_callees_come_first_whatever_fails_and_a_good_version_is_reached(
    history: list[dict[str, Any]],
) -> None:
    world = World(check=Order())
    world.deploy(*chain("0"))
    number = 0
    for step in history:
        match step["kind"]:
            case "update":
                number += 1
                if step["bad"]:
                    world.behaviours[f"{step['bad']} {number}"] = step["behaviour"]
                goals = chain(str(number), step["target"], **step["options"])
                world.deploy(*goals, rollback_on_failure=step["rollback_on_failure"])
            case "kill":
                victims = sorted(world.observed.replicas)
                if victims:
                    world.kill(victims[step["victim"] % len(victims)])
            case "wait":
                world.run(step["for_s"])
            case "suspend":
                world.suspend(step["by_s"])
            case "reboot":
                world.reboot(step["by_s"])
            case "restart daemon":
                world.restart_daemon()

    world.deploy(*chain("last", 2))
    world.settle()
    versions = sorted(r.version for r in world.running())
    assert versions == ["back last"] * 2 + ["front last"] * 2 + ["middle last"] * 2
    assert all(v.status is DeploymentStatus.HEALTHY for v in world.observed.deployments.values())
    before = world.starts, world.stops
    world.settle()
    assert (world.starts, world.stops) == before, "a settled application was touched"
