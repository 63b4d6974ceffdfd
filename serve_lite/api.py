"""The functions that start, fill, ask and stop an instance from Python.

A script that calls `run` or `start` with no instance up gets an embedded one, which ends with the script;
with one up, it uses that one. All of them block; none may be called on an event loop that replicas share.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from serve_lite.config import HTTPOptions, ProxyLocation, gRPCOptions
from serve_lite.context import get_replica_context, in_replica
from serve_lite.daemon.options import InstanceOptions
from serve_lite.deployment import DEFAULT, Application, Default
from serve_lite.engines import driver
from serve_lite.exceptions import RayServeException
from serve_lite.graph import build_deployments
from serve_lite.handle import DeploymentHandle
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

_DELETE_WAIT_S = 60.0


@dataclasses.dataclass(frozen=True)
class RunTarget:
    """One application for `run_many`."""

    target: Application
    name: str = "default"
    route_prefix: str | Default | None = DEFAULT
    logging_config: Any = None
    external_scaler_enabled: bool = False


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
        detached, dedicated_cpu: accepted from older code; a script's instance ends with the script, use
            `serve start` for one that stays.

    Raises:
        ValueError: an option belongs into `http_options`.
        PortInUseError: a listening address is taken.
    """
    for name in ("http_host", "http_port", "http_middlewares"):
        if name in kwargs:
            raise ValueError(
                f"`{name}` is not an argument of `serve.start`; pass `http_options={{...}}` instead."
            )
    driver.open_instance(
        _instance_options(proxy_location, http_options), is_explicit=http_options is not None
    )


def run(
    target: Application,
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
) -> DeploymentHandle:
    """Deploy an application, wait until it runs, and return a handle to its ingress.

    An application of the same name is updated in place, its replicas always replaced one after another, so
    that new code takes effect; others are not touched.

    Args:
        target: what `Deployment.bind()` returned.
        blocking: afterwards sleep until Ctrl-C, which is raised again as KeyboardInterrupt.
        name: the application's name.
        route_prefix: path under which HTTP reaches it; None for none. Not given: the one that the ingress
            deployment names (code for 2.7), else "/".
        host, port: accepted from older code; used if this call starts the instance.

    Raises:
        TypeError: `target` is not an application.
        RayServeException: an empty name, or a prefix that another application has.
        RuntimeError: it could not be deployed; the message ends with the user's exception.
    """
    given = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
    if given:
        warnings.warn(
            "`host` and `port` of `serve.run` are deprecated; call `serve.start(http_options=...)` first.",
            DeprecationWarning,
            stacklevel=2,
        )
    entry = RunTarget(target, name, route_prefix, logging_config, external_scaler_enabled)
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
    """Deploy several applications at once; see `run`."""
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
    runtime = driver.require()
    driver.ask(runtime, "delete", DeleteRequest(names=[name]), Empty)
    if _blocking:
        driver.ask(runtime, "wait_apps", WaitRequest(names=[name]), ServeStatus, timeout_s=_DELETE_WAIT_S)


def status() -> ServeStatus:
    """Return the status of all applications; an empty one if Serve is not running."""
    runtime = driver.connected()
    return driver.ask(runtime, "status", Empty(), ServeStatus) if runtime is not None else ServeStatus()


def shutdown() -> None:
    """Delete every application and end the instance; returns when its ports are free. Idempotent."""
    if not driver.end():
        log.info("Nothing to shut down: there is no Serve instance running.")


async def shutdown_async() -> None:
    """`shutdown` without blocking the loop."""
    await asyncio.to_thread(shutdown)


def get_app_handle(name: str) -> DeploymentHandle:
    """Return a handle to the ingress of an application.

    Raises:
        RayServeException: Serve is not running, or there is no such application.
    """
    reply = driver.ask(driver.require(), "ingress", IngressRequest(app=name), IngressReply)
    if not reply.deployment:
        raise RayServeException(f"Application '{name}' does not exist.")
    return DeploymentHandle(reply.deployment, name)


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
        app = driver.ask(driver.require(), "status", Empty(), ServeStatus).applications.get(app_name)
        if app is None or deployment_name not in app.deployments:
            raise KeyError(f"Deployment '{deployment_name}' in application '{app_name}' does not exist.")
    return DeploymentHandle(deployment_name, app_name)


def connect_handles() -> Runtime:
    """Return this process's runtime; how a handle that arrived in a fresh process finds the instance.

    Raises:
        RayServeException: none is up.
    """
    return driver.require()


def _run_many(
    targets: Sequence[RunTarget], *, wait: bool, local: bool, http_options: Mapping[str, Any] | None
) -> list[DeploymentHandle]:
    if local:
        raise NotImplementedError(
            "local testing mode is not available yet; run without `_local_testing_mode`."
        )
    for entry in targets:
        _check(entry)
    built = [build_deployments(entry.target, entry.name) for entry in targets]
    runtime = driver.open_instance(_instance_options(None, http_options), is_explicit=False)
    environment = CodeEnvironment(cwd=os.getcwd(), sys_path=_sys_path())
    apps = [
        AppSubmission(name=e.name, route_prefix=_prefix(e, d), environment=environment, deployments=d)
        for e, d in zip(targets, built, strict=True)
    ]
    driver.ask(runtime, "deploy", DeployRequest(apps=apps), DeployReply)
    if wait:
        names = [e.name for e in targets]
        overview = driver.ask(runtime, "wait_apps", WaitRequest(names=names), ServeStatus)
        _raise_if_failed(overview, names)
        _tell_where(runtime, apps)
    return [DeploymentHandle(d[-1].name, e.name) for e, d in zip(targets, built, strict=True)]


def _check(entry: RunTarget) -> None:
    if not isinstance(entry.target, Application):
        raise TypeError(
            "`serve.run` expects an Application, which `Deployment.bind()` returns, but got "
            f"{type(entry.target).__name__}: {entry.target!r}."
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


def _raise_if_failed(overview: ServeStatus, names: Sequence[str]) -> None:
    for name in names:
        app = overview.applications.get(name)
        if app is None:
            raise RuntimeError(f"Application {name} was deleted while it was being deployed.")
        if app.status is not ApplicationStatus.RUNNING:
            details = "\n".join(d.message for d in app.deployments.values() if d.message)
            raise RuntimeError(f"Deploying application {name} failed: {app.message}\n{details}".rstrip())


def _prefix(entry: RunTarget, deployments: Sequence[DeploymentSpec]) -> str | None:
    """The route prefix of the call, or the one that 2.7 let the ingress deployment name, or "/"."""
    if not isinstance(entry.route_prefix, Default):
        return entry.route_prefix
    named: str | None = deployments[-1].config.accepted.get("route_prefix", "/")
    return named


def _tell_where(runtime: Runtime, apps: Sequence[AppSubmission]) -> None:
    info = driver.ask(runtime, "info", Empty(), InstanceInfo)
    for app in apps:
        where = ""
        if app.route_prefix is not None and info.http_host is not None:
            where = f" at http://{info.http_host}:{info.http_port}{app.route_prefix}"
        log.info("Application '%s' is ready%s.", app.name, where)


def _instance_options(
    proxy_location: ProxyLocation | str | None, http_options: HTTPOptions | Mapping[str, Any] | None
) -> InstanceOptions:
    if isinstance(proxy_location, str) and not isinstance(proxy_location, ProxyLocation):
        proxy_location = ProxyLocation("Disabled" if proxy_location == "NoServer" else proxy_location)
    elif proxy_location is not None and not isinstance(proxy_location, ProxyLocation):
        raise TypeError(
            f"proxy_location must be a str or ProxyLocation, not {type(proxy_location).__name__}."
        )
    http = http_options if isinstance(http_options, HTTPOptions) else HTTPOptions(**(http_options or {}))
    names = (
        "request_timeout_s", "keep_alive_timeout_s", "root_path",
        "ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs",
    )  # fmt: skip
    disabled = proxy_location is ProxyLocation.Disabled or http.location is ProxyLocation.Disabled
    return InstanceOptions(
        http_host=None if disabled else http.host,
        http_port=http.port,
        **{name: getattr(http, name) for name in names},
    )


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
