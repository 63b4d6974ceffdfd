"""Replicas that have served long enough: another one takes the place of each, and nobody notices."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_lite.schema import DeploymentStatus
from serve_lite.state.events import ReplicaWorn
from serve_lite.state.resources import Gpu, Machine
from tests.policy.cases import MODEL, wanted
from tests.policy.world import Behaviour, Pass, World


def wear(world: World, *replicas: str, reason: str = "it is older than 60 s") -> None:
    world.fold(ReplicaWorn(replica=replica, reason=reason, at=world.now) for replica in replicas)
    world.look()


def worn_out(world: World) -> list[str]:
    """Have all that run be worn; return which they were."""
    replicas = [r.id for r in world.running()]
    wear(world, *replicas)
    return replicas


class Served:
    """How many served after each pass, and what the deployment said of itself."""

    def __init__(self) -> None:
        self.least, self.most = 1000, 0
        self.statuses: set[DeploymentStatus] = set()

    def __call__(self, done: Pass) -> None:
        alive = [r for r in done.after.replicas.values() if r.is_alive]
        self.least = min(self.least, sum(r.is_running for r in alive))
        self.most = max(self.most, len(alive))
        self.statuses.add(done.after.deployments[MODEL].status)


def settled(target: int, **options: object) -> tuple[World, Served]:
    world = World()
    world.deploy(wanted("v1", target, **options))
    world.run(15)
    served = world.check = Served()
    return world, served


def test_each_is_replaced_by_a_new_one_before_it_stops_and_the_deployment_stays_healthy() -> None:
    world, served = settled(3)
    before = worn_out(world)
    world.run(30)
    assert len(world.running()) == 3 and not {r.id for r in world.running()} & set(before)
    assert (served.least, served.most) == (3, 4)
    assert served.statuses == {DeploymentStatus.HEALTHY}
    count = world.starts
    world.settle()
    assert world.starts == count


def test_only_the_one_that_is_worn_is_replaced() -> None:
    world, _ = settled(3)
    first, *others = (r.id for r in world.running())
    wear(world, first)
    world.run(30)
    now = {r.id for r in world.running()}
    assert set(others) < now and first not in now


def test_without_surge_one_stops_first() -> None:
    world, served = settled(3, max_surge_percent=0)
    before = worn_out(world)
    world.run(30)
    assert not {r.id for r in world.running()} & set(before)
    assert (served.least, served.most) == (2, 3)
    assert served.statuses == {DeploymentStatus.HEALTHY}, "nothing is wrong with it"


def test_without_room_for_both_one_stops_first() -> None:
    world = World(machine=Machine(gpus=(Gpu(id="0"),)))
    world.deploy(wanted("v1", 1, ray_actor_options={"num_gpus": 1}))
    world.run(15)
    world.check = served = Served()
    (before,) = worn_out(world)
    world.run(30)
    (after,) = world.running()
    assert served.statuses == {DeploymentStatus.HEALTHY} and served.least == 0
    assert after.id != before and after.allotment.gpu_ids == ("0",)
    assert (world.observed.deployments[MODEL].message, world.observed.deployments[MODEL].is_recycling) == (
        "",
        False,
    )


def test_one_that_cannot_be_replaced_goes_on_serving_and_others_are_tried_for_ever() -> None:
    world, served = settled(1)
    world.behaviours["v1"] = Behaviour(starts=False)
    (before,) = worn_out(world)
    world.run(600)
    assert [r.id for r in world.running()] == [before] and served.least == 1
    world.behaviours["v1"] = Behaviour()
    world.run(120)
    (after,) = world.running()
    assert after.id != before
    assert world.observed.deployments[MODEL].status is DeploymentStatus.HEALTHY


def test_one_whose_limits_were_taken_away_stays() -> None:
    world, _ = settled(1)
    (before,) = worn_out(world)
    wear(world, before, reason="")
    world.run(30)
    assert len(world.running()) == 1 and world.observed.deployments[MODEL].status is DeploymentStatus.HEALTHY


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(1, 5),
    st.sampled_from([None, 50, 100]),
    st.lists(st.tuples(st.integers(0, 9), st.floats(0.01, 5.0)), max_size=15),
)
def test_whenever_they_are_worn_as_many_serve_as_are_wanted(
    target: int, surge: int | None, history: list[tuple[int, float]]
) -> None:
    world, served = settled(target, max_surge_percent=surge, health_check_period_s=100.0)
    for which, for_s in history:
        replicas = [r.id for r in world.observed.replicas.values() if r.is_alive]
        wear(world, replicas[which % len(replicas)])
        world.run(for_s)
    world.run(120)
    assert len(world.running()) == target and not any(r.worn for r in world.running())
    assert served.least >= target and served.statuses == {DeploymentStatus.HEALTHY}
