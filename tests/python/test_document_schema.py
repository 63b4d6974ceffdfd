"""The JSON Schema fits what the parser takes: what is accepted there fits here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from serve_lite.checks import anything, schema_of
from serve_lite.document_schema import document_schema
from serve_lite.exceptions import InvalidConfigError
from serve_lite.options import OPTIONS
from serve_lite.schema import (
    APPLICATION_FIELDS,
    DEPLOY_FIELDS,
    parse_application_document,
    parse_deploy_document,
)

CONFIGS = Path(__file__).parents[2] / "configs"

#: Every part of a document that 2.60 knows and one machine can use.
FULL = """
proxy_location: EveryNode
http_options: {host: 0.0.0.0, port: 8000, root_path: "", request_timeout_s: 30, keep_alive_timeout_s: 90}
grpc_options: {port: 9000, grpc_servicer_functions: ["my_pb2_grpc:add_Servicer_to_server"], request_timeout_s: 30}
logging_config: {encoding: JSON, log_level: INFO, logs_dir: null, enable_access_log: true}
target_capacity: 100
applications:
  - name: app1
    route_prefix: /app1
    import_path: pkg.mod:app_builder
    args: {size: 3}
    runtime_env: {env_vars: {A: "1"}}
    logging_config: {log_level: DEBUG}
    external_scaler_enabled: false
    deployments:
      - name: Ingress
        num_replicas: auto
        autoscaling_config: {min_replicas: 0, max_replicas: 4, target_ongoing_requests: 2, upscale_delay_s: 3,
          downscale_delay_s: 60, downscale_to_zero_delay_s: 120, upscaling_factor: 1.0, aggregation_function: mean}
        max_ongoing_requests: 5
        max_queued_requests: 100
        backpressure_config: {status_code: 429, retry_after_s: 2}
        request_router_config: {request_router_class: "pkg.routers:MyRouter", request_router_kwargs: {k: 1}}
      - name: Model
        num_replicas: 2
        user_config: {threshold: 0.5}
        graceful_shutdown_wait_loop_s: 2
        graceful_shutdown_timeout_s: 20
        health_check_period_s: 10
        health_check_timeout_s: 30
        rolling_update_percentage: 0.5
        max_surge_percent: 50
        ray_actor_options: {num_cpus: 1, num_gpus: 0, runtime_env: {env_vars: {B: "2"}}}
"""

VALIDATOR = Draft202012Validator(document_schema())


def read(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def app(**more: Any) -> dict[str, Any]:
    return {"applications": [{"import_path": "m:app", **more}]}


def deployment(**options: Any) -> dict[str, Any]:
    return app(deployments=[{"name": "D", **options}])


def parse(document: Any) -> object:
    is_single = isinstance(document, dict) and "import_path" in document
    return (parse_application_document if is_single else parse_deploy_document)(document)


ACCEPTED = [
    {"applications": []},
    {"import_path": "m:app", "host": "::", "port": 0},
    {"import_path": "a.b.app", "route_prefix": None, "deployments": [{"name": "D", "route_prefix": "/d"}]},
    {"applications": [], "proxy_location": "NoServer", "target_capacity": 33.3, "controller_options": None},
    {"applications": [], "controller_options": {"runtime_env": {"env_vars": {"A": "b"}}}},
    {"applications": [], "tracing_config": {"enabled": True, "exporter_import_path": ""}},
    {"applications": [], "x-defaults": {"num_replicas": 2}},
    {"import_path": "m:app", "x-defaults": 3},
    {"applications": [], "http_options": {"host": None, "location": "HeadOnly", "middlewares": []}},
    {"applications": [], "logging_config": {"log_level": "info", "additional_log_standard_attrs": ["name"]}},
    {"applications": [], "logging_config": {"log_level": 10}},
    app(route_prefix="/"),
    app(route_prefix="/a/b", autoscaling_policy={"policy_function": "m:policy", "policy_kwargs": {"a": 1}}),
    deployment(num_replicas=None, autoscaling_config={"policy": "m:policy", "aggregation_function": "MAX"}),
    deployment(num_replicas="auto", autoscaling_config={"target_num_ongoing_requests_per_replica": 3}),
    deployment(num_replicas=3.0, autoscaling_config=None),
    deployment(max_concurrent_queries=3, max_queued_requests=-1, user_config=[1, {"a": None}]),
    deployment(placement_group_bundles=[{"CPU": 1}], placement_group_strategy="PACK"),
    deployment(ray_actor_options=None, gang_scheduling_config=None, sync_threads=None),
    deployment(ray_actor_options={"resources": {"TPU": 1}, "label_selector": {"a": "b"}, "memory": None}),
]

REFUSED = [
    {},
    [],
    {"applications": {}},
    {"applications": [], "aplications": []},
    app(**{"x-defaults": 3}),
    {"applications": [{}]},
    {"applications": [{"import_path": "m:app", "host": "x"}]},
    {"applications": [], "target_capacity": 101},
    {"applications": [], "http_options": {"port": 70000}},
    {"applications": [], "http_options": {"request_timeout_s": 0}},
    {"import_path": "nonsense"},
    app(name=""),
    app(route_prefix="x"),
    app(route_prefix="/x/"),
    app(route_prefix="/{x}"),
    app(deployments=[{"num_replicas": 1}]),
    deployment(num_replicas="many"),
    deployment(num_replicas=0),
    deployment(num_replicas=1, autoscaling_config={}),
    deployment(max_queued_requests=0),
    deployment(backpressure_config={"status_code": 404}),
    deployment(ray_actor_options={"num_cpu": 1}),
    deployment(autoscaling_config={"max_replicas": 0}),
]


def test_it_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(document_schema())


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_the_shipped_examples_fit(name: str) -> None:
    document = read((CONFIGS / name).read_text())
    parse(document)
    VALIDATOR.validate(document)


def test_a_document_with_everything_fits() -> None:
    parse(read(FULL))
    VALIDATOR.validate(read(FULL))


@pytest.mark.parametrize("document", ACCEPTED, ids=str)
def test_what_is_accepted_fits(document: Any) -> None:
    parse(document)
    VALIDATOR.validate(document)


@pytest.mark.parametrize("document", REFUSED, ids=str)
def test_what_is_refused_for_a_single_value_does_not_fit(document: Any) -> None:
    with pytest.raises(InvalidConfigError):
        parse(document)
    assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize(
    "table", [DEPLOY_FIELDS, APPLICATION_FIELDS, OPTIONS], ids=["document", "app", "deployment"]
)
def test_every_field_says_what_it_takes(table: Any) -> None:
    takes_all = {name for name, check in table.items() if not schema_of(check) and check is not anything}
    assert takes_all <= {"user_config"}
