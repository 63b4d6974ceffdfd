"""Whole stories of one application, told by a world without processes."""

from __future__ import annotations

import msgspec

from serve_lite.schema import ApplicationStatus, DeploymentStatus, DeploymentStatusTrigger, ReplicaState
from serve_lite.state.applications import app_status
from serve_lite.state.ids import DeploymentId
from serve_lite.state.status import InstanceFacts, instance_details, instance_status
from tests.policy.cases import MODEL, wanted
from tests.policy.world import Behaviour, World

FACTS = InstanceFacts(node_id="node")
S, T = DeploymentStatus, DeploymentStatusTrigger


def phase(world: World, deployment: DeploymentId = MODEL) -> tuple[S, T]:
    view = world.observed.deployments[deployment]
    return view.status, view.trigger


def app(world: World) -> tuple[ApplicationStatus, str]:
    return app_status(world.goal.apps["shop"], world.observed)


def test_a_deploy_is_updating_until_every_replica_runs_and_then_healthy() -> None:
    world = World()
    world.deploy(wanted("v1", 2))
    assert phase(world) == (S.UPDATING, T.CONFIG_UPDATE_STARTED)
    assert app(world) == (ApplicationStatus.DEPLOYING, "")
    world.settle()
    assert phase(world) == (S.HEALTHY, T.CONFIG_UPDATE_COMPLETED)
    assert app(world) == (ApplicationStatus.RUNNING, "")
    assert instance_status(world.goal, world.observed, FACTS).applications["shop"].deployments[
        "Model"
    ].replica_states == {"RUNNING": 2}


def test_deploying_the_same_again_changes_nothing() -> None:
    world = World()
    world.deploy(wanted("v1", 2))
    world.settle()
    before = world.starts, world.stops
    world.deploy(wanted("v1", 2))
    assert phase(world)[0] is S.HEALTHY
    world.settle()
    assert (world.starts, world.stops) == before


def test_scaling_is_told_as_such_and_is_no_update() -> None:
    world = World()
    world.deploy(wanted("v1", 1))
    world.settle()
    world.deploy(wanted("v1", 3))
    assert phase(world) == (S.UPSCALING, T.CONFIG_UPDATE_STARTED)
    assert app(world)[0] is ApplicationStatus.DEPLOYING
    world.settle()
    assert phase(world) == (S.HEALTHY, T.UPSCALE_COMPLETED)
    world.deploy(wanted("v1", 1))
    world.settle()
    assert phase(world) == (S.HEALTHY, T.DOWNSCALE_COMPLETED)
    assert len(world.observed.replicas) == 1


def test_a_version_that_never_starts_is_given_up_after_three_tries_with_the_users_exception_last() -> None:
    world = World({"bad": Behaviour(starts=False)})
    world.deploy(wanted("bad", 1))
    world.run(0.6)
    assert world.observed.deployments[MODEL].message == (
        "A replica failed to start with exception. Retrying 2 more time(s). Error:\n"
        "ValueError: no (at shop.py:3)"
    )
    world.settle()
    assert world.starts == 3
    assert phase(world) == (S.DEPLOY_FAILED, T.REPLICA_STARTUP_FAILED)
    message = world.observed.deployments[MODEL].message
    assert message.startswith("The deployment failed to start 3 times in a row. This may be due to a problem")
    assert message.endswith("ValueError: no (at shop.py:3)")
    status, text = app(world)
    assert status is ApplicationStatus.DEPLOY_FAILED
    assert text.startswith("Failed to update the deployments ['Model'].")
    assert text.endswith("ValueError: no (at shop.py:3)")


def test_a_new_deploy_of_a_version_that_was_given_up_tries_it_again() -> None:
    world = World({"bad": Behaviour(starts=False)})
    world.deploy(wanted("bad", 1))
    world.settle()
    world.behaviours["bad"].starts = True
    world.deploy(wanted("bad", 1))
    assert phase(world)[0] is S.UPDATING
    world.settle()
    assert phase(world)[0] is S.HEALTHY


def test_old_replicas_serve_on_when_the_new_version_fails() -> None:
    world = World({"bad": Behaviour(starts=False)})
    world.deploy(wanted("v1", 2))
    world.settle()
    before = {r.id for r in world.running()}
    world.deploy(wanted("bad", 2))
    world.settle()
    assert {r.id for r in world.running()} == before
    assert phase(world) == (S.DEPLOY_FAILED, T.REPLICA_STARTUP_FAILED)
    world.deploy(wanted("v3", 2))
    world.settle()
    assert phase(world)[0] is S.HEALTHY
    assert len(world.running("v3")) == len(world.observed.replicas) == 2


def test_a_killed_replica_is_replaced_at_once_and_the_deployment_is_unhealthy_meanwhile() -> None:
    world = World()
    world.deploy(wanted("v1", 2))
    world.settle()
    world.kill(world.running()[0].id)
    assert phase(world) == (S.UNHEALTHY, T.HEALTH_CHECK_FAILED)
    assert "killed by SIGKILL" in world.observed.deployments[MODEL].message
    assert app(world)[0] is ApplicationStatus.UNHEALTHY
    assert [r.state for r in world.observed.replicas.values()].count(ReplicaState.STARTING) == 1
    world.settle()
    assert phase(world) == (S.HEALTHY, T.UNSPECIFIED)


def test_a_replica_that_was_lost_without_a_trace_is_replaced_and_told() -> None:
    world = World()
    world.deploy(wanted("v1", 2))
    world.settle()
    kept = world.running()[0]
    world.observed = msgspec.structs.replace(world.observed, replicas={kept.id: kept})
    world.look()
    assert phase(world) == (S.UNHEALTHY, T.HEALTH_CHECK_FAILED)
    assert "Of 2 replicas 1 were left" in world.observed.deployments[MODEL].message
    world.settle()
    assert phase(world) == (S.HEALTHY, T.UNSPECIFIED)
    assert len(world.running()) == 2


def test_a_replica_that_crashes_again_and_again_is_started_less_and_less_often() -> None:
    world = World({"v1": Behaviour(start_s=0.1, runs_s=1.0)})
    world.deploy(wanted("v1", 1))
    world.run(3600)
    assert 50 <= world.starts <= 70  # once a minute in the long run
    assert phase(world)[0] is not S.DEPLOY_FAILED


def test_a_replica_that_fails_three_health_checks_is_replaced() -> None:
    world = World()
    world.deploy(wanted("v1", 1, health_check_period_s=10.0))
    world.run(1)
    [sick] = world.running()
    world.behaviours["v1"] = Behaviour(is_well=False, start_s=5)
    world.run(25)
    assert [r.id for r in world.running()] == [sick.id]
    world.run(6)
    assert sick.id not in {r.id for r in world.running()}
    assert phase(world) == (S.UNHEALTHY, T.HEALTH_CHECK_FAILED)
    world.behaviours["v1"] = Behaviour()
    world.settle()
    assert phase(world) == (S.HEALTHY, T.UNSPECIFIED)


def test_other_settings_reach_every_replica_in_place() -> None:
    world = World()
    world.deploy(wanted("v1", 3, "s1"))
    world.settle()
    before = {r.id for r in world.running()}
    world.deploy(wanted("v1", 3, "s2"))
    world.settle()
    assert {r.id for r in world.running()} == before
    assert {r.settings for r in world.running()} == {"s2"}


def test_settings_that_are_refused_leave_the_old_ones_in_force() -> None:
    world = World({"bad": Behaviour(starts=False)})
    world.deploy(wanted("v1", 2, "s1"))
    world.settle()
    world.deploy(wanted("v1", 2, "bad"))
    world.settle()
    assert [r.settings for r in world.running()] == ["s1", "s1"]
    assert phase(world)[0] is S.DEPLOY_FAILED


def test_replicas_that_refused_settings_are_replaced_when_the_old_ones_are_wanted_again() -> None:
    world = World({"bad": Behaviour(starts=False)})
    world.deploy(wanted("v1", 2, "s1"))
    world.settle()
    before = {r.id for r in world.running()}
    world.deploy(wanted("v1", 2, "bad"))
    world.run(0.2)
    assert {r.id for r in world.running()} == before
    refused = {r.id for r in world.running() if r.refused}
    assert len(refused) == 1, "the others are left alone"
    world.deploy(wanted("v1", 2, "s1"))
    world.settle()
    after = {r.id for r in world.running()}
    assert len(after) == 2 and before - after == refused
    assert phase(world)[0] is S.HEALTHY


def test_a_replica_that_refused_settings_is_replaced_when_these_are_given_up() -> None:
    """It may have taken half of them."""
    world = World({"bad": Behaviour(starts=False)})
    world.deploy(wanted("v1", 2, "s1"))
    world.settle()
    before = {r.id for r in world.running()}
    world.deploy(wanted("v1", 2, "bad"))
    world.settle()
    after = {r.id for r in world.running()}
    assert len(after) == 2 and len(after & before) == 1, "the other one is left alone"
    assert not any(r.refused for r in world.running())


def test_a_slow_start_is_mentioned() -> None:
    world = World({"v1": Behaviour(start_s=100)})
    world.deploy(wanted("v1", 1))
    world.run(31)
    assert "taken more than 30s to initialize" in world.observed.deployments[MODEL].message
    world.settle()
    assert world.observed.deployments[MODEL].message == ""


def test_a_deployment_that_the_new_version_leaves_out_stops_after_its_callers_are_replaced() -> None:
    helper = DeploymentId("Helper", "shop")
    world = World()
    world.deploy(wanted("v1", 1), wanted("v1", 1, deployment=helper))
    world.settle()
    world.behaviours["v2"] = Behaviour(start_s=5)
    world.deploy(wanted("v2", 1))
    world.run(4)
    assert [r.is_running for r in world.observed.replicas_of(helper)] == [True]
    world.settle()
    assert world.observed.replicas_of(helper) == ()
    assert helper not in world.observed.deployments


def test_a_deleted_application_is_forgotten_when_its_last_replica_is_gone() -> None:
    world = World({"v1": Behaviour(stop_s=5)})
    world.deploy(wanted("v1", 2))
    world.settle()
    world.delete()
    assert app(world)[0] is ApplicationStatus.DELETING
    assert phase(world) == (S.UPDATING, T.DELETING)
    world.run(4)
    assert "shop" in world.goal.apps
    world.run(2)
    assert world.goal.apps == {}
    assert world.observed.deployments == {}


def test_details_have_the_shape_of_ray_serves_rest_answer() -> None:
    world = World()
    world.deploy(wanted("v1", 1))
    world.settle()
    details = instance_details(world.goal, world.observed, FACTS)
    deployment = details["applications"]["shop"]["deployments"]["Model"]
    assert details["deploy_mode"] == "UNSET"
    assert deployment["status"] == "HEALTHY"
    assert deployment["deployment_config"]["max_concurrent_queries"] == 100
    assert [r["state"] for r in deployment["replicas"]] == ["RUNNING"]
    topology = details["applications"]["shop"]["deployment_topology"]
    assert topology["ingress_deployment"] == "Model"
