"""Deployments that want more than there is: who runs, who waits and is told why, and that updates end."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_lite.policy.actions import StopReplica
from serve_lite.policy.claims import with_claims
from serve_lite.policy.reconcile import reconcile
from serve_lite.schema import DeploymentStatus, ReplicaState
from serve_lite.state.events import ReplicaOverused
from serve_lite.state.goal import DeploymentGoal, Goal
from serve_lite.state.ids import DeploymentId
from serve_lite.state.observed import DeploymentView, Health, Observed
from serve_lite.state.resources import Allotment, Gpu, Machine, needs_of
from tests.policy.cases import application, goal_of, replicas, wanted
from tests.policy.test_devices import is_within
from tests.policy.world import Behaviour, Pass, World

A, B, C = (DeploymentId(name, "shop") for name in "ABC")
TWO_GPUS = Machine(cpus=2, gpus=(Gpu(id="0"), Gpu(id="1")))


def on(
    num_gpus: float, deployment: DeploymentId = A, version: str = "v1", target: int = 1, **more: Any
) -> DeploymentGoal:
    return wanted(
        version,
        target,
        deployment=deployment,
        ray_actor_options={"num_gpus": num_gpus, **more.pop("also", {})},
        **more,
    )


def gpus_of(world: World, deployment: DeploymentId, version: str | None = None) -> list[str]:
    """Return the GPUs of a deployment's running replicas."""
    return sorted(
        i for r in world.running(version) if r.deployment == deployment for i in r.allotment.gpu_ids
    )


def view(world: World, deployment: DeploymentId = A) -> DeploymentView:
    return world.observed.deployments[deployment]


def never_too_much(done: Pass) -> None:
    assert is_within(TWO_GPUS, [r.allotment for r in done.after.replicas.values()])


# --- waiting ------------------------------------------------------------------------------------


def test_those_that_fit_run_and_the_others_wait_and_say_why_at_once() -> None:
    world = World(machine=TWO_GPUS)
    world.deploy(on(1, target=3))
    at_once = view(world).message
    assert at_once == (
        "Deployment 'A' in application 'shop' has 1 replica that waits to be scheduled: each needs 1 GPU, and 0 of 2 "
        "are free."
    )
    world.run(29)
    assert gpus_of(world, A) == ["0", "1"] and view(world).message == at_once
    world.run(2)
    assert (
        "has 1 replicas that have taken more than 30s to be scheduled: each needs 1 GPU"
        in view(world).message
    )
    assert view(world).status is DeploymentStatus.UPDATING


def test_one_that_waits_starts_when_another_has_gone_and_its_message_goes() -> None:
    world = World(machine=TWO_GPUS, check=never_too_much)
    world.deploy(on(1, A, target=2), on(1, B))
    world.run(5)
    assert gpus_of(world, B) == [] and view(world, B).held_since is not None
    assert view(world, B).waits_for == "a GPU"
    world.deploy(on(1, A, target=1), on(1, B))
    world.run(5)
    assert len(gpus_of(world, B)) == 1
    seen = view(world, B)
    assert (seen.status, seen.message, seen.waits_for, seen.held_since) == (
        DeploymentStatus.HEALTHY,
        "",
        "",
        None,
    )


def test_a_deployment_that_needs_less_now_is_told_of_no_more() -> None:
    world = World(machine=TWO_GPUS)
    world.deploy(on(1, target=3))
    world.run(5)
    world.deploy(on(1, target=2))
    world.run(5)
    assert view(world).status is DeploymentStatus.HEALTHY and view(world).held_since is None


def test_a_place_stays_its_own_until_the_process_is_gone() -> None:
    world = World({"slow": Behaviour(stop_s=30)}, machine=TWO_GPUS, check=never_too_much)
    world.deploy(on(1, A, "slow", 2))
    world.run(5)
    world.deploy(on(1, A, "slow", 1), on(1, B))
    world.run(20)
    assert gpus_of(world, B) == []
    world.run(15)
    assert len(gpus_of(world, B)) == 1


def test_a_start_that_fails_is_told_beside_what_the_others_wait_for() -> None:
    world = World({"bad": Behaviour(starts=False)}, machine=TWO_GPUS)
    world.deploy(on(1, A, "bad", 3))
    world.run(0.7)
    assert "A replica failed to start with exception" in view(world).message
    assert "1 replica that waits to be scheduled" in view(world).message


def test_a_replacement_that_has_to_wait_leaves_the_deployment_unhealthy_and_says_both() -> None:
    world = World(machine=TWO_GPUS)
    world.deploy(on(1, A))
    world.run(15)
    world.machine = Machine(gpus=())  # the next daemon sees none
    world.kill(world.running()[0].id)
    assert view(world).status is DeploymentStatus.UNHEALTHY
    assert "health check failed" in view(world).message and "this machine has none" in view(world).message
    world.machine = TWO_GPUS
    world.look()
    world.run(5)
    assert view(world).status is DeploymentStatus.HEALTHY


def test_a_replica_that_took_more_than_it_was_given_is_replaced_and_its_deployment_unhealthy_meanwhile() -> (
    None
):
    world = World(machine=TWO_GPUS)
    world.deploy(on(0, also={"memory": 1000}))
    world.run(15)
    (greedy,) = world.running()
    world.fold([ReplicaOverused(replica=greedy.id, reason="it used 2 KiB", at=world.now)])
    world.look()
    assert view(world).status is DeploymentStatus.UNHEALTHY and "it used 2 KiB" in view(world).message
    world.run(5)
    assert view(world).status is DeploymentStatus.HEALTHY and greedy not in world.running()
    world.fold([ReplicaOverused(replica=greedy.id, reason="it has ended meanwhile", at=world.now)])


# --- who comes first ----------------------------------------------------------------------------


def test_a_replacement_comes_before_those_that_came_later() -> None:
    world = World(machine=TWO_GPUS)
    world.deploy(on(1, A, target=2))
    world.deploy(on(1, A, target=2), on(1, B))
    world.run(5)
    world.kill(world.running()[0].id)
    world.run(5)
    assert gpus_of(world, A) == ["0", "1"] and gpus_of(world, B) == []


def test_a_large_one_is_not_overtaken_by_small_ones_that_came_later() -> None:
    world = World(machine=TWO_GPUS)
    world.deploy(on(0.5, A, target=2), on(2, B), on(0.5, C))
    world.run(5)
    assert gpus_of(world, B) == [] and gpus_of(world, C) == []
    assert "kept for deployments that came first" in view(world, C).message
    world.deploy(on(2, B), on(0.5, C))
    world.run(60)
    assert gpus_of(world, B) == ["0", "1"]


def test_one_that_can_never_run_is_in_nobodys_way() -> None:
    world = World(machine=TWO_GPUS)
    world.deploy(on(3, A), on(2, B))
    world.run(5)
    assert gpus_of(world, B) == ["0", "1"]
    assert "needs 3 GPUs, and this machine has 2" in view(world, A).message


def test_one_that_wants_more_replicas_queues_again_and_one_that_does_not_keeps_its_place() -> None:
    first = with_claims(Goal(), goal_of(application(on(1, A), on(1, B), wanted(deployment=C))))

    def claims(goal: Goal) -> list[int]:
        return [d.claim for d in goal.apps["shop"].deployments]

    assert claims(first) == [1, 2, 0]
    changed = goal_of(application(on(2, A, "v2"), on(1, B, target=2), wanted(deployment=C)))
    second = with_claims(first, changed)
    assert claims(second) == [1, 3, 0]
    assert with_claims(second, second) is second
    fewer = with_claims(second, goal_of(application(on(1, A), on(1, B, target=1))))
    assert claims(fewer) == [1, 3]
    deleted = goal_of(msgspec.structs.replace(second.apps["shop"], is_deleting=True))
    assert claims(with_claims(deleted, changed)) == [4, 5, 0]


# --- updates ------------------------------------------------------------------------------------


def test_an_update_without_room_stops_one_old_replica_for_each_new_one_and_says_so() -> None:
    served: list[int] = []

    def count(done: Pass) -> None:
        never_too_much(done)
        served.append(sum(r.is_running for r in done.after.replicas.values()))

    world = World(machine=TWO_GPUS)
    world.deploy(on(1, target=2))
    world.run(5)
    world.check = count
    world.deploy(on(1, version="v2", target=2))
    assert "so one of these is stopped for each that is started" in view(world).message
    world.run(20)
    assert gpus_of(world, A, "v2") == ["0", "1"] and view(world).status is DeploymentStatus.HEALTHY
    assert min(served) == 1, "more than one was out of service at once"


def test_an_update_with_room_starts_the_new_one_first() -> None:
    world = World(machine=TWO_GPUS)
    world.deploy(on(1))
    world.run(5)
    world.check = lambda done: never_too_much(done) or _somebody_serves(done)
    world.deploy(on(1, version="v2"))
    world.run(20)
    assert gpus_of(world, A, "v2") == ["1"]


def _somebody_serves(done: Pass) -> None:
    assert any(r.is_running for r in done.after.replicas.values())


def test_a_new_version_that_needs_more_takes_the_place_of_several() -> None:
    world = World(machine=TWO_GPUS, check=never_too_much)
    world.deploy(on(1, target=2))
    world.run(5)
    world.deploy(on(2, version="v2", target=1))
    world.run(20)
    assert gpus_of(world, A, "v2") == ["0", "1"] and view(world).status is DeploymentStatus.HEALTHY


def test_a_new_replica_that_is_ill_gives_its_own_place_to_the_next_one_and_no_old_one_stops_for_it() -> None:
    goal = on(1, version="v2", target=2)
    needs = needs_of(goal.config.ray_actor_options)
    (old,) = replicas("v1", 1, deployment=A, allotment=Allotment(needs=needs, gpu_ids=("0",)))
    (ill,) = replicas(
        "v2",
        1,
        deployment=A,
        rank=1,
        allotment=Allotment(needs=needs, gpu_ids=("1",)),
        health=Health(strikes=3),
    )
    observed = Observed(
        replicas={r.id: r for r in (old, ill)}, deployments={A: DeploymentView(version="v2", settings="s1")}
    )
    plan = reconcile(goal_of(application(goal)), observed, 100.0, machine=TWO_GPUS)
    assert [a.replica for a in plan.actions if isinstance(a, StopReplica)] == [ill.id]


def test_nothing_is_stopped_for_a_version_that_would_not_fit_even_then() -> None:
    world = World(machine=TWO_GPUS)
    world.deploy(on(1, A), on(1, B))
    world.run(5)
    world.deploy(on(2, A, "v2"), on(1, B))
    world.run(60)
    assert len(gpus_of(world, A, "v1")) == 1, "what served was stopped for nothing"
    assert "needs 2 GPUs, and 0 of 2 are free" in view(world).message
    assert "is stopped" not in view(world).message


def test_a_failing_version_takes_the_place_of_one_old_replica_and_gives_it_back() -> None:
    fewest = 2

    def look(done: Pass) -> None:
        nonlocal fewest
        never_too_much(done)
        fewest = min(fewest, sum(r.is_running and r.version == "v1" for r in done.after.replicas.values()))

    world = World({"bad": Behaviour(starts=False)}, machine=TWO_GPUS, check=never_too_much)
    world.deploy(on(1, target=2))
    world.run(5)
    world.check = look
    world.deploy(on(1, version="bad", target=2))
    world.settle()
    assert fewest == 1
    assert len(gpus_of(world, A, "v1")) == 2
    assert view(world).status is DeploymentStatus.DEPLOY_FAILED


def test_what_the_newest_version_left_out_makes_room_for_what_is_new_in_it() -> None:
    world = World(machine=TWO_GPUS, check=never_too_much)
    world.deploy(on(2, A))
    world.run(5)
    world.deploy(on(2, B))
    world.run(20)
    assert gpus_of(world, B) == ["0", "1"] and A not in world.observed.deployments


# --- every history ------------------------------------------------------------------------------

wishes = st.fixed_dictionaries(
    {
        "num_gpus": st.sampled_from([0, 0.3, 0.5, 1, 2]),
        "num_cpus": st.sampled_from([0, 0.5, 1, 2]),
        "target": st.integers(1, 4),
        "version": st.sampled_from(["v1", "v2", "v3", "bad", "slow"]),
        "max_surge_percent": st.sampled_from([None, None, 0, 100]),
    }
)
steps = st.one_of(
    st.lists(wishes, min_size=3, max_size=3), st.integers(0, 20).map(lambda n: -n), st.floats(0.01, 50)
)


def wish(deployment: DeploymentId, wish: dict[str, Any]) -> DeploymentGoal:
    needs = {"num_gpus": wish["num_gpus"], "num_cpus": wish["num_cpus"]}
    version = f"{wish['version']} on {needs}"
    return wanted(
        version,
        wish["target"],
        deployment=deployment,
        ray_actor_options=needs,
        max_surge_percent=wish["max_surge_percent"],
        health_check_period_s=100.0,
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=10))
def test_whatever_happens_nothing_is_given_twice_and_what_fits_is_reached(history: list[Any]) -> None:
    behaviours = {"bad": Behaviour(starts=False), "slow": Behaviour(start_s=40.0, stop_s=15.0)}
    world = World(machine=TWO_GPUS, check=never_too_much)
    for step in history:
        if isinstance(step, list):
            deployments = [wish(d, w) for d, w in zip((A, B, C), step, strict=True)]
            for goal in deployments:
                kind = goal.version.split()[0]
                world.behaviours[goal.version] = behaviours.get(kind, Behaviour())
            world.deploy(*deployments)
        elif step <= 0:
            victims = sorted(world.observed.replicas)
            if victims:
                world.kill(victims[-int(step) % len(victims)])
        else:
            world.run(step)
    # Small enough for every way in which the GPUs can be shared by now: what runs is not moved to make it fit better.
    world.deploy(*(on(0.5, d, "last", also={"num_cpus": 0.5}) for d in (A, B, C)))
    world.settle()
    for goal in world.goal.apps["shop"].deployments:
        (replica,) = [r for r in world.observed.replicas.values() if r.deployment == goal.id]
        assert (replica.state, replica.version) == (ReplicaState.RUNNING, "last")
        assert replica.allotment.needs == needs_of(goal.config.ray_actor_options)
        assert (
            view(world, goal.id).status is DeploymentStatus.HEALTHY
            and view(world, goal.id).held_since is None
        )
    before = world.starts, world.stops
    world.settle()
    assert (world.starts, world.stops) == before, "a settled deployment was touched"
