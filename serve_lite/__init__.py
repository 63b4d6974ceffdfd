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
    "Deployment": "deployment",
    "DeploymentHandle": "handle",
    "HTTPOptions": "config",
    "RunTarget": "api",
    "batch": "batching",
    "delete": "api",
    "deployment": "deployment",
    "get_app_handle": "api",
    "get_deployment_handle": "api",
    "get_multiplexed_model_id": "context",
    "get_replica_context": "context",
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
_MODULES = frozenset({"config", "context", "exceptions", "handle", "schema"})

__all__ = [
    "Application",
    "Deployment",
    "DeploymentHandle",
    "HTTPOptions",
    "RunTarget",
    "batch",
    "delete",
    "deployment",
    "gRPCOptions",
    "get_app_handle",
    "get_deployment_handle",
    "get_multiplexed_model_id",
    "get_replica_context",
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
    from serve_lite.config import HTTPOptions, gRPCOptions
    from serve_lite.context import get_multiplexed_model_id, get_replica_context
    from serve_lite.deployment import Application, Deployment, deployment
    from serve_lite.handle import DeploymentHandle
    from serve_lite.ingress import ingress
    from serve_lite.multiplex import multiplexed


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"serve_lite.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"serve_lite.{name}")
    else:
        raise AttributeError(f"module 'serve_lite' has no attribute {name!r}")
    globals()[name] = value
    return value


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


sys.modules[__name__].__class__ = _Package
