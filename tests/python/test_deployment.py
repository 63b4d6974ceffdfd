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
    BackpressureConfig,
    DeploymentConfig,
    LoggingConfig,
    OutlierEjection,
    RequestRouterConfig,
)
from serve_lite.deployment import DEFAULT, Application, Deployment, deployment
from serve_lite.options import apply_overrides


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


#: For each option, something wrong: the error and words of its text.
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"name": 3}, TypeError, "name is 3; it must be a string"),
    ({"name": "a#b"}, ValueError, "#"),
    ({"num_replicas": 0}, ValueError, "larger than 0"),
    ({"num_replicas": -1}, ValueError, "larger than 0"),
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
    ({"ray_actor_options": {"num_gpus": -1}}, ValueError, "at least 0"),
    ({"ray_actor_options": {"num_gpus": 1.5}}, ValueError, "a whole number of GPUs, not 1.5"),
    ({"ray_actor_options": {"resources": {"GPU": 1}}}, ValueError, "use num_gpus beside it"),
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
    ({"alive_timeout_s": 0}, ValueError, "larger than 0"),
    ({"deadlock_timeout_s": -1}, ValueError, "larger than 0"),
    ({"progress_timeout_s": "soon"}, TypeError, "number"),
    ({"outlier_ejection": {"max_ejection_percent": 0}}, ValueError, "at least 1"),
    ({"outlier_ejection": {"errors": 5}}, ValueError, "consecutive_errors"),
    ({"max_replica_age_s": 0.5}, ValueError, "at least 1"),
    ({"max_replica_requests": 0}, ValueError, "at least 1"),
    ({"max_replica_memory_bytes": "much"}, ValueError, "an integer"),
    ({"cpu_affinity": "spread"}, ValueError, "'own', a list of CPU numbers such as [0, 1], or null"),
    ({"cpu_affinity": 2}, TypeError, "a list of CPU numbers"),
    ({"cpu_affinity": []}, ValueError, "a list of CPU numbers"),
    ({"cpu_affinity": [1, 1]}, ValueError, "each CPU once"),
    ({"cpu_affinity": [0, -1]}, ValueError, "cpu_affinity[1] is -1; it must be an integer, at least 0"),
    (
        {"cpu_affinity": "own"},
        ValueError,
        "needs a whole num_cpus, 1 or more, in ray_actor_options, and there is none",
    ),
    ({"cpu_affinity": "own", "ray_actor_options": {"num_cpus": 1.5}}, ValueError, "and it is 1.5"),
    ({"min_ready_s": -1}, ValueError, "at least 0"),
    ({"version": ["v1"]}, TypeError, "version"),
    ({"name": ""}, ValueError, "not empty"),
    ({"user_config": {1, 2}}, ValueError, "user_config is not JSON-serializable"),
    ({"backpressure_config": None}, TypeError, "backpressure_config"),
    ({"placement_group_bundles": {"CPU": 1}}, TypeError, "placement_group_bundles"),
    ({"placement_group_bundles": [{"CPU": -1}]}, ValueError, "at least 0"),
    (
        {"placement_group_bundles": [{"CPU": 1}], "ray_actor_options": {"num_gpus": 1}},
        ValueError,
        "has 0 GPU, but ray_actor_options ask for 1",
    ),
    (
        {"placement_group_bundles": [{"CPU": 1}], "placement_group_strategy": "NEAR"},
        ValueError,
        "one of 'PACK', 'SPREAD', 'STRICT_PACK', 'STRICT_SPREAD'",
    ),
    (
        {"placement_group_bundle_label_selector": [{"zone": "a"}]},
        ValueError,
        "needs placement_group_bundles beside it",
    ),
    (
        {
            "placement_group_bundles": [{"CPU": 1}] * 3,
            "placement_group_bundle_label_selector": [{"zone": "a"}] * 2,
        },
        ValueError,
        "2 entries for 3 bundles",
    ),
    ({"is_driver_deployment": "perhaps"}, ValueError, "true or false"),
    ({"max_concurrent_queries": 0}, ValueError, "at least 1"),
    ({"init_args": 3}, TypeError, "init_args"),
    ({"init_kwargs": 3}, TypeError, "init_kwargs"),
]


@pytest.mark.parametrize(("options", "error", "said"), WRONG)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_wrong_option_is_refused_by_decorator_and_options(
    options: Any, error: type[Exception], said: str
) -> None:
    for make in (lambda: deployment(**options)(Plain.func_or_class), lambda: Plain.options(**options)):
        with pytest.raises(error) as caught:
            make()
        assert said in str(caught.value)
        assert "name" in options or "'Plain'" in str(caught.value)


#: For each option, something right: how it shows in the deployment.
RIGHT: list[tuple[dict[str, Any], Any]] = [
    ({"name": "Other"}, "Other"),
    ({"version": "v1"}, "v1"),
    ({"version": None}, None),
    ({"num_replicas": 3}, 3),
    ({"num_replicas": None}, 1),
    ({"num_replicas": "auto"}, 1),
    ({"ray_actor_options": {"num_gpus": 0.5}}, {"num_cpus": 1, "num_gpus": 0.5}),
    ({"ray_actor_options": None}, {"num_cpus": 1}),
    (
        {"ray_actor_options": {"resources": {"tpu": 1}, "runtime_env": {"env_vars": {"A": "1"}}}},
        {"num_cpus": 1, "resources": {"tpu": 1.0}, "runtime_env": {"env_vars": {"A": "1"}}},
    ),
    ({"placement_group_bundles": [{"CPU": 1, "GPU": 1}, {"CPU": 2}]}, [{"CPU": 1, "GPU": 1}, {"CPU": 2}]),
    ({"placement_group_strategy": "SPREAD", "placement_group_bundles": [{"CPU": 1}]}, "SPREAD"),
    (
        {
            "placement_group_bundle_label_selector": [{"zone": "a"}],
            "placement_group_bundles": [{"CPU": 1}] * 2,
        },
        [{"zone": "a"}],
    ),
    ({"max_replicas_per_node": 100}, 100),
    ({"user_config": {"a": [1, None, "x"]}}, {"a": [1, None, "x"]}),
    ({"user_config": b"raw"}, b"raw"),
    ({"user_config": None}, None),
    ({"max_ongoing_requests": 1}, 1),
    ({"max_concurrent_queries": 7}, 7),
    ({"max_queued_requests": -1}, -1),
    ({"max_queued_requests": 1}, 1),
    ({"backpressure_config": {"status_code": 429}}, BackpressureConfig(status_code=429)),
    ({"backpressure_config": BackpressureConfig(retry_after_s=2)}, BackpressureConfig(retry_after_s=2)),
    ({"autoscaling_config": {"max_replicas": 4}}, AutoscalingConfig(max_replicas=4)),
    ({"autoscaling_config": AutoscalingConfig(max_replicas=4)}, AutoscalingConfig(max_replicas=4)),
    ({"autoscaling_config": None}, None),
    ({"graceful_shutdown_wait_loop_s": 0}, 0),
    ({"graceful_shutdown_timeout_s": 0}, 0),
    ({"health_check_period_s": 0.1}, 0.1),
    ({"health_check_timeout_s": 1}, 1),
    ({"logging_config": {"log_level": "DEBUG"}}, LoggingConfig(log_level="DEBUG").to_dict()),
    ({"logging_config": LoggingConfig(encoding="JSON")}, LoggingConfig(encoding="JSON").to_dict()),  # type: ignore[arg-type]
    ({"logging_config": None}, None),
    (
        {"request_router_config": {"max_backoff_s": 1}},
        RequestRouterConfig(max_backoff_s=1).to_dict(),
    ),
    (
        {"request_router_config": RequestRouterConfig(request_router_class="m:R")},
        RequestRouterConfig(request_router_class="m:R").to_dict(),
    ),
    ({"max_constructor_retry_count": 1}, 1),
    ({"gang_scheduling_config": None}, None),
    ({"deployment_actors": None}, None),
    ({"rolling_update_percentage": 1}, 1),
    ({"max_surge_percent": 0}, 0),
    ({"max_surge_percent": None}, None),
    ({"is_driver_deployment": True}, True),
    ({"route_prefix": "/a"}, "/a"),
    ({"route_prefix": None}, None),
    ({"init_args": [1]}, (1,)),
    ({"init_kwargs": {"a": 1}}, {"a": 1}),
    ({"serialize_sync": True}, True),
    ({"sync_threads": 2}, 2),
    ({"alive_timeout_s": 2}, 2),
    ({"alive_timeout_s": None}, None),
    ({"deadlock_timeout_s": 2}, 2),
    ({"progress_timeout_s": 2}, 2),
    ({"outlier_ejection": {"consecutive_errors": 2}}, OutlierEjection(consecutive_errors=2)),
    ({"max_replica_age_s": 3600}, 3600.0),
    ({"max_replica_requests": 1000}, 1000),
    ({"max_replica_memory_bytes": 2**30}, 2**30),
    ({"max_replica_memory_bytes": None}, None),
    ({"cpu_affinity": [1, 0]}, [0, 1]),
    ({"cpu_affinity": None}, None),
    ({"min_ready_s": 2}, 2.0),
]


def effective(made: Deployment[Any], option: str) -> Any:
    """What an option of a deployment is now."""
    for place in (made, made.config):
        if option in dir(place):
            return getattr(place, option)
    return made.config.accepted.get(option)


@pytest.mark.parametrize(("options", "value"), RIGHT)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_right_option_is_taken_by_decorator_and_options(options: Any, value: Any) -> None:
    option = next(iter(options))
    for made in (deployment(**options)(Plain.func_or_class), Plain.options(**options)):
        assert effective(made, option) == value


def test_every_option_is_among_the_right_and_the_wrong_ones() -> None:
    options = set(inspect.signature(deployment).parameters) - {"_func_or_class"}
    assert {next(iter(case[0])) for case in RIGHT} >= options
    assert {name for case in WRONG for name in case[0]} >= options


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


@pytest.mark.parametrize("name", ["deploy", "delete", "get_handle", "set_options", "url", "remote"])
def test_what_2_7s_deployments_could_do_says_what_does_it_now(name: str) -> None:
    assert not hasattr(Plain, name)
    with pytest.raises(AttributeError, match=rf"no attribute '{name}'; .*(serve\.|options)"):
        getattr(Plain, name)


def test_methods_of_the_class_are_neither_at_the_deployment_nor_at_the_application() -> None:
    with pytest.raises(AttributeError, match="methods of the class itself are at func_or_class"):
        Plain.predict  # noqa: B018
    with pytest.raises(AttributeError, match=r"hand it to another deployment's bind\(\) or to serve.run"):
        Plain.bind().predict  # noqa: B018


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


def test_nothing_heavy_is_imported_for_decorators() -> None:
    import subprocess

    code = (
        "import sys, serve_lite.deployment, serve_lite.ingress, serve_lite.batching, serve_lite.multiplex, "
        "serve_lite.schema; print([m for m in ('fastapi','starlette','pydantic','typer','numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "options",
    [
        {"max_ongoing_requests": 3, "autoscaling_config": {"target_ongoing_requests": 4}},
        {"max_ongoing_requests": 1, "num_replicas": "auto"},
    ],
)
def test_options_that_keep_autoscaling_from_happening_are_told_at_the_users_line(
    options: dict[str, Any],
) -> None:
    with pytest.warns(
        UserWarning, match="'f'.*autoscaling will never happen before calls have to wait"
    ) as caught:
        made = deployment(name="f", **options)(_plain)
    assert [w.filename for w in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.bind()
        made.options(name="another", user_config=1)
        made.options(max_ongoing_requests=100)
        deployment(max_ongoing_requests=4, autoscaling_config={"target_ongoing_requests": 4})(_plain)


def _plain() -> None:
    pass


# --- cpu_affinity --------------------------------------------------------------------------------


def test_cpus_of_a_replica_s_own_need_their_number_from_wherever_it_comes() -> None:
    made = Plain.options(cpu_affinity="own", ray_actor_options={"num_cpus": 2})
    assert made.config.cpu_affinity == "own"
    with pytest.raises(ValueError, match=r"^Deployment 'Plain': cpu_affinity 'own' needs a whole num_cpus"):
        made.options(ray_actor_options={"num_gpus": 1})
    with pytest.raises(ValueError, match="in ray_actor_options, and there is none"):
        Plain.options(cpu_affinity="own")
    with pytest.raises(ValueError, match=r"^Deployment 'Plain'.cpu_affinity 'own' needs"):
        apply_overrides(DeploymentConfig(), (), {"cpu_affinity": "own"}, "Deployment 'Plain'")


def test_a_system_that_cannot_bind_processes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(
        ValueError, match="cpu_affinity needs Linux: this system cannot bind processes to CPUs"
    ):
        Plain.options(cpu_affinity=[0])
    assert Plain.options(cpu_affinity=None).config.cpu_affinity is None
