"""The programs in `programs/`, which users of Ray Serve could have written: each runs to its end and leaves nothing.

Every program is complete and reads nothing of this file. SERVE_LITE_HTTP_PORT says where its HTTP is,
and SERVE_LITE_ADMIN_PORT where its metrics are. With its import line changed back it must be a program for Ray
Serve, which `foreign_names` checks.
"""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from tests.instances import Instances

ROOM = Path(__file__).with_name("programs")
PROGRAMS = sorted(ROOM.glob("*/*.py"))
GUIDES = {
    "app_builders", "batching", "composition", "configuration", "fastapi", "handles", "key_concepts", "metrics",
    "multiplexing", "older_code", "streaming", "testing", "websockets",
}  # fmt: skip
OLDER_CODE = "older_code"  #: written for 2.7; told so, and running all the same

DEADLINE_S = 60.0  #: only a broken program takes so long


def name_of(program: Path) -> str:
    return f"{program.parent.name}/{program.stem}"


every_program = pytest.mark.parametrize("program", PROGRAMS, ids=name_of)


# --- they run ------------------------------------------------------------------------------------


@every_program
async def test_a_program_does_what_it_says(program: Path, instances: Instances, tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    instances.watch_home(home)  # with the end of the test nothing may be left of it
    output = tmp_path / "output"
    with reserved_port() as http_port, reserved_port() as admin_port, output.open("wb") as file:
        environment = {
            **os.environ,
            "SERVE_LITE_HOME": home,
            "SERVE_LITE_HTTP_PORT": str(http_port),
            "SERVE_LITE_ADMIN_PORT": str(admin_port),
        }
        try:
            with anyio.fail_after(DEADLINE_S):
                ended = await anyio.run_process(
                    [sys.executable, "-W", "default", str(program)],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    check=False,
                    cwd=tmp_path,
                    env=environment,
                )
        except TimeoutError:
            pytest.fail(f"{name_of(program)} has not ended in {DEADLINE_S} s:\n{said_in(output)}")
    said = said_in(output)
    assert ended.returncode == 0, f"{name_of(program)} failed:\n{said}"
    if program.parent.name == OLDER_CODE:
        assert "DeprecationWarning" in said
    else:
        assert "Warning" not in said, said


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of 127.0.0.1 that the program can listen on and that nobody is given by chance meanwhile.

    A bound socket that does not listen keeps the kernel from giving the port away, and does not hinder a second
    one that asks for this very port, as long as both reuse addresses.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def said_in(output: Path) -> str:
    return output.read_text(errors="replace")


# --- they are what they should be ----------------------------------------------------------------


def test_there_are_programs_for_every_guide() -> None:
    assert len(PROGRAMS) >= 45
    assert {program.parent.name for program in PROGRAMS} == GUIDES
    assert {folder.name for folder in ROOM.iterdir() if folder.name != "__pycache__"} == GUIDES


@every_program
def test_a_program_says_what_it_shows_and_checks_it(program: Path) -> None:
    tree = ast.parse(program.read_text())
    said = ast.get_docstring(tree)
    assert said is not None and "\n" not in said and said.endswith("."), "a docstring of one line"
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree)), "nothing is asserted"


@every_program
def test_a_program_would_be_one_for_ray_serve(program: Path) -> None:
    assert foreign_names(program.read_text()) == []


# --- what Ray Serve knows ------------------------------------------------------------------------

OURS = "# serve-lite only"  #: on a line that Ray Serve would not understand

#: What `from ray import serve` brings in 2.60 and in 2.7.
TOP_LEVEL = {
    "Application", "ControllerOptions", "Deployment", "HTTPOptions", "RunTarget", "TracingConfig", "batch", "delete",
    "deployment", "get_app_handle", "get_deployment_actor", "get_deployment_actor_context", "get_deployment_handle",
    "get_multiplexed_model_id", "get_replica_context", "get_trace_context", "ingress", "multiplexed", "run",
    "run_many", "shutdown", "shutdown_async", "start", "status",
    "BuiltApplication", "build", "get_deployment", "list_deployments",
}  # fmt: skip
#: What its modules have for users.
MODULES: Mapping[str, set[str]] = {
    "handle": {
        "DeploymentBroadcastResponse", "DeploymentHandle", "DeploymentResponse", "DeploymentResponseGenerator",
        "RayServeDeploymentHandle", "RayServeHandle", "RayServeSyncHandle",
    },
    "config": {
        "AggregationFunction", "AutoscalingConfig", "AutoscalingContext", "AutoscalingPolicy", "BackpressureConfig",
        "ControllerOptions", "DeploymentActorConfig", "DeploymentMode", "GangPlacementStrategy",
        "GangRuntimeFailurePolicy", "GangSchedulingConfig", "HTTPOptions", "ProxyLocation", "RequestRouterConfig",
        "gRPCOptions",
    },
    "schema": {
        "ApplicationDetails", "ApplicationStatus", "ApplicationStatusOverview", "DeploymentDetails",
        "DeploymentSchema", "DeploymentStatusOverview", "EncodingType", "HTTPOptionsSchema", "LoggingConfig",
        "ProxyStatus", "RayActorOptionsSchema", "ReplicaDetails", "ReplicaRank", "ServeApplicationSchema",
        "ServeDeploySchema", "ServeInstanceDetails", "ServeStatus", "TracingConfig", "gRPCOptionsSchema",
    },
    "exceptions": {
        "BackPressureError", "DeploymentUnavailableError", "RayServeException", "ReplicaUnavailableError",
        "RequestCancelledError", "gRPCStatusError",
    },
    "metrics": {"Counter", "Gauge", "Histogram"},
    "context": {"DeploymentActorContext", "ReplicaContext"},
    "grpc_util": {"RayServegRPCContext", "gRPCInputStream"},
    "request_router": {
        "FIFOMixin", "LocalityMixin", "MultiplexMixin", "PendingRequest", "ReplicaID", "RequestRouter",
        "RunningReplica",
    },
}  # fmt: skip
#: Keywords of the functions that take many, and of methods; `.options` is one of deployments and of handles.
_DEPLOYMENT = {
    "name", "version", "num_replicas", "ray_actor_options", "placement_group_bundles", "placement_group_strategy",
    "placement_group_bundle_label_selector", "max_replicas_per_node", "user_config", "max_ongoing_requests",
    "max_queued_requests", "backpressure_config", "autoscaling_config", "graceful_shutdown_wait_loop_s",
    "graceful_shutdown_timeout_s", "health_check_period_s", "health_check_timeout_s", "logging_config",
    "request_router_config", "max_constructor_retry_count", "gang_scheduling_config", "deployment_actors",
    "rolling_update_percentage", "max_surge_percent",
    "init_args", "init_kwargs", "is_driver_deployment", "max_concurrent_queries", "route_prefix",
}  # fmt: skip
KEYWORDS: Mapping[str, set[str]] = {
    "serve.deployment": _DEPLOYMENT,
    "options": _DEPLOYMENT
    | {"func_or_class", "method_name", "multiplexed_model_id", "session_id", "stream", "use_new_handle_api"},
    "serve.batch": {"max_batch_size", "batch_wait_timeout_s", "max_concurrent_batches", "batch_size_fn"},
    "serve.multiplexed": {"max_num_models_per_replica"},
    "serve.run": {
        "blocking", "name", "route_prefix", "logging_config", "external_scaler_enabled", "controller_options",
        "_local_testing_mode", "_blocking", "host", "port",
    },
    "serve.start": {
        "proxy_location", "http_options", "grpc_options", "logging_config", "tracing_config", "controller_options",
        "detached", "dedicated_cpu",
    },
    "result": {"timeout_s"},
}  # fmt: skip


def foreign_names(program: str) -> list[str]:
    """Return what Ray Serve does not have of what a program uses, were it written for that."""
    text = program.replace("import serve_lite as serve", "from ray import serve")
    text = text.replace("from serve_lite import", "from ray.serve import")
    text = text.replace("from serve_lite.", "from ray.serve.")
    lines = text.splitlines()
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and "from ray import serve" in node.value
        ):
            found += foreign_names(node.value)  # a module that the program writes
        elif OURS not in lines[getattr(node, "lineno", 1) - 1]:
            found += _foreign(node)
    return found


def _foreign(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [name.name for name in names if name.name.partition(".")[0] == "serve_lite"]
        case ast.ImportFrom(module="ray.serve", names=names):
            known = TOP_LEVEL | MODULES.keys()
            return [f"serve.{name.name}" for name in names if name.name not in known]
        case ast.ImportFrom(module=str(module), names=names) if module.startswith("ray.serve."):
            public = MODULES.get(module.removeprefix("ray.serve."), set())
            return [f"{module}.{name.name}" for name in names if name.name not in public]
        case ast.Attribute(value=ast.Name(id="serve"), attr=name) if name not in TOP_LEVEL | MODULES.keys():
            return [f"serve.{name}"]
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="serve"), attr=module), attr=name):
            return [f"serve.{module}.{name}"] if name not in MODULES.get(module, {name}) else []
        case ast.Call(func=ast.Attribute(value=owner, attr=function), keywords=keywords):
            called = f"serve.{function}" if ast.unparse(owner) == "serve" else function
            given = {keyword.arg for keyword in keywords if keyword.arg is not None}
            return [f"{called}({name}=)" for name in sorted(given - KEYWORDS.get(called, given))]
    return []


@pytest.mark.parametrize(
    ("line", "foreign"),
    [
        ("serve.frobnicate()", ["serve.frobnicate"]),
        ("serve.handle.Frobnicator", ["serve.handle.Frobnicator"]),
        ("from serve_lite.handle import DeploymentHandle, Knob", ["ray.serve.handle.Knob"]),
        ("from serve_lite.testing import running", ["ray.serve.testing.running"]),
        ("from serve_lite import Application, knob", ["serve.knob"]),
        ("import serve_lite.testing", ["serve_lite.testing"]),
        ("serve.deployment(serialize_sync=True)", ["serve.deployment(serialize_sync=)"]),
        ("MODULE = 'import serve_lite as serve; serve.frobnicate'", ["serve.frobnicate"]),
        ("handle.options(method_name='f', knob=1)", ["options(knob=)"]),
        ("subprocess.run([], check=True)", []),
        ("serve.frobnicate()  # serve-lite only", []),
        ("serve.deployment(num_replicas=2, max_concurrent_queries=5)", []),
        ("serve.metrics.Counter('orders')", []),
    ],
)
def test_what_ray_serve_does_not_have_is_found(line: str, foreign: list[str]) -> None:
    assert foreign_names(f"import serve_lite as serve\n{line}\n") == foreign
