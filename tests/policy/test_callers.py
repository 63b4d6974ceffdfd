"""Several deployments of an application that change together: callees first, and on the way back callers."""

from __future__ import annotations

import msgspec
import pytest

from serve_lite.policy.callers import updated_before
from serve_lite.schema import ApplicationStatus, DeploymentStatus, ReplicaState
from serve_lite.state.applications import app_status
from serve_lite.state.goal import DeploymentGoal
from serve_lite.state.ids import DeploymentId
from tests.policy.cases import application, wanted
from tests.policy.world import Behaviour, World

FRONT, MIDDLE, BACK = (DeploymentId(name, "shop") for name in ("Front", "Middle", "Back"))
S = DeploymentStatus


def chain(version: str, target: int = 1, **options: object) -> list[DeploymentGoal]:
    """Return Front, which calls Middle, which calls Back."""
    return [
        wanted(f"back {version}", target, deployment=BACK, **options),
        wanted(f"middle {version}", target, deployment=MIDDLE, calls=("Back",), **options),
        wanted(f"front {version}", target, deployment=FRONT, calls=("Middle",), **options),
    ]


def running(world: World) -> list[str]:
    return sorted(r.version for r in world.observed.replicas.values() if r.state is ReplicaState.RUNNING)


def names(goals: list[DeploymentGoal]) -> list[str]:
    return [goal.id.name for goal in goals]


def test_callees_are_updated_before_their_callers_and_after_them_on_the_way_back() -> None:
    app = application(*chain("1"))
    first = updated_before(app)
    assert [names(first[d]) for d in (BACK, MIDDLE, FRONT)] == [[], ["Back"], ["Middle"]]
    first = updated_before(msgspec.structs.replace(app, is_going_back=True))
    assert [names(first[d]) for d in (BACK, MIDDLE, FRONT)] == [["Middle"], ["Front"], []]


def test_deployments_that_call_each_other_or_themselves_wait_for_none_of_these() -> None:
    a = wanted(deployment=FRONT, calls=("Middle", "Front"))
    b = wanted(deployment=MIDDLE, calls=("Front", "Back", "Elsewhere"))
    first = updated_before(application(a, b, wanted(deployment=BACK)))
    assert [names(first[d]) for d in (FRONT, MIDDLE, BACK)] == [[], ["Back"], []]


def test_a_first_deploy_starts_everything_at_once() -> None:
    world = World()
    world.deploy(*chain("1"))
    assert world.starts == 3


@pytest.mark.parametrize("options", [{}, {"max_surge_percent": 0}, {"max_surge_percent": 100}])
def test_a_new_version_reaches_the_deployments_one_after_another(options: dict[str, int]) -> None:
    world = World()
    world.deploy(*chain("1", 2))
    world.settle()
    seen: list[str] = []

    def look(_: object) -> None:
        started = [
            name
            for name in ("back", "middle", "front")
            if any(r.version == f"{name} 2" for r in world.observed.replicas.values())
        ]
        for name in started:
            if name not in seen:
                old_callee = {"back": "", "middle": "back 1", "front": "middle 1"}[name]
                assert old_callee not in running(world)
                seen.append(name)

    world.check = look
    world.deploy(*chain("2", 2, **options))
    world.settle()
    assert seen == ["back", "middle", "front"]
    assert running(world) == ["back 2"] * 2 + ["front 2"] * 2 + ["middle 2"] * 2
    assert app_status(world.goal.apps["shop"], world.observed) == (ApplicationStatus.RUNNING, "")


def test_callers_of_a_version_that_is_given_up_stay_as_they_were_and_say_so() -> None:
    world = World({"middle 2": Behaviour(starts=False)})
    world.deploy(*chain("1"))
    world.settle()
    world.deploy(*chain("2"))
    assert "after 'Middle': a new version reaches callees first" in world.observed.deployments[FRONT].message
    world.settle()
    assert running(world) == ["back 2", "front 1", "middle 1"]
    front = world.observed.deployments[FRONT]
    assert (front.status, front.message) == (
        S.UPDATING,
        "It stays as it was: what is wanted of 'Middle', which is updated before it, was given up.",
    )
    status, message = app_status(world.goal.apps["shop"], world.observed)
    assert status is ApplicationStatus.DEPLOY_FAILED
    assert message.endswith("ValueError: no (at shop.py:3)")


def test_a_caller_of_which_nothing_serves_does_not_wait() -> None:
    world = World({"back 2": Behaviour(start_s=60.0)})
    world.deploy(*chain("1"))
    world.settle()
    world.deploy(*chain("2"))
    [front] = [r.id for r in world.observed.replicas.values() if r.version == "front 1"]
    world.kill(front)
    world.run(1.0)
    assert "front 2" in running(world)


def test_only_deployments_that_change_are_waited_for() -> None:
    world = World({"front 2": Behaviour(start_s=1.0)})
    world.deploy(*chain("1"))
    world.settle()
    back, middle, _ = chain("1")
    front = chain("2")[2]
    world.deploy(back, middle, front)
    assert any(r.version == "front 2" for r in world.observed.replicas.values())


def test_other_settings_reach_callees_first_too() -> None:
    world = World()
    world.deploy(*chain("1"))
    world.settle()
    world.deploy(*[msgspec.structs.replace(goal, settings="s2") for goal in chain("1")])
    updating = [r.deployment for r in world.observed.replicas.values() if r.state is ReplicaState.UPDATING]
    assert updating == [BACK]
    world.settle()
    assert {r.settings for r in world.observed.replicas.values()} == {"s2"}


def test_a_caller_scales_while_its_callee_is_updated() -> None:
    world = World({"back 2": Behaviour(start_s=60.0)})
    world.deploy(*chain("1"))
    world.settle()
    back = chain("2")[0]
    middle, front = chain("1", 3)[1:]
    world.deploy(back, middle, front)
    world.run(1.0)
    assert running(world).count("front 1") == 3
