"""What Ray Serve has and one machine does not: importable where that helps, refused with what to do instead.

Names of today's Ray Serve can be imported, so that a program that merely mentions them still starts; using one
raises. Names that Ray Serve itself has given up are not there at all; `LEFT_OUT` is what the package says then.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from serve_lite.exceptions import RayServeException

#: Names of `ray.serve` that do not exist here, with what to use instead.
LEFT_OUT: Mapping[str, str] = MappingProxyType(
    {
        "build": "write a config file that names the application, as import_path: module:app",
        "BuiltApplication": "write a config file that names the application, as import_path: module:app",
        "_run": "use serve.run(app), which returns as soon as the application runs",
        "_run_many": "use serve.run_many(targets), which returns as soon as the applications run",
        "get_deployment": "use serve.get_deployment_handle(name, app_name) to call one, serve.status() to see it",
        "list_deployments": "use serve.status().applications[name].deployments",
        "PredictorDeployment": "write a class with @serve.deployment that loads the model in its constructor",
        "drivers": "make the entry a deployment with @serve.ingress and hand it the others in bind()",
        "http_adapters": "read the request in __call__(self, request), or use FastAPI with @serve.ingress",
        "llm": "run the model in a deployment of your own; nothing here is made for one kind of model",
        "task_consumer": "start the consumer as a background task in a deployment's constructor",
        "task_handler": "start the consumer as a background task in a deployment's constructor",
    }
)

_ACTORS = (
    "needs Ray's actors, which do not exist here. Make the helper a deployment of its own with num_replicas=1 "
    "and hand its handle to the others in bind()."
)
_GANGS = (
    "needs a Ray cluster to place groups of replicas. Leave it out: all replicas run on this machine, and each "
    "can read its place from serve.get_replica_context().rank."
)


def left_out(name: str) -> str | None:
    """Return what an error says of a name that Ray Serve has or had and this package does not; None for others."""
    remedy = LEFT_OUT.get(name)
    return None if remedy is None else f"serve_lite has no {name!r}, on purpose; {remedy}."


def get_deployment_actor(*args: Any, **kwargs: Any) -> NoReturn:
    """Not there: helper actors of a deployment need Ray.

    Raises:
        RayServeException: always; it says what to use instead.
    """
    raise RayServeException(f"get_deployment_actor {_ACTORS}")


def get_deployment_actor_context(*args: Any, **kwargs: Any) -> NoReturn:
    """Not there: helper actors of a deployment need Ray.

    Raises:
        RayServeException: always; it says what to use instead.
    """
    raise RayServeException(f"get_deployment_actor_context {_ACTORS}")


class _ClusterOnly:
    """Can be named, as in an annotation, but not made."""

    _why: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RayServeException(f"{type(self).__name__} {self._why}")


class DeploymentActorConfig(_ClusterOnly):
    """Describes a helper actor of a deployment, which needs Ray; making one raises RayServeException."""

    _why = _ACTORS


class DeploymentActorContext(_ClusterOnly):
    """What a helper actor knows of itself, which needs Ray; making one raises RayServeException."""

    _why = _ACTORS


class GangSchedulingConfig(_ClusterOnly):
    """Places replicas in groups, which needs a Ray cluster; making one raises RayServeException."""

    _why = _GANGS


class GangPlacementStrategy(enum.StrEnum):
    """How a group would be spread over a Ray cluster. Has no use here."""

    PACK = "PACK"
    SPREAD = "SPREAD"


class GangRuntimeFailurePolicy(enum.StrEnum):
    """What would become of a group that lost a replica. Has no use here."""

    RESTART_GANG = "RESTART_GANG"
    RESTART_REPLICA = "RESTART_REPLICA"
