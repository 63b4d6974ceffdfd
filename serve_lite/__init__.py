"""serve_lite: the Ray Serve API on one machine, without Ray.

    import serve_lite as serve

Every public name is loaded when it is first used, so importing the package is cheap and pulls no server in.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Application": "deployment",
    "ControllerOptions": "config",
    "Deployment": "deployment",
    "DeploymentHandle": "handle",
    "HTTPOptions": "config",
    "RunTarget": "api",
    "TracingConfig": "config",
    "batch": "batching",
    "delete": "api",
    "deployment": "deployment",
    "get": "legacy_handles",
    "get_app_handle": "api",
    "get_deployment_actor": "cluster_only",
    "get_deployment_actor_context": "cluster_only",
    "get_deployment_handle": "api",
    "get_multiplexed_model_id": "context",
    "get_replica_context": "context",
    "get_trace_context": "tracing",
    "gRPCOptions": "config",
    "ingress": "ingress",
    "multiplexed": "multiplex",
    "run": "api",
    "run_many": "api",
    "shutdown": "api",
    "shutdown_async": "api",
    "start": "api",
    "status": "api",
}
_MODULES = frozenset(
    (
        "api batching config context exceptions grpc_util handle metrics multiplex request_router schema testing "
        "tracing"
    ).split()
)

__all__ = [
    "Application",
    "ControllerOptions",
    "Deployment",
    "DeploymentHandle",
    "HTTPOptions",
    "RunTarget",
    "TracingConfig",
    "batch",
    "delete",
    "deployment",
    "gRPCOptions",
    "get",
    "get_app_handle",
    "get_deployment_actor",
    "get_deployment_actor_context",
    "get_deployment_handle",
    "get_multiplexed_model_id",
    "get_replica_context",
    "get_trace_context",
    "ingress",
    "multiplexed",
    "run",
    "run_many",
    "shutdown",
    "shutdown_async",
    "start",
    "status",
]

if TYPE_CHECKING:
    from serve_lite import api as api
    from serve_lite import batching as batching
    from serve_lite import config as config
    from serve_lite import context as context
    from serve_lite import exceptions as exceptions
    from serve_lite import grpc_util as grpc_util
    from serve_lite import handle as handle
    from serve_lite import metrics as metrics
    from serve_lite import multiplex as multiplex
    from serve_lite import request_router as request_router
    from serve_lite import schema as schema
    from serve_lite import tracing as tracing
    from serve_lite.api import (
        RunTarget,
        delete,
        get_app_handle,
        get_deployment_handle,
        run,
        run_many,
        shutdown,
        shutdown_async,
        start,
        status,
    )
    from serve_lite.batching import batch
    from serve_lite.cluster_only import get_deployment_actor, get_deployment_actor_context
    from serve_lite.config import ControllerOptions, HTTPOptions, TracingConfig, gRPCOptions
    from serve_lite.context import get_multiplexed_model_id, get_replica_context
    from serve_lite.deployment import Application, Deployment, deployment
    from serve_lite.handle import DeploymentHandle
    from serve_lite.ingress import ingress
    from serve_lite.legacy_handles import get
    from serve_lite.multiplex import multiplexed
    from serve_lite.tracing import get_trace_context


def _load(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"serve_lite.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"serve_lite.{name}")
    else:
        from serve_lite.cluster_only import left_out  # only for the error

        raise AttributeError(left_out(name) or f"module 'serve_lite' has no attribute {name!r}")
    globals()[name] = value
    return value


if not TYPE_CHECKING:
    __getattr__ = _load  # type checkers that saw it would take every name for a public one


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})


class _Package(ModuleType):
    """Keeps public functions from being hidden by the submodules they live in.

    Importing `serve_lite.deployment` makes the import system set the module as an attribute of the package,
    where users expect the decorator of that name.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self) -> Any:
        """Travel by name: code in `__main__` that says `serve.something` takes the package with it."""
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Package
