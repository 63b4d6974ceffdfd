"""The desk: what operators, drivers and handles ask of the instance, and what they are told.

A change is made to the goal here (`goals.py` says how) and carried out by the loop (`controller.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

import anyio
import msgspec

from serve_lite import instruments
from serve_lite.controller import goals
from serve_lite.controller.books import Books
from serve_lite.controller.builds import Builds
from serve_lite.controller.environments import Environments
from serve_lite.controller.fleet import Fleet
from serve_lite.controller.metrics import lifecycle
from serve_lite.controller.pulse import Pulse, PulseView
from serve_lite.controller.scaling import Scaler
from serve_lite.controller.store import EventRow, Store
from serve_lite.exceptions import RayServeException
from serve_lite.instruments import Family
from serve_lite.policy.autoscaling import Bounds
from serve_lite.policy.diff import AppPlan, compare
from serve_lite.policy.meaning import has_fewer, scaled_by_hand_events, scaled_events
from serve_lite.policy.standby import goal_in_force, in_force, revision_in_force
from serve_lite.schema import ServeStatus
from serve_lite.state import events as ev
from serve_lite.state.applications import is_settled
from serve_lite.state.goal import CodeEnvironment, Goal
from serve_lite.state.ids import DeploymentId, subject_of
from serve_lite.state.status import (
    InstanceFacts,
    ProxyFacts,
    RevisionSummary,
    instance_details,
    instance_status,
    revision_summary,
)
from serve_lite.wire.messages import DeploymentLoad, DeployReply, DeployRequest


class Desk:
    """Answers operators. Fits what the control socket and the REST API ask for.

    Args:
        facts: what the instance tells of itself.
        logging_config: of applications that bring none.
        memory_limits: tells who holds replicas to their memory.
    """

    def __init__(
        self,
        books: Books,
        store: Store,
        builds: Builds,
        environments: Environments,
        fleet: Fleet,
        scaler: Scaler,
        pulse: Pulse,
        facts: InstanceFacts,
        *,
        logging_config: dict[str, Any] | None = None,
        memory_limits: Callable[[], str] = lambda: "",
    ) -> None:
        self.proxies: Callable[[], tuple[ProxyFacts, ...]] = tuple  #: who answers requests; the daemon's
        self.ask_proxies: Callable[[], Coroutine[Any, Any, None]] = (
            _nobody  #: for their numbers; the daemon's
        )
        self._memory_limits = memory_limits
        self._books, self._store, self._builds, self._environments = books, store, builds, environments
        self._fleet, self._scaler, self._pulse, self._facts = fleet, scaler, pulse, facts
        self._logging_config = logging_config

    async def submit(self, request: DeployRequest) -> DeployReply:
        """Make these applications the goal; answered once that is stored.

        Raises:
            InvalidConfigError, RayServeException: the request is refused, and nothing has changed.
            InstanceError: it could not be stored, and nothing has changed.
        """
        if self._books.keeps_goal:
            raise RayServeException(
                "Serve is stopping, so nothing can be deployed. Start it again afterwards."
            )
        request = goals.with_logging(request, self._logging_config)
        alive = self._books.alive()

        def change(goal: Goal) -> Goal:
            return goals.accept_deploy(goal, request, now=time.time(), alive=alive)

        names = [app.name for app in request.apps]
        await self._look_who_is_idle(change(self._books.goal), names)  # refused before anything is asked
        self._environments.forget_failures()
        goal = await self._books.change(change)
        for app in request.apps:
            self._books.record(app.name, f"deployed as revision {goal.revision}")
        return DeployReply(revision=goal.revision)

    async def plan(self, request: DeployRequest) -> dict[str, AppPlan]:
        """Return what a deploy would do, by application; nothing changes. Applications with new code are built.

        Raises:
            InvalidConfigError, RayServeException: the deploy would be refused.
            InstanceError: no importer could be started.
        """
        request = goals.with_logging(request, self._logging_config)
        alive = self._books.alive()
        before = self._books.goal
        goal = goals.accept_deploy(before, request, now=time.time(), alive=alive)
        for app in request.apps:
            if goal.apps[app.name].is_building:
                goal = await self._builds.built(goal, app.name)
        return compare(before, goal)

    async def scale(
        self,
        deployment: DeploymentId,
        target: int,
        is_manual: bool,
        if_revisions: Collection[int] | None = None,
    ) -> DeployReply:
        """Set how many replicas a deployment has, until the next deploy.

        Raises:
            UnknownNameError, NotScalableError: there is none, or it is not to be scaled so.
            StaleRevisionError: the goal has none of `if_revisions`.
            InstanceError: it could not be stored.
        """

        def change(goal: Goal) -> Goal:
            goal = goals.at_revision(goal, if_revisions)
            return goals.accept_scale(goal, deployment, target, is_manual=is_manual)

        # Refused before anything is asked.
        await self._look_who_is_idle(change(self._books.goal), [deployment.app_name])
        goal = await self._books.change(
            change,
            # A scaler's numbers change all day, and are no deploy: the application goes on being told as RUNNING.
            partial(self._hand_scaling_events, deployment)
            if is_manual
            else partial(self._outer_scaling_events, deployment),
        )
        self._books.record(subject_of(deployment), f"scaled to {target} replicas")
        return DeployReply(revision=goal.revision)

    async def events(self, limit: int) -> list[EventRow]:
        """Return the last lines of history, newest first."""
        return await self._store.recent_events(limit)

    async def history(self, name: str) -> list[RevisionSummary]:
        """Return the revisions of an application that can be gone back to, newest first."""
        app = self._books.goal.apps.get(name)
        known = await self._store.revisions(name)
        current = revision_in_force(known, app, self._books.observed.deployments) if app is not None else 0
        return [revision_summary(past, current) for past in known]

    async def rollback(
        self, name: str, revision: int | None, if_revisions: Collection[int] | None = None
    ) -> DeployReply:
        """Make an earlier revision of an application the goal again; None means the one before the present.

        Raises:
            UnknownNameError: there is no such application or revision.
            StaleRevisionError: the goal has none of `if_revisions`.
            RayServeException: it does not fit what else is deployed.
            InstanceError: it could not be stored.
        """
        app = self._books.goal.apps.get(name)
        if app is None or app.is_deleting:
            raise goals.UnknownNameError(f"There is no application {name!r}.")
        known = await self._store.revisions(name)
        wanted = [
            p for p in known if (p.revision < app.revision if revision is None else p.revision == revision)
        ]
        if not wanted:
            what = "no earlier revision" if revision is None else f"no revision {revision}"
            kept = ", ".join(str(p.revision) for p in known)
            raise goals.UnknownNameError(f"{what.capitalize()} of {name!r} is kept; there are: {kept}.")
        alive = self._books.alive()

        def change(goal: Goal) -> Goal:
            goal = goals.at_revision(goal, if_revisions)
            return goals.accept_rollback(goal, wanted[0], now=time.time(), alive=alive)

        await self._look_who_is_idle(change(self._books.goal), [name])
        self._environments.forget_failures()
        goal = await self._books.change(change)
        self._books.record(name, f"rolled back to revision {wanted[0].revision} as revision {goal.revision}")
        return DeployReply(revision=goal.revision)

    def tag(self) -> str:
        """Return a text that changes with every change of what is wanted: the instance and its revision."""
        return f"{self._facts.node_id}-{self._books.goal.revision}"

    async def delete(self, names: Sequence[str], if_revisions: Collection[int] | None = None) -> None:
        """Take applications out of the goal; unknown names are passed over. `wait_apps` waits for their end.

        Raises:
            StaleRevisionError: the goal has none of `if_revisions`.
            InstanceError: it could not be stored.
        """
        known = [name for name in names if name in self._books.goal.apps]
        await self._books.change(
            lambda goal: goals.accept_delete(goals.at_revision(goal, if_revisions), known)
        )
        for name in known:
            self._books.record(name, "deleted")

    async def clear(self, if_revisions: Collection[int] | None = None) -> list[str]:
        """Take all applications out of the goal, and the document with them; return the names of what is to end.

        Raises:
            StaleRevisionError: the goal has none of `if_revisions`.
            InstanceError: it could not be stored.
        """
        known: list[str] = []

        def change(goal: Goal) -> Goal:
            known.extend(name for name, app in goal.apps.items() if not app.is_deleting)
            return goals.accept_clear(goals.at_revision(goal, if_revisions))

        goal = await self._books.change(change)
        for name in known:
            self._books.record(name, "deleted")
        return list(goal.apps)

    def code_of(self, deployment: DeploymentId) -> tuple[CodeEnvironment, str] | None:
        """Return where the user code of a deployment runs, and which code it is; None if there is no such one."""
        found = self._books.deployment(deployment)
        if found is None:
            return None
        found = in_force(found, self._books.observed.deployments.get(deployment))
        return found.environment, self._books.goal.apps[deployment.app_name].code_version

    def goal_of(self, names: Sequence[str]) -> Goal:
        """Return what is wanted of these applications, without payloads."""
        return self._books.goal.outline(names)

    def status(self) -> ServeStatus:
        """Return what `serve.status()` answers."""
        return instance_status(self._books.goal, self._books.observed, self._current_facts())

    def details(self) -> dict[str, Any]:
        """Return what `GET /api/serve/applications/` answers."""
        scaling = self._scaler.details(self._goal_in_force())
        return instance_details(self._books.goal, self._books.observed, self._current_facts(), scaling)

    async def metrics(self) -> list[Family]:
        """Ask all replicas, wait about a second at most, and return what everything of the instance measures."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.ask_proxies)
            group.start_soon(self._fleet.ask_metrics)
        replicas = tuple(self._books.observed.replicas.values())
        return [
            *lifecycle(self.status(), replicas),
            *self._scaler.families(self._goal_in_force()),
            *instruments.collect(),
            *self._fleet.pictures.families(),
        ]

    def pulse(self) -> PulseView:
        """Return how the loop fares."""
        return self._pulse.view()

    def ingress_of(self, name: str) -> str:
        """Return the name of an application's ingress deployment; "" if there is no such application."""
        app = self._books.goal.apps.get(name)
        return app.ingress.id.name if app is not None and not app.is_deleting and app.ingress else ""

    def take_load(self, load: DeploymentLoad) -> None:
        """A router tells its calls to a deployment whose number of replicas follows the load."""
        self._scaler.take_load(load)

    def forget_caller(self, deployment: DeploymentId, caller: str) -> None:
        """The process of a router has gone, and its calls with it."""
        self._scaler.forget_caller(deployment, caller)

    async def wait_apps(self, names: Iterable[str]) -> ServeStatus:
        """Return the status once none of these applications is being deployed or deleted. No deadline."""
        names = list(names)
        while True:
            apps = [self._books.goal.apps[name] for name in names if name in self._books.goal.apps]
            if all(is_settled(app, self._books.observed) for app in apps):
                return self.status()
            await self._books.next_pass()

    async def _look_who_is_idle(self, goal: Goal, apps: Iterable[str]) -> None:
        """Have replicas tell what they do, if some of them are to go for this goal: the idlest do."""
        if has_fewer(goal, apps, self._books.observed):
            await self._fleet.ask_metrics()

    def _goal_in_force(self) -> Goal:
        return goal_in_force(self._books.goal, self._books.observed.deployments)

    def _current_facts(self) -> InstanceFacts:
        apps = self._books.goal.apps.values()
        has_limits = any(d.config.ray_actor_options.get("memory") for app in apps for d in app.deployments)
        return msgspec.structs.replace(
            self._facts,
            proxies=self.proxies(),
            memory_limits=self._memory_limits() if has_limits else "",
            wall_minus_monotonic=time.time() - self._books.clock(),
        )

    def _hand_scaling_events(self, deployment: DeploymentId, old: Goal, new: Goal) -> Sequence[ev.Event]:
        return scaled_by_hand_events(deployment, old, new, self._books.observed, self._books.clock())

    def _outer_scaling_events(self, deployment: DeploymentId, old: Goal, new: Goal) -> Sequence[ev.Event]:
        """Return what a number from a scaler outside means for the deployment's status."""
        was, target = (
            next(d.target for d in goal.apps[deployment.app_name].deployments if d.id == deployment)
            for goal in (old, new)
        )
        exactly = Bounds(target, target)
        return scaled_events(deployment, was, target, exactly, self._books.observed, self._books.clock())


async def _nobody() -> None:
    """There are no proxy processes to ask."""
