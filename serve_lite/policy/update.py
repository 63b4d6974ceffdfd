"""What a changed deployment causes: nothing, other numbers, a call to `reconfigure`, or new processes.

Two digests say it: replicas whose `version` is not the goal's are replaced, those whose `settings` are not
the goal's are reconfigured in place, everything else is used by the controller and the routers alone.
The three tables below are Ray Serve's; together they name every option.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Any

import msgspec

from serve_lite.config import DeploymentConfig
from serve_lite.state.goal import CodeEnvironment, DeploymentGoal, DeploymentSpec
from serve_lite.state.lifecycle import DeploymentMove

#: Changed: replicas are replaced.
RESTART_OPTIONS = frozenset({"ray_actor_options", "cpu_affinity"})
#: These came later. Without a value they count for nothing, so that an upgrade replaces no replica.
_LATE_OPTIONS = frozenset({"cpu_affinity"})

#: Changed: replicas are told.
RECONFIGURE_OPTIONS = frozenset(
    {
        "user_config",
        "max_ongoing_requests",
        "logging_config",
        "serialize_sync",
        "sync_threads",
        "max_replica_age_s",
        "max_replica_requests",
        "max_replica_memory_bytes",
    }
)

#: Changed: more or fewer replicas.
SCALE_OPTIONS = frozenset({"num_replicas"})

#: Changed: the controller or the routers use the new value from now on.
OUTER_OPTIONS = frozenset(
    {
        "max_queued_requests",
        "autoscaling_config",
        "graceful_shutdown_wait_loop_s",
        "graceful_shutdown_timeout_s",
        "health_check_period_s",
        "health_check_timeout_s",
        "alive_timeout_s",
        "deadlock_timeout_s",
        "progress_timeout_s",
        "outlier_ejection",
        "max_constructor_retry_count",
        "rolling_update_percentage",
        "max_surge_percent",
        "min_ready_s",
        "backpressure_status",
        "retry_after_s",
        "request_router_config",
        "accepted",
    }
)

_packer = msgspec.msgpack.Encoder(order="deterministic")


class Change(enum.Enum):
    """What the step from one goal to the next means for a deployment's replicas."""

    NOTHING = "nothing"
    OUTER = "other limits or periods"
    SCALE = "another number of replicas"
    RECONFIGURE = "other settings"
    RESTART = "another version"
    CREATE = "a new deployment"


def version_of(
    code_version: str, spec: DeploymentSpec, config: DeploymentConfig, environment: CodeEnvironment
) -> str:
    """Return what identifies the processes of a deployment.

    Args:
        code_version: of the application: the same as before means that its code and arguments are.
            Beside it counts what is in the files, where that was looked at.
    """
    code: list[object] = (
        [code_version, spec.version] if spec.version else [code_version, spec.code, spec.init]
    )
    return _digest([*code, environment, _chosen(config, RESTART_OPTIONS)])


def settings_of(config: DeploymentConfig, route_prefix: str | None) -> str:
    """Return what identifies the options that a running replica can take in place."""
    return _digest([_chosen(config, RECONFIGURE_OPTIONS), route_prefix])


def change(old: DeploymentGoal | None, new: DeploymentGoal) -> Change:
    """Return the strongest effect that the step from `old` to `new` has."""
    if old is None:
        return Change.CREATE
    if old.version != new.version:
        return Change.RESTART
    if old.settings != new.settings:
        return Change.RECONFIGURE
    if old.target != new.target:
        return Change.SCALE
    if _chosen(old.config, OUTER_OPTIONS) != _chosen(new.config, OUTER_OPTIONS):
        return Change.OUTER
    return Change.NOTHING


def status_move(old: DeploymentGoal | None, new: DeploymentGoal) -> DeploymentMove | None:
    """Return what the step from `old` to `new` does to the deployment's status."""
    match change(old, new):
        case Change.NOTHING:
            return None
        case Change.SCALE:
            assert old is not None
            return DeploymentMove.SCALED_UP if new.target > old.target else DeploymentMove.SCALED_DOWN
        case _:
            return DeploymentMove.CONFIGURED


def _chosen(config: DeploymentConfig, names: frozenset[str]) -> dict[str, Any]:
    chosen = {name: getattr(config, name) for name in sorted(names)}
    return {name: v for name, v in chosen.items() if v is not None or name not in _LATE_OPTIONS}


def _digest(value: object) -> str:
    return hashlib.sha256(_packer.encode(value)).hexdigest()[:12]
