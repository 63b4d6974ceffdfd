"""What serves after a version was given up: it is healed and scaled like any other, until the next deploy."""

from __future__ import annotations

import msgspec
import pytest

from serve_lite.config import AutoscalingConfig
from serve_lite.controller.goals import accept_scale, accept_scaling
from serve_lite.controller.publisher import membership
from serve_lite.policy.autoscaling import report_every_s
from serve_lite.policy.meaning import scaled_by_hand_events
from serve_lite.policy.standby import following, goal_in_force, revision_in_force
from serve_lite.schema import ApplicationStatus, DeploymentStatus
from serve_lite.state.applications import app_status
from serve_lite.state.goal import DeploymentGoal
from serve_lite.state.observed import DeploymentView
from serve_lite.wire.messages import MemberState
from tests.policy.cases import MODEL, application, goal_of, wanted
from tests.policy.test_callers import BACK, FRONT, chain, running
from tests.policy.world import Behaviour, World

BAD = Behaviour(starts=False)


def failed(*, old: int = 2, new: int = 2, **options: object) -> World:
    """Return a world in which version "good" serves, and "bad" was given up."""
    world = World({"bad": BAD})
    world.deploy(wanted("good", old, **options))
    world.settle()
    world.deploy(wanted("bad", new, **options))
    world.settle()
    assert view(world).status is DeploymentStatus.DEPLOY_FAILED
    return world


def view(world: World) -> DeploymentView:
    return world.observed.deployments[MODEL]


def proven(version: str, target: int = 1) -> DeploymentGoal:
    return msgspec.structs.replace(wanted(version, target), is_proven=True)


# --- what stands by ---


def test_what_ran_as_it_should_stands_by_for_what_replaces_it() -> None:
    goal = following(proven("v1"), wanted("v2"))
    assert goal.before is not None
    assert (goal.before.version, goal.is_proven) == ("v1", False)


def test_what_never_ran_does_not_stand_by_but_what_did_before_it_still_does() -> None:
    assert following(wanted("v1"), wanted("v2")).before is None
    second = following(proven("v1"), wanted("v2"))
    third = following(second, wanted("v3"))
    assert third.before is not None
    assert third.before.version == "v1"


def test_only_one_version_stands_by() -> None:
    goal = following(proven("v1"), wanted("v2"))
    goal = following(msgspec.structs.replace(goal, is_proven=True), wanted("v3"))
    assert goal.before is not None
    assert (goal.before.version, goal.before.before) == ("v2", None)


def test_going_back_to_what_stands_by_needs_no_proof() -> None:
    second = following(proven("v1"), wanted("v2"))
    back = following(second, wanted("v1"))
    assert (back.is_proven, back.before) == (True, None)


def test_the_same_again_changes_nothing_about_it() -> None:
    second = following(proven("v1"), wanted("v2"))
    again = following(second, wanted("v2", 3))
    assert (again.before, again.is_proven, again.target) == (second.before, False, 3)


def test_what_reached_its_goal_needs_nothing_to_stand_by() -> None:
    world = World()
    world.deploy(wanted("v1"))
    world.settle()
    world.deploy(wanted("v2"))
    assert world.goal.apps["shop"].deployments[0].before is not None
    world.settle()
    [goal] = world.goal.apps["shop"].deployments
    assert (goal.is_proven, goal.before) == (True, None)
    assert view(world).standby is None


# --- healing ---


@pytest.mark.parametrize("surge", [None, 50, 100])
def test_old_replicas_that_die_after_a_failed_deploy_are_replaced(surge: int | None) -> None:
    world = failed(old=3, new=3, max_surge_percent=surge)
    tried = world.starts
    world.kill(world.running("good")[0].id)
    world.run(5.0)
    assert [r.version for r in world.running()] == ["good"] * 3
    for replica in world.running("good"):
        world.kill(replica.id)
    world.settle()
    assert [r.version for r in world.running()] == ["good"] * 3
    assert world.starts == tried + 4, "what was given up was tried again"
    assert view(world).status is DeploymentStatus.DEPLOY_FAILED
    assert view(world).message.endswith("ValueError: no (at shop.py:3)")


def test_it_keeps_its_own_number_whatever_the_failed_one_wanted() -> None:
    assert [r.version for r in failed(old=2, new=5).running()] == ["good"] * 2
    assert [r.version for r in failed(old=4, new=1).running()] == ["good"] * 4


def test_what_an_update_had_taken_away_by_then_comes_back() -> None:
    """The first replica of the new version works, the others do not start."""
    world = World({"flaky": Behaviour(start_s=5.0)})
    world.deploy(wanted("good", 3))
    world.settle()
    world.deploy(wanted("flaky", 3))
    world.run(6.0)
    assert sorted(r.version for r in world.running()) == ["flaky", "good", "good"]
    world.behaviours["flaky"] = BAD
    world.settle()
    assert view(world).status is DeploymentStatus.DEPLOY_FAILED
    assert [r.version for r in world.running()] == ["good"] * 3


def test_nothing_of_the_old_version_left_means_nothing_to_fall_back_to() -> None:
    """Ray Serve's order: the only replica is stopped first."""
    world = failed(old=1, new=1, max_surge_percent=0)
    assert world.running() == []
    assert not view(world).has_fallen_back


def test_it_backs_off_when_it_crashes_itself_and_says_so() -> None:
    world = failed()
    world.behaviours["good"] = Behaviour(starts=False)
    starts = world.starts
    for replica in world.running("good"):
        world.kill(replica.id)
    world.run(3600.0)
    assert 30 < world.starts - starts < 200  # two at a time, 64 to 96 seconds apart in the end
    assert view(world).status is DeploymentStatus.DEPLOY_FAILED
    text = "Of 2 replicas of the version before, which serves instead, 0 run. ValueError: no"
    assert view(world).message.startswith(text)
    world.behaviours["good"] = Behaviour()
    world.run(120.0)
    assert len(world.running("good")) == 2
    assert view(world).message.startswith("The deployment failed to start")


def test_a_new_daemon_goes_on_with_it_and_so_does_one_after_a_reboot() -> None:
    world = failed()
    tried = world.starts
    world.restart_daemon()
    world.settle()
    assert [r.version for r in world.running()] == ["good"] * 2
    assert world.starts == tried
    world.reboot(5.0)
    world.settle()
    assert [r.version for r in world.running()] == ["good"] * 2
    assert view(world).status is DeploymentStatus.DEPLOY_FAILED


def test_a_version_that_fails_after_another_that_failed_leaves_the_same_one_serving() -> None:
    world = failed()
    world.behaviours["worse"] = BAD
    world.deploy(wanted("worse", 2))
    world.kill(world.running("good")[0].id)
    world.settle()
    assert [r.version for r in world.running()] == ["good"] * 2
    assert view(world).status is DeploymentStatus.DEPLOY_FAILED


def test_the_same_deploy_again_tries_again_and_a_good_one_takes_over() -> None:
    world = failed()
    tried = world.starts
    world.deploy(wanted("bad", 2))
    world.settle()
    assert world.starts > tried
    assert [r.version for r in world.running()] == ["good"] * 2
    world.deploy(wanted("better", 2))
    world.settle()
    assert [r.version for r in world.running()] == ["better"] * 2
    assert view(world).status is DeploymentStatus.HEALTHY


def test_settings_that_are_not_taken_leave_the_old_ones_healed() -> None:
    world = World({"bad settings": BAD})
    world.deploy(wanted("v1", 2, "s1"))
    world.settle()
    world.deploy(wanted("v1", 2, "bad settings"))
    world.settle()
    assert view(world).status is DeploymentStatus.DEPLOY_FAILED
    assert [r.settings for r in world.running()] == ["s1", "s1"]
    world.kill(world.running()[0].id)
    world.settle()
    assert [(r.version, r.settings) for r in world.running()] == [("v1", "s1")] * 2


# --- several deployments ---


def test_a_caller_that_is_held_back_is_healed_with_its_old_version() -> None:
    world = World({"middle 2": BAD})
    world.deploy(*chain("1", 2))
    world.settle()
    world.deploy(*chain("2", 2))
    world.settle()
    assert running(world) == ["back 2"] * 2 + ["front 1"] * 2 + ["middle 1"] * 2
    for replica in list(world.observed.replicas.values()):
        world.kill(replica.id)
    world.settle()
    assert running(world) == ["back 2"] * 2 + ["front 1"] * 2 + ["middle 1"] * 2
    assert app_status(world.goal.apps["shop"], world.observed)[0] is ApplicationStatus.DEPLOY_FAILED


def test_a_caller_that_waits_for_its_callee_is_healed_meanwhile() -> None:
    world = World({"back 2": Behaviour(start_s=300.0)})
    world.deploy(*chain("1", 2))
    world.settle()
    world.deploy(*chain("2", 2))
    [victim, _] = world.running("front 1")
    world.kill(victim.id)
    world.run(5.0)
    assert running(world).count("front 1") == 2


def test_what_a_failed_version_left_out_is_healed_too() -> None:
    world = World({"front 2": BAD})
    world.deploy(*chain("1"))
    world.settle()
    _, middle, front = chain("2")
    world.deploy(middle, msgspec.structs.replace(front, version="front 2"))  # without Back
    world.settle()
    [back] = world.observed.replicas_of(BACK)
    world.kill(back.id)
    world.settle()
    assert len(world.observed.replicas_of(BACK)) == 1
    assert [r.version for r in world.observed.replicas_of(FRONT)] == ["front 1"]


def test_limits_and_reports_of_load_are_those_of_what_serves() -> None:
    """The version that failed does not scale by itself, so its callers would not tell their load."""
    own = AutoscalingConfig(min_replicas=1, max_replicas=3)
    world = World({"bad": BAD})
    world.deploy(wanted("good", 1, autoscaling_config=own, max_queued_requests=7))
    world.settle()
    world.deploy(wanted("bad", 1))
    told = membership(world.goal, world.observed, MODEL, str)
    assert (told.load_every_s, told.max_queued) == (0.0, -1)
    world.settle()
    told = membership(world.goal, world.observed, MODEL, str)
    assert (told.load_every_s, told.max_queued) == (report_every_s(own), 7)
    for replica in world.running():
        world.kill(replica.id)
    assert membership(world.goal, world.observed, MODEL, str).state is MemberState.AVAILABLE, "it comes back"


# --- scaling it ---


def test_a_number_that_the_user_sets_holds_for_what_serves_and_tries_nothing_again() -> None:
    world = failed()
    old, tried = world.goal, world.starts
    world.goal = accept_scale(old, MODEL, 4, is_manual=True)
    events = scaled_by_hand_events(MODEL, old, world.goal, world.observed, world.now)
    assert events == []
    world.look()
    world.settle()
    assert [r.version for r in world.running()] == ["good"] * 4
    assert world.starts == tried + 2
    assert view(world).status is DeploymentStatus.DEPLOY_FAILED


def test_a_number_that_the_user_sets_is_tried_with_a_version_that_is_all_there_is() -> None:
    world = World({"bad": BAD})
    world.deploy(wanted("bad"))
    world.settle()
    old = world.goal
    world.goal = accept_scale(old, MODEL, 2, is_manual=True)
    [event] = scaled_by_hand_events(MODEL, old, world.goal, world.observed, world.now)
    assert event.deployment == MODEL


def test_autoscaling_scales_what_serves_within_its_own_bounds() -> None:
    few = AutoscalingConfig(min_replicas=1, max_replicas=3)
    many = AutoscalingConfig(min_replicas=5, max_replicas=9)
    goal = msgspec.structs.replace(
        wanted("v2", 5, autoscaling_config=many), before=wanted("v1", 1, autoscaling_config=few)
    )
    [after] = accept_scaling(goal_of(application(goal)), MODEL, 4).apps["shop"].deployments
    assert after.before is not None
    assert (after.target, after.before.target) == (5, 3)


def test_what_is_in_force_is_what_was_fallen_back_to() -> None:
    world = failed(old=2, new=5)
    [now] = goal_in_force(world.goal, world.observed.deployments).apps["shop"].deployments
    assert (now.version, now.target) == ("good", 2)
    world.deploy(wanted("better", 3))
    assert goal_in_force(world.goal, world.observed.deployments) is world.goal


# --- which revision serves ---


def serving(world: World) -> int:
    known = [world.revisions[n] for n in sorted(world.revisions, reverse=True)]
    return revision_in_force(known, world.goal.apps["shop"], world.observed.deployments)


def test_the_newest_revision_serves_until_it_is_given_up() -> None:
    world = World({"bad": BAD})
    world.deploy(wanted("good"))
    assert serving(world) == 1
    world.settle()
    world.deploy(wanted("bad"))
    assert serving(world) == 2
    world.settle()
    assert serving(world) == 1
    world.deploy(wanted("better"))
    world.settle()
    assert serving(world) == 3


def test_what_a_failed_revision_left_out_says_which_one_serves() -> None:
    world = World({"bad": BAD})
    world.deploy(wanted("good", deployment=BACK))
    world.settle()
    world.deploy(wanted("bad", deployment=FRONT))
    world.settle()
    assert serving(world) == 1


def test_a_revision_of_which_some_serves_is_the_one_that_is_shown() -> None:
    world = World({"middle 2": BAD})
    world.deploy(*chain("1"))
    world.settle()
    world.deploy(*chain("2"))
    world.settle()
    assert serving(world) == 2


def test_a_build_that_failed_changes_nothing_about_what_serves() -> None:
    world = World()
    world.deploy(wanted("good"))
    world.settle()
    world.submit_bad()
    assert serving(world) == 1
    world.settle()
    assert serving(world) == 1
