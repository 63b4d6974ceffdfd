"""Tells routers who serves what: pushed to watchers in this process and to streams of other processes.

A `routing.membership.MembershipSource` for the daemon's own routers. Nothing is told before the replicas of an
earlier daemon are adopted, so that nobody takes "not known yet" for "none".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio

from serve_lite.controller.routers import router_choice
from serve_lite.policy.autoscaling import report_every_s
from serve_lite.policy.reconcile import is_in_place
from serve_lite.policy.restart import budget, has_given_up
from serve_lite.policy.standby import in_force
from serve_lite.routing.membership import MembershipSource
from serve_lite.state.goal import AppGoal, DeploymentGoal, Goal
from serve_lite.state.ids import DeploymentId
from serve_lite.state.observed import DeploymentView, Observed
from serve_lite.wire.messages import DeploymentLoad, Membership, MemberState, ReplicaEndpoint, RouteTarget

OnMembership = Callable[[Membership], None]
OnRoutes = Callable[[tuple[RouteTarget, ...]], None]


class Publisher:
    """What routers know. `publish` is called by the controller's loop; watchers are called within it."""

    def __init__(self, socket_path: Callable[[str], str]) -> None:
        self._socket_path = socket_path
        self._known: tuple[Goal, Observed] | None = None  #: None until there is something to tell
        self._watchers: dict[DeploymentId, list[OnMembership]] = {}
        self._told: dict[DeploymentId, Membership] = {}
        self._route_watchers: list[OnRoutes] = []
        self._routes: tuple[RouteTarget, ...] = ()
        self.published = anyio.Event()  #: set by the first `publish`
        self._followed: MembershipSource | None = None  #: another daemon's, which then knows everything
        self.on_load: Callable[[DeploymentLoad], None] | None = (
            None  #: hears the load of this process's routers
        )

    def begin_again(self) -> None:
        """Forget that something was published: there is a new controller, which first looks who is there."""
        if self.published.is_set():
            self.published = anyio.Event()

    def follow(self, source: MembershipSource) -> None:
        """Hear from another daemon who serves what, and pass it on to those who watch here."""
        self._followed = source
        for deployment, watchers in self._watchers.items():
            source.watch(deployment.app_name, deployment.name, partial(_tell_all, watchers))

    def publish(self, goal: Goal, observed: Observed) -> None:
        """Tell every watcher for whom something changed."""
        self._known = (goal, observed)
        for deployment in list(self._watchers):
            self._tell(deployment)
        targets = routes(goal, observed)
        if targets != self._routes or not self.published.is_set():
            self._routes = targets
            self.published.set()
            for on_routes in list(self._route_watchers):
                on_routes(targets)

    def watch(self, app: str, deployment: str, on_change: OnMembership) -> Callable[[], None]:
        """Call `on_change` with the present value, once there is one, and with every other one after it.

        Returns a function that ends it.
        """
        if self._followed is not None:
            return self._followed.watch(app, deployment, on_change)
        key = DeploymentId(deployment, app)
        watchers = self._watchers.setdefault(key, [])
        watchers.append(on_change)
        if self._known is not None:
            if key not in self._told:
                self._told[key] = membership(*self._known, key, self._socket_path)
            on_change(self._told[key])

        def unwatch() -> None:
            if on_change in watchers:
                watchers.remove(on_change)
            if not watchers and self._watchers.get(key) is watchers:
                del self._watchers[key]
                self._told.pop(key, None)

        return unwatch

    def tell_load(self, load: DeploymentLoad) -> None:
        """Hand on what a router of this process tells of its calls."""
        if self._followed is not None:
            self._followed.tell_load(load)
        elif self.on_load is not None:
            self.on_load(load)

    def watch_routes(self, on_change: OnRoutes) -> Callable[[], None]:
        """Call `on_change` with the present routes, once there are any, and with all later ones."""
        self._route_watchers.append(on_change)
        if self.published.is_set():
            on_change(self._routes)

        def unwatch() -> None:
            if on_change in self._route_watchers:
                self._route_watchers.remove(on_change)

        return unwatch

    def _tell(self, deployment: DeploymentId) -> None:
        assert self._known is not None
        value = membership(*self._known, deployment, self._socket_path)
        if self._told.get(deployment) == value:
            return
        self._told[deployment] = value
        for on_change in list(self._watchers.get(deployment, ())):
            on_change(value)


def _tell_all(watchers: list[OnMembership], value: Membership) -> None:
    for on_change in list(watchers):
        on_change(value)


def membership(
    goal: Goal, observed: Observed, deployment: DeploymentId, socket_path: Callable[[str], str]
) -> Membership:
    """Return who serves a deployment."""
    app = goal.apps.get(deployment.app_name)
    wanted = _find(app, deployment) if app and not app.is_deleting and not goal.is_shutting_down else None
    running = [r for r in observed.replicas_of(deployment) if r.is_running]
    is_retired = wanted is not None and app is not None and wanted not in app.deployments
    if wanted is None or (is_retired and not running):
        return Membership(app=deployment.app_name, deployment=deployment.name, state=MemberState.MISSING)
    view = observed.deployments.get(deployment)
    wanted = in_force(wanted, view)
    has_failed = not running and view is not None and _has_given_up(wanted, view)
    return Membership(
        app=deployment.app_name,
        deployment=deployment.name,
        state=MemberState.FAILED if has_failed else MemberState.AVAILABLE,
        replicas=tuple(
            ReplicaEndpoint(
                replica_id=r.id, socket=socket_path(r.id), max_ongoing=wanted.config.max_ongoing_requests
            )
            for r in running
            if r.is_serving
        ),
        silent=tuple(r.id for r in running if r.pulse.is_suspended),
        max_queued=wanted.config.max_queued_requests,
        backpressure_status=wanted.config.backpressure_status,
        retry_after_s=wanted.config.retry_after_s,
        router=router_choice(wanted.config.request_router_config, wanted.version),
        load_every_s=report_every_s(scaling) if (scaling := wanted.config.autoscaling_config) else 0.0,
    )


def routes(goal: Goal, observed: Observed) -> tuple[RouteTarget, ...]:
    """Return where requests go, by prefix: applications that are there, whether or not they are ready."""
    targets = []
    for app in goal.apps.values():
        if app.is_deleting or goal.is_shutting_down or app.route_prefix is None:
            continue
        ingress = ingress_in_force(app, observed)
        if ingress is not None:
            targets.append(
                RouteTarget(
                    prefix=app.route_prefix,
                    app=app.name,
                    deployment=ingress.id.name,
                    is_asgi=ingress.spec.is_asgi,
                    requires_key=app.submission.require_api_key,
                    rate=app.submission.rate_limit,
                    client_rate=app.submission.client_rate_limit,
                )
            )
    return tuple(sorted(targets, key=lambda t: t.prefix))


def ingress_in_force(app: AppGoal, observed: Observed) -> DeploymentGoal | None:
    """Return the deployment that answers now: the last version's, while a new one is not in place."""
    if not is_in_place(app, observed):
        for old in reversed(app.retired):
            if old.route_prefix is not None and any(r.is_running for r in observed.replicas_of(old.id)):
                return old
    return app.ingress


def _has_given_up(goal: DeploymentGoal, view: DeploymentView) -> bool:
    tries = budget(goal.target, goal.config.max_constructor_retry_count)
    return not view.has_fallen_back and has_given_up(view.starts, tries, has_older=False)


def _find(app: AppGoal, deployment: DeploymentId) -> DeploymentGoal | None:
    return next((d for d in (*app.deployments, *app.retired) if d.id == deployment), None)
