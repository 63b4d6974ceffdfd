"""Every field that either generation of Ray Serve has in its documents, with a good value and what it becomes.

Each is read as a program sends it to REST, and as a person writes it into a file. The tables are held against those
that the checks are made of, so that a field without a line here fails.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ruamel.yaml import YAML

from serve_lite.admin.documents import deploy_request, single_app_request
from serve_lite.admin.notices import OF_ACTORS, OF_DEPLOYMENTS, OF_HTTP, notice_of
from serve_lite.config import (
    DEFAULT_POLICY,
    RAYS_DEFAULT_POLICY,
    AutoscalingConfig,
    DeploymentConfig,
    HTTPOptions,
    LoggingConfig,
    OutlierEjection,
    RequestRouterConfig,
    TracingConfig,
    gRPCOptions,
)
from serve_lite.exceptions import InvalidConfigError
from serve_lite.options import ACTOR_OPTIONS, ALIASES, OPTIONS, apply_overrides
from serve_lite.schema import (
    APPLICATION_FIELDS,
    DEPLOY_FIELDS,
    ServeDeploySchema,
    parse_application_document,
    parse_deploy_document,
)
from serve_lite_cli.submission import read_submission
from tests.python.test_document_schema import FULL

SAME = object()  #: it stays as it was given

AT_THE_TOP: dict[str, list[tuple[Any, Any]]] = {
    "proxy_location": [("Disabled", SAME), ("HeadOnly", SAME), ("EveryNode", SAME), ("NoServer", "Disabled")],
    "http_options": [({"port": 0}, HTTPOptions(port=0))],
    "grpc_options": [({"port": 0}, gRPCOptions(port=0))],
    "controller_options": [(None, None), ({"runtime_env": {"env_vars": {"A": "1"}}}, SAME)],
    "logging_config": [(None, None), ({"encoding": "JSON"}, LoggingConfig(encoding="JSON"))],
    "tracing_config": [(None, None), ({"enabled": True}, TracingConfig(enabled=True))],
    "target_capacity": [(None, None), (0, 0.0), (33.3, 33.3), (100, 100.0)],
    "applications": [([], ())],
}

HTTP: dict[str, list[tuple[Any, Any]]] = {
    "host": [("0.0.0.0", SAME), ("::", SAME), (None, None)],
    "port": [(8000, SAME), (0, SAME), (65535, SAME)],
    "root_path": [("", SAME), ("/outer", SAME)],
    "server": [("native", SAME), ("hypercorn", SAME)],
    "root_url": [("https://example.org", SAME)],
    "request_timeout_s": [(None, None), (30, 30.0)],
    "keep_alive_timeout_s": [(5, 5.0), (90, 90.0)],
    "middlewares": [([], SAME)],
    "location": [("HeadOnly", SAME), ("NoServer", "Disabled"), (None, None)],
    "num_cpus": [(0, 0.0)],
    "fixed_number_replicas": [(None, None), (2, SAME)],
    "fixed_number_selection_seed": [(7, SAME)],
    "ssl_keyfile": [(None, None)],
    "ssl_certfile": [(None, None)],
    "ssl_keyfile_password": [(None, None), ("secret", SAME)],
    "ssl_ca_certs": [(None, None), ("/etc/ca.pem", SAME)],
    "first_byte_timeout_s": [(None, None), (1, 1.0)],
    "idle_timeout_s": [(None, None), (1, 1.0)],
    "read_timeout_s": [(1, 1.0)],
    "write_timeout_s": [(1, 1.0)],
    "max_connections": [(None, None), (1, SAME)],
    "max_headers": [(1, SAME), (10_000, SAME)],
    "max_header_bytes": [(1024, SAME)],
    "max_body_bytes": [(None, None), (0, SAME)],
    "http3": [(False, SAME), (True, SAME)],
    "forwarded_allow_ips": [
        ([], SAME),
        (["*"], SAME),
        (["10.1.2.3/8", "fe80::1"], ["10.0.0.0/8", "fe80::1/128"]),
    ],
    "require_api_key": [(True, True), (False, False)],
    "api_keys_file": [(None, None), ("/etc/serve/api-keys", SAME)],
    "access_log": [(None, None), ("stdout", SAME), ("/var/log/access.log", SAME)],
}

GRPC: dict[str, list[tuple[Any, Any]]] = {
    "port": [(9000, SAME), (0, SAME)],
    "grpc_servicer_functions": [([], SAME), (["my_pb2_grpc:add_X", "my_pb2_grpc.add_Y"], SAME)],
    "request_timeout_s": [(None, None), (30, 30.0)],
    "enable_reflection": [(False, False)],
    "max_receive_message_bytes": [(2**31 - 1, SAME), (0, SAME)],
    "max_send_message_bytes": [(2**31 - 1, SAME), (0, SAME)],
    "max_connections": [(None, None), (1, SAME)],
}

LOGGING: dict[str, list[tuple[Any, Any]]] = {
    "encoding": [("TEXT", SAME), ("JSON", SAME)],
    "log_level": [("INFO", SAME), ("debug", "DEBUG"), (10, "DEBUG"), ("WARNING", SAME)],
    "logs_dir": [(None, None), ("/var/log/serve", SAME)],
    "enable_access_log": [(False, False)],
    "additional_log_standard_attrs": [([], SAME), (["name", "lineno", "name"], ["name", "lineno"])],
}

TRACING: dict[str, list[tuple[Any, Any]]] = {
    "enabled": [(True, True)],
    "exporter_import_path": [("", SAME), ("pkg.tracing:exporter", SAME)],
    "sampling_ratio": [(0, 0.0), (1, 1.0)],
}

APPLICATION: dict[str, list[tuple[Any, Any]]] = {
    "name": [("text", SAME), ("with space", SAME)],
    "route_prefix": [("/", SAME), ("/a/b", SAME), (None, None)],
    "import_path": [("pkg.mod:app", SAME), ("pkg.mod.app", SAME)],
    "runtime_env": [({}, SAME), ({"env_vars": {"A": "1"}}, SAME)],
    "host": [("0.0.0.0", SAME)],
    "port": [(81, SAME)],
    "deployments": [([], ())],
    "args": [({}, SAME), ({"size": 3, "more": [None, {"a": True}]}, SAME)],
    "logging_config": [(None, None), ({"log_level": "DEBUG"}, LoggingConfig(log_level="DEBUG"))],
    "autoscaling_policy": [
        (None, None),
        (
            {"policy_function": "m:policy", "policy_kwargs": {"a": 1}},
            {"policy_function": "m:policy", "policy_kwargs": {"a": 1}},
        ),
    ],
    "external_scaler_enabled": [(True, True)],
    "rollback_on_failure": [(True, True), (False, False)],
    "require_api_key": [(True, True), (False, False), (None, None)],
    "rate_limit": [(None, None), ("100/s", SAME), ("10/s burst 50", SAME)],
    "client_rate_limit": [(None, None), ("600/min", SAME)],
}

#: Options of a deployment: what `DeploymentConfig` says then.
DEPLOYMENT: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "num_replicas": [
        (3, {"num_replicas": 3}),
        (3.0, {"num_replicas": 3}),
        (None, {"num_replicas": 1}),
        ("auto", {"num_replicas": 1, "autoscaling_config": AutoscalingConfig(max_replicas=100)}),
    ],
    "max_ongoing_requests": [(5, {"max_ongoing_requests": 5})],
    "max_concurrent_queries": [(5, {"max_ongoing_requests": 5})],
    "max_queued_requests": [(-1, {"max_queued_requests": -1}), (3, {"max_queued_requests": 3})],
    "user_config": [(None, {"user_config": None}), ({"a": [1]}, {"user_config": {"a": [1]}})],
    "autoscaling_config": [
        (None, {"autoscaling_config": None}),
        ({"max_replicas": 4}, {"autoscaling_config": AutoscalingConfig(max_replicas=4), "num_replicas": 1}),
        (
            {"min_replicas": 0, "initial_replicas": 2, "max_replicas": 4},
            {"autoscaling_config": AutoscalingConfig(min_replicas=0, initial_replicas=2, max_replicas=4),
             "num_replicas": 2},
        ),
    ],
    "graceful_shutdown_wait_loop_s": [(0, {"graceful_shutdown_wait_loop_s": 0.0})],
    "graceful_shutdown_timeout_s": [(0.5, {"graceful_shutdown_timeout_s": 0.5})],
    "health_check_period_s": [(1, {"health_check_period_s": 1.0})],
    "health_check_timeout_s": [(1, {"health_check_timeout_s": 1.0})],
    "ray_actor_options": [
        (None, {"ray_actor_options": {}}),
        ({"num_cpus": 2}, {"ray_actor_options": {"num_cpus": 2.0}}),
    ],
    "max_constructor_retry_count": [(3, {"max_constructor_retry_count": 3})],
    "rolling_update_percentage": [(0.5, {"rolling_update_percentage": 0.5}), (1, {"rolling_update_percentage": 1.0})],
    "max_surge_percent": [(0, {"max_surge_percent": 0}), (100, {"max_surge_percent": 100})],
    "backpressure_config": [
        ({"status_code": 429, "retry_after_s": 2}, {"backpressure_status": 429, "retry_after_s": 2.0}),
        ({}, {"backpressure_status": 503, "retry_after_s": None}),
    ],
    "logging_config": [
        (None, {"logging_config": None}),
        ({"log_level": "DEBUG"}, {"logging_config": LoggingConfig(log_level="DEBUG").to_dict()}),
    ],
    "request_router_config": [
        (None, {"request_router_config": None}),
        (
            {"request_router_class": "m:Router", "request_router_kwargs": {"k": 1}},
            {
                "request_router_config": RequestRouterConfig(
                    request_router_class="m:Router", request_router_kwargs={"k": 1}
                ).to_dict()
            },
        ),
    ],
    "serialize_sync": [(True, {"serialize_sync": True})],
    "max_replica_age_s": [(None, {"max_replica_age_s": None}), (60, {"max_replica_age_s": 60.0})],
    "max_replica_requests": [(None, {"max_replica_requests": None}), (9, {"max_replica_requests": 9})],
    "max_replica_memory_bytes": [(2**30, {"max_replica_memory_bytes": 2**30})],
    "cpu_affinity": [(None, {"cpu_affinity": None}), ([2, 0], {"cpu_affinity": [0, 2]})],
    "min_ready_s": [(0, {"min_ready_s": 0.0}), (2.5, {"min_ready_s": 2.5})],
    "sync_threads": [(None, {"sync_threads": None}), (3, {"sync_threads": 3})],
    "alive_timeout_s": [(None, {"alive_timeout_s": None}), (3, {"alive_timeout_s": 3})],
    "deadlock_timeout_s": [(None, {"deadlock_timeout_s": None}), (0.5, {"deadlock_timeout_s": 0.5})],
    "progress_timeout_s": [(None, {"progress_timeout_s": None}), (3, {"progress_timeout_s": 3})],
    "outlier_ejection": [
        (None, {"outlier_ejection": None}),
        ({"consecutive_errors": 3}, {"outlier_ejection": OutlierEjection(consecutive_errors=3)}),
    ],
    "placement_group_bundles": [
        (value, {"accepted": {"placement_group_bundles": value}}) for value in (None, [{"CPU": 1.0}])
    ],
    "placement_group_strategy": [(None, {"accepted": {"placement_group_strategy": None}})],
    "placement_group_bundle_label_selector": [
        (None, {"accepted": {"placement_group_bundle_label_selector": None}})
    ],
    "max_replicas_per_node": [(value, {"accepted": {"max_replicas_per_node": value}}) for value in (None, 1, 100)],
    "is_driver_deployment": [(False, {"accepted": {"is_driver_deployment": False}})],
    "gang_scheduling_config": [(None, {"accepted": {"gang_scheduling_config": None}})],
    "deployment_actors": [(None, {"accepted": {"deployment_actors": None}})],
    "route_prefix": [("/d", {"accepted": {"route_prefix": "/d"}})],
}  # fmt: skip

ACTOR: dict[str, list[tuple[Any, Any]]] = {
    "runtime_env": [({}, SAME), ({"env_vars": {"A": "1"}}, SAME)],
    "num_cpus": [(None, None), (0, 0.0), (0.5, SAME)],
    "num_gpus": [(None, None), (1, 1.0)],
    "memory": [(None, None), (1e9, SAME)],
    "object_store_memory": [(1000, 1000.0)],
    "resources": [({}, SAME), ({"TPU": 1}, {"TPU": 1.0})],
    "accelerator_type": [(None, None), ("A100", SAME)],
    "label_selector": [(None, None), ({"zone": "a"}, SAME)],
    "fallback_strategy": [(None, None), ([{"label_selector": {"zone": "b"}}], SAME)],
}

#: With the attribute that has it, where that is another one.
AUTOSCALING: dict[str, list[tuple[Any, Any]]] = {
    "min_replicas": [(0, SAME)],
    "initial_replicas": [(None, None), (1, SAME)],
    "max_replicas": [(7, SAME)],
    "target_ongoing_requests": [(0.5, SAME)],
    "target_num_ongoing_requests_per_replica": [(3, None)],  # gone: see below
    "metrics_interval_s": [(5, 5.0)],
    "look_back_period_s": [(20, 20.0)],
    "smoothing_factor": [(0.5, SAME)],
    "upscale_smoothing_factor": [(None, None), (0.5, SAME)],
    "downscale_smoothing_factor": [(None, None), (0.5, SAME)],
    "upscaling_factor": [(None, None), (0.5, SAME)],
    "downscaling_factor": [(None, None), (0.5, SAME)],
    "upscale_delay_s": [(0, 0.0), (3, 3.0)],
    "downscale_delay_s": [(0, 0.0)],
    "downscale_to_zero_delay_s": [(None, None), (3, 3.0)],
    "aggregation_function": [("mean", SAME), ("MAX", "max"), ("min", SAME)],
    "policy": [
        ({"policy_function": "m:f", "policy_kwargs": {"a": 1}}, {"policy_function": "m:f", "policy_kwargs": {"a": 1}}),
        ("m:f", {"policy_function": "m:f", "policy_kwargs": {}}),
        ({"policy_function": RAYS_DEFAULT_POLICY}, {"policy_function": DEFAULT_POLICY, "policy_kwargs": {}}),
        (None, {"policy_function": DEFAULT_POLICY, "policy_kwargs": {}}),
    ],
    "schedules": [
        ([], ()),
        (
            [{"cron": "0 8  * * mon-fri", "duration_s": 60, "max_replicas": 3}],
            ({"cron": "0 8 * * mon-fri", "duration_s": 60.0, "max_replicas": 3},),
        ),
    ],
}  # fmt: skip

ROUTER: dict[str, list[tuple[Any, Any]]] = {
    "request_router_class": [("pkg.routers:Mine", SAME), ("pkg.routers.Mine", SAME)],
    "request_router_kwargs": [({}, SAME), ({"a": [1]}, SAME)],
    "request_routing_stats_period_s": [(1, 1.0)],
    "request_routing_stats_timeout_s": [(1, 1.0)],
    "initial_backoff_s": [(0, 0.0)],
    "backoff_multiplier": [(3, 3.0)],
    "max_backoff_s": [(1, 1.0)],
}

Way = str  #: in which a document comes


@pytest.fixture(params=["REST", "file"])
def way(request: pytest.FixtureRequest) -> Way:
    return str(request.param)


@pytest.fixture
def read(way: Way, tmp_path: Path) -> Any:
    """Return what arrives of a document that is sent, or written as a file."""

    def through_rest(document: dict[str, Any]) -> dict[str, Any]:
        decoded: dict[str, Any] = msgspec.json.decode(json.dumps(document).encode())
        (deploy_request if "applications" in document else single_app_request)(decoded)
        return decoded

    def through_a_file(document: dict[str, Any]) -> dict[str, Any]:
        path = tmp_path / "serve.yaml"
        with path.open("w") as file:
            YAML(typ="safe", pure=True).dump(document, file)
        return read_submission(str(path)).document

    return through_rest if way == "REST" else through_a_file


def cases(table: dict[str, list[tuple[Any, Any]]]) -> Any:
    found = [(name, given, become) for name, pairs in table.items() for given, become in pairs]
    return pytest.mark.parametrize(
        ("name", "given", "become"), found, ids=[f"{n}={g!r}" for n, g, _ in found]
    )


def app_with(**fields: Any) -> dict[str, Any]:
    return {"applications": [{"import_path": "m:app", **fields}]}


def builtins(value: Any) -> Any:
    return msgspec.to_builtins(value)


def test_the_tables_are_whole() -> None:
    assert set(AT_THE_TOP) == set(DEPLOY_FIELDS)
    assert set(APPLICATION) == set(APPLICATION_FIELDS)
    assert set(DEPLOYMENT) == {*OPTIONS, *ALIASES}
    assert set(ACTOR) == set(ACTOR_OPTIONS)
    classes = (HTTPOptions, gRPCOptions, LoggingConfig, TracingConfig, AutoscalingConfig, RequestRouterConfig)
    tables = (HTTP, GRPC, LOGGING, TRACING, AUTOSCALING, ROUTER)
    for cls, table in zip(classes, tables, strict=True):
        assert set(table) == set(cls.__struct_fields__), cls


@cases(AT_THE_TOP)
def test_a_field_at_the_top(name: str, given: Any, become: Any, read: Any) -> None:
    found = getattr(parse_deploy_document(read({"applications": [], name: given})), name)
    assert builtins(found) == builtins(given if become is SAME else become)


@pytest.mark.parametrize(
    ("part", "table"),
    [
        ("http_options", HTTP),
        ("grpc_options", GRPC),
        ("logging_config", LOGGING),
        ("tracing_config", TRACING),
    ],
)
def test_the_fields_of_a_part_of_the_top(part: str, table: dict[str, Any], read: Any) -> None:
    for name, pairs in table.items():
        for given, become in pairs:
            found = getattr(parse_deploy_document(read({"applications": [], part: {name: given}})), part)
            assert builtins(getattr(found, name)) == (given if become is SAME else become), (name, given)


def test_a_key_and_a_certificate_come_together(read: Any) -> None:
    both = {"ssl_keyfile": "/k.pem", "ssl_certfile": "/c.pem"}
    options = parse_deploy_document(read({"applications": [], "http_options": both})).http_options
    assert (options.ssl_keyfile, options.ssl_certfile) == ("/k.pem", "/c.pem")


@cases({name: pairs for name, pairs in APPLICATION.items() if name not in ("host", "port")})
def test_a_field_of_an_application(name: str, given: Any, become: Any, read: Any) -> None:
    (app,) = parse_deploy_document(read(app_with(**{name: given}))).applications
    assert builtins(getattr(app, name)) == builtins(given if become is SAME else become)
    assert app.is_set(name)


@cases({name: pairs for name, pairs in APPLICATION.items() if name != "name"})
def test_a_field_of_a_single_application(name: str, given: Any, become: Any, read: Any) -> None:
    app = parse_application_document(read({"import_path": "m:app", name: given}))
    assert builtins(getattr(app, name)) == builtins(given if become is SAME else become)


@cases(DEPLOYMENT)
def test_an_option_of_a_deployment(name: str, given: Any, become: dict[str, Any], read: Any) -> None:
    document = read(app_with(deployments=[{"name": "D", name: given}]))
    (override,) = parse_deploy_document(document).applications[0].overrides
    assert apply_overrides(DeploymentConfig(), (), override) == DeploymentConfig(**become)


@cases(ACTOR)
def test_what_a_replica_needs(name: str, given: Any, become: Any, read: Any) -> None:
    document = read(app_with(deployments=[{"name": "D", "ray_actor_options": {name: given}}]))
    (override,) = parse_deploy_document(document).applications[0].overrides
    options = apply_overrides(DeploymentConfig(), (), override).ray_actor_options
    assert options == {name: given if become is SAME else become}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@cases(AUTOSCALING)
def test_an_option_of_autoscaling(name: str, given: Any, become: Any, read: Any) -> None:
    scaling = {"max_replicas": 5, name: given}
    document = read(app_with(deployments=[{"name": "D", "autoscaling_config": scaling}]))
    (override,) = parse_deploy_document(document).applications[0].overrides
    found = apply_overrides(DeploymentConfig(), (), override).autoscaling_config
    assert found is not None
    value = found.policy.to_dict() if name == "policy" else builtins(getattr(found, name))
    assert value == (given if become is SAME else become)
    if name == "target_num_ongoing_requests_per_replica":
        assert found.target_ongoing_requests == given


@cases(ROUTER)
def test_an_option_of_a_router(name: str, given: Any, become: Any, read: Any) -> None:
    document = read(app_with(deployments=[{"name": "D", "request_router_config": {name: given}}]))
    (override,) = parse_deploy_document(document).applications[0].overrides
    found = apply_overrides(DeploymentConfig(), (), override).request_router_config
    assert found is not None and found[name] == (given if become is SAME else become)


def test_the_whole_example_of_today_arrives(read: Any) -> None:
    document = YAML(typ="safe", pure=True).load(FULL)
    deploy = parse_deploy_document(read(document))
    assert deploy.submitted == document
    (app,) = deploy.applications
    ingress, model = (apply_overrides(DeploymentConfig(), (), o) for o in app.overrides)
    assert (ingress.max_ongoing_requests, ingress.backpressure_status) == (5, 429)
    assert ingress.autoscaling_config is not None and ingress.autoscaling_config.min_replicas == 0
    assert (model.max_surge_percent, model.user_config) == (50, {"threshold": 0.5})
    assert notice_of(document) == ""


#: The documents of 2.7's reference of its REST API, with a folder in place of the remote archive.
OF_2_7: list[dict[str, Any]] = [
    {
        "import_path": "text_ml:app",
        "runtime_env": {"working_dir": "."},
        "deployments": [
            {"name": "Translator", "user_config": {"language": "french"}},
            {"name": "Summarizer"},
        ],
    },
    {
        "applications": [
            {
                "name": "text_app",
                "route_prefix": "/",
                "import_path": "text_ml:app",
                "runtime_env": {"working_dir": "."},
                "deployments": [
                    {"name": "Translator", "user_config": {"language": "french"}},
                    {"name": "Summarizer"},
                ],
            }
        ]
    },
]


@pytest.mark.parametrize("document", OF_2_7, ids=["one application", "many"])
def test_the_examples_of_2_7_arrive(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(json.dumps(document))
    given = read_submission(str(path))
    app = given.request.apps[0]
    assert app.environment.cwd == str(tmp_path)
    assert [o["name"] for o in app.overrides] == ["Translator", "Summarizer"]
    assert app.overrides[0]["user_config"] == {"language": "french"}


# --- what only a cluster needs -------------------------------------------------------------------

NEEDLESS: dict[str, Any] = {
    "placement_group_bundles": [{"CPU": 1}],
    "placement_group_strategy": "SPREAD",
    "placement_group_bundle_label_selector": [{"zone": "a"}],
    "is_driver_deployment": True,
    "ray_actor_options": {"label_selector": {"a": "b"}, "object_store_memory": 1, "fallback_strategy": [{}]},
}


def test_what_only_a_cluster_needs_is_accepted_and_told_in_one_line() -> None:
    document = app_with(
        deployments=[
            {"name": "A", **NEEDLESS},
            {"name": "B", "max_replicas_per_node": 1},
            {"name": "C", **NEEDLESS},
        ]
    )
    document["controller_options"] = {"runtime_env": {"env_vars": {"A": "b"}}}
    document["http_options"] = {
        "location": "HeadOnly",
        "fixed_number_replicas": 1,
        "fixed_number_selection_seed": 2,
    }
    assert isinstance(parse_deploy_document(document), ServeDeploySchema)
    notice = notice_of(document)
    assert "\n" not in notice
    assert notice.startswith(
        "Accepted, and without effect on one machine: controller_options, location (http_options), "
    )
    assert "placement_group_strategy (applications[0].deployments[0] and 1 more)" in notice
    told = {*OF_DEPLOYMENTS, *OF_ACTORS, *(key for key in OF_HTTP if key != "num_cpus")}
    assert all(f"{key} (" in notice for key in told)


def test_what_says_nothing_is_not_told() -> None:
    said = dict.fromkeys((*OF_DEPLOYMENTS, "max_replicas_per_node")) | {"is_driver_deployment": False}
    assert notice_of(app_with(deployments=[{"name": "A", **said, "ray_actor_options": None}])) == ""
    assert notice_of({"applications": [], "http_options": {"num_cpus": 0}, "controller_options": None}) == ""
    assert notice_of(
        {"import_path": "m:app", "deployments": [{"name": "A", "max_replicas_per_node": 1}]}
    ) == ("Accepted, and without effect on one machine: max_replicas_per_node (deployments[0]).")


@pytest.mark.parametrize("scaling", [{"num_replicas": "auto"}, {"autoscaling_config": {"max_replicas": 2}}])
def test_an_external_scaler_and_autoscaling_exclude_each_other(scaling: dict[str, Any]) -> None:
    listed = [{"name": "A", "num_replicas": 2}, {"name": "B", **scaling}]
    with pytest.raises(InvalidConfigError, match="external_scaler_enabled") as refused:
        parse_deploy_document(app_with(external_scaler_enabled=True, deployments=listed))
    assert refused.value.path == "applications[0].deployments[1]"
    parse_deploy_document(app_with(external_scaler_enabled=True, deployments=listed[:1]))
    parse_deploy_document(
        app_with(external_scaler_enabled=True, deployments=[{"name": "A", "autoscaling_config": None}])
    )
