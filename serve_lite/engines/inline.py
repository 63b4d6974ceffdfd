"""Applications that run inside this process: local testing mode.

No daemon and no processes. Each deployment has one instance, on an event loop of its own in a thread
(`inline_replica.py`); handles and HTTP reach it through the real routers (`inline_runtime.py`). Here is
which applications there are, how they are started, replaced and ended.

Replicas are built one after another, callees first. If one cannot be built, what was built for it is taken
down and the application stays what it was before.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from serve_lite.controller.routers import router_choice
from serve_lite.exceptions import InvalidConfigError, RayServeException
from serve_lite.routing.runtime import install_local, installed
from serve_lite.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    ReplicaState,
)
from serve_lite.state.goal import DeploymentSpec
from serve_lite.state.ids import DeploymentId
from serve_lite.wire.messages import Membership, MemberState, RouteTarget

if TYPE_CHECKING:
    from serve_lite.engines.inline_replica import InlineReplica
    from serve_lite.engines.inline_runtime import InlineRuntime

log = logging.getLogger("serve_lite")

_FORCED = "RAY_SERVE_FORCE_LOCAL_TESTING_MODE"


class InlineTarget(NamedTuple):
    """One application to run here."""

    name: str
    route_prefix: str | None  #: where the door for HTTP has it; None: nowhere
    deployments: Sequence[tuple[DeploymentSpec, Callable[..., Any]]]  #: callees first, ingress last


def is_forced() -> bool:
    """Whether the environment sends every `serve.run` here.

    Raises:
        InvalidConfigError: the variable is neither 0 nor 1.
    """
    value = os.environ.get(_FORCED, "0")
    if value not in ("", "0", "1"):
        raise InvalidConfigError(f"{_FORCED} must be 0 or 1, not {value!r}")
    return value == "1"


def run(target: InlineTarget) -> None:
    """Build an application and serve it, in the place of one of the same name.

    Raises:
        Exception: whatever constructors, `reconfigure`, `check_health` and the app's start-up raise, as it is.
        RayServeException: the door is open and another application has the same prefix.
    """
    _here.run(target)


def delete(name: str) -> bool:
    """End an application; return whether there was one of that name.

    Raises:
        TimeoutError: some of its code does not return. It is unreachable all the same.
    """
    return _here.delete(name)


def give_way(name: str) -> None:
    """End an application and let an instance have its name; calls to it go there from now on."""
    delete(name)
    install_local(name, None)


def end() -> bool:
    """End every application and all that they share; return whether there was one."""
    return _here.end()


def has_any() -> bool:
    """Whether an application runs here."""
    return bool(_here.apps)


def ingress(name: str) -> str | None:
    """Return the ingress deployment's name; None if no such application runs here."""
    app = _here.apps.get(name)
    return app.target.deployments[-1][0].name if app is not None else None


def status() -> dict[str, ApplicationStatusOverview]:
    """Return the status of each application that runs here."""
    return {name: app.status() for name, app in list(_here.apps.items())}


def http_address() -> tuple[str, int]:
    """Return host and port where this process serves its applications over HTTP; opens the door if need be.

    Raises:
        RayServeException: no application runs here, or two have the same route prefix.
    """
    return _here.http_address()


class _Application:
    """One application and the replicas that serve it."""

    def __init__(self, target: InlineTarget) -> None:
        self.target = target
        self.replicas: dict[str, InlineReplica] = {}  #: by deployment, callees first
        self.deployed_at_s = time.time()

    @property
    def route(self) -> RouteTarget | None:
        """Where HTTP finds it."""
        name, prefix, deployments = self.target
        if prefix is None:
            return None
        spec = deployments[-1][0]
        return RouteTarget(prefix=prefix, app=name, deployment=spec.name, is_asgi=spec.is_asgi)

    def status(self) -> ApplicationStatusOverview:
        deployments = {
            spec.name: _status_of(self.replicas.get(spec.name)) for spec, _ in self.target.deployments
        }
        kinds = {d.status for d in deployments.values()}
        if DeploymentStatus.UPDATING in kinds:
            status = ApplicationStatus.DEPLOYING
        elif DeploymentStatus.UNHEALTHY in kinds:
            status = ApplicationStatus.UNHEALTHY
        else:
            status = ApplicationStatus.RUNNING
        return ApplicationStatusOverview(
            status=status, last_deployed_time_s=self.deployed_at_s, deployments=deployments
        )


def _status_of(replica: InlineReplica | None) -> DeploymentStatusOverview:
    if replica is not None and replica.has_crashed:
        return DeploymentStatusOverview(
            status=DeploymentStatus.UNHEALTHY,
            status_trigger=DeploymentStatusTrigger.INTERNAL_ERROR,
            message="Its code has ended its event loop; the log says how. Run the application again.",
        )
    if replica is None or not replica.is_ready:
        return DeploymentStatusOverview(
            status=DeploymentStatus.UPDATING,
            status_trigger=DeploymentStatusTrigger.CONFIG_UPDATE_STARTED,
            replica_states={ReplicaState.STARTING.value: 1},
        )
    return DeploymentStatusOverview(
        status=DeploymentStatus.HEALTHY,
        status_trigger=DeploymentStatusTrigger.CONFIG_UPDATE_COMPLETED,
        replica_states={ReplicaState.RUNNING.value: 1},
    )


class _Here:
    """The applications of this process.

    What they share lives as long as there is one. Several threads may ask; changes to one application wait
    for each other, those to different ones do not.
    """

    def __init__(self) -> None:
        self.apps: dict[str, _Application] = {}
        self._lock = threading.Lock()  #: guards the fields; held for a few instructions, or to start and stop
        self._turns: dict[str, threading.Lock] = {}  #: one change at a time, by application
        self._users = 0  #: applications that run and changes in progress
        self._shared: InlineRuntime | None = None
        self._ends_at_exit = False

    def run(self, target: InlineTarget) -> None:
        _warn_of_runtime_env(target)
        with self._turn(target.name), self._using_shared() as shared:
            self._check_prefix(target, shared)
            before = self.apps.get(target.name)
            app = self.apps[target.name] = _Application(target)  # constructors may ask for handles to it
            install_local(target.name, shared.runtime)
            try:
                self._build(app, before, shared)
            except BaseException:  # whatever user code raised, or Ctrl-C: all as it was before
                self._take_down(app, shared, instead=before)
                if before is None:
                    del self.apps[target.name]
                else:
                    self.apps[target.name] = before
                raise
            with self._lock:
                self._users += before is None
            shared.set_routes(self._routes())
            if before is not None:
                self._take_down(before, shared, instead=app)

    def delete(self, name: str) -> bool:
        with self._turn(name):
            with self._lock:
                app = self.apps.pop(name, None)
            if app is None:
                return False
            with self._using_shared() as shared:
                with self._lock:
                    self._users -= 1
                shared.set_routes(self._routes())
                has_ended = self._take_down(app, shared, instead=None)
                if installed() is not None:
                    install_local(
                        name, None
                    )  # this process uses an instance, which may have one of that name
        if not has_ended:
            raise TimeoutError(f"Some of the code of application '{name}' has not returned; see the log.")
        return True

    def end(self) -> bool:
        names = list(self.apps)
        for name in reversed(names):
            try:
                self.delete(name)
            except TimeoutError:  # was logged; the others shall end all the same
                continue
        return bool(names)

    def http_address(self) -> tuple[str, int]:
        if not self.apps:
            raise RayServeException(
                "No application runs in this process; run one with local testing mode first."
            )
        with self._using_shared() as shared:
            taken: dict[str, str] = {}
            for name, app in list(self.apps.items()):
                prefix = app.target.route_prefix
                if prefix is not None and taken.setdefault(prefix, name) != name:
                    raise RayServeException(_prefix_taken(prefix, taken[prefix], name))
            return shared.open_door()

    def end_at_exit(self, pid: int) -> None:
        if pid == os.getpid():
            self.end()

    # --- one application ---

    def _build(self, app: _Application, before: _Application | None, shared: InlineRuntime) -> None:
        """Start the replicas one by one; calls go to each as soon as it is ready."""
        from serve_lite.engines.inline_replica import InlineReplica  # lazily: loads what replicas run on

        name = app.target.name
        known = before.replicas if before is not None else {}
        for spec, _ in app.target.deployments:
            if spec.name not in known:
                shared.publish(_membership(name, spec, None))  # calls wait for it
        for spec, code in app.target.deployments:
            replica = InlineReplica(
                DeploymentId(name=spec.name, app_name=name),
                spec,
                code,
                folder=shared.folder,
                on_crash=shared.publish_failed,
            )
            app.replicas[spec.name] = replica
            replica.start()
            membership = _membership(name, spec, replica)
            shared.publish(membership)
            shared.wait_connected(membership)

    def _take_down(self, app: _Application, shared: InlineRuntime, *, instead: _Application | None) -> bool:
        """Send calls to what stands `instead`, then end the replicas, callers first."""
        others = instead.replicas if instead is not None else {}
        has_ended = True
        specs = [spec for spec, _ in app.target.deployments]
        for spec in reversed(specs):
            other, replica = others.get(spec.name), app.replicas.get(spec.name)
            if other is None:
                shared.publish(_missing(app.target.name, spec.name))
            elif instead is not None and not other.has_crashed:
                shared.publish(_membership(app.target.name, _spec_of(instead, spec.name), other))
            if replica is not None:
                has_ended &= replica.stop()
        return has_ended

    def _routes(self) -> list[RouteTarget]:
        routes = [app.route for app in list(self.apps.values())]
        return sorted((r for r in routes if r is not None), key=lambda r: r.prefix)

    def _check_prefix(self, target: InlineTarget, shared: InlineRuntime) -> None:
        """Refuse a second owner of a prefix, as an instance does; without a door nobody would notice."""
        if not shared.has_door or target.route_prefix is None:
            return
        for name, app in list(self.apps.items()):
            if name != target.name and app.target.route_prefix == target.route_prefix:
                raise RayServeException(_prefix_taken(target.route_prefix, name, target.name))

    # --- what they share ---

    @contextlib.contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Wait until no other change to this application is in progress."""
        with self._lock:
            turn = self._turns.setdefault(name, threading.Lock())
        with turn:  # ends with the other change, which takes as long as its constructors do
            yield

    @contextlib.contextmanager
    def _using_shared(self) -> Iterator[InlineRuntime]:
        """Keep what applications share alive meanwhile; end it after its last user."""
        from serve_lite.engines.inline_runtime import InlineRuntime  # lazily: loads loops and routers

        with self._lock:
            self._users += 1
            if self._shared is None:
                shared = InlineRuntime()
                try:
                    shared.start()
                except BaseException:
                    self._users -= 1
                    raise
                self._shared = shared
            self._register_exit()
            shared = self._shared
        try:
            yield shared
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._shared = None
                    for name in self._turns:
                        install_local(name, None)
                    shared.stop()

    def _register_exit(self) -> None:
        """See to it that destructors run when the script ends without `serve.shutdown()`."""
        if not self._ends_at_exit:
            self._ends_at_exit = True
            # Not `atexit`: that comes after the interpreter has closed every thread pool, which destructors and
            # requests that are being finished may need. The `threading` module has no public hook that is earlier.
            threading._register_atexit(self.end_at_exit, os.getpid())  # type: ignore[attr-defined]  # not public


_here = _Here()


def _forget() -> None:
    """In a forked child: threads stay behind, so nothing of this runs there."""
    global _here
    for name in _here.apps:
        install_local(name, None)
    _here = _Here()


os.register_at_fork(after_in_child=_forget)


def _membership(app: str, spec: DeploymentSpec, replica: InlineReplica | None) -> Membership:
    return Membership(
        app=app,
        deployment=spec.name,
        state=MemberState.AVAILABLE,
        replicas=(replica.endpoint,) if replica is not None else (),
        max_queued=spec.config.max_queued_requests,
        backpressure_status=spec.config.backpressure_status,
        retry_after_s=spec.config.retry_after_s,
        router=router_choice(spec.config.request_router_config, ""),
    )


def _missing(app: str, deployment: str) -> Membership:
    return Membership(app=app, deployment=deployment, state=MemberState.MISSING)


def _spec_of(app: _Application, deployment: str) -> DeploymentSpec:
    return next(spec for spec, _ in app.target.deployments if spec.name == deployment)


def _prefix_taken(prefix: str, owner: str, app: str) -> str:
    return (
        f'Prefix {prefix} is being used by application "{owner}", so application "{app}" cannot have it; give '
        "it another route_prefix, or None."
    )


def _warn_of_runtime_env(target: InlineTarget) -> None:
    names = [s.name for s, _ in target.deployments if s.config.ray_actor_options.get("runtime_env")]
    if names:
        warnings.warn(
            f"Local testing mode runs in this process, so the runtime_env of {', '.join(names)} has no effect.",
            UserWarning,
            stacklevel=7,  # whoever called `serve.run`
        )
