"""The options of one deployment: their names in both generations, their checks, and how they merge.

`canonical` checks what somebody gave (a decorator, `.options()`, an entry of a config file) and
returns it under today's names. `apply_overrides` lays such options over a `DeploymentConfig`, one
whole option at a time, and is the only way a `DeploymentConfig` comes to be. `config_to_dict` shows
one as REST does, `config_to_document` as a config file has it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from serve_lite import checks
from serve_lite.checks import Check, described, invalid, or_null, wrong
from serve_lite.config import (
    PLACES,
    AutoscalingConfig,
    AutoscalingPolicy,
    BackpressureConfig,
    DeploymentConfig,
    LoggingConfig,
    OutlierEjection,
    RequestRouterConfig,
)
from serve_lite.exceptions import InvalidConfigError

AUTO = "auto"
STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")  #: ways to place bundles, of Ray


# --- checks of single options --------------------------------------------------------------------


@described({"anyOf": [{"type": "integer", "minimum": 1}, {"const": AUTO}, {"type": "null"}]})
def _num_replicas(value: Any, where: str, lax: bool) -> int | str | None:
    if value is None or value == AUTO:
        return value  # type: ignore[no-any-return]  # None or "auto"
    expected = 'an integer larger than 0, "auto" or null'
    if _is_word(value):
        raise wrong(value, where, expected)
    try:
        number = checks.integer(at_least=0)(value, where, lax)
    except checks.ConfigTypeError:
        raise wrong(value, where, expected, wrong_type=True) from None
    except InvalidConfigError:
        raise wrong(value, where, expected) from None
    if number == 0:
        raise invalid(
            where,
            f"{where} is expected to be larger than 0, but it is 0. To start with no replica, "
            "use autoscaling_config with min_replicas 0.",
        )
    return int(number)


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and not value.strip().lstrip("+-").replace(".", "", 1).isdigit()


@described({"type": "integer", "minimum": 1})
def _max_ongoing(value: Any, where: str, lax: bool) -> int:
    if value is None:
        raise invalid(where, f"{where} must be non-null: an integer larger than 0.")
    return checks.integer(at_least=1)(value, where, lax)  # type: ignore[no-any-return]  # checked


@described({"anyOf": [{"type": "integer", "minimum": 1}, {"const": -1}]})
def _max_queued(value: Any, where: str, lax: bool) -> int:
    number = checks.integer()(value, where, lax)
    if number != -1 and number < 1:
        raise wrong(value, where, "-1 (no limit) or a positive integer")
    return int(number)


def _record(cls: type[Any], *, none: bool) -> Check:
    @described(lambda: or_null(cls.json_schema(), none))
    def check(value: Any, where: str, lax: bool) -> Any:
        return None if none and value is None else cls.from_value(value, where, lax)

    return check


def _as_dict(cls: type[Any], *, none: bool) -> Check:
    """Like `_record`, returning plain data that travels."""

    @described(lambda: or_null(cls.json_schema(), none))
    def check(value: Any, where: str, lax: bool) -> dict[str, Any] | None:
        return None if none and value is None else cls.from_value(value, where, lax).to_dict()

    return check


@described(
    {
        "anyOf": [
            {"type": "number", "minimum": 0, "maximum": 1},
            {"type": "integer", "minimum": 0},
            {"type": "null"},
        ]
    }
)
def _num_gpus(value: Any, where: str, lax: bool) -> float | None:
    number: float | None = checks.real(at_least=0, none=True)(value, where, lax)
    if number is not None and number > 1 and not number.is_integer():
        raise invalid(
            where,
            f"{where} must be a share of one GPU, from 0 to 1, or a whole number of GPUs, not {number:g}: a replica "
            f"cannot have a part of one GPU beside others. Write {math.floor(number)} or {math.ceil(number)}.",
        )
    return number


#: `cpu_affinity` that binds each replica to CPUs that no other one has.
OWN_CPUS = "own"

#: Resources that have options of their own.
_OWN_OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory", "object_store_memory": "memory"}
_AMOUNTS = checks.mapping_of(checks.real(at_least=0), none=True)


@described(lambda: checks.schema_of(_AMOUNTS))
def _resources(value: Any, where: str, lax: bool) -> dict[str, float] | None:
    given: dict[str, float] | None = _AMOUNTS(value, where, lax)
    for name in given or {}:
        if name in _OWN_OPTIONS:
            raise invalid(
                f"{where}.{name}",
                f"{where}.{name}: {name} is no resource of your own; use {_OWN_OPTIONS[name]} beside it.",
            )
    return given


#: What `ray_actor_options` may hold. What is in its `runtime_env` is read by runtime_env/reading.py.
ACTOR_OPTIONS: Mapping[str, Check] = MappingProxyType(
    {
        "accelerator_type": checks.text(none=True),
        "memory": checks.real(at_least=0, none=True),
        "num_cpus": checks.real(at_least=0, none=True),
        "num_gpus": _num_gpus,
        "object_store_memory": checks.real(at_least=0, none=True),
        "resources": _resources,
        "runtime_env": checks.mapping_of(none=True),
        "label_selector": checks.mapping_of(checks.text(), none=True),
        "fallback_strategy": checks.list_of(checks.mapping_of(), none=True),
    }
)


@described(lambda: or_null(checks.fields_schema(ACTOR_OPTIONS)))
def actor_options(value: Any, where: str, lax: bool) -> dict[str, Any]:
    """Check `ray_actor_options`; returns them as given."""
    if value is None:  # as Ray does
        return {}
    if not isinstance(value, Mapping):
        raise wrong(value, where, "a dict", wrong_type=True)
    given = checks.check_fields(value, ACTOR_OPTIONS, where, lax, thing="ray_actor_options", elsewhere=PLACES)
    return {k: checks.plain(v) for k, v in given.items()}


@described(
    {
        "anyOf": [
            {"const": OWN_CPUS},
            {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "uniqueItems": True},
            {"type": "null"},
        ]
    }
)
def _cpu_affinity(value: Any, where: str, lax: bool) -> str | list[int] | None:
    if value is None:
        return None
    if not sys.platform.startswith("linux"):
        raise invalid(where, f"{where} needs Linux: this system cannot bind processes to CPUs. Leave it out.")
    if value == OWN_CPUS:
        return OWN_CPUS
    expected = f"{OWN_CPUS!r}, a list of CPU numbers such as [0, 1], or null"
    if not isinstance(value, list | tuple):
        raise wrong(value, where, expected, wrong_type=not isinstance(value, str))
    cpus = [checks.integer(at_least=0)(cpu, f"{where}[{i}]", lax) for i, cpu in enumerate(value)]
    if not cpus or len(set(cpus)) < len(cpus):
        raise wrong(value, where, f"{expected}; each CPU once")
    return sorted(cpus)


def _check_affinity(affinity: object, needs: Mapping[str, Any], prefix: str) -> None:
    """Refuse CPUs of a replica's own without a number of them."""
    cpus = needs.get("num_cpus") or 0
    if affinity == OWN_CPUS and (cpus < 1 or cpus != int(cpus)):
        given = f"it is {cpus:g}" if cpus else "there is none"
        raise invalid(
            f"{prefix}cpu_affinity",
            f"{prefix}cpu_affinity {OWN_CPUS!r} needs a whole num_cpus, 1 or more, in ray_actor_options, and {given}: "
            "a replica is bound to as many CPUs.",
        )


@described({"enum": [*STRATEGIES, None]})
def _strategy(value: Any, where: str, lax: bool) -> str | None:
    name: str | None = checks.text(none=True)(value, where, lax)
    if name is not None and name not in STRATEGIES:
        raise wrong(name, where, "one of " + ", ".join(map(repr, STRATEGIES)))
    return name


def _only_none(needs: str) -> Check:
    @described({"type": "null"})
    def check(value: Any, where: str, lax: bool) -> None:
        if value is not None:
            raise invalid(where, f"{where} {needs}")

    return check


@described({"type": ["string", "null"], "pattern": "^/([^{}]*[^{}/])?$"})
def route_prefix(value: Any, where: str, lax: bool = False) -> str | None:
    """Check a route prefix: None, or a path that starts with "/", does not end with one, has no braces."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise wrong(value, where, "a string that starts with '/', or null", wrong_type=True)
    if not value.startswith("/"):
        raise invalid(where, f"Invalid {where} {value!r}: it must start with a forward slash ('/').")
    if value != "/" and value.endswith("/"):
        raise invalid(
            where, f"Invalid {where} {value!r}: it may not end with a slash; write {value.rstrip('/')!r}."
        )
    if "{" in value or "}" in value:
        raise invalid(where, f"Invalid {where} {value!r}: it may not contain wildcards ('{{' or '}}').")
    return value


#: Every option, by today's name. Kept in `DeploymentConfig` under the same name unless said below.
OPTIONS: Mapping[str, Check] = MappingProxyType(
    {
        "num_replicas": _num_replicas,
        "max_ongoing_requests": _max_ongoing,
        "max_queued_requests": _max_queued,
        "user_config": checks.json_value,
        "autoscaling_config": _record(AutoscalingConfig, none=True),
        "graceful_shutdown_wait_loop_s": checks.real(at_least=0),
        "graceful_shutdown_timeout_s": checks.real(at_least=0),
        "health_check_period_s": checks.real(above=0),
        "health_check_timeout_s": checks.real(above=0),
        "alive_timeout_s": checks.real(above=0, none=True),
        "deadlock_timeout_s": checks.real(above=0, none=True),
        "progress_timeout_s": checks.real(above=0, none=True),
        "outlier_ejection": _record(OutlierEjection, none=True),
        "ray_actor_options": actor_options,
        "max_constructor_retry_count": checks.integer(at_least=1),
        "rolling_update_percentage": checks.real(above=0, at_most=1),
        "max_surge_percent": checks.integer(at_least=0, at_most=100, none=True),
        "min_ready_s": checks.real(at_least=0),
        "backpressure_config": _record(BackpressureConfig, none=False),
        "logging_config": _as_dict(LoggingConfig, none=True),
        "request_router_config": _as_dict(RequestRouterConfig, none=True),
        "serialize_sync": checks.flag,
        "sync_threads": checks.integer(at_least=1, none=True),
        "max_replica_age_s": checks.real(at_least=1, none=True),
        "max_replica_requests": checks.integer(at_least=1, none=True),
        "max_replica_memory_bytes": checks.integer(at_least=1, none=True),
        "cpu_affinity": _cpu_affinity,
        # What one machine does not need: checked, remembered in `DeploymentConfig.accepted`, not used.
        "placement_group_bundles": checks.list_of(checks.mapping_of(checks.real(at_least=0)), none=True),
        "placement_group_strategy": _strategy,
        "placement_group_bundle_label_selector": checks.list_of(checks.mapping_of(checks.text()), none=True),
        "max_replicas_per_node": checks.integer(at_least=1, at_most=100, none=True),
        "is_driver_deployment": checks.flag,
        "gang_scheduling_config": _only_none(
            "needs a Ray cluster to place groups of replicas; leave it out, here all of them are on one machine."
        ),
        "deployment_actors": _only_none(
            "needs actors, which only a Ray cluster has; make the helper a deployment of its own with one replica."
        ),
        # Only in code, by users of 2.7.
        "route_prefix": route_prefix,
    }
)

ACCEPTED_ONLY = frozenset(
    {
        "placement_group_bundles",
        "placement_group_strategy",
        "placement_group_bundle_label_selector",
        "max_replicas_per_node",
        "is_driver_deployment",
        "gang_scheduling_config",
        "deployment_actors",
        "route_prefix",
    }
)

#: When a replica has served long enough.
RECYCLING = ("max_replica_age_s", "max_replica_requests", "max_replica_memory_bytes")

#: Names of 2.7, with today's.
ALIASES: Mapping[str, str] = MappingProxyType({"max_concurrent_queries": "max_ongoing_requests"})


def canonical(
    given: Mapping[str, Any],
    where: str = "",
    *,
    lax: bool = True,
    also_known: Collection[str] = (),
    warn: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Return the options under today's names, each checked.

    Args:
        given: option names and values.
        where: what stands before the names in errors, for example "applications[0].deployments[1]".
        lax: numbers may be text.
        also_known: names that are right here but no options (left out of the result).
        warn: told of each old name; None for a DeprecationWarning.

    Raises:
        InvalidConfigError: a name or value is wrong, or options contradict each other.
    """
    known = {*OPTIONS, *ALIASES, *also_known}
    prefix = f"{where}." if where else ""
    result: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise checks.unknown_key(key, where, known, thing="a deployment", elsewhere=PLACES)
        if key in also_known:
            continue
        name = ALIASES.get(key, key)
        checked = OPTIONS[name](value, prefix + key, lax)
        if name != key:
            (warn or checks.warn_deprecated)(f"{key} is called {name} now.")
        if name in result and result[name] != checked:
            raise invalid(
                prefix + key,
                f"{prefix}{name} is {result[name]!r} and its other name, {key}, is {checked!r}; give one.",
            )
        result[name] = checked
    _check_together(result, prefix)
    return result


def _check_together(options: Mapping[str, Any], prefix: str) -> None:
    """Refuse options of one place that contradict each other."""
    if isinstance(options.get("num_replicas"), int) and options.get("autoscaling_config") is not None:
        raise invalid(
            f"{prefix}num_replicas",
            f"{prefix}num_replicas: Manually setting num_replicas is not allowed when autoscaling_config "
            'is provided; leave it out, or write "auto".',
        )
    if "ray_actor_options" in options:
        _check_affinity(options.get("cpu_affinity"), options["ray_actor_options"], prefix)
    bundles = options.get("placement_group_bundles")
    for name in ("placement_group_strategy", "placement_group_bundle_label_selector"):
        if options.get(name) is not None and bundles is None:
            raise invalid(prefix + name, f"{prefix}{name} needs placement_group_bundles beside it.")
    if bundles is not None and options.get("max_replicas_per_node") is not None:
        raise invalid(
            f"{prefix}max_replicas_per_node",
            f"{prefix}max_replicas_per_node is not allowed together with placement_group_bundles.",
        )
    if bundles and options.get("ray_actor_options"):
        _check_first_bundle(bundles[0], options["ray_actor_options"], prefix)
    selectors = options.get("placement_group_bundle_label_selector")
    if bundles is not None and selectors is not None and len(selectors) not in (1, len(bundles)):
        raise invalid(
            f"{prefix}placement_group_bundle_label_selector",
            f"{prefix}placement_group_bundle_label_selector has {len(selectors)} entries for {len(bundles)} bundles; "
            "give one, or one for each bundle.",
        )


def _check_first_bundle(bundle: Mapping[str, float], needs: Mapping[str, Any], prefix: str) -> None:
    """Refuse a replica that needs more than the bundle it would live in, as Ray does."""
    needed = {
        "CPU": needs.get("num_cpus", 1),
        "GPU": needs.get("num_gpus"),
        "memory": needs.get("memory"),
        **(needs.get("resources") or {}),
    }
    for resource, amount in needed.items():
        if (amount or 0) > bundle.get(resource, 0):
            where = f"{prefix}placement_group_bundles[0]"
            raise invalid(
                where,
                f"{where} has {bundle.get(resource, 0):g} {resource}, but ray_actor_options ask for {amount:g}; the "
                "first bundle must hold what a replica needs.",
            )


# --- merging -------------------------------------------------------------------------------------


def apply_overrides(
    config: DeploymentConfig,
    configured_options: Collection[str],
    overrides: Mapping[str, Any],
    where: str = "",
) -> DeploymentConfig:
    """Return `config` with each option in `overrides` replaced as a whole; the others keep their value.

    `num_replicas` and `autoscaling_config` are two ways to say one thing, so that the one given later
    wins. "auto" starts from its own defaults, then takes the given autoscaling options, or else those
    that `config` has.

    Args:
        configured_options: names that were set to make `config` (kept for callers; "auto" needs none).
        overrides: options as given; old names and a "name" entry are allowed.
        where: what stands before the names in errors.
    """
    options = canonical(overrides, where, also_known=("name",), warn=_say_nothing)
    laid_over = _laid_over(config, options)
    _check_affinity(laid_over.cpu_affinity, laid_over.ray_actor_options, f"{where}." if where else "")
    return laid_over


def scaling_advice(config: DeploymentConfig) -> str | None:
    """Return why autoscaling would not do what is meant by such options; None if nothing speaks against it."""
    scaling = config.autoscaling_config
    if scaling is None or config.max_ongoing_requests >= scaling.target_ongoing_requests:
        return None
    return (
        f"max_ongoing_requests ({config.max_ongoing_requests}) is less than target_ongoing_requests "
        f"({scaling.target_ongoing_requests:g}): no replica ever has as many requests as it should, so autoscaling "
        "will never happen before calls have to wait. Raise the first, or lower the second."
    )


def _say_nothing(text: str) -> None:
    """Old names in stored overrides have been warned of when they came in."""


def _laid_over(config: DeploymentConfig, options: Mapping[str, Any]) -> DeploymentConfig:
    """Return `config` with checked options laid over it."""
    changes: dict[str, Any] = {}
    accepted = dict(config.accepted)
    for name, value in options.items():
        if name in ACCEPTED_ONLY:
            accepted[name] = value
        elif name == "backpressure_config":
            changes["backpressure_status"] = value.status_code
            changes["retry_after_s"] = value.retry_after_s
        elif name not in ("num_replicas", "autoscaling_config"):
            changes[name] = value
    changes |= _replicas(config, options)
    return msgspec.structs.replace(config, accepted=accepted, **changes)


def _replicas(config: DeploymentConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the new `num_replicas` and `autoscaling_config`."""
    count = options.get("num_replicas")
    scaling: AutoscalingConfig | None = options.get("autoscaling_config", config.autoscaling_config)
    if count == AUTO:
        laid_over = scaling.changed_fields() if scaling is not None else {}
        scaling = msgspec.structs.replace(AutoscalingConfig.default(), **laid_over)
    elif isinstance(count, int):
        return {"num_replicas": count, "autoscaling_config": None}
    if scaling is not None:
        return {"num_replicas": scaling.first_target(), "autoscaling_config": scaling}
    if config.autoscaling_config is not None:  # it was switched off
        return {"num_replicas": 1, "autoscaling_config": None}
    return {}


# --- showing -------------------------------------------------------------------------------------


def config_to_dict(config: DeploymentConfig, name: str | None = None) -> dict[str, Any]:
    """Return the effective options as REST's `deployment_config` shows them, with both generations' names.

    Either `num_replicas` or `autoscaling_config` is there, never both.
    """
    shown: dict[str, Any] = {} if name is None else {"name": name}
    if config.autoscaling_config is not None:
        shown["autoscaling_config"] = config.autoscaling_config.to_dict()
    else:
        shown["num_replicas"] = config.num_replicas
    shown |= {
        "max_ongoing_requests": config.max_ongoing_requests,
        "max_concurrent_queries": config.max_ongoing_requests,
        "max_queued_requests": config.max_queued_requests,
        "backpressure_config": {
            "status_code": config.backpressure_status,
            "retry_after_s": config.retry_after_s,
        },
        "user_config": config.user_config,
        "graceful_shutdown_wait_loop_s": config.graceful_shutdown_wait_loop_s,
        "graceful_shutdown_timeout_s": config.graceful_shutdown_timeout_s,
        "health_check_period_s": config.health_check_period_s,
        "health_check_timeout_s": config.health_check_timeout_s,
        "alive_timeout_s": config.alive_timeout_s,
        "deadlock_timeout_s": config.deadlock_timeout_s,
        "progress_timeout_s": config.progress_timeout_s,
        "outlier_ejection": config.outlier_ejection.to_dict() if config.outlier_ejection else None,
        "ray_actor_options": {"runtime_env": {}, "num_cpus": 1.0, **config.ray_actor_options},
        "request_router_config": config.request_router_config or RequestRouterConfig().to_dict(),
        "max_constructor_retry_count": config.max_constructor_retry_count,
        "rolling_update_percentage": config.rolling_update_percentage,
        "max_surge_percent": config.max_surge_percent,
        "min_ready_s": config.min_ready_s,
        "serialize_sync": config.serialize_sync,
        "sync_threads": config.sync_threads,
        "max_replica_age_s": config.max_replica_age_s,
        "max_replica_requests": config.max_replica_requests,
        "max_replica_memory_bytes": config.max_replica_memory_bytes,
        "cpu_affinity": config.cpu_affinity,
        "is_driver_deployment": False,
    }
    if config.logging_config is not None:
        shown["logging_config"] = config.logging_config
    return shown | {k: v for k, v in config.accepted.items() if k != "route_prefix"}


def config_to_document(config: DeploymentConfig, name: str) -> dict[str, Any]:
    """Return the effective options as an entry of a document's `deployments`, under today's names.

    An option is left out where it has no value of its own: what a document does not give stays as the code has it.
    """
    entry = config_to_dict(config, name)
    for only_shown in ("max_concurrent_queries", "is_driver_deployment"):
        if only_shown not in config.accepted:
            del entry[only_shown]
    for unset in (
        "max_surge_percent",
        "sync_threads",
        "progress_timeout_s",
        "outlier_ejection",
        "cpu_affinity",
        *RECYCLING,
    ):
        if entry[unset] is None:
            del entry[unset]
    if not config.min_ready_s:  # Ray does not know it
        del entry["min_ready_s"]
    if config.request_router_config is None:
        del entry["request_router_config"]
    if isinstance(config.user_config, bytes):  # no document can hold it
        del entry["user_config"]
    if config.autoscaling_config is not None and config.autoscaling_config.policy == AutoscalingPolicy():
        del entry["autoscaling_config"]["policy"]
    # As given: with Ray's defaults filled in, replicas would count as other ones.
    return entry | {"ray_actor_options": dict(config.ray_actor_options)}
