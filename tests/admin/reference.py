"""What Ray Serve's reference prints for its REST API (2.7): the bodies of its example requests and the shapes of its
example answers, without the commas that JSON does not have.
"""

from __future__ import annotations

import copy
from typing import Any

#: A folder that stands where the reference has the URL of an archive.
WORKING_DIR = "https://github.com/ray-project/serve_config_examples/archive/HEAD.zip"

PUT_V1: dict[str, Any] = {
    "import_path": "text_ml:app",
    "runtime_env": {"working_dir": WORKING_DIR},
    "deployments": [
        {"name": "Translator", "user_config": {"language": "french"}},
        {"name": "Summarizer"},
    ],
}

PUT_V2: dict[str, Any] = {
    "applications": [
        {
            "name": "text_app",
            "route_prefix": "/",
            "import_path": "text_ml:app",
            "runtime_env": {"working_dir": WORKING_DIR},
            "deployments": [
                {"name": "Translator", "user_config": {"language": "french"}},
                {"name": "Summarizer"},
            ],
        },
    ]
}

GET_V1_STATUS: dict[str, Any] = {
    "name": "default",
    "app_status": {"status": "RUNNING", "message": "", "deployment_timestamp": 1694043082.0397763},
    "deployment_statuses": [
        {"name": "Translator", "status": "HEALTHY", "message": ""},
        {"name": "Summarizer", "status": "HEALTHY", "message": ""},
    ],
}

NODE = "cef533a072b0f03bf92a6b98cb4eb9153b7b7c7b7f15954feb2f38ec"
PROXY_NAME = f"SERVE_CONTROLLER_ACTOR:SERVE_PROXY_ACTOR-{NODE}"


def _actor(actor_id: str, name: str, worker_id: str, log: str) -> dict[str, Any]:
    return {
        "node_id": NODE,
        "node_ip": "10.0.29.214",
        "actor_id": actor_id,
        "actor_name": name,
        "worker_id": worker_id,
        "log_file_path": f"/serve/{log}",
    }


def _deployment(name: str, user_config: dict[str, Any] | None, env: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "status": "HEALTHY",
        "message": "",
        "deployment_config": {
            "name": name,
            "num_replicas": 1,
            "max_concurrent_queries": 100,
            "user_config": user_config,
            "graceful_shutdown_wait_loop_s": 2.0,
            "graceful_shutdown_timeout_s": 20.0,
            "health_check_period_s": 10.0,
            "health_check_timeout_s": 30.0,
            "ray_actor_options": {"runtime_env": env, "num_cpus": 1.0},
            "is_driver_deployment": False,
        },
        "replicas": [
            {
                **_actor(
                    "4bb8479ad0c9e9087fee651901000000",
                    f"SERVE_REPLICA::app1#{name}#oMhRlb",
                    "1624afa1822b62108ead72443ce72ef3c0f280f3075b89dd5c5d5e5f",
                    f"deployment_{name}_app1#{name}#oMhRlb.log",
                ),
                "replica_id": f"app1#{name}#oMhRlb",
                "state": "RUNNING",
                "pid": 29892,
                "start_time_s": 1694042840.577496,
            }
        ],
    }


#: What was deployed for the answer below, and is in it.
APP1: dict[str, Any] = {
    "name": "app1",
    "route_prefix": "/",
    "import_path": "src.text-test:app",
    "deployments": [{"name": "Translator", "num_replicas": 1, "user_config": {"language": "german"}}],
}

GET_V2: dict[str, Any] = {
    "controller_info": _actor(
        "1d214b7bdf07446ea0ed9d7001000000",
        "SERVE_CONTROLLER_ACTOR",
        "adf416ae436a806ca302d4712e0df163245aba7ab835b0e0f4d85819",
        "controller_29778.log",
    ),
    "proxy_location": "EveryNode",
    "http_options": {
        "host": "0.0.0.0",
        "port": 8000,
        "root_path": "",
        "request_timeout_s": None,
        "keep_alive_timeout_s": 5,
    },
    "grpc_options": {"port": 9000, "grpc_servicer_functions": []},
    "proxies": {
        NODE: {
            **_actor(
                "b7a16b8342e1ced620ae638901000000",
                PROXY_NAME,
                "206b7fe05b65fac7fdceec3c9af1da5bee82b0e1dbb97f8bf732d530",
                "http_proxy_10.0.29.214.log",
            ),
            "status": "HEALTHY",
        }
    },
    "deploy_mode": "MULTI_APP",
    "applications": {
        "app1": {
            "name": "app1",
            "route_prefix": "/",
            "docs_path": None,
            "status": "RUNNING",
            "message": "",
            "last_deployed_time_s": 1694042836.1912267,
            "deployed_app_config": APP1,
            "deployments": {
                "Translator": _deployment("Translator", {"language": "german"}, {"env_vars": {}}),
                "Summarizer": _deployment("Summarizer", None, {}),
            },
        }
    },
}

#: Names in the answers that come from the instance and not from the document.
_CHOSEN = {NODE}
#: Keys whose values are told apart by kind only, since they belong to one machine at one time.
_ONLY_KIND = {
    "node_id",
    "node_ip",
    "actor_id",
    "actor_name",
    "worker_id",
    "log_file_path",
    "replica_id",
    "pid",
    "start_time_s",
    "deployment_timestamp",
    "last_deployed_time_s",
    "host",
    "port",
    "keep_alive_timeout_s",  # 90 in 2.60, and here
    "runtime_env",
    "deployed_app_config",
}


def with_folder(document: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return an example with a local folder where it has the URL of an archive."""
    changed = copy.deepcopy(document)
    for app in changed.get("applications", [changed]):
        app["runtime_env"]["working_dir"] = folder
    return changed


def differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """Return where an answer has not what the reference prints; it may have more."""
    key = where.rpartition(".")[2].partition("[")[0]
    if kind(expected) != kind(found):
        return [f"{where}: {found!r} is not of the kind of {expected!r}"]
    if isinstance(expected, dict):
        if set(expected) <= _CHOSEN:
            return [
                problem
                for (_, one), (name, other) in zip(expected.items(), found.items(), strict=True)
                for problem in differences(one, other, f"{where}.{name}")
            ]
        problems = [f"{where}.{name} is missing" for name in expected if name not in found]
        if key in _ONLY_KIND:
            return []
        return problems + [
            problem
            for name, one in expected.items()
            if name in found
            for problem in differences(one, found[name], f"{where}.{name}")
        ]
    if isinstance(expected, list):
        if len(expected) != len(found):
            return [f"{where}: {len(found)} entries instead of {len(expected)}"]
        pairs = zip(expected, found, strict=True)
        return [p for i, (one, other) in enumerate(pairs) for p in differences(one, other, f"{where}[{i}]")]
    if key not in _ONLY_KIND and expected != found:
        return [f"{where}: {found!r} instead of {expected!r}"]
    return []


def kind(value: Any) -> str:
    """Return the kind of a JSON value; all numbers are of one kind."""
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else type(value).__name__
