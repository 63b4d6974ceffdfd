"""Documents are checked whole, and an error names the place and what would be right."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from serve_lite.admin.v1 import NOT_STARTED, as_2_7
from serve_lite.config import AutoscalingConfig, DeploymentConfig, ProxyLocation
from serve_lite.exceptions import InvalidConfigError
from serve_lite.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    ProxyStatus,
    ServeInstanceDetails,
    ServeStatus,
    ServeStatusSchema,
    apply_overrides,
    config_to_dict,
    parse_application_document,
    parse_deploy_document,
)
from serve_lite.state.status import InstanceFacts, instance_details
from tests.policy.cases import wanted
from tests.policy.world import World


def document(**app: Any) -> dict[str, Any]:
    return {"applications": [{"import_path": "main:app", **app}]}


FULL: dict[str, Any] = {
    "proxy_location": "HeadOnly",
    "http_options": {"host": "0.0.0.0", "port": 9001, "request_timeout_s": 5, "keep_alive_timeout_s": 5},
    "grpc_options": {"port": 9002, "grpc_servicer_functions": ["pkg:add"]},
    "controller_options": {"runtime_env": {"env_vars": {"A": "1"}}},
    "logging_config": {"encoding": "JSON", "log_level": "debug"},
    "tracing_config": None,
    "target_capacity": 50,
    "applications": [
        {
            "name": "text",
            "route_prefix": "/text",
            "import_path": "text_ml:app",
            "runtime_env": {"working_dir": ".", "env_vars": {"K": "v"}},
            "args": {"model": "x"},
            "deployments": [
                {
                    "name": "Translator",
                    "num_replicas": "auto",
                    "autoscaling_config": {"max_replicas": 4, "target_ongoing_requests": 3},
                    "max_concurrent_queries": 7,
                    "max_queued_requests": -1,
                    "user_config": {"language": "french"},
                    "ray_actor_options": {"num_cpus": 1, "runtime_env": {}},
                    "placement_group_bundles": [{"CPU": 1}],
                    "placement_group_strategy": "PACK",
                    "is_driver_deployment": False,
                    "graceful_shutdown_timeout_s": 3,
                },
                {"name": "Summarizer"},
            ],
        },
        {"name": "hidden", "route_prefix": None, "import_path": "a.b.c"},
    ],
}


def test_a_full_document_of_both_generations_is_read() -> None:
    deploy = parse_deploy_document(FULL)
    assert deploy.proxy_location is ProxyLocation.HeadOnly and deploy.target_capacity == 50
    assert (deploy.http_options.port, deploy.grpc_options.grpc_servicer_functions) == (9001, ["pkg:add"])
    text, hidden = deploy.applications
    assert (text.route_prefix, hidden.route_prefix, hidden.name) == ("/text", None, "hidden")
    translator, summarizer = text.deployments
    assert translator.max_ongoing_requests == 7
    assert summarizer.num_replicas is msgspec.UNSET
    assert text.overrides[1] == {"name": "Summarizer"}


def test_what_was_submitted_is_kept_and_set_differs_from_default() -> None:
    deploy = parse_deploy_document(FULL)
    assert deploy.submitted == FULL
    assert deploy.is_set("tracing_config") and not parse_deploy_document(document()).is_set("http_options")
    (app,) = parse_deploy_document(document()).applications
    assert app.submitted == {"import_path": "main:app"}
    assert (app.name, app.route_prefix, app.is_set("route_prefix")) == ("default", "/", False)


def test_a_document_may_list_no_applications() -> None:
    assert parse_deploy_document({"applications": []}).applications == ()


def test_a_single_application_document_has_host_and_port() -> None:
    app = parse_application_document({"import_path": "m:a", "host": "0.0.0.0", "port": 81})
    assert (app.host, app.port) == ("0.0.0.0", 81)


@pytest.mark.parametrize(
    ("doc", "path", "said"),
    [
        ({}, "applications", "has no 'applications'"),
        ([], "", "mapping"),
        ({"import_path": "m:a"}, "import_path", "single application"),
        ({"applications": {}}, "applications", "a list of applications"),
        ({"applications": ["x"]}, "applications[0]", "mapping"),
        ({"applications": [{}]}, "applications[0].import_path", "has no 'import_path'"),
        ({"applications": [], "http_option": {}}, "http_option", "did you mean 'http_options'"),
        ({"applications": [], "proxy_location": "Nowhere"}, "proxy_location", "HeadOnly"),
        ({"applications": [], "target_capacity": 101}, "target_capacity", "at most 100"),
        ({"applications": [], "http_options": {"port": "80"}}, "http_options.port", "an integer"),
        ({"applications": [], "http_options": {"prot": 80}}, "http_options.prot", "did you mean 'port'"),
        (
            {"applications": [], "controller_options": {"runtime_env": {"pip": []}}},
            "controller_options.runtime_env.pip",
            "env_vars",
        ),
        (document(import_path="main"), "applications[0].import_path", "invalid import path"),
        (document(import_path="main:"), "applications[0].import_path", "invalid import path"),
        (document(import_path="a:b:c"), "applications[0].import_path", "invalid import path"),
        (document(import_path=".a"), "applications[0].import_path", "invalid import path"),
        (document(name=""), "applications[0].name", "must be nonempty"),
        (document(route_prefix="x"), "applications[0].route_prefix", "must start with a forward slash"),
        (document(route_prefix="/x/"), "applications[0].route_prefix", "write '/x'"),
        (document(route_prefix="/{x}"), "applications[0].route_prefix", "wildcards"),
        (document(route_prefix=3), "applications[0].route_prefix", "a string"),
        (document(port=1), "applications[0].port", "http_options"),
        (document(num_replicas=1), "applications[0].num_replicas", "an entry of 'deployments'"),
        (document(deployments=[{}]), "applications[0].deployments[0].name", "has no 'name'"),
        (
            document(deployments=[{"name": "A"}, {"name": "A"}]),
            "applications[0].deployments[1].name",
            "twice",
        ),
        (
            document(deployments=[{"name": "A"}, {"name": "B", "num_replicas": 0}]),
            "applications[0].deployments[1].num_replicas",
            "larger than 0",
        ),
        (
            document(deployments=[{"name": "A", "num_replicas": "5"}]),
            "applications[0].deployments[0].num_replicas",
            "an integer",
        ),
        (
            document(deployments=[{"name": "A", "num_replica": 5}]),
            "applications[0].deployments[0].num_replica",
            "did you mean 'num_replicas'",
        ),
        (
            document(deployments=[{"name": "A", "autoscaling_config": {"max_ongoing_requests": 5}}]),
            "applications[0].deployments[0].autoscaling_config.max_ongoing_requests",
            "it belongs to the deployment itself",
        ),
        (
            document(deployments=[{"name": "A", "autoscaling_config": {"min_replicas": 5}}]),
            "applications[0].deployments[0].autoscaling_config.min_replicas",
            "larger than max_replicas",
        ),
        (
            document(deployments=[{"name": "A", "num_replicas": 2, "autoscaling_config": {}}]),
            "applications[0].deployments[0].num_replicas",
            "not allowed when autoscaling_config",
        ),
        (
            document(deployments=[{"name": "A", "max_ongoing_requests": 2, "max_concurrent_queries": 3}]),
            "applications[0].deployments[0].max_concurrent_queries",
            "give one",
        ),
        (
            document(deployments=[{"name": "A", "max_ongoing_requests": None}]),
            "applications[0].deployments[0].max_ongoing_requests",
            "non-null",
        ),
        (
            document(deployments=[{"name": "A", "max_queued_requests": "3"}]),
            "applications[0].deployments[0].max_queued_requests",
            "an integer",
        ),
        (
            document(deployments=[{"name": "A", "ray_actor_options": {"num_gpu": 1}}]),
            "applications[0].deployments[0].ray_actor_options.num_gpu",
            "did you mean 'num_gpus'",
        ),
        (
            document(deployments=[{"name": "A", "route_prefix": "/a"}, {"name": "B", "route_prefix": "/b"}]),
            "applications[0]",
            "multiple route prefixes",
        ),
        (
            document(external_scaler_enabled=True, deployments=[{"name": "A", "num_replicas": "auto"}]),
            "applications[0].deployments[0]",
            "external_scaler_enabled",
        ),
    ],
)
def test_a_wrong_document_is_refused_with_its_place(doc: Any, path: str, said: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_deploy_document(doc)
    assert caught.value.path == path
    assert said in str(caught.value)
    assert type(caught.value) is InvalidConfigError or path in str(caught.value)


def test_duplicate_names_and_prefixes_are_refused() -> None:
    two = {"applications": [{"import_path": "m:a", "name": n} for n in ("a", "b")]}
    with pytest.raises(InvalidConfigError, match="each prefix must be unique"):
        parse_deploy_document(two)
    with pytest.raises(InvalidConfigError, match="names must be unique"):
        parse_deploy_document({"applications": [{"import_path": "m:a"}, {"import_path": "m:b"}]})
    unreachable = {"applications": [{"import_path": "m:a", "name": n, "route_prefix": None} for n in "ab"]}
    assert len(parse_deploy_document(unreachable).applications) == 2


def test_a_prefix_at_a_deployment_counts_if_the_application_has_none() -> None:
    deployments = [{"name": "A", "route_prefix": "/a"}]
    (app,) = parse_deploy_document(document(deployments=deployments)).applications
    assert app.route_prefix == "/a"
    (app,) = parse_deploy_document(document(deployments=deployments, route_prefix="/b")).applications
    assert app.route_prefix == "/b"


def test_the_code_version_ignores_options_of_deployments_only() -> None:
    def version(**app: Any) -> str:
        return parse_deploy_document(document(**app)).applications[0].code_version()

    assert version() == version(deployments=[{"name": "A", "num_replicas": 3}])
    assert len({version(), version(args={"a": 1}), version(runtime_env={"env_vars": {"A": "1"}})}) == 3


# --- merging -------------------------------------------------------------------------------------


def test_an_override_replaces_a_whole_option_and_others_stay() -> None:
    code = DeploymentConfig(num_replicas=3, user_config={"a": 1, "b": 2}, max_ongoing_requests=9)
    merged = apply_overrides(code, (), {"name": "D", "user_config": {"a": 5}})
    assert merged == DeploymentConfig(num_replicas=3, user_config={"a": 5}, max_ongoing_requests=9)
    assert apply_overrides(code, (), {"name": "D"}) == code


def test_a_number_of_replicas_switches_autoscaling_off_and_the_other_way_round() -> None:
    scaled = apply_overrides(
        DeploymentConfig(), (), {"autoscaling_config": {"min_replicas": 2, "max_replicas": 5}}
    )
    assert (scaled.num_replicas, scaled.autoscaling_config is not None) == (2, True)
    assert apply_overrides(scaled, (), {"num_replicas": 4}) == DeploymentConfig(num_replicas=4)
    assert apply_overrides(scaled, (), {"autoscaling_config": None}) == DeploymentConfig()
    assert apply_overrides(scaled, (), {"num_replicas": None}) == scaled
    again = apply_overrides(
        DeploymentConfig(num_replicas=4), (), {"autoscaling_config": {"initial_replicas": 1}}
    )
    assert again.num_replicas == 1 and again.autoscaling_config is not None


def test_auto_starts_from_its_defaults_then_takes_what_is_given_or_what_the_code_has() -> None:
    auto = apply_overrides(DeploymentConfig(), (), {"num_replicas": "auto"})
    assert auto.autoscaling_config == AutoscalingConfig(max_replicas=100)
    code = DeploymentConfig(autoscaling_config=AutoscalingConfig(max_replicas=7, upscale_delay_s=1))
    merged = apply_overrides(code, (), {"num_replicas": "auto"}).autoscaling_config
    assert merged == AutoscalingConfig(max_replicas=7, upscale_delay_s=1)
    given = {"num_replicas": "auto", "autoscaling_config": {"target_ongoing_requests": 5}}
    assert apply_overrides(code, (), given).autoscaling_config == AutoscalingConfig(
        max_replicas=100, target_ongoing_requests=5
    )


def test_a_config_is_shown_with_the_names_of_both_generations() -> None:
    shown = config_to_dict(apply_overrides(DeploymentConfig(), (), {"max_replicas_per_node": 2}), "D")
    assert (shown["name"], shown["num_replicas"]) == ("D", 1)
    assert shown["max_ongoing_requests"] == shown["max_concurrent_queries"] == 100
    assert shown["max_replicas_per_node"] == 2 and "autoscaling_config" not in shown
    scaled = config_to_dict(apply_overrides(DeploymentConfig(), (), {"num_replicas": "auto"}))
    assert "num_replicas" not in scaled and scaled["autoscaling_config"]["max_replicas"] == 100
    assert msgspec.json.decode(msgspec.json.encode(scaled)) == scaled


# --- status --------------------------------------------------------------------------------------


def a_rest_answer() -> dict[str, Any]:
    """What a controller of one application with a replica answers."""
    world = World()
    world.deploy(wanted("v1", 1))
    world.settle()
    facts = InstanceFacts(node_id="node", http_options={"host": "127.0.0.1", "port": 8000})
    return instance_details(world.goal, world.observed, facts)


def test_the_classes_of_details_read_what_rest_answers() -> None:
    answer = a_rest_answer()
    details = msgspec.json.decode(msgspec.json.encode(answer), type=ServeInstanceDetails)
    # Nothing was left out, and nothing has another type.
    assert msgspec.json.decode(msgspec.json.encode(details)) == answer
    deployment = details.applications["shop"].deployments["Model"]
    assert deployment.status is DeploymentStatus.HEALTHY
    assert [replica.state for replica in deployment.replicas] == ["RUNNING"]
    assert deployment.autoscaling_detail is msgspec.UNSET
    topology = details.applications["shop"].deployment_topology
    assert topology is not None and topology.nodes["Model"].is_ingress


def test_an_outer_balancer_is_told_of_both_doors() -> None:
    world = World()
    world.deploy(wanted("v1", 1))
    world.settle()
    grpc = {"port": 9000, "grpc_servicer_functions": ["shop_pb2_grpc:add_ShopServicer_to_server"]}
    facts = InstanceFacts(node_id="node", http_options={"host": "127.0.0.1", "port": 8000}, grpc_options=grpc)
    app = msgspec.structs.replace(world.goal.apps["shop"], route_prefix="/shop")
    for route_prefix, expected in (
        ("/shop", [("HTTP", 8000, "shop", "/shop"), ("gRPC", 9000, "shop", "/shop")]),
        (None, [("gRPC", 9000, "shop", "/")]),
    ):
        app = msgspec.structs.replace(app, route_prefix=route_prefix)
        goal = msgspec.structs.replace(world.goal, apps={"shop": app})
        groups = instance_details(goal, world.observed, facts)["target_groups"]
        told = [(g["protocol"], g["targets"][0]["port"], g["app_name"], g["route_prefix"]) for g in groups]
        assert told == expected
        assert {g["ingress_deployment_name"] for g in groups} == {"Model"}
        without = msgspec.structs.replace(facts, proxy_location="Disabled")
        assert instance_details(goal, world.observed, without)["target_groups"] == []


def test_the_class_of_v1s_status_reads_what_rest_answers() -> None:
    overview = ApplicationStatusOverview(
        ApplicationStatus.RUNNING, "", 1.5, {"D": DeploymentStatusOverview(DeploymentStatus.HEALTHY)}
    )
    for answer in (as_2_7("default", overview), NOT_STARTED):
        status = msgspec.json.decode(msgspec.json.encode(answer), type=ServeStatusSchema)
        assert msgspec.json.decode(msgspec.json.encode(status)) == answer


def test_statuses_compare_equal_to_their_names_and_travel() -> None:
    status = ServeStatus(
        {"n1": ProxyStatus.HEALTHY},
        {
            "a": ApplicationStatusOverview(
                ApplicationStatus.RUNNING, "", 1.5, {"D": DeploymentStatusOverview(DeploymentStatus.HEALTHY)}
            )
        },
    )
    assert status.applications["a"].status == "RUNNING"
    assert f"{status.applications['a'].deployments['D'].status}" == "HEALTHY"
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(status), type=ServeStatus) == status
    assert ServeStatus() == ServeStatus({}, {}, None)
