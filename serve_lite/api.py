"""The functions that start, fill, ask and stop an instance from Python.

A script that calls `run` or `start` with no instance up gets an embedded one, which ends with the script;
with one up, it uses that one. All of them block; none may be called on an event loop that replicas share.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from serve_lite import checks
from serve_lite.config import (
    Checked,
    ControllerOptions,
    HTTPOptions,
    LoggingConfig,
    ProxyLocation,
    TracingConfig,
    gRPCOptions,
)
from serve_lite.context import get_replica_context, in_replica
from serve_lite.daemon.options import InstanceOptions
from serve_lite.daemon.sources import join, layer_of, resolve
from serve_lite.deployment import DEFAULT, Application, Default, Deployment
from serve_lite.engines import driver, inline
from serve_lite.exceptions import RayServeException
from serve_lite.graph import build_deployments, build_here, with_runtime_envs
from serve_lite.handle import DeploymentHandle
from serve_lite.routing import runtime as caller_runtime
from serve_lite.routing.runtime import Runtime
from serve_lite.schema import ApplicationStatus, ServeStatus
from serve_lite.state.goal import AppSubmission, CodeEnvironment, DeploymentSpec
from serve_lite.wire.messages import (
    DeleteRequest,
    DeployReply,
    DeployRequest,
    Empty,
    IngressReply,
    IngressRequest,
    InstanceInfo,
    WaitRequest,
)

log = logging.getLogger("serve_lite")

T = TypeVar("T")

_DELETE_WAIT_S = 60.0


_started_with_logging: Any = None  # what `start` was given in this process


@dataclasses.dataclass(frozen=True)
class RunTarget:
    """One application for `run_many`."""

    target: Application
    name: str = "default"
    route_prefix: str | Default | None = DEFAULT
    logging_config: Any = None
    external_scaler_enabled: bool = False
    rollback_on_failure: bool = False


def start(
    proxy_location: ProxyLocation | str | None = None,
    http_options: HTTPOptions | Mapping[str, Any] | None = None,
    grpc_options: gRPCOptions | Mapping[str, Any] | None = None,
    logging_config: Any = None,
    tracing_config: Any = None,
    controller_options: Any = None,
    detached: bool = True,
    dedicated_cpu: bool = False,
    **kwargs: Any,
) -> None:
    """Start an instance for this process unless one is up; returns when it listens.

    Options of an instance that is up are not changed: differing ones are named in a warning.

    Args:
        proxy_location: "Disabled" for no HTTP; the other places are all this machine.
        http_options: where and how HTTP is served.
        grpc_options: port and servicer functions of gRPC, on the host that HTTP has. The functions are imported here
            too, so that what is wrong with one is told at once.
        logging_config: how replicas of applications that this process runs write their logs, where neither the
            deployment nor `serve.run` says.
        detached, dedicated_cpu: accepted from older code; a script's instance ends with the script, use
            `serve start` for one that stays.

    Raises:
        ValueError: an option belongs into `http_options`.
        PortInUseError: a listening address is taken.
        ModuleNotFoundError, AttributeError: a servicer function of `grpc_options` is not there.
    """
    global _started_with_logging
    for name in ("http_host", "http_port", "http_middlewares"):
        if name in kwargs:
            raise ValueError(
                f"`{name}` is not an argument of `serve.start`; pass `http_options={{...}}` instead."
            )
    if kwargs:
        checks.warn(f"serve.start has no arguments {', '.join(map(repr, kwargs))}; left out.", UserWarning)
    _check_record("grpc_options", grpc_options, gRPCOptions)
    _check_record("logging_config", logging_config, LoggingConfig)
    _check_record("tracing_config", tracing_config, TracingConfig)
    _check_record("controller_options", controller_options, ControllerOptions)
    _started_with_logging = logging_config
    options = _instance_options(proxy_location, http_options, grpc_options, logging_config)
    if not inline.is_forced():
        driver.open_instance(options, is_explicit=True)


def run(
    target: Application[T],
    blocking: bool = False,
    name: str = "default",
    route_prefix: str | Default | None = DEFAULT,
    logging_config: Any = None,
    *,
    _blocking: bool = True,
    _local_testing_mode: bool = False,
    external_scaler_enabled: bool = False,
    controller_options: Any = None,
    host: str | None = None,
    port: int | None = None,
    rollback_on_failure: bool = False,
) -> DeploymentHandle[T]:
    """Deploy an application, wait until it runs, and return a handle to its ingress.

    An application of the same name is updated in place, its replicas always replaced one after another, so
    that new code takes effect; others are not touched.

    Args:
        target: what `Deployment.bind()` returned.
        blocking: afterwards sleep until Ctrl-C, which is raised again as KeyboardInterrupt.
        name: the application's name.
        _local_testing_mode: run it inside this process, without an instance: one instance of each deployment,
            in a thread; constructors' exceptions are raised as they are. `serve_lite.testing` gives it HTTP.
            `RAY_SERVE_FORCE_LOCAL_TESTING_MODE=1` does so for every call. See docs/testing.md.
        route_prefix: path under which HTTP reaches it; None for none. Not given: the one that the ingress
            deployment names (code for 2.7), else "/".
        external_scaler_enabled: scalers outside may set numbers of replicas by REST; docs/autoscaling.md.
        rollback_on_failure: if this version is given up, the last one that worked is wanted again; docs/updates.md.
        host, port: accepted from older code; used if this call starts the instance.

    Raises:
        TypeError: `target` is not an application.
        RayServeException: an empty name, or a prefix that another application has.
        ValueError: `external_scaler_enabled`, and a deployment that scales by itself.
        RuntimeError: it could not be deployed; the message ends with the user's exception.
    """
    given = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
    if given:
        warnings.warn(
            "`host` and `port` of `serve.run` are deprecated; call `serve.start(http_options=...)` first.",
            DeprecationWarning,
            stacklevel=2,
        )
    entry = RunTarget(
        target, name, route_prefix, logging_config, external_scaler_enabled, rollback_on_failure
    )
    handle = _run_many([entry], wait=_blocking, local=_local_testing_mode, http_options=given or None)[0]
    if blocking:
        _sleep_until_interrupted()
    return handle


def run_many(
    targets: Sequence[RunTarget],
    blocking: bool = False,
    wait_for_ingress_deployment_creation: bool = True,
    wait_for_applications_running: bool = True,
    _local_testing_mode: bool = False,
    controller_options: Any = None,
) -> list[DeploymentHandle]:
    """Deploy several applications at once and return handles to their ingresses; see `run`.

    Raises:
        ValueError: no application was given.
        what `run` raises, for the first application that fails.
    """
    if not targets:
        raise ValueError("`run_many` needs at least one application.")
    handles = _run_many(
        targets, wait=wait_for_applications_running, local=_local_testing_mode, http_options=None
    )
    if blocking:
        _sleep_until_interrupted()
    return handles


def delete(name: str, _blocking: bool = True) -> None:
    """Remove an application; does nothing if there is none of that name.

    Raises:
        RayServeException: Serve is not running.
        TimeoutError: its replicas have not ended within 60 seconds.
    """
    if inline.delete(name):
        return
    runtime = _instance_beside_local()
    if runtime is None:
        return
    driver.ask(runtime, "delete", DeleteRequest(names=[name]), Empty)
    if _blocking:
        driver.ask(runtime, "wait_apps", WaitRequest(names=[name]), ServeStatus, timeout_s=_DELETE_WAIT_S)


def status() -> ServeStatus:
    """Return the status of all applications; an empty one if Serve is not running."""
    runtime = None if inline.is_forced() else driver.connected()
    known = driver.ask(runtime, "status", Empty(), ServeStatus) if runtime is not None else ServeStatus()
    here = inline.status()
    return msgspec.structs.replace(known, applications=known.applications | here) if here else known


def shutdown() -> None:
    """Delete every application and end the instance; returns when its ports are free. Idempotent."""
    had_local = inline.end()
    if inline.is_forced() or (had_local and caller_runtime.installed() is None):
        return  # an instance that this process never used is none of its business
    if not driver.end() and not had_local:
        log.info("Nothing to shut down: there is no Serve instance running.")


async def shutdown_async() -> None:
    """`shutdown` without blocking the loop."""
    await asyncio.to_thread(shutdown)


def get_app_handle(name: str) -> DeploymentHandle:
    """Return a handle to the ingress of an application.

    Raises:
        RayServeException: Serve is not running, or there is no such application.
    """
    deployment = inline.ingress(name)
    if deployment is None:
        runtime = _instance_beside_local()
        if runtime is not None:
            deployment = driver.ask(runtime, "ingress", IngressRequest(app=name), IngressReply).deployment
    if not deployment:
        raise RayServeException(f"Application '{name}' does not exist.")
    return DeploymentHandle(deployment, name)


def get_deployment_handle(
    deployment_name: str,
    app_name: str | None = None,
    _check_exists: bool = True,
    _record_telemetry: bool = True,
) -> DeploymentHandle:
    """Return a handle to a deployment; inside a replica `app_name` defaults to the replica's own.

    Raises:
        RayServeException: no application name outside a replica, or Serve is not running.
        KeyError: there is no such deployment.
    """
    if app_name is None:
        if not in_replica():
            raise RayServeException(
                "Please specify an application name when getting a deployment handle outside a replica."
            )
        app_name = get_replica_context().app_name
    if _check_exists:
        app = inline.status().get(app_name)
        if app is None and (runtime := _instance_beside_local()) is not None:
            app = driver.ask(runtime, "status", Empty(), ServeStatus).applications.get(app_name)
        if app is None or deployment_name not in app.deployments:
            raise KeyError(f"Deployment '{deployment_name}' in application '{app_name}' does not exist.")
    return DeploymentHandle(deployment_name, app_name)


def connect_handles() -> Runtime:
    """Return this process's runtime; how a handle that arrived in a fresh process finds the instance.

    Raises:
        RayServeException: none is up.
    """
    return driver.require()


def _instance_beside_local() -> Runtime | None:
    """Return the instance to ask for what does not run in this process; None if all runs in this process.

    Raises:
        RayServeException: nothing runs at all.
    """
    if inline.is_forced():
        return None
    return driver.connected() if inline.has_any() else driver.require()


def _run_many(
    targets: Sequence[RunTarget], *, wait: bool, local: bool, http_options: Mapping[str, Any] | None
) -> list[DeploymentHandle]:
    for entry in targets:
        _check(entry)
    if local or inline.is_forced():
        return _run_here(targets)
    built = [with_runtime_envs(build_deployments(entry.target, entry.name)) for entry in targets]
    for entry, deployments in zip(targets, built, strict=True):
        _check_scaler(entry, deployments)
    runtime = driver.open_instance(
        _instance_options(None, http_options, caller="serve.run"), is_explicit=http_options is not None
    )
    for entry in targets:
        inline.give_way(entry.name)  # calls would still go to it
    environment = CodeEnvironment(cwd=os.getcwd(), sys_path=_sys_path())
    apps = [
        AppSubmission(
            name=e.name,
            route_prefix=_prefix(e, d),
            environment=environment,
            deployments=d,
            logging_config=_logging(e.logging_config),
            external_scaler_enabled=e.external_scaler_enabled,
            rollback_on_failure=e.rollback_on_failure,
        )
        for e, d in zip(targets, built, strict=True)
    ]
    driver.ask(runtime, "deploy", DeployRequest(apps=apps), DeployReply)
    if wait:
        names = [e.name for e in targets]
        overview = driver.ask(runtime, "wait_apps", WaitRequest(names=names), ServeStatus)
        _raise_if_failed(overview, names)
        _tell_where(runtime, apps)
    return [DeploymentHandle(d[-1].name, e.name) for e, d in zip(targets, built, strict=True)]


def _run_here(targets: Sequence[RunTarget]) -> list[DeploymentHandle]:
    """Run applications in this process."""
    handles = []
    for entry in targets:
        deployments = build_here(entry.target, entry.name)
        specs = [spec for spec, _ in deployments]
        inline.run(inline.InlineTarget(entry.name, _prefix(entry, specs), deployments))
        handles.append(DeploymentHandle(specs[-1].name, entry.name))
    return handles


def _hint(target: Any) -> str:
    if isinstance(target, Deployment):
        return f" Bind it: `{target.name}.bind(...)`."
    if inspect.isfunction(target):
        return f" If it builds one, call it: `serve.run({target.__name__}(...))`."
    return ""


def _check(entry: RunTarget) -> None:
    _check_record("logging_config", entry.logging_config, LoggingConfig)
    if not isinstance(entry.target, Application):
        raise TypeError(
            "`serve.run` expects an Application, which `Deployment.bind()` returns, but got "
            f"{type(entry.target).__name__}: {entry.target!r}.{_hint(entry.target)}"
        )
    if not entry.name:
        raise RayServeException("Application name must a non-empty string.")
    prefix = entry.route_prefix
    if prefix is None or isinstance(prefix, Default):
        return
    if not prefix.startswith("/"):
        raise ValueError(f"Invalid route_prefix {prefix!r}: it must start with a forward slash ('/').")
    if prefix != "/" and prefix.endswith("/"):
        raise ValueError(
            f"Invalid route_prefix {prefix!r}: it must not end with '/' unless it is the root ('/')."
        )
    if "{" in prefix or "}" in prefix:
        raise ValueError(f"Invalid route_prefix {prefix!r}: it may not contain wildcards.")


def _check_scaler(entry: RunTarget, deployments: Sequence[DeploymentSpec]) -> None:
    scaling = [d.name for d in deployments if d.config.autoscaling_config is not None]
    if entry.external_scaler_enabled and scaling:
        raise ValueError(
            f"external_scaler_enabled of application {entry.name!r} is not allowed together with autoscaling of "
            f"its own, which {', '.join(map(repr, scaling))} has: give it num_replicas, or leave one of both out."
        )


def _raise_if_failed(overview: ServeStatus, names: Sequence[str]) -> None:
    for name in names:
        app = overview.applications.get(name)
        if app is None:
            raise RuntimeError(f"Application {name} was deleted while it was being deployed.")
        if app.status is not ApplicationStatus.RUNNING:
            messages = [d.message for d in app.deployments.values()]
            details = "\n".join(m for m in messages if m and m not in app.message)
            raise RuntimeError(f"Deploying application {name} failed: {app.message}\n{details}".rstrip())


def _prefix(entry: RunTarget, deployments: Sequence[DeploymentSpec]) -> str | None:
    """The route prefix of the call, or the one that 2.7 let the ingress deployment name, or "/"."""
    if not isinstance(entry.route_prefix, Default):
        return entry.route_prefix
    named: str | None = deployments[-1].config.accepted.get("route_prefix", "/")
    return named


def _logging(config: Any) -> dict[str, Any] | None:
    """The logging config of a call, else the one that `start` was given in this process."""
    config = _started_with_logging if config is None else config
    return None if config is None else LoggingConfig.from_value(config, "logging_config").to_dict()


def _tell_where(runtime: Runtime, apps: Sequence[AppSubmission]) -> None:
    info = driver.ask(runtime, "info", Empty(), InstanceInfo)
    for app in apps:
        where = ""
        if app.route_prefix is not None and info.http_host is not None:
            where = f" at http://{info.http_host}:{info.http_port}{app.route_prefix}"
        log.info("Application '%s' is ready%s.", app.name, where)


def _instance_options(
    proxy_location: ProxyLocation | str | None,
    http_options: HTTPOptions | Mapping[str, Any] | None,
    grpc_options: gRPCOptions | Mapping[str, Any] | None = None,
    logging_config: LoggingConfig | Mapping[str, Any] | None = None,
    *,
    caller: str = "serve.start",
) -> InstanceOptions:
    """Return the options of an instance that `caller` starts if none is up; what is not given comes from elsewhere."""
    place = {} if proxy_location is None else {"proxy_location": ProxyLocation.from_value(proxy_location)}
    http = HTTPOptions.from_value({} if http_options is None else http_options, "http_options")
    if http.location is ProxyLocation.Disabled:
        place = {"proxy_location": http.location}
    grpc = gRPCOptions.from_value({} if grpc_options is None else grpc_options, "grpc_options")
    if place.get("proxy_location") is not ProxyLocation.Disabled and http.host is not None:
        _ = grpc.grpc_servicer_func_callable  # raises what is wrong with one
    sections: dict[str, Mapping[str, Any]] = {
        "": place,
        "http_options": _given(http, http_options),
        "grpc_options": _given(grpc, grpc_options),
    }
    if logging_config is not None:
        logging_options = LoggingConfig.from_value(logging_config, "logging_config")
        sections["logging_config"] = _given(logging_options, logging_config)
    origin = f"argument {{}} of {caller}"
    given = join(*(layer_of(section, options, origin) for section, options in sections.items()))
    return resolve(given=given, folders=_sys_path())


def _given(record: Checked, value: Checked | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields of `record` that whoever made `value` has chosen."""
    if isinstance(value, Checked):
        return value.changed_fields()
    return {name: getattr(record, name) for name in value or {}}


def _check_record(name: str, value: Any, record: type[Checked]) -> None:
    """Refuse a wrong value of an option, be it one that has no effect here."""
    if value is not None:
        record.from_value(value, name)


def _sys_path() -> tuple[str, ...]:
    """The driver's `sys.path`, with the script's folder where it stands for "here"."""
    return tuple(os.path.abspath(entry) if entry == "" else entry for entry in sys.path)


def _sleep_until_interrupted() -> None:
    try:
        while True:
            time.sleep(3600)  # ends with Ctrl-C
    except KeyboardInterrupt:
        log.warning("Got KeyboardInterrupt, exiting...")
        raise
