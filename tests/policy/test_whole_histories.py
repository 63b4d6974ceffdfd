"""Everything at once: versions that fail, old replicas that die meanwhile, rollbacks, waits to be available, replicas
that fail their calls, too few GPUs, builds that fail, daemons and machines that start again."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_lite.config import OutlierEjection
from serve_lite.policy.actions import RollBack, StartReplica, StopReplica
from serve_lite.policy.rollout import batch_size, stops_first, surge
from serve_lite.policy.standby import in_force
from serve_lite.schema import DeploymentStatus, ReplicaState
from serve_lite.state.events import ReplicaCounted
from serve_lite.state.resources import Gpu, Machine
from tests.policy.cases import MODEL, wanted
from tests.policy.test_application_statuses import Follower
from tests.policy.test_devices import is_within
from tests.policy.test_histories import BAD, CRASHING, GOOD, SLOW, jumps, kills, waits
from tests.policy.world import Behaviour, Pass, World

FOUR_GPUS = Machine(cpus=8, gpus=tuple(Gpu(id=str(i)) for i in range(4)))
ILL = Behaviour(is_well=False)

deploys = st.fixed_dictionaries(
    {
        "kind": st.just("deploy"),
        "behaviour": st.sampled_from([GOOD, GOOD, BAD, CRASHING, SLOW, ILL]),
        "is_same_version": st.booleans(),
        "settings": st.sampled_from(["s1", "s2", "bad settings"]),
        "target": st.integers(0, 4),
        "gpus": st.sampled_from([0, 0.5, 1]),
        "max_surge_percent": st.sampled_from([None, None, 0, 100]),
        "min_ready_s": st.sampled_from([0.0, 3.0, 30.0]),
        "outliers": st.sampled_from([None, OutlierEjection(consecutive_errors=3, base_ejection_s=5.0)]),
        "rollback_on_failure": st.booleans(),
    }
)
calls = st.fixed_dictionaries(
    {
        "kind": st.just("calls"),
        "replica": st.integers(0, 10),
        "ended": st.integers(1, 9),
        "fail": st.booleans(),
    }
)
builds = st.fixed_dictionaries({"kind": st.just("bad build"), "rollback_on_failure": st.booleans()})
histories = st.lists(
    st.one_of(deploys, deploys, kills, calls, calls, waits, waits, jumps, builds), max_size=16
)


def never(done: Pass) -> None:
    """Check what no pass may ever do."""
    [wanted_now] = done.goal.apps["shop"].deployments
    goal = in_force(wanted_now, done.before.deployments.get(MODEL))
    alive = [r for r in done.after.replicas.values() if r.is_alive]
    assert is_within(FOUR_GPUS, [r.allotment for r in done.after.replicas.values()])
    assert len({r.rank for r in alive}) == len(alive), "two replicas have the same rank"
    assert sum(isinstance(a, RollBack) for a in done.actions) <= 1

    stops = [a for a in done.actions if isinstance(a, StopReplica)]
    chosen = {a.replica for a in stops if not a.is_failure and "no room for both" not in a.reason}
    served = [r for r in done.before.replicas.values() if r.is_serving and r.id in chosen]
    is_counting = any(r.state is ReplicaState.RECOVERING for r in alive)
    if served and not is_counting:
        left = sum(r.is_running or r.state is ReplicaState.UPDATING for r in alive)
        promised = goal.target - (batch_size(goal) if stops_first(goal) else 0)
        assert left >= promised, f"only {left} serve, {promised} were promised"
    if any(isinstance(a, StartReplica) for a in done.actions):
        assert len(alive) <= goal.target + (0 if stops_first(goal) else surge(goal)), "more than allowed"

    was_serving = {r.id for r in done.before.replicas.values() if r.is_serving}
    now_ejected = {r.id for r in alive if r.calls.ejected_until is not None and r.id in was_serving}
    if now_ejected:
        assert any(r.is_serving for r in alive), "the last one that serves was ejected"


def play(world: World, history: list[dict[str, Any]]) -> None:
    number = 0
    for step in history:
        victims = sorted(world.observed.replicas)
        match step["kind"]:
            case "deploy":
                number += not step["is_same_version"]
                world.behaviours.setdefault(f"v{number}", step["behaviour"])
                goal = wanted(
                    f"v{number}",
                    step["target"],
                    step["settings"],
                    ray_actor_options={"num_gpus": step["gpus"]} if step["gpus"] else {},
                    max_surge_percent=step["max_surge_percent"],
                    min_ready_s=step["min_ready_s"],
                    outlier_ejection=step["outliers"],
                )
                version = f"v{number} with {step['gpus']}"  # other resources are another version
                world.behaviours.setdefault(version, world.behaviours[f"v{number}"])
                goal = msgspec.structs.replace(goal, version=version)
                world.deploy(goal, rollback_on_failure=step["rollback_on_failure"])
            case "kill" if victims:
                world.kill(victims[step["victim"] % len(victims)])
            case "calls" if running := world.running():
                replica = running[step["replica"] % len(running)]
                seen, more = replica.calls, step["ended"]
                counted = ReplicaCounted(
                    replica=replica.id,
                    at=world.now,
                    ended=seen.ended + more,
                    failures=seen.failures + (more if step["fail"] else 0),
                    streak=seen.streak + more if step["fail"] else 0,
                )
                world.fold([counted])
                world.look()
            case "wait":
                world.run(step["for_s"])
            case "suspend":
                world.suspend(step["by_s"])
            case "reboot":
                world.reboot(step["by_s"])
            case "restart daemon":
                world.restart_daemon()
            case "bad build":
                world.submit_bad(rollback_on_failure=step["rollback_on_failure"])


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories)
def test_whatever_comes_together_nothing_is_broken_and_a_good_version_is_reached(
    history: list[dict[str, Any]],
) -> None:
    world = World({"bad settings": BAD}, check=never, machine=FOUR_GPUS, watch=Follower())
    world.deploy(wanted("v0", 2))
    play(world, history)
    world.settle()
    world.settle()

    view = world.observed.deployments[MODEL]
    if view.has_fallen_back:
        goal = in_force(world.goal.apps["shop"].deployments[0], view)
        if world.behaviours.get(goal.version, GOOD) in (GOOD, SLOW) and goal.settings != "bad settings":
            serving = [(r.version, r.settings) for r in world.running()]
            assert serving == [(goal.version, goal.settings)] * goal.target, "what serves was not healed"

    world.deploy(wanted("last", 3))
    world.settle()
    assert [(r.version, r.state) for r in world.observed.replicas.values()] == [
        ("last", ReplicaState.RUNNING)
    ] * 3
    assert world.observed.deployments[MODEL].status is DeploymentStatus.HEALTHY
    before = world.starts, world.stops
    world.settle()
    assert (world.starts, world.stops) == before, "a settled deployment was touched"
