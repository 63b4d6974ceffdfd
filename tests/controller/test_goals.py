from __future__ import annotations

from typing import Any

import msgspec
import pytest

from serve_lite.config import AutoscalingConfig, AutoscalingPolicy, DeploymentConfig
from serve_lite.controller.goals import (
    NotScalableError,
    StaleRevisionError,
    accept_build,
    accept_clear,
    accept_delete,
    accept_deploy,
    accept_rollback,
    accept_scale,
    accept_scaling,
    accept_shutdown,
    at_revision,
    forget_app,
    known_build,
    reject_build,
)
from serve_lite.exceptions import InvalidConfigError, RayServeException
from serve_lite.policy.meaning import configured_events
from serve_lite.policy.schedules import Window
from serve_lite.state.goal import AppSubmission, BuildRequest, BuildResult, DeploymentSpec, Goal
from serve_lite.state.ids import DeploymentId
from serve_lite.state.lifecycle import DeploymentMove
from serve_lite.state.observed import Observed, fold
from serve_lite.wire.messages import DeployRequest


def spec(name: str = "Model", **options: Any) -> DeploymentSpec:
    return DeploymentSpec(
        name=name, config=DeploymentConfig(**options), code=b"c", init=b"", is_ingress=name == "Model"
    )


def driver_app(name: str = "shop", *specs: DeploymentSpec, **fields: Any) -> AppSubmission:
    """Return an application as `serve.run` hands it in."""
    return AppSubmission(name=name, deployments=specs or (spec(),), **fields)


def config_app(name: str = "shop", code_version: str = "c1", **fields: Any) -> AppSubmission:
    """Return an application as a config file hands it in."""
    build = BuildRequest(app_name=name, import_path="shop:app")
    return AppSubmission(name=name, source="declarative", build=build, code_version=code_version, **fields)


def deploy(goal: Goal, *apps: AppSubmission, alive: set[DeploymentId] | None = None, **fields: Any) -> Goal:
    request = DeployRequest(apps=list(apps), **fields)
    return accept_deploy(goal, request, now=1.0, alive=alive or set())


def built(goal: Goal, name: str, *specs: DeploymentSpec) -> Goal:
    result = BuildResult(deployments=specs or (spec(),))
    return accept_build(goal, name, goal.apps[name].revision, result, set())


def test_every_serve_run_is_a_new_version() -> None:
    first = deploy(Goal(), driver_app())
    second = deploy(first, driver_app())
    assert (first.revision, second.revision) == (1, 2)
    [before], [after] = (g.apps["shop"].deployments for g in (first, second))
    assert before.version != after.version


def test_files_that_are_to_be_looked_into_again_are_built_and_replace_what_differs() -> None:
    one, other = (msgspec.structs.replace(spec(name), version="as it was") for name in ("Door", "Price"))
    running = built(deploy(Goal(), config_app()), "shop", other, one)
    again = deploy(running, config_app(is_reread=True))
    assert again.apps["shop"].is_building and known_build(again.apps["shop"]) is None
    edited = msgspec.structs.replace(one, version="as it is now")
    now = {d.id.name: d.version for d in built(again, "shop", other, edited).apps["shop"].deployments}
    before = {d.id.name: d.version for d in running.apps["shop"].deployments}
    assert now["Price"] == before["Price"] and now["Door"] != before["Door"]
    plain = deploy(built(again, "shop", other, edited), config_app())
    assert not plain.apps["shop"].is_building
    assert {d.id.name: d.version for d in plain.apps["shop"].deployments} == now


def test_a_configured_app_is_built_first_and_what_ran_goes_on_meanwhile() -> None:
    running = built(deploy(Goal(), config_app()), "shop")
    building = deploy(running, config_app(code_version="c2"))
    assert building.apps["shop"].is_building
    assert building.apps["shop"].deployments == running.apps["shop"].deployments
    failed = reject_build(building, "shop", building.revision, "boom")
    assert failed.apps["shop"].build_error == "boom"
    assert failed.apps["shop"].deployments == running.apps["shop"].deployments


def test_the_same_code_version_is_not_built_again_and_changes_only_what_its_overrides_say() -> None:
    running = built(deploy(Goal(), config_app()), "shop")
    again = deploy(running, config_app(overrides=({"name": "Model", "num_replicas": 3},)))
    app = again.apps["shop"]
    assert not app.is_building
    assert app.deployments[0].target == 3
    assert app.deployments[0].version == running.apps["shop"].deployments[0].version


def test_an_outline_has_the_applications_asked_for_without_their_payloads() -> None:
    goal = deploy(Goal(), driver_app("a"), driver_app("b", route_prefix="/b"))
    outline = goal.outline(["a", "unknown"])
    assert list(outline.apps) == ["a"]
    (whole,), (told,) = goal.apps["a"].deployments, outline.apps["a"].deployments
    assert (told.version, told.settings, told.target) == (whole.version, whole.settings, whole.target)
    assert (whole.spec.code, told.spec.code, told.spec.init) == (b"c", b"", b"")


def test_an_override_that_is_left_out_gives_the_codes_value_back() -> None:
    goal = built(deploy(Goal(), config_app(overrides=({"name": "Model", "num_replicas": 3},))), "shop")
    goal = deploy(goal, config_app())
    assert goal.apps["shop"].deployments[0].target == 1


def test_a_build_that_nobody_waits_for_changes_nothing() -> None:
    goal = deploy(Goal(), config_app())
    newer = deploy(goal, config_app(code_version="c2"))
    late = accept_build(newer, "shop", goal.revision, BuildResult(deployments=(spec(),)), set())
    assert late is newer


def test_an_override_for_a_deployment_that_does_not_exist_names_those_that_do() -> None:
    goal = deploy(Goal(), config_app(overrides=({"name": "Modle"},)))
    with pytest.raises(InvalidConfigError, match=r"'Modle' does not exist.*Available: \['Model'\]"):
        built(goal, "shop")


def test_a_document_deletes_declared_apps_that_it_leaves_out_and_keeps_those_of_serve_run() -> None:
    goal = deploy(Goal(), config_app("old", route_prefix="/old"), driver_app("mine", route_prefix="/mine"))
    document = {"applications": [], "target_capacity": 50}
    goal = deploy(goal, config_app("new"), replace_declarative=True, document=document)
    assert goal.apps["old"].is_deleting
    assert not goal.apps["mine"].is_deleting
    assert goal.target_capacity == 50


def test_a_document_that_replaces_all_deletes_those_of_serve_run_too_and_frees_their_prefixes() -> None:
    goal = deploy(Goal(), config_app("old", route_prefix="/old"), driver_app("mine", route_prefix="/"))
    document = {"import_path": "shop:app"}
    goal = deploy(goal, config_app("default"), replace_declarative=True, replace_all=True, document=document)
    assert [name for name, app in goal.apps.items() if not app.is_deleting] == ["default"]


def test_after_everything_is_removed_no_document_is_left() -> None:
    document = {"applications": [], "target_capacity": 50}
    goal = deploy(Goal(), config_app(), driver_app("mine", route_prefix="/mine"))
    goal = deploy(goal, config_app(), replace_declarative=True, document=document)
    cleared = accept_clear(goal)
    assert all(app.is_deleting for app in cleared.apps.values())
    assert (cleared.document, cleared.target_capacity, cleared.capacity_direction) == (None, None, None)
    assert cleared.revision == goal.revision + 1
    assert accept_clear(cleared) is cleared, "a second time is no change"
    assert accept_clear(Goal()) == Goal()


@pytest.mark.parametrize("is_many", [True, False])
def test_documents_of_two_kinds_replace_each_other_only_if_asked_to_or_when_nothing_of_the_first_is_left(
    is_many: bool,
) -> None:
    first, second = {"applications": []}, {"import_path": "shop:app"}
    if not is_many:
        first, second = second, first
    fields: dict[str, Any] = {"replace_declarative": True, "keeps_kind": True}
    goal = deploy(Goal(), config_app("a"), document=first, **fields)
    assert deploy(goal, config_app("a"), document=first, **fields).document == first
    with pytest.raises(InvalidConfigError, match="Mixing single-app and multi-app is not allowed"):
        deploy(goal, config_app("a"), document=second, **fields)
    for free in (accept_delete(goal, ["a"]), accept_clear(goal)):
        assert deploy(free, config_app("a"), document=second, **fields).document == second
    assert deploy(goal, config_app("a"), document=second, replace_declarative=True).document == second
    assert deploy(goal, driver_app("b", route_prefix="/b")).document == first, "scripts bring no document"


def test_a_goal_is_only_changed_by_those_who_have_seen_it() -> None:
    goal = deploy(Goal(), driver_app())
    assert at_revision(goal, None) is goal
    assert at_revision(goal, [0, 1]) is goal
    for seen in ([], [0], [2]):
        with pytest.raises(StaleRevisionError, match="it is at revision 1"):
            at_revision(goal, seen)


def test_target_capacity_scales_declared_apps_only() -> None:
    document = {"applications": [], "target_capacity": 50}
    goal = deploy(Goal(), config_app(), replace_declarative=True, document=document)
    goal = built(goal, "shop", spec(num_replicas=4))
    goal = deploy(goal, driver_app("mine", spec(num_replicas=4), route_prefix="/mine"))
    assert [goal.apps[n].deployments[0].target for n in ("shop", "mine")] == [2, 4]


def test_a_prefix_of_another_live_application_is_refused_and_named() -> None:
    goal = deploy(Goal(), driver_app("a"))
    with pytest.raises(
        RayServeException,
        match='Prefix / is being used by application "a". Failed to deploy application "b"',
    ):
        deploy(goal, driver_app("b"))
    assert "b" in deploy(accept_delete(goal, ["a"]), driver_app("b")).apps
    assert "b" in deploy(goal, driver_app("b", route_prefix=None)).apps


def test_a_prefix_that_is_only_being_built_is_taken_too() -> None:
    goal = deploy(Goal(), config_app("a", route_prefix="/x"))
    with pytest.raises(RayServeException, match="Prefix /x is being used"):
        deploy(goal, driver_app("b", route_prefix="/x"))


@pytest.mark.parametrize(
    ("prefix", "says"), [("x", "must start with"), ("/x/", "may not end with"), ("/{x}", "wildcards")]
)
def test_a_malformed_prefix_is_refused(prefix: str, says: str) -> None:
    with pytest.raises(InvalidConfigError, match=says):
        deploy(Goal(), driver_app(route_prefix=prefix))


@pytest.mark.parametrize("name", ["", "a#b", "a/b", "a\nb"])
def test_a_name_that_would_do_harm_in_paths_is_refused(name: str) -> None:
    with pytest.raises(InvalidConfigError):
        deploy(Goal(), driver_app(name))


def test_two_things_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidConfigError, match="Two deployments of application 'shop' are called 'Model'"):
        deploy(Goal(), driver_app("shop", spec(), spec()))
    with pytest.raises(InvalidConfigError, match="Two applications are called 'shop'"):
        deploy(Goal(), driver_app(), driver_app(route_prefix=None))


def test_a_deployment_that_is_left_out_is_retired_while_it_has_replicas() -> None:
    goal = deploy(Goal(), driver_app("shop", spec("Helper"), spec()))
    helper = DeploymentId("Helper", "shop")
    assert [d.id for d in deploy(goal, driver_app(), alive={helper}).apps["shop"].retired] == [helper]
    assert deploy(goal, driver_app()).apps["shop"].retired == ()


def test_a_deployments_own_variables_win_over_the_applications() -> None:
    options = {"runtime_env": {"env_vars": {"A": "mine"}}}
    goal = deploy(Goal(), driver_app("shop", spec(ray_actor_options=options)))
    assert goal.apps["shop"].deployments[0].environment.env_vars == {"A": "mine"}


def test_nothing_can_be_deployed_while_the_instance_shuts_down() -> None:
    goal = accept_shutdown(deploy(Goal(), driver_app()))
    assert goal.apps["shop"].is_deleting
    with pytest.raises(RayServeException, match="shutting down"):
        deploy(goal, driver_app())
    assert forget_app(goal, "shop").apps == {}


def test_a_new_daemon_that_reads_what_it_knows_takes_nothing_for_news() -> None:
    goal = deploy(Goal(), driver_app())
    [news] = configured_events(Goal(), goal, Observed(), 1.0)
    assert news.move is DeploymentMove.CONFIGURED
    assert configured_events(Goal(), goal, fold(Observed(), [news]), 2.0) == []


# --- autoscaling --------------------------------------------------------------------------------

MODEL = DeploymentId("Model", "shop")


def scaled_goal(**options: Any) -> Goal:
    config = AutoscalingConfig(**{"min_replicas": 1, "max_replicas": 8, **options})
    return deploy(Goal(), driver_app("shop", spec(autoscaling_config=config)))


def target_of(goal: Goal) -> int:
    return goal.apps["shop"].deployments[0].target


def test_a_scaling_decision_changes_the_target_within_the_bounds_and_nothing_else() -> None:
    goal = scaled_goal()
    more = accept_scaling(goal, MODEL, 5)
    assert (target_of(goal), target_of(more), more.revision) == (1, 5, goal.revision)
    assert target_of(accept_scaling(goal, MODEL, 99)) == 8
    assert accept_scaling(more, MODEL, 5) is more


def test_a_decision_that_comes_too_late_changes_nothing() -> None:
    fixed = deploy(Goal(), driver_app("shop"))
    gone = accept_delete(scaled_goal(), ["shop"])
    for goal in (fixed, gone, Goal()):
        assert accept_scaling(goal, MODEL, 5) is goal


def test_a_redeploy_keeps_what_autoscaling_chose_unless_other_initial_replicas_are_given() -> None:
    scaled = accept_scaling(scaled_goal(initial_replicas=2), MODEL, 5)

    def again(**options: Any) -> int:
        config = AutoscalingConfig(min_replicas=1, max_replicas=8, **options)
        return target_of(deploy(scaled, driver_app("shop", spec(autoscaling_config=config))))

    assert again(initial_replicas=2) == 5
    assert again(initial_replicas=3) == 3
    assert again() == 5
    assert target_of(deploy(scaled, driver_app("shop", spec(num_replicas=4)))) == 4


def test_the_direction_of_target_capacity_follows_from_the_document_before() -> None:
    def put(goal: Goal, capacity: float | None, *names: str) -> Goal:
        document = {"applications": [{"name": name} for name in names], "target_capacity": capacity}
        apps = [config_app(name, route_prefix=f"/{name}") for name in names]
        return deploy(goal, *apps, replace_declarative=True, document=document)

    goal, directions = Goal(), []
    for capacity, names in [
        (40, "a"), (60, "a"), (60, "a"), (20, "a"), (None, "a"), (50, "a"), (10, "ab"), (None, "a"), (None, "b"),
    ]:  # fmt: skip
        goal = put(goal, capacity, *names)
        directions.append(goal.capacity_direction)
    assert directions == ["UP", "UP", "UP", "DOWN", None, "DOWN", "UP", None, None]


def test_while_capacity_rises_initial_replicas_are_the_fewest() -> None:
    config = AutoscalingConfig(min_replicas=1, initial_replicas=6, max_replicas=8)
    document = {"applications": [{"name": "shop"}], "target_capacity": 50}
    goal = deploy(Goal(), config_app(), replace_declarative=True, document=document)
    goal = built(goal, "shop", spec(autoscaling_config=config))
    assert target_of(goal) == 3
    assert target_of(accept_scaling(goal, MODEL, 1)) == 3
    assert target_of(accept_scaling(goal, MODEL, 8)) == 4


# --- between deploys ----------------------------------------------------------------------------


def test_a_rollback_is_a_new_revision_of_the_old_deployments_and_retires_those_of_now() -> None:
    first = deploy(Goal(), driver_app("shop", spec("Old"), spec()))
    second = deploy(first, driver_app("shop", spec("New"), spec()))
    alive = {DeploymentId("New", "shop"), DeploymentId("Model", "shop")}
    back = accept_rollback(second, first.apps["shop"], now=9.0, alive=alive)
    app = back.apps["shop"]
    assert (back.revision, app.revision, app.deployed_at) == (3, 3, 9.0)
    assert app.deployments == first.apps["shop"].deployments
    assert [d.id.name for d in app.retired] == ["New"]


def test_a_rollback_to_a_prefix_that_is_taken_is_refused() -> None:
    first = deploy(Goal(), driver_app("shop", route_prefix="/a"))
    moved = deploy(first, driver_app("shop", route_prefix="/b"))
    taken = deploy(moved, driver_app("other", route_prefix="/a"))
    with pytest.raises(RayServeException, match="being used by application"):
        accept_rollback(taken, first.apps["shop"], now=9.0, alive=())


def test_scaling_while_building_is_refused_because_the_build_would_be_lost() -> None:
    running = built(deploy(Goal(), config_app()), "shop")
    building = deploy(running, config_app(code_version="c2"))
    with pytest.raises(NotScalableError, match="being built"):
        accept_scale(building, DeploymentId("Model", "shop"), 2, is_manual=True)


def test_a_request_for_another_revision_is_refused() -> None:
    goal = deploy(Goal(), driver_app())
    assert deploy(goal, driver_app(), if_revisions=[7, 1]).revision == 2
    for stale in ([], [0], [2]):
        with pytest.raises(StaleRevisionError, match="revision 1"):
            deploy(goal, driver_app(), if_revisions=stale)


def test_a_part_is_merged_into_the_document_in_force() -> None:
    one, two = ({"name": name, "import_path": f"{name}:app"} for name in ("one", "two"))
    whole = {"applications": [one], "target_capacity": 50}
    goal = deploy(Goal(), config_app("one"), replace_declarative=True, document=whole)
    goal = deploy(goal, config_app("two", route_prefix="/two"), merge=True, document={"applications": [two]})
    assert goal.document == {"applications": [one, two], "target_capacity": 50}
    assert goal.target_capacity == 50
    assert not any(app.is_deleting for app in goal.apps.values())


def test_a_part_beside_a_single_application_makes_a_document_with_both() -> None:
    single = {"import_path": "one:app", "port": 8000}
    two = {"name": "two", "import_path": "two:app"}
    goal = deploy(Goal(), config_app("default"), replace_declarative=True, document=single)
    goal = deploy(goal, config_app("two", route_prefix="/two"), merge=True, document={"applications": [two]})
    assert goal.document == {"applications": [{"import_path": "one:app"}, two]}


def test_an_applications_policy_counts_with_the_deployments_it_came_with() -> None:
    """A policy is code: while another version is built, and after its build failed, the old one decides."""
    old, new = AutoscalingPolicy(policy_function="shop:old"), AutoscalingPolicy(policy_function="shop:new")
    goal = built(deploy(Goal(), config_app(autoscaling_policy=old)), "shop")
    assert goal.apps["shop"].autoscaling_policy == old
    building = deploy(goal, config_app(code_version="c2", autoscaling_policy=new))
    assert building.apps["shop"].is_building and building.apps["shop"].autoscaling_policy == old
    failed = reject_build(building, "shop", building.revision, "no")
    assert failed.apps["shop"].autoscaling_policy == old
    assert built(building, "shop").apps["shop"].autoscaling_policy == new
    without = built(deploy(goal, config_app(code_version="c3")), "shop")
    assert without.apps["shop"].autoscaling_policy is None
    back = accept_rollback(without, goal.apps["shop"], now=2.0, alive=set())
    assert back.apps["shop"].autoscaling_policy == old


def test_a_decision_within_a_schedules_window_is_kept_to_that_windows_bounds() -> None:
    scaling = AutoscalingConfig(max_replicas=2)
    goal = built(deploy(Goal(), config_app()), "shop", spec(autoscaling_config=scaling))
    [deployment] = goal.apps["shop"].deployments

    def decided(target: int, window: Window) -> int:
        return accept_scaling(goal, deployment.id, target, window).apps["shop"].deployments[0].target

    assert decided(5, Window()) == 2
    assert decided(5, Window(highest=4)) == 4
    assert decided(1, Window(lowest=3)) == 3
