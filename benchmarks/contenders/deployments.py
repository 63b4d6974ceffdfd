"""What serve-lite and Ray Serve have in common: the same applications, config files and drivers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from benchmarks.contenders.base import App, Command, Contender, Place

SERVICERS = ["benchmarks.apps.grpc_echo.add_EchoServicer_to_server"]

#: By application: what is imported, and options of its deployments.
TARGETS: Mapping[App, tuple[str, list[dict[str, Any]]]] = {
    "noop": ("benchmarks.apps.serve:noop", []),
    "sync": ("benchmarks.apps.serve:sync", []),
    "fastapi": ("benchmarks.apps.serve:fastapi", []),
    "web": ("benchmarks.apps.serve:web", []),
    "composed": ("benchmarks.apps.composed:app", []),
    "grpc": ("benchmarks.apps.grpc_echo:app", []),
    "batch": ("benchmarks.apps.batch:app", []),
    "replicas": ("benchmarks.apps.serve:noop", []),
    "pair": ("benchmarks.apps.serve:noop", [{"name": "Noop", "num_replicas": 2}]),
    "busy": ("benchmarks.apps.busy:app", []),
    "sleeper": ("benchmarks.apps.sleeper:app", []),
}


class Deployments(Contender):
    """A server that has Ray Serve's API."""

    apps = tuple(TARGETS)
    has_handles = True
    #: what a command needs to find the instance that was started
    flavour: ClassVar[str]

    def config(self, app: App, place: Place) -> str:
        """Return the config file for `app`. It is JSON, which is YAML as well."""
        import_path, deployments = TARGETS[app]
        document: dict[str, Any] = {
            "proxy_location": "EveryNode",
            "http_options": {"host": "127.0.0.1", "port": place.port},
            "applications": [
                {
                    "name": "default",
                    "route_prefix": "/",
                    "import_path": import_path,
                    "deployments": deployments,
                }
            ],
        }
        if app == "grpc":
            document["grpc_options"] = {"port": place.grpc_port, "grpc_servicer_functions": SERVICERS}
        return json.dumps(document, indent=1)

    def write_config(self, app: App, place: Place) -> str:
        """Write the config file and return its path."""
        path = place.directory / "serve.yaml"
        path.write_text(self.config(app, place))
        return str(path)

    def driver(self, module: str, place: Place, *arguments: str) -> Command:
        return Command(super().driver(module, place, *arguments).argv, self.environment_of(place))

    def environment_of(self, place: Place) -> dict[str, str]:
        """Return the variables with which a process finds the instance at `place`."""
        return {"BENCHMARK_SERVE": self.flavour}
