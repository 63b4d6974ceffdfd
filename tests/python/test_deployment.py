"""`@serve.deployment`: options are checked where they stand, and nothing changes what exists."""

from __future__ import annotations

import inspect
import socket
import sys
import warnings
from typing import Any

import numpy as np
import pytest

from serve_lite.config import (
    AutoscalingConfig,
    AutoscalingPolicy,
    BackpressureConfig,
    DeploymentConfig,
    HTTPOptions,
    LoggingConfig,
    ProxyLocation,
    RequestRouterConfig,
    gRPCOptions,
)
from serve_lite.deployment import DEFAULT, Application, Deployment, deployment
from serve_lite.exceptions import InvalidConfigError


@deployment
class Plain:
    """Says what it is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args


@deployment
def function(request: Any) -> str:
    return "hi"


def test_the_bare_decorator_takes_name_and_defaults() -> None:
    assert (repr(Plain), Plain.name, Plain.__doc__) == ("Deployment(name=Plain)", "Plain", "Says what it is.")
    assert Plain.config == DeploymentConfig() and Plain.configured_options == frozenset()
    assert (Plain.num_replicas, Plain.max_ongoing_requests, Plain.max_queued_requests) == (1, 100, -1)
    assert (Plain.version, Plain.user_config, Plain.route_prefix) == (None, None, None)
    assert Plain.ray_actor_options == {"num_cpus": 1} and Plain.backpressure_config == BackpressureConfig()
    assert Plain.func_or_class(1).args == (1,)


def test_options_are_kept_and_remembered_as_given() -> None:
    made = deployment(name="n", num_replicas=2, max_ongoing_requests=100)(Plain.func_or_class)
    assert (made.name, made.num_replicas) == ("n", 2)
    assert made.configured_options == {"num_replicas", "max_ongoing_requests"}  # even if equal to the default


def test_options_gives_a_new_deployment_and_leaves_the_old_one() -> None:
    first = Plain.options(num_replicas=2)
    second = first.options(user_config={"a": 1}, name="other")
    assert (Plain.num_replicas, first.num_replicas, first.user_config) == (1, 2, None)
    assert (second.name, second.num_replicas, second.user_config) == ("other", 2, {"a": 1})
    assert second.configured_options == {"num_replicas", "user_config"}
    assert first.options(num_replicas=None).num_replicas == 2


def test_deployments_compare_by_what_they_are() -> None:
    assert Plain == Plain.options() and Plain != Plain.options(num_replicas=2) and Plain != 3


def test_auto_means_autoscaling_with_given_bounds_laid_over() -> None:
    assert Plain.options(num_replicas="auto").autoscaling_config == AutoscalingConfig(max_replicas=100)
    both = Plain.options(num_replicas="auto", autoscaling_config={"min_replicas": 2, "max_replicas": 3})
    assert both.autoscaling_config == AutoscalingConfig(min_replicas=2, max_replicas=3)
    assert both.num_replicas == 2
    assert both.options(num_replicas=5).autoscaling_config is None


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"name": 3}, TypeError, "name is 3; it must be a string"),
        ({"name": "a#b"}, ValueError, "#"),
        ({"num_replicas": 0}, ValueError, "larger than 0"),
        ({"num_replicas": -1}, ValueError, "at least 0"),
        ({"num_replicas": "many"}, ValueError, '"auto"'),
        ({"num_replicas": 1.5}, ValueError, "an integer"),
        ({"num_replicas": True}, TypeError, "an integer"),
        (
            {"num_replicas": 2, "autoscaling_config": {}},
            ValueError,
            "Manually setting num_replicas is not allowed",
        ),
        ({"max_ongoing_requests": None}, ValueError, "non-null"),
        ({"max_ongoing_requests": 0}, ValueError, "at least 1"),
        ({"max_queued_requests": 0}, ValueError, "-1"),
        ({"user_config": {"a": object()}}, ValueError, "user_config is not JSON-serializable"),
        ({"autoscaling_config": {"min_replicas": 3}}, ValueError, "larger than max_replicas"),
        ({"autoscaling_config": {"max_replica": 3}}, ValueError, "did you mean 'max_replicas'"),
        ({"autoscaling_config": 3}, TypeError, "mapping"),
        ({"graceful_shutdown_wait_loop_s": -1}, ValueError, "at least 0"),
        ({"graceful_shutdown_timeout_s": -1}, ValueError, "at least 0"),
        ({"health_check_period_s": 0}, ValueError, "larger than 0"),
        ({"health_check_period_s": None}, ValueError, "a number"),
        ({"health_check_timeout_s": "soon"}, ValueError, "a number"),
        ({"ray_actor_options": 3}, TypeError, "a dict"),
        ({"ray_actor_options": {"num_cpu": 1}}, ValueError, "did you mean 'num_cpus'"),
        ({"ray_actor_options": {"num_cpus": -1}}, ValueError, "at least 0"),
        ({"max_constructor_retry_count": 0}, ValueError, "at least 1"),
        ({"rolling_update_percentage": 0}, ValueError, "larger than 0"),
        ({"max_surge_percent": 101}, ValueError, "at most 100"),
        ({"backpressure_config": {"status_code": 500}}, ValueError, "503 or 429"),
        ({"backpressure_config": {"status": 503}}, ValueError, "did you mean 'status_code'"),
        ({"logging_config": {"log_level": "LOUD"}}, ValueError, "level"),
        ({"logging_config": {"level": "INFO"}}, ValueError, "did you mean 'log_level'"),
        ({"request_router_config": {"initial_backoff_s": -1}}, ValueError, "at least 0"),
        ({"placement_group_strategy": "PACK"}, ValueError, "placement_group_bundles"),
        (
            {"placement_group_bundles": [{"CPU": 1}], "max_replicas_per_node": 1},
            ValueError,
            "not allowed together",
        ),
        ({"max_replicas_per_node": 101}, ValueError, "at most 100"),
        ({"gang_scheduling_config": {"gang_size": 2}}, ValueError, "Ray cluster"),
        ({"deployment_actors": [{}]}, ValueError, "Ray cluster"),
        ({"route_prefix": "x"}, ValueError, "forward slash"),
        ({"serialize_sync": "maybe"}, ValueError, "true or false"),
        ({"sync_threads": 0}, ValueError, "at least 1"),
    ],
)
def test_a_wrong_option_is_refused_by_decorator_and_options(
    options: Any, error: type[Exception], said: str
) -> None:
    for make in (lambda: deployment(**options)(Plain.func_or_class), lambda: Plain.options(**options)):
        with pytest.raises(error) as caught:
            make()
        assert said in str(caught.value)
        assert "name" in options or "'Plain'" in str(caught.value)


def test_numbers_may_come_as_text_from_a_command_line() -> None:
    made = Plain.options(num_replicas="3", health_check_period_s="1.5")
    assert (made.num_replicas, made.config.health_check_period_s) == (3, 1.5)


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="num_replica"):
        deployment(num_replica=3)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("options", "option", "value"),
    [
        ({"max_concurrent_queries": 4}, "max_ongoing_requests", 4),
        ({"route_prefix": "/x"}, "route_prefix", "/x"),
        ({"init_args": (1,), "init_kwargs": {"a": 2}}, "init_args", (1,)),
        ({"version": "v1"}, "version", "v1"),
    ],
)
def test_names_of_2_7_are_understood(options: Any, option: str, value: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = deployment(**options)(Plain.func_or_class)
    assert getattr(made, option) == value
    assert [w.category for w in caught] == [DeprecationWarning]
    assert caught[0].filename == __file__


def test_both_names_of_one_option_must_agree() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert Plain.options(max_ongoing_requests=3, max_concurrent_queries=3).max_concurrent_queries == 3
        with pytest.raises(ValueError, match="give one"):
            Plain.options(max_ongoing_requests=3, max_concurrent_queries=4)


def test_init_args_of_2_7_are_what_bind_uses_without_arguments() -> None:
    with pytest.warns(DeprecationWarning, match="init_args"):
        made = deployment(init_args=(1,))(Plain.func_or_class)
    assert made.bind()._bound_deployment.init_args == (1,)
    assert made.bind(2)._bound_deployment.init_args == (2,)


def test_decorator_and_options_take_the_same_options_with_a_sentinel_as_default() -> None:
    decorator, method = (inspect.signature(f).parameters for f in (deployment, Deployment.options))
    ours = {"_func_or_class", "self", "func_or_class", "_init_args", "_init_kwargs", "_internal"}
    assert set(decorator) - ours == set(method) - ours
    assert all(p.default is DEFAULT for name, p in decorator.items() if name not in ours)


def test_only_a_class_or_function_can_be_a_deployment() -> None:
    for wrong in (5, "x", Plain, Plain.bind()):
        with pytest.raises(TypeError):
            deployment(wrong)  # type: ignore[call-overload]
    with pytest.raises(RuntimeError, match="decorator"):
        Deployment("x", DeploymentConfig(), Plain.func_or_class)
    with pytest.raises(RuntimeError, match="cannot be constructed directly"):
        Plain(1)


def test_bind_gives_an_opaque_application_with_the_arguments() -> None:
    app = Plain.bind(1, key=2)
    assert isinstance(app, Application) and repr(app) == "Application(Plain)"
    assert (app._bound_deployment.init_args, app._bound_deployment.init_kwargs) == ((1,), {"key": 2})
    with pytest.raises(ValueError, match="not supported for function deployments"):
        function.bind(1)


def test_an_unpicklable_argument_is_refused_at_bind_by_name() -> None:
    with socket.socket() as sock:
        with pytest.raises(TypeError, match="argument 2 of deployment 'Plain'.*socket"):
            Plain.bind(1, [sock])
        with pytest.raises(TypeError, match="argument 'connection' of deployment 'Plain'"):
            Plain.bind(connection=sock)


def test_applications_and_large_arrays_are_fine_as_arguments() -> None:
    Plain.bind([Plain.bind({"a": Plain.bind()})], np.zeros((1000, 1000)), {1, 2}, {"k": (None, b"x")})


def test_code_that_holds_something_unpicklable_is_refused_at_decoration() -> None:
    with socket.socket() as sock:

        def uses_socket() -> None:
            sock.close()

        with pytest.raises(TypeError, match="deployment 'uses_socket'.*socket"):
            deployment(uses_socket)


def test_an_application_cannot_be_pickled_on_its_own() -> None:
    import pickle

    with pytest.raises(TypeError, match="becomes a handle"):
        pickle.dumps(Plain.bind())


# --- the classes users configure with ------------------------------------------------------------


def test_config_classes_have_the_documented_defaults() -> None:
    http = HTTPOptions()
    assert (http.host, http.port, http.keep_alive_timeout_s, http.request_timeout_s) == (
        "127.0.0.1",
        8000,
        90,
        None,
    )
    assert (gRPCOptions().port, gRPCOptions().grpc_servicer_functions) == (9000, [])
    scaling = AutoscalingConfig()
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 1, 2)
    assert (scaling.upscale_delay_s, scaling.downscale_delay_s, scaling.look_back_period_s) == (30, 600, 30)
    router = RequestRouterConfig()
    assert (router.initial_backoff_s, router.backoff_multiplier, router.max_backoff_s) == (0.025, 2, 0.5)


def test_config_classes_check_when_made_and_when_assigned() -> None:
    options = HTTPOptions(port="81")  # type: ignore[arg-type]
    assert options.port == 81
    with pytest.raises(InvalidConfigError, match=r"HTTPOptions.port is -1"):
        options.port = -1
    with pytest.raises(InvalidConfigError, match="together"):
        HTTPOptions(ssl_keyfile="k")
    with pytest.raises(InvalidConfigError, match="not supported"):
        HTTPOptions(middlewares=[object()])
    with pytest.warns(DeprecationWarning, match="proxy_location"):
        assert HTTPOptions(location="NoServer").location is ProxyLocation.Disabled  # type: ignore[arg-type]


def test_the_old_name_of_the_autoscaling_target_is_understood() -> None:
    with pytest.warns(DeprecationWarning, match="target_ongoing_requests"):
        assert AutoscalingConfig(target_num_ongoing_requests_per_replica=4).target_ongoing_requests == 4
    with pytest.raises(InvalidConfigError, match="give only the first"):
        AutoscalingConfig(target_num_ongoing_requests_per_replica=4, target_ongoing_requests=5)


def test_scaling_factors_fall_back_to_the_older_ones() -> None:
    assert AutoscalingConfig(smoothing_factor=0.5).get_upscaling_factor() == 0.5
    assert AutoscalingConfig(smoothing_factor=0.5, upscale_smoothing_factor=2).get_upscaling_factor() == 2
    assert AutoscalingConfig(downscaling_factor=3, downscale_smoothing_factor=2).get_downscaling_factor() == 3


def test_a_policy_may_be_an_importable_function() -> None:
    policy = AutoscalingPolicy(policy_function=test_scaling_factors_fall_back_to_the_older_ones)
    assert policy.policy_function.endswith(":test_scaling_factors_fall_back_to_the_older_ones")
    with pytest.raises(InvalidConfigError, match="import path"):
        AutoscalingPolicy(policy_function=lambda ctx: (1, {}))


def test_proxy_locations_have_aliases() -> None:
    assert ProxyLocation.from_value(None) is ProxyLocation.EveryNode
    assert ProxyLocation.from_value("NoServer") is ProxyLocation.Disabled
    with pytest.raises(ValueError):
        ProxyLocation.from_value("Everywhere")
    with pytest.raises(TypeError):
        ProxyLocation.from_value(3)  # type: ignore[arg-type]


def test_logging_config_normalises_levels_and_attributes() -> None:
    config = LoggingConfig(log_level=10, additional_log_standard_attrs=["name", "name"])
    assert (config.log_level, config.additional_log_standard_attrs) == ("DEBUG", ["name"])
    with pytest.raises(InvalidConfigError, match="did you mean 'lineno'"):
        LoggingConfig(additional_log_standard_attrs=["linenoo"])


def test_servicer_functions_are_imported_on_demand() -> None:
    assert gRPCOptions(grpc_servicer_functions=["json.dumps"]).grpc_servicer_func_callable[0]({}) == "{}"
    for path, error in (
        ("no_such_module.f", ModuleNotFoundError),
        ("json.nothing", AttributeError),
        ("sys.version", ValueError),
    ):
        with pytest.raises(error):
            gRPCOptions(grpc_servicer_functions=[path]).grpc_servicer_func_callable  # noqa: B018


def test_nothing_heavy_is_imported_for_decorators() -> None:
    import subprocess

    code = (
        "import sys, serve_lite.deployment, serve_lite.ingress, serve_lite.batching, serve_lite.multiplex, "
        "serve_lite.schema; print([m for m in ('fastapi','starlette','pydantic','typer','numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
