"""Automatic rollback: what comes back, what is told, and that it ends."""

from __future__ import annotations

import msgspec
import pytest

from serve_lite.controller.goals import accept_fallback, mark_proven
from serve_lite.schema import ApplicationStatus, DeploymentStatus
from serve_lite.state.applications import app_status, is_settled
from serve_lite.state.goal import AppSubmission, Goal
from tests.policy.cases import MODEL, application, goal_of, wanted
from tests.policy.test_callers import chain, running
from tests.policy.world import Behaviour, World

BAD = Behaviour(starts=False)
DEPLOYING, FAILED, RUNNING = (
    ApplicationStatus.DEPLOYING,
    ApplicationStatus.DEPLOY_FAILED,
    ApplicationStatus.RUNNING,
)


def told(world: World) -> tuple[ApplicationStatus, str]:
    return app_status(world.goal.apps["shop"], world.observed)


@pytest.mark.parametrize("target", [1, 3])
@pytest.mark.parametrize("surge", [None, 0])
@pytest.mark.parametrize(
    "bad", [BAD, Behaviour(runs_s=1.0), Behaviour(is_well=False)], ids=["start", "crash", "health"]
)
def test_the_last_version_that_worked_comes_back(target: int, surge: int | None, bad: Behaviour) -> None:
    options = {"max_surge_percent": surge, "min_ready_s": 60.0}
    world = World({"bad": bad})
    world.deploy(wanted("good", target, **options))
    world.settle()
    world.deploy(wanted("bad", target, **options), rollback_on_failure=True)
    world.settle()
    assert [r.version for r in world.running()] == ["good"] * target
    assert len(world.rollbacks) == 1
    status, message = told(world)
    assert status is FAILED
    assert message.startswith("Revision 2 was given up, and revision 1 is wanted again. Why:\nModel: ")
    assert world.observed.deployments[MODEL].status is DeploymentStatus.HEALTHY
    starts = world.starts
    world.settle()
    assert world.starts == starts


@pytest.mark.parametrize("target", [1, 2, 3])
def test_what_failed_before_is_tried_again_before_it_is_rolled_back(target: int) -> None:
    """With whatever number it is deployed again, what an earlier revision met says nothing of this one."""
    world = World({"bad": BAD})
    world.deploy(wanted("good", 2))
    world.settle()
    world.deploy(wanted("bad", 2))
    world.settle()
    assert (told(world)[0], world.rollbacks) == (FAILED, [])
    starts = world.starts
    world.deploy(wanted("bad", target), rollback_on_failure=True)
    assert world.observed.deployments[MODEL].status is DeploymentStatus.UPDATING
    assert (told(world)[0], world.rollbacks) == (DEPLOYING, [])
    world.settle()
    assert len(world.rollbacks) == 1 and world.starts > starts + 1
    world.behaviours["bad"] = Behaviour()  # what ailed it is over
    world.deploy(wanted("bad", target), rollback_on_failure=True)
    world.settle()
    assert told(world)[0] is RUNNING
    assert [r.version for r in world.running()] == ["bad"] * target


def test_without_the_option_nothing_comes_back() -> None:
    world = World({"bad": BAD})
    world.deploy(wanted("good"))
    world.settle()
    world.deploy(wanted("bad"))
    world.settle()
    assert (world.rollbacks, told(world)[0]) == ([], FAILED)
    assert [r.version for r in world.running()] == ["good"]


def test_a_first_version_has_nothing_to_go_back_to() -> None:
    world = World({"bad": BAD})
    world.deploy(wanted("bad"), rollback_on_failure=True)
    world.settle()
    assert (world.rollbacks, told(world)[0]) == ([], FAILED)


def test_what_a_rollback_brought_back_is_not_rolled_back_again() -> None:
    world = World({"bad": BAD})
    world.deploy(wanted("good", max_surge_percent=0), rollback_on_failure=True)
    world.settle()
    world.behaviours["good"] = BAD
    world.deploy(wanted("bad", max_surge_percent=0), rollback_on_failure=True)
    world.settle()
    assert len(world.rollbacks) == 1
    status, message = told(world)
    assert status is FAILED
    assert "Failed to update the deployments" in message
    assert "Revision 2 was given up" in message


def test_the_next_deploy_clears_what_was_told() -> None:
    world = World({"bad": BAD})
    world.deploy(wanted("good"))
    world.settle()
    world.deploy(wanted("bad"), rollback_on_failure=True)
    world.settle()
    world.deploy(wanted("good"), rollback_on_failure=True)
    world.settle()
    assert told(world) == (RUNNING, "")


def test_a_revision_that_never_ran_as_a_whole_is_passed_over() -> None:
    world = World({"bad": BAD, "worse": BAD})
    world.deploy(wanted("good"))
    world.settle()
    world.deploy(wanted("bad"))
    world.settle()
    world.deploy(wanted("worse"), rollback_on_failure=True)
    world.settle()
    assert [r.version for r in world.running()] == ["good"]
    assert told(world)[1].startswith("Revision 3 was given up, and revision 1 is wanted again.")


def test_who_waits_for_the_deploy_hears_of_it_when_the_rollback_is_done() -> None:
    world = World({"front 2": BAD, "back 1": Behaviour(start_s=30.0)})
    world.deploy(*chain("1"))
    world.settle()
    settled: list[bool] = []

    def look(_: object) -> None:
        is_back = running(world) == ["back 1", "front 1", "middle 1"]
        if is_settled(world.goal.apps["shop"], world.observed):
            settled.append(is_back)

    world.deploy(*chain("2"), rollback_on_failure=True)
    world.check = look
    world.settle()
    assert settled
    assert all(settled)
    assert told(world)[0] is FAILED


def test_callers_go_back_before_their_callees() -> None:
    """Some new callers serve when their version is given up; none of them may meet an old callee."""
    world = World({"front 2": Behaviour(runs_s=5.0)})
    world.deploy(*chain("1", 3))
    world.settle()
    saw_both = []

    def look(_: object) -> None:
        now = running(world)
        saw_both.append("front 2" in now and "middle 2" in now)
        assert not ("front 2" in now and "middle 1" in now)
        assert not ("middle 2" in now and "back 1" in now)

    world.check = look
    world.deploy(*chain("2", 3, min_ready_s=2.0), rollback_on_failure=True)
    world.settle()
    assert any(saw_both)
    assert len(world.rollbacks) == 1
    assert running(world) == ["back 1"] * 3 + ["front 1"] * 3 + ["middle 1"] * 3


def test_a_build_that_fails_takes_the_submission_back_too() -> None:
    world = World()
    world.deploy(wanted("good"), rollback_on_failure=True)
    world.settle()
    app = msgspec.structs.replace(world.goal.apps["shop"], revision=2, build_error="ImportError: no")
    world.goal = msgspec.structs.replace(goal_of(app), revision=2)
    world.look()
    assert world.rollbacks == ["ImportError: no"]
    status, message = told(world)
    assert status is FAILED
    assert message.endswith("Why:\nImportError: no")
    assert world.goal.apps["shop"].build_error == ""


def given_up(**fields: object) -> Goal:
    submission = AppSubmission(name="shop", rollback_on_failure=True)
    app = application(wanted("bad"), revision=5, submission=submission, proven=3, **fields)
    return msgspec.structs.replace(goal_of(app), revision=5)


def test_a_way_back_that_is_closed_is_told_once() -> None:
    goal = accept_fallback(given_up(), "shop", 5, None, "why", now=0.0, alive=())
    app = goal.apps["shop"]
    assert app.deployments[0].version == "bad"
    assert app.fallback == (
        "Revision 5 was given up, but the one before could not be taken back: "
        "it is not kept any more (revision 3)"
    )
    assert accept_fallback(goal, "shop", 5, None, "why", now=0.0, alive=()) is goal


def test_a_prefix_that_is_taken_meanwhile_closes_the_way_back() -> None:
    goal = given_up()
    other = application(name="other", route_prefix="/")
    goal = msgspec.structs.replace(goal, apps={**goal.apps, "other": other})
    past = application(wanted("good"), revision=3, route_prefix="/")
    after = accept_fallback(goal, "shop", 5, past, "why", now=0.0, alive=()).apps["shop"]
    assert "Prefix / is being used by application" in after.fallback
    assert after.deployments[0].version == "bad"


def test_what_changed_meanwhile_is_left_alone() -> None:
    goal = given_up()
    assert accept_fallback(goal, "shop", 4, None, "why", now=0.0, alive=()) is goal
    assert mark_proven(goal, "shop", 4) is goal
    assert mark_proven(goal, "gone", 5) is goal
    assert mark_proven(goal, "shop", 5).apps["shop"].proven == 5
