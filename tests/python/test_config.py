"""The classes users configure with: their fields and defaults, and what is refused, where and why."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import msgspec
import pytest

import serve_lite as serve
from serve_lite import config
from serve_lite.api import _instance_options
from serve_lite.config import (
    DEFAULT_POLICY,
    DEFAULT_ROUTER,
    AggregationFunction,
    AutoscalingConfig,
    AutoscalingContext,
    AutoscalingPolicy,
    BackpressureConfig,
    Checked,
    ControllerOptions,
    EncodingType,
    HTTPOptions,
    LoggingConfig,
    ProxyLocation,
    RequestRouterConfig,
    TracingConfig,
    gRPCOptions,
)
from serve_lite.context import ReplicaContext, ReplicaID, make_replica_context
from serve_lite.exceptions import InvalidConfigError, RayServeException
from serve_lite.request_router import RequestRouter, RoundRobinRouter
from serve_lite.schema import ReplicaRank
from serve_lite.state.ids import DeploymentId

#: What Ray Serve's documentation gives, with the choices that docs/decisions.md explains.
DEFAULTS: dict[type[Checked], dict[str, Any]] = {
    HTTPOptions: {
        "host": "127.0.0.1",
        "port": 8000,
        "middlewares": [],
        "location": None,
        "num_cpus": 0,
        "root_url": "",
        "root_path": "",
        "request_timeout_s": None,
        "keep_alive_timeout_s": 90,
        "ssl_keyfile": None,
        "ssl_certfile": None,
        "ssl_keyfile_password": None,
        "ssl_ca_certs": None,
        "fixed_number_replicas": None,
        "fixed_number_selection_seed": 0,
        "server": "native",
        "first_byte_timeout_s": None,
        "idle_timeout_s": None,
        "read_timeout_s": 60,
        "write_timeout_s": 60,
        "max_connections": None,
        "max_headers": 200,
        "max_header_bytes": 65536,
        "max_body_bytes": None,
        "forwarded_allow_ips": [],
        "require_api_key": False,
        "api_keys_file": None,
        "access_log": None,
        "http3": False,
    },
    gRPCOptions: {
        "port": 9000,
        "grpc_servicer_functions": [],
        "request_timeout_s": None,
        "enable_reflection": True,
        "max_receive_message_bytes": 2**31 - 1,
        "max_send_message_bytes": 2**31 - 1,
        "max_connections": None,
    },
    AutoscalingConfig: {
        "min_replicas": 1,
        "initial_replicas": None,
        "max_replicas": 1,
        "target_ongoing_requests": 2,
        "metrics_interval_s": 10,
        "look_back_period_s": 30,
        "smoothing_factor": 1,
        "upscale_smoothing_factor": None,
        "downscale_smoothing_factor": None,
        "upscaling_factor": None,
        "downscaling_factor": None,
        "upscale_delay_s": 30,
        "downscale_delay_s": 600,
        "downscale_to_zero_delay_s": None,
        "aggregation_function": "mean",
        "policy": AutoscalingPolicy(policy_function=DEFAULT_POLICY, policy_kwargs={}),
        "target_num_ongoing_requests_per_replica": None,
        "schedules": (),
    },
    AutoscalingPolicy: {"policy_function": DEFAULT_POLICY, "policy_kwargs": {}},
    RequestRouterConfig: {
        "request_router_class": DEFAULT_ROUTER,
        "request_router_kwargs": {},
        "request_routing_stats_period_s": 10,
        "request_routing_stats_timeout_s": 30,
        "initial_backoff_s": 0.025,
        "backoff_multiplier": 2,
        "max_backoff_s": 0.5,
    },
    BackpressureConfig: {"status_code": 503, "retry_after_s": None},
    ControllerOptions: {"runtime_env": None},
    LoggingConfig: {
        "encoding": "TEXT",
        "log_level": "INFO",
        "logs_dir": None,
        "enable_access_log": True,
        "additional_log_standard_attrs": [],
    },
    TracingConfig: {"enabled": False, "exporter_import_path": "", "sampling_ratio": 0.01},
}


def by_name(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else ""


@pytest.mark.parametrize(("cls", "fields"), DEFAULTS.items(), ids=by_name)
def test_a_class_has_its_fields_and_defaults(cls: type[Checked], fields: dict[str, Any]) -> None:
    made = cls()
    assert {name: getattr(made, name) for name in cls.__struct_fields__} == fields
    assert made == cls.from_value({}, "it") == cls(**fields)


@pytest.mark.parametrize("cls", DEFAULTS, ids=by_name)
def test_objects_compare_copy_and_travel(cls: type[Checked]) -> None:
    made = cls()
    assert copy.copy(made) == copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made
    assert cls.from_value(made, "it") is made
    assert cls.from_value(made.to_dict(), "it") == made


@pytest.mark.parametrize("cls", DEFAULTS, ids=by_name)
def test_unknown_fields_are_refused_with_the_nearest_name(cls: type[Checked]) -> None:
    field = cls.__struct_fields__[-1]
    with pytest.raises(InvalidConfigError, match=f"it.{field}x: .*did you mean '{field}'"):
        cls.from_value({f"{field}x": 1}, "it")
    with pytest.raises(TypeError, match=f"{field}x"):
        cls(**{f"{field}x": 1})
    with pytest.raises(AttributeError, match=f"{field}x|immutable"):
        setattr(cls(), f"{field}x", 1)


@pytest.mark.parametrize(
    ("cls", "fields", "kept"),
    [
        (HTTPOptions, {"host": None}, {"host": None}),
        (HTTPOptions, {"port": "81", "request_timeout_s": "2.5"}, {"port": 81, "request_timeout_s": 2.5}),
        (HTTPOptions, {"port": 0, "keep_alive_timeout_s": 5}, {"port": 0, "keep_alive_timeout_s": 5.0}),
        (HTTPOptions, {"ssl_keyfile": "k", "ssl_certfile": "c"}, {"ssl_keyfile": "k"}),
        (HTTPOptions, {"fixed_number_replicas": 3}, {"fixed_number_replicas": 3}),
        (gRPCOptions, {"grpc_servicer_functions": ("a:b",)}, {"grpc_servicer_functions": ["a:b"]}),
        (AutoscalingConfig, {"min_replicas": 0}, {"min_replicas": 0}),
        (AutoscalingConfig, {"max_replicas": 3, "initial_replicas": 2}, {"initial_replicas": 2}),
        (AutoscalingConfig, {"aggregation_function": "MAX"}, {"aggregation_function": "max"}),
        (AutoscalingConfig, {"policy": None}, {"policy": AutoscalingPolicy()}),
        (
            AutoscalingConfig,
            {"policy": {"policy_function": "m:f", "policy_kwargs": {"a": 1}}},
            {"policy": AutoscalingPolicy(policy_function="m:f", policy_kwargs={"a": 1})},
        ),
        (AutoscalingConfig, {"policy": "m:f"}, {"policy": AutoscalingPolicy(policy_function="m:f")}),
        (
            AutoscalingPolicy,
            {"policy_function": "ray.serve.autoscaling_policy:default_autoscaling_policy"},
            {"policy_function": DEFAULT_POLICY},
        ),
        (RequestRouterConfig, {"request_router_class": "m:R"}, {"request_router_class": "m:R"}),
        (
            RequestRouterConfig,
            {"request_router_class": RoundRobinRouter},
            {"request_router_class": "serve_lite.request_router:RoundRobinRouter"},
        ),
        (BackpressureConfig, {"status_code": 429, "retry_after_s": 0}, {"status_code": 429}),
        (
            ControllerOptions,
            {"runtime_env": {"env_vars": {"A": "1"}}},
            {"runtime_env": {"env_vars": {"A": "1"}}},
        ),
        (LoggingConfig, {"encoding": "JSON"}, {"encoding": EncodingType.JSON}),
        (LoggingConfig, {"log_level": 10}, {"log_level": "DEBUG"}),
        (LoggingConfig, {"log_level": "warning"}, {"log_level": "WARNING"}),
        (
            LoggingConfig,
            {"additional_log_standard_attrs": ["name", "name", "lineno"]},
            {"additional_log_standard_attrs": ["name", "lineno"]},
        ),
        (TracingConfig, {"exporter_import_path": "m:f", "sampling_ratio": 1}, {"sampling_ratio": 1.0}),
    ],
    ids=by_name,
)
def test_right_values_are_kept(cls: type[Checked], fields: dict[str, Any], kept: dict[str, Any]) -> None:
    for made in (cls(**fields), cls.from_value(fields, "it")):
        assert {name: getattr(made, name) for name in kept} == kept


def local_policy() -> Any:
    def decide(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        return context.current_num_replicas, {}

    return decide


class Policies:
    @staticmethod
    def nested(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        return 1, {}

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        return 2, {}


@pytest.mark.parametrize(
    ("cls", "fields", "said"),
    [
        (HTTPOptions, {"host": 3}, "host is 3; it must be a string or null"),
        (HTTPOptions, {"port": 70000}, "port is 70000; it must be an integer, at least 0 and at most 65535"),
        (HTTPOptions, {"port": True}, "port is True; it must be an integer"),
        (HTTPOptions, {"request_timeout_s": 0}, "request_timeout_s is 0; it must be a number, larger than 0"),
        (HTTPOptions, {"keep_alive_timeout_s": None}, "keep_alive_timeout_s is None; it must be a number"),
        (HTTPOptions, {"middlewares": [object()]}, "add the middleware to your ASGI app"),
        (HTTPOptions, {"server": "nginx"}, 'server is \'nginx\'; it must be "native" or "hypercorn"'),
        (HTTPOptions, {"num_cpus": 1}, "num_cpus is 1; it must be a number, at least 0 and at most 0"),
        (HTTPOptions, {"ssl_keyfile": "k"}, "ssl_keyfile and ssl_certfile must be given together"),
        (HTTPOptions, {"location": "Nowhere"}, '"Disabled", "HeadOnly" or "EveryNode"'),
        (gRPCOptions, {"port": -1}, "port is -1"),
        (gRPCOptions, {"grpc_servicer_functions": "m:f"}, "must be a list"),
        (gRPCOptions, {"grpc_servicer_functions": [""]}, "grpc_servicer_functions[0]"),
        (gRPCOptions, {"enable_reflection": "perhaps"}, "true or false"),
        (AutoscalingConfig, {"min_replicas": -1}, "min_replicas is -1"),
        (AutoscalingConfig, {"max_replicas": 0}, "max_replicas is 0"),
        (AutoscalingConfig, {"min_replicas": 3}, "min_replicas (3) is larger than max_replicas (1)"),
        (AutoscalingConfig, {"initial_replicas": 2}, "not between min_replicas (1) and max_replicas (1)"),
        (AutoscalingConfig, {"target_ongoing_requests": 0}, "larger than 0"),
        (AutoscalingConfig, {"upscale_delay_s": -1}, "at least 0"),
        (AutoscalingConfig, {"downscale_to_zero_delay_s": float("nan")}, "a number, at least 0 or null"),
        (AutoscalingConfig, {"upscaling_factor": 0}, "larger than 0"),
        (AutoscalingConfig, {"aggregation_function": "median"}, "one of 'mean', 'max', 'min'"),
        (AutoscalingConfig, {"policy": 3}, "options of an autoscaling policy"),
        (AutoscalingConfig, {"policy": {"policy": "m:f"}}, "'policy' is not an option"),
        (AutoscalingConfig, {"policy": lambda ctx: (1, {})}, "a lambda, which other processes cannot import"),
        (AutoscalingPolicy, {"policy_function": local_policy()}, "not at the top of its module"),
        (AutoscalingPolicy, {"policy_function": Policies.nested}, "not at the top of its module"),
        (AutoscalingPolicy, {"policy_function": Policies()}, "a class, a function or an import path"),
        (AutoscalingPolicy, {"policy_function": "no path"}, "got invalid import path 'no path'"),
        (AutoscalingPolicy, {"policy_function": "m:f:g"}, "got invalid import path 'm:f:g'"),
        (AutoscalingPolicy, {"policy_kwargs": {"a": object()}}, "not JSON-serializable"),
        (AutoscalingPolicy, {"policy_kwargs": {1: 2}}, "keys must be strings"),
        (RequestRouterConfig, {"request_router_class": "Router"}, "got invalid import path 'Router'"),
        (RequestRouterConfig, {"request_router_class": None}, "a class, a function or an import path"),
        (RequestRouterConfig, {"request_router_class": by_name}, "a subclass of serve_lite.request_router"),
        (RequestRouterConfig, {"request_router_class": Policies}, "a subclass of serve_lite.request_router"),
        (RequestRouterConfig, {"request_router_kwargs": []}, "a mapping"),
        (RequestRouterConfig, {"request_routing_stats_period_s": 0}, "larger than 0"),
        (RequestRouterConfig, {"backoff_multiplier": 0}, "larger than 0"),
        (RequestRouterConfig, {"max_backoff_s": -1}, "at least 0"),
        (BackpressureConfig, {"status_code": 500}, "status_code is 500; it must be 503 or 429"),
        (BackpressureConfig, {"retry_after_s": -1}, "at least 0"),
        (ControllerOptions, {"runtime_env": {"pip": []}}, "'pip' is not an option"),
        (ControllerOptions, {"runtime_env": {"env_vars": {"A": 1}}}, "env_vars.A is 1; it must be a string"),
        (ControllerOptions, {"runtime_env": {"env_vars": {"": "1"}}}, "a variable without a name"),
        (LoggingConfig, {"encoding": "XML"}, "one of 'TEXT', 'JSON'"),
        (LoggingConfig, {"log_level": "LOUD"}, "a level that the logging module knows"),
        (LoggingConfig, {"log_level": 11}, "a level that the logging module knows"),
        (LoggingConfig, {"additional_log_standard_attrs": ["linenoo"]}, "did you mean 'lineno'"),
        (TracingConfig, {"sampling_ratio": 2}, "at most 1"),
        (TracingConfig, {"exporter_import_path": "exporter"}, "got invalid import path"),
    ],
    ids=by_name,
)
def test_wrong_values_are_refused_with_what_would_be_right(
    cls: type[Checked], fields: dict[str, Any], said: str
) -> None:
    for make in (lambda: cls(**fields), lambda: cls.from_value(fields, "it")):
        with pytest.raises((ValueError, TypeError)) as caught:
            make()
        assert said in str(caught.value)


def test_a_field_is_checked_when_it_is_assigned() -> None:
    options = HTTPOptions()
    options.port = "81"  # type: ignore[assignment]
    assert options.port == 81
    with pytest.raises(InvalidConfigError, match=r"HTTPOptions.port is -1"):
        options.port = -1
    with pytest.raises(InvalidConfigError, match="not supported"):
        options.middlewares = [object()]
    with pytest.raises(InvalidConfigError, match="503 or 429"):
        BackpressureConfig().status_code = 404
    with pytest.raises(AttributeError, match="immutable"):
        AutoscalingConfig().max_replicas = 3  # type: ignore[misc]


# --- warnings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "fields", "category", "said"),
    [
        (HTTPOptions, {"location": "NoServer"}, DeprecationWarning, "proxy_location"),
        (AutoscalingConfig, {"look_back_period_s": 10}, FutureWarning, "not longer than metrics_interval_s"),
        (AutoscalingConfig, {"metrics_interval_s": 5}, DeprecationWarning, "metrics_interval_s"),
        (AutoscalingConfig, {"smoothing_factor": 0.5}, DeprecationWarning, "use upscaling_factor and"),
        (AutoscalingConfig, {"upscale_smoothing_factor": 0.5}, DeprecationWarning, "use upscaling_factor"),
        (
            AutoscalingConfig,
            {"downscale_smoothing_factor": 0.5},
            DeprecationWarning,
            "use downscaling_factor",
        ),
        (
            AutoscalingConfig,
            {"target_num_ongoing_requests_per_replica": 4},
            DeprecationWarning,
            "target_ongoing_requests",
        ),
    ],
    ids=by_name,
)
def test_what_is_unwise_is_said_at_the_users_line_and_nowhere_else(
    cls: type[Checked], fields: dict[str, Any], category: type[Warning], said: str
) -> None:
    with pytest.warns(category, match=said) as caught:
        made = cls(**fields)
        cls.from_value(fields, "it")
    assert [w.filename for w in caught] == [__file__, __file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = {"__name__": "serve_lite.wire", "decode": msgspec.msgpack.decode, "cls": cls}
        assert eval("decode(data, type=cls)", ours, {"data": msgspec.msgpack.encode(made)}) == made


def test_the_old_name_of_the_autoscaling_target_is_understood() -> None:
    with pytest.warns(DeprecationWarning):
        assert AutoscalingConfig(target_num_ongoing_requests_per_replica=4).target_ongoing_requests == 4
    with pytest.raises(InvalidConfigError, match="give only the first"):
        AutoscalingConfig(target_num_ongoing_requests_per_replica=4, target_ongoing_requests=5)


def test_a_location_may_have_2_7s_names() -> None:
    with pytest.warns(DeprecationWarning):
        assert HTTPOptions(location="NoServer").location is ProxyLocation.Disabled  # type: ignore[arg-type]


# --- methods -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scaling_factors_fall_back_to_the_older_ones() -> None:
    assert AutoscalingConfig().get_upscaling_factor() == AutoscalingConfig().get_downscaling_factor() == 1
    assert AutoscalingConfig(smoothing_factor=0.5).get_upscaling_factor() == 0.5
    assert AutoscalingConfig(smoothing_factor=0.5, upscale_smoothing_factor=2).get_upscaling_factor() == 2
    assert AutoscalingConfig(downscaling_factor=3, downscale_smoothing_factor=2).get_downscaling_factor() == 3


def test_auto_has_a_config_of_its_own() -> None:
    auto = AutoscalingConfig.default()
    assert (auto.min_replicas, auto.max_replicas, auto.get_target_ongoing_requests()) == (1, 100, 2)


def importable_policy(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    return context.current_num_replicas + 1, {}


class ImportableRouter(RequestRouter):
    async def choose_replicas(self, candidate_replicas: Any, pending_request: Any = None) -> Any:
        return [candidate_replicas]


def test_code_may_be_given_as_itself_and_becomes_its_import_path() -> None:
    policy = AutoscalingPolicy(policy_function=importable_policy)
    assert policy.policy_function == f"{__name__}:importable_policy"
    assert AutoscalingPolicy(policy_function=Policies).policy_function == f"{__name__}:Policies"
    assert AutoscalingConfig(policy=importable_policy).policy == policy  # type: ignore[arg-type]
    router = RequestRouterConfig(request_router_class=ImportableRouter)
    assert router.request_router_class == f"{__name__}:ImportableRouter"


def test_code_of_the_script_itself_is_refused_with_the_way_out(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from serve_lite.config import AutoscalingPolicy\n"
        "def decide(ctx): return 1, {}\n"
        "AutoscalingPolicy(policy_function=decide)\n"
    )
    ran = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "decide of the script that was started" in ran.stderr and "move it into a module" in ran.stderr


def test_wrong_code_is_refused_where_the_deployment_is_declared() -> None:
    class Local(RequestRouter):
        async def choose_replicas(self, candidate_replicas: Any, pending_request: Any = None) -> Any:
            return [candidate_replicas]

    def handler() -> None: ...

    with pytest.raises(InvalidConfigError, match=r"'handler'.*request_router_class.*top of its module"):
        serve.deployment(request_router_config={"request_router_class": Local})(handler)
    with pytest.raises(InvalidConfigError, match=r"'handler'.*policy.*lambda"):
        scaling = {"policy": {"policy_function": lambda ctx: (1, {})}}
        serve.deployment(autoscaling_config=scaling)(handler)


def test_servicer_functions_are_imported_on_demand() -> None:
    assert gRPCOptions(grpc_servicer_functions=["json.dumps"]).grpc_servicer_func_callable[0]({}) == "{}"
    for path, error in (
        ("no_such_module.f", ModuleNotFoundError),
        ("json.nothing", AttributeError),
        ("sys.version", ValueError),
    ):
        with pytest.raises(error):
            gRPCOptions(grpc_servicer_functions=[path]).grpc_servicer_func_callable  # noqa: B018


def test_proxy_locations_have_aliases() -> None:
    assert ProxyLocation.from_value(None) is ProxyLocation.EveryNode
    assert ProxyLocation.from_value("NoServer") is ProxyLocation.Disabled
    with pytest.raises(ValueError, match='"Disabled", "HeadOnly" or "EveryNode"'):
        ProxyLocation.from_value("Everywhere")
    with pytest.raises(TypeError):
        ProxyLocation.from_value(3)  # type: ignore[arg-type]


def test_aggregation_functions_compare_equal_to_their_names() -> None:
    assert [str(f) for f in AggregationFunction] == ["mean", "max", "min"]
    assert AutoscalingConfig(aggregation_function="Min").aggregation_function == "min"  # type: ignore[arg-type]


# --- serve.start and serve.run -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"proxy_location": "Nowhere"}, '"Disabled", "HeadOnly" or "EveryNode"'),
        ({"proxy_location": 3}, '"Disabled", "HeadOnly" or "EveryNode"'),
        ({"http_options": {"prot": 80}}, "http_options.prot: .*did you mean 'port'"),
        ({"http_options": [80]}, "http_options must be a mapping"),
        ({"grpc_options": {"port": "x"}}, "grpc_options.port is 'x'; it must be an integer"),
        ({"logging_config": {"level": "INFO"}}, "logging_config.level: .*did you mean 'log_level'"),
        ({"tracing_config": {"sampling_ratio": 3}}, "tracing_config.sampling_ratio is 3"),
        ({"controller_options": {"env_vars": {}}}, "controller_options.env_vars: .*belongs to runtime_env"),
        ({"http_port": 80}, "pass `http_options="),
    ],
)
def test_start_refuses_wrong_options_before_anything_starts(options: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        serve.start(**options)


def test_start_warns_of_keywords_that_it_does_not_have() -> None:
    with pytest.warns(UserWarning, match="no arguments 'http_prot'") as caught:
        with pytest.raises(InvalidConfigError):  # so that nothing is started
            serve.start(http_prot=80, logging_config={"level": "INFO"})
    assert caught[0].filename == __file__


def test_run_refuses_a_wrong_logging_config_before_anything_starts() -> None:
    @serve.deployment
    def handler() -> None: ...

    with pytest.raises(InvalidConfigError, match="did you mean 'log_level'"):
        serve.run(handler.bind(), logging_config={"level": "INFO"})


# --- what a policy is told -----------------------------------------------------------------------


def test_a_context_has_a_default_for_whatever_a_policy_does_not_read() -> None:
    context = AutoscalingContext(current_num_replicas=2, total_num_requests=7.0, total_queued_requests=3.0)
    assert importable_policy(context) == (3, {})
    assert (context.total_running_requests, context.target_num_replicas, context.policy_state) == (4.0, 0, {})
    assert (context.aggregated_metrics, context.raw_metrics, context.last_scale_up_time) == ({}, {}, None)
    assert context == AutoscalingContext(
        current_num_replicas=2, total_num_requests=7.0, total_queued_requests=3.0
    )
    assert "current_num_replicas=2" in repr(context)


def test_a_lazy_field_is_computed_once_and_only_if_it_is_read() -> None:
    calls: list[str] = []

    def total() -> float:
        calls.append("total")
        return 5.0

    def never() -> Any:
        raise AssertionError("nobody reads this")

    context = AutoscalingContext(total_num_requests=total, raw_metrics=never)  # type: ignore[arg-type]
    assert calls == []
    assert (context.total_num_requests, context.total_running_requests) == (5.0, 5.0)
    assert calls == ["total"]


def test_contexts_do_not_share_what_can_be_changed() -> None:
    AutoscalingContext().policy_state["a"] = 1
    assert AutoscalingContext().policy_state == {}
    first = AutoscalingContext()
    assert first.aggregated_metrics is first.aggregated_metrics
    assert first.aggregated_metrics is not AutoscalingContext().aggregated_metrics


# --- what needs a cluster ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["GangSchedulingConfig", "DeploymentActorConfig"])
def test_what_needs_a_cluster_can_be_imported_and_says_so_when_used(name: str) -> None:
    with pytest.raises(
        RayServeException, match=rf"{name} needs .*(Leave it out|Make the helper a deployment)"
    ):
        getattr(config, name)(gang_size=2)


@pytest.mark.parametrize("name", ["get_deployment_actor", "get_deployment_actor_context"])
def test_functions_for_ray_actors_say_what_to_use_instead(name: str) -> None:
    with pytest.raises(RayServeException, match=f"{name} needs Ray's actors.*num_replicas=1"):
        getattr(serve, name)("helper")


@pytest.mark.parametrize("name", ["build", "get_deployment", "list_deployments", "drivers", "_run"])
def test_names_that_are_left_out_say_what_to_use_instead(name: str) -> None:
    assert not hasattr(serve, name)
    with pytest.raises(AttributeError, match=f"no '{name}', on purpose; .+"):
        getattr(serve, name)


def test_public_modules_are_attributes_of_the_package_without_being_imported() -> None:
    script = """
import serve_lite as serve
serve.metrics.Counter, serve.schema.ServeStatus, serve.exceptions.RayServeException, serve.handle.DeploymentHandle
serve.config.HTTPOptions, serve.context.ReplicaContext, serve.request_router.RequestRouter, serve.batching.batch
serve.multiplex.multiplexed, serve.api.run, serve.testing.running, serve.tracing.get_trace_context
assert serve.deployment is serve.deployment.__globals__["deployment"]  # the decorator, not the module of its name
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_other_names_are_plainly_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'serve_lite' has no attribute 'deploymentt'"):
        serve.deploymentt  # noqa: B018


def test_the_environment_may_name_the_default_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_DEFAULT_HTTP_HOST", "127.0.0.9")
    assert _instance_options(None, None).http_host == "127.0.0.9"
    assert _instance_options(None, {"host": "127.0.0.2"}).http_host == "127.0.0.2"
    assert _instance_options("Disabled", None).http_host is None
    monkeypatch.setenv("RAY_SERVE_DEFAULT_HTTP_HOST", "")
    assert _instance_options(None, None).http_host == "127.0.0.1"


def test_tracing_is_off() -> None:
    assert serve.get_trace_context() is None


# --- who a replica is ----------------------------------------------------------------------------


def test_a_replica_id_has_the_forms_of_both_generations() -> None:
    replica = ReplicaID("abcd1234", DeploymentId(name="Model", app_name="shop"))
    assert str(replica) == "Replica(id='abcd1234', deployment='Model', app='shop')"
    assert replica.to_full_id_str() == "SERVE_REPLICA::shop#Model#abcd1234"
    assert replica.full_tag == "shop#Model#abcd1234"
    assert ReplicaID.is_full_id_str(replica.to_full_id_str()) and not ReplicaID.is_full_id_str("abcd1234")
    for text in (replica.to_full_id_str(), replica.full_tag):
        assert ReplicaID.from_full_id_str(text) == replica
    with pytest.raises(ValueError, match="no full id of a replica"):
        ReplicaID.from_full_id_str("abcd1234")


def test_a_replica_context_has_the_fields_of_both_generations() -> None:
    context = make_replica_context("shop#Model#abcd1234", "shop", "Model", rank=1, world_size=3)
    assert isinstance(context, ReplicaContext)
    assert (context.app_name, context.deployment, context.replica_tag) == ("shop", "Model", "abcd1234")
    assert context.replica_id.full_tag == "shop#Model#abcd1234"
    assert (context.servable_object, context.gang_context, context.world_size) == (None, None, 3)
    assert context.rank == ReplicaRank(1, 0, 1) and context.rank.local_rank == 1
