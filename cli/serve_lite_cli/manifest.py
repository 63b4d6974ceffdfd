"""The documents that `serve build` writes, from deployments as code has them. Values in, values out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from serve_lite.config import HTTPOptions, LoggingConfig, ProxyLocation, gRPCOptions
from serve_lite.options import RECYCLING, config_to_document
from serve_lite.state.goal import DeploymentSpec
from serve_lite_cli.yaml_text import to_yaml

#: Release of Ray that a manifest asks for: the one whose REST answers ours look like.
RAY_VERSION = "2.60.0"

#: Ours alone; Ray would ignore them without a word.
ONLY_HERE = (
    "serialize_sync",
    "sync_threads",
    "max_constructor_retry_count",
    "alive_timeout_s",
    "deadlock_timeout_s",
    "progress_timeout_s",
    "outlier_ejection",
    "min_ready_s",
    *RECYCLING,
)


class Built(msgspec.Struct, frozen=True):
    """One application that was imported."""

    import_path: str
    deployments: tuple[DeploymentSpec, ...]
    working_dir: str | None = None  #: as the document has to name it; None: where the document is


def multi_app_document(
    built: Sequence[Built], servicers: Sequence[str], *, reflection: bool
) -> dict[str, Any]:
    """Return a document with all applications, called app1, app2 and so on."""
    http, grpc = HTTPOptions(), gRPCOptions()
    return {
        "proxy_location": str(ProxyLocation.EveryNode),
        "http_options": {"host": http.host, "port": http.port},
        "grpc_options": {
            "port": grpc.port,
            "grpc_servicer_functions": list(servicers),
            "enable_reflection": reflection,
        },
        "logging_config": LoggingConfig().to_dict(),
        "applications": [
            {
                "name": f"app{number}",
                "route_prefix": "/" if len(built) == 1 else f"/app{number}",
                **single_app_document(app),
            }
            for number, app in enumerate(built, 1)
        ],
    }


def single_app_document(built: Built) -> dict[str, Any]:
    """Return a document for one application.

    It names no host and port: an instance that listens elsewhere would refuse it.
    """
    return {
        "import_path": built.import_path,
        "runtime_env": {} if built.working_dir is None else {"working_dir": built.working_dir},
        "deployments": [config_to_document(spec.config, spec.name) for spec in built.deployments],
    }


def ray_service(built: Built, servicers: Sequence[str], *, reflection: bool) -> dict[str, Any]:
    """Return a manifest for KubeRay (`ray.io/v1`) that runs the application on a cluster of one node."""
    document = multi_app_document([built], servicers, reflection=reflection)
    document["http_options"]["host"] = "0.0.0.0"  # in a pod, whose other addresses the cluster guards
    for entry in document["applications"][0]["deployments"]:
        for option in ONLY_HERE:
            entry.pop(option, None)
    name = built.deployments[-1].name.lower().replace("_", "-")
    image = f"rayproject/ray:{RAY_VERSION}"
    ports = [
        {"containerPort": document["http_options"]["port"], "name": "serve"},
        {"containerPort": 8265, "name": "dashboard"},
    ]
    head = {"name": "ray-head", "image": image, "ports": ports}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": name},
        "spec": {
            "serveConfigV2": to_yaml(document),
            "rayClusterConfig": {
                "rayVersion": RAY_VERSION,
                "headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": [head]}}},
            },
        },
    }
