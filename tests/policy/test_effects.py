"""What each option of a document does when it is changed: for all of them, what the plan shown beforehand says.

`SPEC` has the words that Ray Serve's documentation of 2.60 uses for it; where ours is a lighter one, the reason stands
beside it. That the plan and the deploy agree is shown with real replicas in tests/cli/test_diff.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from serve_lite.admin.documents import deploy_request
from serve_lite.config import DeploymentConfig
from serve_lite.controller.goals import accept_build, accept_deploy
from serve_lite.options import ALIASES, OPTIONS, RECYCLING
from serve_lite.policy.diff import AppPlan, compare
from serve_lite.schema import APPLICATION_FIELDS, DEPLOY_FIELDS
from serve_lite.state.goal import BuildResult, DeploymentSpec, Goal

UPDATE, SCALE, RECONFIGURE, RESTART, NOTHING = "update", "scale", "reconfigure", "restart", "nothing"

#: Ray Serve's effects in our words.
SPEC = {
    UPDATE: (
        "num_replicas max_queued_requests autoscaling_config rolling_update_percentage max_surge_percent "
        "graceful_shutdown_timeout_s health_check_period_s health_check_timeout_s max_constructor_retry_count"
    ),
    RECONFIGURE: (
        "user_config max_ongoing_requests max_concurrent_queries graceful_shutdown_wait_loop_s backpressure_config "
        "logging_config request_router_config route_prefix"
    ),
    RESTART: (
        "ray_actor_options placement_group_bundles placement_group_strategy placement_group_bundle_label_selector "
        "max_replicas_per_node gang_scheduling_config deployment_actors is_driver_deployment"
    ),
}

#: Options that Ray Serve has no word for.
OURS = {
    "serialize_sync", "sync_threads", "alive_timeout_s", "deadlock_timeout_s", "progress_timeout_s",
    "outlier_ejection", "min_ready_s", "cpu_affinity",
    *RECYCLING,
}  # fmt: skip


class Effect(NamedTuple):
    """One change of one option, and what it is to do."""

    option: str
    value: Any
    action: str
    before: Any = None  #: None: the option is not given before
    beside: dict[str, Any] = {}  #: options that it needs, given before and after
    changed: str | None = None  #: what is shown as changed, if not the option's name
    back: str = ""  #: what taking it out again does, if it is something else
    why: str = ""  #: it is not Ray Serve's word


NO_EFFECT = "On one machine the option has no effect, so a restart would be for nothing."
NOT_IN_REPLICAS = "Replicas have no use for it: callers and the controller read it."

EFFECTS = [
    Effect("num_replicas", 3, SCALE, why="A change of the number alone is a scaling, as Ray's status calls it."),
    Effect("num_replicas", "auto", UPDATE, changed="num_replicas autoscaling_config"),
    Effect("max_queued_requests", 5, UPDATE),
    Effect("autoscaling_config", {"max_replicas": 4}, UPDATE, changed="num_replicas autoscaling_config"),
    Effect("autoscaling_config", {"min_replicas": 2, "max_replicas": 4}, SCALE, {"max_replicas": 4},
           back=UPDATE, why="More are wanted at once; fewer only when there is less to do."),
    Effect("autoscaling_config", {"max_replicas": 4, "upscale_delay_s": 1}, UPDATE, {"max_replicas": 4}),
    Effect("autoscaling_config", {"max_replicas": 4, "look_back_period_s": 60}, UPDATE, {"max_replicas": 4}),
    Effect("autoscaling_config", {"max_replicas": 4, "policy": "m:policy"}, UPDATE, {"max_replicas": 4}),
    Effect("rolling_update_percentage", 0.5, UPDATE),
    Effect("max_surge_percent", 50, UPDATE),
    Effect("min_ready_s", 5, UPDATE),
    Effect("graceful_shutdown_timeout_s", 5, UPDATE),
    Effect("health_check_period_s", 5, UPDATE),
    Effect("health_check_timeout_s", 5, UPDATE),
    Effect("max_constructor_retry_count", 5, UPDATE),
    Effect("user_config", {"a": 1}, RECONFIGURE),
    Effect("user_config", {"a": 2}, RECONFIGURE, {"a": 1}),
    Effect("max_ongoing_requests", 5, RECONFIGURE),
    Effect("max_concurrent_queries", 5, RECONFIGURE, changed="max_ongoing_requests"),
    Effect("serialize_sync", True, RECONFIGURE),
    Effect("sync_threads", 2, RECONFIGURE),
    Effect("alive_timeout_s", 5, UPDATE),
    Effect("deadlock_timeout_s", None, UPDATE, 5),
    Effect("progress_timeout_s", 5, UPDATE),
    Effect("outlier_ejection", {"consecutive_errors": 3}, UPDATE),
    Effect("logging_config", {"log_level": "DEBUG"}, RECONFIGURE),
    Effect("max_replica_age_s", 60, RECONFIGURE),
    Effect("max_replica_requests", 1000, RECONFIGURE),
    Effect("max_replica_memory_bytes", 10**9, RECONFIGURE),
    Effect("cpu_affinity", [0], RESTART),
    Effect("graceful_shutdown_wait_loop_s", 5, UPDATE, why=NOT_IN_REPLICAS),
    Effect("backpressure_config", {"status_code": 429}, UPDATE, why=NOT_IN_REPLICAS),
    Effect("request_router_config", {"initial_backoff_s": 1}, RESTART, changed="code request_router_config",
           why="Ray Serve counts it as code of the application too, and that is the stronger effect."),
    Effect("ray_actor_options", {"num_cpus": 2}, RESTART),
    Effect("ray_actor_options", {"runtime_env": {"env_vars": {"A": "1"}}}, RESTART,
           changed="runtime_env ray_actor_options"),
    Effect("placement_group_bundles", [{"CPU": 1}], UPDATE, why=NO_EFFECT),
    Effect("placement_group_strategy", "SPREAD", UPDATE,
           beside={"placement_group_bundles": [{"CPU": 1}]}, why=NO_EFFECT),
    Effect("placement_group_bundle_label_selector", [{"a": "b"}], UPDATE,
           beside={"placement_group_bundles": [{"CPU": 1}]}, why=NO_EFFECT),
    Effect("max_replicas_per_node", 2, UPDATE, why=NO_EFFECT),
    Effect("is_driver_deployment", True, UPDATE, why=NO_EFFECT),
    Effect("route_prefix", "/b", RECONFIGURE),
]  # fmt: skip

#: Of these only null can be given.
NOT_CHANGEABLE = {"gang_scheduling_config", "deployment_actors"}

#: Fields of an application: what the ingress and the other deployment do.
OF_APPLICATIONS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"import_path": "m:other"}, RESTART, RESTART, "code"),
    ({"args": {"a": 1}}, RESTART, RESTART, "code"),
    ({"runtime_env": {"env_vars": {"A": "1"}}}, RESTART, RESTART, "code runtime_env"),
    ({"autoscaling_policy": {"policy_function": "m:policy"}}, RESTART, RESTART, "code"),
    ({"logging_config": {"log_level": "DEBUG"}}, RECONFIGURE, RECONFIGURE, "logging_config"),
    ({"route_prefix": "/b"}, RECONFIGURE, NOTHING, "route_prefix"),
    ({"route_prefix": None}, RECONFIGURE, NOTHING, "route_prefix"),
    ({"external_scaler_enabled": True}, NOTHING, NOTHING, ""),
    ({"rollback_on_failure": True}, NOTHING, NOTHING, ""),
    ({"require_api_key": True}, NOTHING, NOTHING, ""),
    ({"rate_limit": "10/s"}, NOTHING, NOTHING, ""),
    ({"client_rate_limit": "10/s"}, NOTHING, NOTHING, ""),
    ({"deployments": []}, NOTHING, NOTHING, ""),
]

#: Fields at the top. Where the instance listens is not changed while it runs.
AT_THE_TOP: list[tuple[dict[str, Any], str, str]] = [
    ({"logging_config": {"log_level": "DEBUG"}}, RECONFIGURE, "logging_config"),
    ({"target_capacity": 50}, NOTHING, ""),  # of one replica one is left
    ({"http_options": {"port": 1}}, NOTHING, ""),
    ({"grpc_options": {"port": 1}}, NOTHING, ""),
    ({"proxy_location": "HeadOnly"}, NOTHING, ""),
    ({"controller_options": {}}, NOTHING, ""),
    ({"tracing_config": {"enabled": True}}, NOTHING, ""),
]

SPECS = (
    DeploymentSpec(name="Other", config=DeploymentConfig(), code=b"other", init=b""),
    DeploymentSpec(name="Ingress", config=DeploymentConfig(), code=b"ingress", init=b"", is_ingress=True),
)


def document(*options: dict[str, Any], top: dict[str, Any] | None = None, **app: Any) -> dict[str, Any]:
    listed = [{"name": "Ingress", **given} for given in options if given]
    return {"applications": [{"import_path": "m:app", "deployments": listed, **app}], **(top or {})}


def goal_after(goal: Goal, wanted: dict[str, Any]) -> Goal:
    """Return the goal after a deploy, built parts included."""
    goal = accept_deploy(goal, deploy_request(wanted), now=0.0, alive=())
    app = goal.apps["default"]
    return (
        accept_build(goal, "default", app.revision, BuildResult(deployments=SPECS), ())
        if app.is_building
        else goal
    )


def step(before: dict[str, Any], after: dict[str, Any]) -> AppPlan:
    first = goal_after(Goal(), before)
    return compare(first, goal_after(first, after))["default"]


def options_of(effect: Effect) -> tuple[dict[str, Any], dict[str, Any]]:
    given = {} if effect.before is None else {effect.option: effect.before}
    return {**effect.beside, **given}, {**effect.beside, effect.option: effect.value}


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda e: f"{e.option}={e.value}")
def test_an_option_has_its_effect_and_no_other_deployment_notices(effect: Effect) -> None:
    before, after = options_of(effect)
    plan = step(document(before), document(after))
    ingress = plan.deployments["Ingress"]
    assert (ingress.action, ingress.changed) == (effect.action, (effect.changed or effect.option).split())
    is_code = "code" in ingress.changed
    assert plan.deployments["Other"].action == (RESTART if is_code else NOTHING)


@pytest.mark.parametrize("effect", EFFECTS, ids=lambda e: f"{e.option}={e.value}")
def test_an_option_that_is_taken_out_again_has_the_effect_once_more(effect: Effect) -> None:
    """The value of the code comes back. What is the same twice does nothing."""
    before, after = options_of(effect)
    assert step(document(after), document(before)).deployments["Ingress"].action == (
        effect.back or effect.action
    )
    assert step(document(after), document(after)).action == NOTHING


def test_every_option_has_an_effect_here_and_a_word_of_ray_serve() -> None:
    assert {effect.option for effect in EFFECTS} | NOT_CHANGEABLE == {*OPTIONS, *ALIASES}
    words = {option: word for word, options in SPEC.items() for option in options.split()}
    assert set(words) | OURS == {*OPTIONS, *ALIASES}
    for effect in EFFECTS:
        is_spec = words.get(effect.option, effect.action) == effect.action
        assert is_spec != bool(effect.why), (
            f"{effect.option}: a difference has a reason, and nothing else has"
        )


@pytest.mark.parametrize(("fields", "ingress", "other", "changed"), OF_APPLICATIONS, ids=lambda v: str(v))
def test_a_field_of_an_application_has_its_effect(
    fields: dict[str, Any], ingress: str, other: str, changed: str
) -> None:
    plan = step(document(), document(**fields))
    assert plan.deployments["Ingress"].action == ingress
    assert plan.deployments["Other"].action == other
    assert plan.deployments["Ingress"].changed == changed.split()
    assert plan.action == ("nothing" if (ingress, other) == (NOTHING, NOTHING) else "update")


def test_every_field_of_an_application_is_here() -> None:
    told = {name for fields, *_ in OF_APPLICATIONS for name in fields}
    assert told | {"name", "host", "port"} == set(APPLICATION_FIELDS)


@pytest.mark.parametrize(("fields", "action", "changed"), AT_THE_TOP, ids=lambda v: str(v))
def test_a_field_at_the_top_has_its_effect(fields: dict[str, Any], action: str, changed: str) -> None:
    plan = step(document(), document(top=fields))
    for deployment in plan.deployments.values():
        assert (deployment.action, deployment.changed) == (action, changed.split())


def test_every_field_at_the_top_is_here() -> None:
    assert {name for fields, *_ in AT_THE_TOP for name in fields} | {"applications"} == set(DEPLOY_FIELDS)


def test_a_capacity_scales_what_has_more_than_one_replica() -> None:
    four = {"num_replicas": 4}
    plan = step(document(four), document(four, top={"target_capacity": 50}))
    ingress = plan.deployments["Ingress"]
    assert (ingress.action, ingress.replicas_before, ingress.replicas_after) == (SCALE, 4, 2)


def test_another_name_is_another_application() -> None:
    first = goal_after(Goal(), document(top={}))
    renamed = document(name="renamed")
    plans = compare(first, accept_deploy(first, deploy_request(renamed), now=0.0, alive=()))
    assert plans["default"].action == "remove"
    assert plans["renamed"].action == "create"


def test_an_unnamed_deployment_keeps_the_options_of_the_code() -> None:
    plan = step(document({"num_replicas": 3, "user_config": {"a": 1}}), document())
    ingress = plan.deployments["Ingress"]
    assert (ingress.action, ingress.replicas_after) == (RECONFIGURE, 1)
    assert set(ingress.changed) == {"num_replicas", "user_config"}
