"""The functions that start, fill, ask and stop an instance from Python.

A script that calls `run` or `start` with no instance up gets an embedded one, which ends with the script;
with one up, it uses that one. All of them block; none may be called on an event loop that replicas share.
"""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from serve_lite.config import HTTPOptions, ProxyLocation, gRPCOptions
from serve_lite.context import get_replica_context, in_replica
from serve_lite.daemon.options import InstanceOptions, paths
from serve_lite.deployment import Application
from serve_lite.engines import local
from serve_lite.exceptions import RayServeException
from serve_lite.graph import build_deployments
from serve_lite.handle import DeploymentHandle
from serve_lite.routing import runtime as caller_runtime
from serve_lite.routing.runtime import Runtime
from serve_lite.schema import ApplicationStatus, ServeStatus
from serve_lite.state.goal import AppSubmission, CodeEnvironment
from serve_lite.wire.connection import connect
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
R = TypeVar("R")

_DELETE_WAIT_S = 60.0

#: the instance that this process embeds, and whether its end at exit is arranged
_embedded_home: str | None = None


@dataclasses.dataclass(frozen=True)
class RunTarget:
    """One application for `run_many`."""

    target: Application
    name: str = "default"
    route_prefix: str | None = "/"
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
    _open(_instance_options(proxy_location, http_options), explicit=http_options is not None)


def run(
    target: Application,
    blocking: bool = False,
    name: str = "default",
    route_prefix: str | None = "/",
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
        route_prefix: path under which HTTP reaches it; None for none.
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
    runtime = connect_handles()
    _ask(runtime, "delete", DeleteRequest(names=[name]), Empty)
    if _blocking:
        _ask(runtime, "wait_apps", WaitRequest(names=[name]), ServeStatus, timeout_s=_DELETE_WAIT_S)


def status() -> ServeStatus:
    """Return the status of all applications; an empty one if Serve is not running."""
    runtime = _connected()
    return _ask(runtime, "status", Empty(), ServeStatus) if runtime is not None else ServeStatus()


def shutdown() -> None:
    """Delete every application and end the instance; returns when its ports are free. Idempotent."""
    global _embedded_home
    runtime = _connected()
    if runtime is None:
        log.info("Nothing to shut down: there is no Serve instance running.")
        return
    runtime.stop()
    caller_runtime.install(None)
    _aside(_shut_down(runtime.control_path))
    _embedded_home = None


async def shutdown_async() -> None:
    """`shutdown` without blocking the loop."""
    await asyncio.to_thread(shutdown)


def get_app_handle(name: str) -> DeploymentHandle:
    """Return a handle to the ingress of an application.

    Raises:
        RayServeException: Serve is not running, or there is no such application.
    """
    reply = _ask(connect_handles(), "ingress", IngressRequest(app=name), IngressReply)
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
        app = _ask(connect_handles(), "status", Empty(), ServeStatus).applications.get(app_name)
        if app is None or deployment_name not in app.deployments:
            raise KeyError(f"Deployment '{deployment_name}' in application '{app_name}' does not exist.")
    return DeploymentHandle(deployment_name, app_name)


def connect_handles() -> Runtime:
    """Return this process's runtime, connected to the instance that is up.

    Raises:
        RayServeException: none is up.
    """
    runtime = _connected()
    if runtime is None:
        raise RayServeException("Serve is not running here: call `serve.run(...)` or `serve.start()` first.")
    return runtime


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
    runtime = _open(_instance_options(None, http_options), explicit=False)
    environment = CodeEnvironment(cwd=os.getcwd(), sys_path=_sys_path())
    apps = [
        AppSubmission(name=e.name, route_prefix=e.route_prefix, environment=environment, deployments=d)
        for e, d in zip(targets, built, strict=True)
    ]
    _ask(runtime, "deploy", DeployRequest(apps=apps), DeployReply)
    if wait:
        names = [e.name for e in targets]
        overview = _ask(runtime, "wait_apps", WaitRequest(names=names), ServeStatus)
        _raise_if_failed(overview, names)
        _tell_where(runtime, targets)
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
    if prefix is None:
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


def _tell_where(runtime: Runtime, targets: Sequence[RunTarget]) -> None:
    info = _ask(runtime, "info", Empty(), InstanceInfo)
    for entry in targets:
        where = ""
        if entry.route_prefix is not None and info.http_host is not None:
            where = f" at http://{info.http_host}:{info.http_port}{entry.route_prefix}"
        log.info("Application '%s' is ready%s.", entry.name, where)


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


def _open(options: InstanceOptions, *, explicit: bool) -> Runtime:
    """Return a runtime connected to the instance that is up, or to one that is started for this process."""
    global _embedded_home
    runtime = _connected()
    if runtime is not None:
        if explicit:
            _warn_of_differences(runtime, options)
        return runtime
    options = options.with_home()
    try:
        local.start_instance(options, owner_pid=os.getpid())
    except local.AlreadyUpError:  # somebody was quicker
        pass
    else:
        if _embedded_home is None:
            atexit.register(_end_embedded, os.getpid())
        _embedded_home = options.home
    return _install(paths(options.home).control)


def _connected() -> Runtime | None:
    """Return the runtime of this process if its instance is up; connect to one that is."""
    runtime = caller_runtime.installed()
    if runtime is not None:
        if in_replica() or _is_up(runtime.control_path):
            return runtime
        runtime.stop()
        caller_runtime.install(None)
    control = paths(InstanceOptions().with_home().home).control
    return _install(control) if _is_up(control) else None


def _install(control_path: str) -> Runtime:
    runtime = caller_runtime.open_in_background(control_path)
    caller_runtime.install(runtime)
    return runtime


def _is_up(control_path: str) -> bool:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(control_path)
        except OSError:
            return False
    return True


def _warn_of_differences(runtime: Runtime, options: InstanceOptions) -> None:
    info = _ask(runtime, "info", Empty(), InstanceInfo)
    if (info.http_host, info.http_port) != (options.http_host, options.http_port):
        log.warning(
            "Serve is running already, at http://%s:%s; the new http_options are not applied.",
            info.http_host, info.http_port,
        )  # fmt: skip


def _ask(
    runtime: Runtime,
    method: str,
    request: msgspec.Struct,
    reply_type: type[R],
    timeout_s: float | None = None,
) -> R:
    """Make one control call and wait for its answer."""
    return _aside(_control(runtime.control_path, method, request, reply_type, timeout_s))


async def _control(
    path: str, method: str, request: msgspec.Struct, reply_type: type[R], timeout_s: float | None
) -> R:
    connection = await connect(path)
    try:
        return await connection.control(method, request, reply_type, timeout_s=timeout_s)
    finally:
        connection.close()
        await connection.wait_closed()


async def _shut_down(control_path: str) -> None:
    await local.shutdown_instance(await connect(control_path))


def _aside(work: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine on a loop of its own and return its result, even where a loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    outcome: list[tuple[R | None, BaseException | None]] = []

    def work_aside() -> None:
        try:
            outcome.append((asyncio.run(work), None))
        except BaseException as error:  # raised again in the thread that asked
            outcome.append((None, error))

    thread = threading.Thread(target=work_aside, name="serve-lite-ask")
    thread.start()
    thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # no error, so there is a result


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


def _end_embedded(pid: int) -> None:
    """At the script's end: end the instance that it embeds, so that the next script finds free ports."""
    if pid == os.getpid() and _embedded_home is not None:
        shutdown()
