"""The loop that brings what runs to what is wanted.

One goal, one loop: a deploy changes the goal, a crash changes what is observed; each pass compares both
(`policy/reconcile.py`) and carries out what comes of it (`fleet.py`). It wakes on events and at the time the last plan
asked for, and never polls.

Order within a pass: fold what happened, plan, fold what the plan begins, publish, perform. So routers have heard that
a replica leaves before it is told to stop, and an action is never planned twice.
"""

from __future__ import annotations

import logging
import os
import secrets
import string
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, assert_never

import anyio
import anyio.abc
import msgspec

from serve_lite import instruments
from serve_lite.controller import goals
from serve_lite.controller.cgroups import ReplicaGroups
from serve_lite.controller.custom_policies import Policy
from serve_lite.controller.environments import Environments
from serve_lite.controller.failures import describe
from serve_lite.controller.fleet import Fleet, StopOrder
from serve_lite.controller.inbox import Inbox
from serve_lite.controller.machine import Inventory, with_devices
from serve_lite.controller.memory import MemoryWatch
from serve_lite.controller.metrics import lifecycle
from serve_lite.controller.publisher import Publisher
from serve_lite.controller.pulse import Pulse, PulseView
from serve_lite.controller.scaling import Scaler, Scaling
from serve_lite.controller.spawner import Spawner
from serve_lite.controller.store import EventRow, ReplicaRow, Store, Stored
from serve_lite.exceptions import InstanceError, RayServeException, ServeLiteError
from serve_lite.instruments import Family
from serve_lite.policy import actions as act
from serve_lite.policy.autoscaling import Bounds
from serve_lite.policy.claims import with_claims
from serve_lite.policy.devices import in_ranges
from serve_lite.policy.diff import AppPlan, compare
from serve_lite.policy.reconcile import reconcile
from serve_lite.schema import Phase, ProxyStatus, ReplicaState, ServeStatus
from serve_lite.state import events as ev
from serve_lite.state.goal import AppGoal, BuildRequest, BuildResult, CodeEnvironment, DeploymentGoal, Goal
from serve_lite.state.ids import DeploymentId, ReplicaId, replica_id
from serve_lite.state.lifecycle import IllegalMoveError
from serve_lite.state.observed import Observed, ReplicaView, fold
from serve_lite.state.resources import MachineOptions
from serve_lite.state.status import (
    InstanceFacts,
    RevisionSummary,
    instance_details,
    instance_status,
    is_settled,
    revision_summary,
)
from serve_lite.wire.messages import (
    DeploymentLoad,
    DeployReply,
    DeployRequest,
    InitRequest,
    PlaceRequest,
    ReconfigureRequest,
)

logger = logging.getLogger(__name__)

#: A new daemon tells routers of an incomplete set of replicas only if adopting the others takes longer than this.
#: Calls to a deployment whose only replica is missing still wait for it. Ray Serve waits 10 s, but there the proxy goes
#: on with what it knows; here all traffic stands still meanwhile.
ADOPTION_S = 2.0
AFTER_FAULT_S = 1.0  #: wait after a pass that failed for a fault of ours
_ALPHABET = string.ascii_lowercase + string.digits


class Builder(Protocol):
    """Builds applications in another process (`importer.py`)."""

    async def build(self, request: BuildRequest, environment: CodeEnvironment, /) -> BuildResult: ...


class Controller:
    """What is wanted, what runs, and the loop between them.

    Lifetime: the daemon starts `run` in its task group and awaits its start; the other methods may be used from
    then on. When `run` is cancelled, replicas are left running for the next daemon; `shutdown` ends them. Store and
    spawner are open as long as it runs.

    Args:
        builder: builds applications that come as an import path.
        publisher: tells routers; the controller tells it.
        environments: prepares what user code needs around it.
        control_socket: path that replicas connect to for the handles they hold.
        http_options: as REST shows them.
        logging_config: of applications that bring none.
        machine: what the instance was told of it.
        groups: cgroups of replicas; made from the instance's id if none are given.
    """

    def __init__(
        self,
        store: Store,
        spawner: Spawner,
        builder: Builder,
        publisher: Publisher,
        environments: Environments,
        *,
        control_socket: str = "",
        orphan_grace_s: float = 60.0,
        http_options: Mapping[str, Any] | None = None,
        grpc_options: Mapping[str, Any] | None = None,
        proxy_location: str | None = "EveryNode",
        logging_config: dict[str, Any] | None = None,
        log_file: str | None = None,
        machine: MachineOptions = MachineOptions(),  # noqa: B008  (frozen)
        groups: ReplicaGroups | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.proxy_status = ProxyStatus.HEALTHY  #: the daemon keeps it true
        self.epoch = store.stored.epoch  #: of this daemon; replicas obey the newest
        self._store, self._spawner, self._builder, self._publisher = store, spawner, builder, publisher
        self._environments = environments
        environments.wanted = self._wanted_environments
        self._control_socket, self._orphan_grace_s = control_socket, orphan_grace_s
        self._facts = InstanceFacts(
            node_id=store.stored.node_id,
            epoch=store.stored.epoch,
            pid=os.getpid(),
            http_options=dict(http_options or {}),
            grpc_options=dict(grpc_options or {}),
            proxy_location=proxy_location,
            log_file=log_file,
        )
        self._logging_config = logging_config
        self._clock = clock
        self._goal = Goal()
        self._observed = Observed()
        self._inbox = Inbox(clock)
        self._pulse = Pulse(clock)
        self._changing = anyio.Lock()  #: one change of the goal at a time, stored before it counts
        self._changed = anyio.Event()  #: replaced after every pass
        self._builds: dict[str, tuple[int, anyio.CancelScope]] = {}
        self._tidying: set[str] = set()  #: applications that are being forgotten; "" for the shutdown itself
        self._keeps_goal = False  #: everything stops, and is wanted again by the next daemon
        self._started_at = 0.0
        self._awaited: set[ReplicaId] = set()  #: were serving when the last daemon ended
        self.policy_of: Callable[[DeploymentId], Policy | None] = lambda _: (
            None
        )  #: the daemon gives a better one
        self._scaler = Scaler(
            clock=clock,
            wake=self._inbox.wake,
            spawn=lambda work: self._group.start_soon(lambda: work),
            record=self._record,
        )
        self._inventory = Inventory(
            machine,
            wake=self._inbox.wake,
            spawn=lambda look: self._group.start_soon(look, name="look for GPUs"),
        )
        self._groups = groups or ReplicaGroups(store.stored.node_id)
        self._memory = MemoryWatch(
            tell=self._inbox.post,
            clock=clock,
            is_held=self._groups.holds,
            spawn=lambda watch: self._group.start_soon(watch, name="watch memory"),
        )
        publisher.on_load = self.take_load
        self._fleet: Fleet
        self._group: anyio.abc.TaskGroup

    # --- what others ask ---

    @property
    def node_id(self) -> str:
        """Names this instance for as long as its state directory lives."""
        return self._facts.node_id

    async def submit(self, request: DeployRequest) -> DeployReply:
        """Make these applications the goal; answered once that is stored.

        Raises:
            InvalidConfigError, RayServeException: the request is refused, and nothing has changed.
            InstanceError: it could not be stored, and nothing has changed.
        """
        if self._keeps_goal:
            raise RayServeException(
                "Serve is stopping, so nothing can be deployed. Start it again afterwards."
            )
        request = goals.with_logging(request, self._logging_config)
        alive = {r.deployment for r in self._observed.replicas.values()}
        self._environments.forget_failures()
        goal = await self._change_goal(
            lambda goal: goals.accept_deploy(goal, request, now=time.time(), alive=alive)
        )
        for app in request.apps:
            self._record(app.name, f"deployed as revision {goal.revision}")
        return DeployReply(revision=goal.revision)

    async def plan(self, request: DeployRequest) -> dict[str, AppPlan]:
        """Return what a deploy would do, by application; nothing changes. Applications with new code are built.

        Raises:
            InvalidConfigError, RayServeException: the deploy would be refused.
            InstanceError: no importer could be started.
        """
        request = goals.with_logging(request, self._logging_config)
        alive = {r.deployment for r in self._observed.replicas.values()}
        before = self._goal
        goal = goals.accept_deploy(before, request, now=time.time(), alive=alive)
        for app in request.apps:
            if goal.apps[app.name].is_building:
                goal = await self._built(goal, app.name)
        return compare(before, goal)

    async def _built(self, goal: Goal, name: str) -> Goal:
        """Return the goal with an application built, or with why it was not."""
        app = goal.apps[name]
        try:
            result = goals.known_build(app) or await self._imported(app)
            return goals.accept_build(goal, name, app.revision, result, ())
        except InstanceError:
            raise
        except ServeLiteError as error:
            return goals.reject_build(goal, name, app.revision, describe(error))

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

        change(self._goal)  # refuse before anything is asked
        if target < len(self._observed.replicas_of(deployment)):
            await self._fleet.ask_metrics()  # so that it is known which of them are idle
        goal = await self._change_goal(
            change,
            # A scaler's numbers change all day, and are no deploy: the application goes on being told as RUNNING.
            None if is_manual else lambda old, _: self._outer_scaling_events(deployment, old, target),
        )
        self._record(str(deployment), f"scaled to {target} replicas")
        return DeployReply(revision=goal.revision)

    async def events(self, limit: int) -> list[EventRow]:
        """Return the last lines of history, newest first."""
        return await self._store.recent_events(limit)

    async def history(self, name: str) -> list[RevisionSummary]:
        """Return the revisions of an application that can be gone back to, newest first."""
        app = self._goal.apps.get(name)
        return [revision_summary(past, app) for past in await self._store.revisions(name)]

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
        app = self._goal.apps.get(name)
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
        alive = {r.deployment for r in self._observed.replicas.values()}
        self._environments.forget_failures()
        goal = await self._change_goal(
            lambda goal: goals.accept_rollback(
                goals.at_revision(goal, if_revisions), wanted[0], now=time.time(), alive=alive
            )
        )
        self._record(name, f"rolled back to revision {wanted[0].revision} as revision {goal.revision}")
        return DeployReply(revision=goal.revision)

    def tag(self) -> str:
        """Return a text that changes with every change of what is wanted: the instance and its revision."""
        return f"{self.node_id}-{self._goal.revision}"

    async def delete(self, names: Sequence[str], if_revisions: Collection[int] | None = None) -> None:
        """Take applications out of the goal; unknown names are passed over. `wait_apps` waits for their end.

        Raises:
            StaleRevisionError: the goal has none of `if_revisions`.
            InstanceError: it could not be stored.
        """
        known = [name for name in names if name in self._goal.apps]
        await self._change_goal(
            lambda goal: goals.accept_delete(goals.at_revision(goal, if_revisions), known)
        )
        for name in known:
            self._record(name, "deleted")

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

        goal = await self._change_goal(change)
        for name in known:
            self._record(name, "deleted")
        return list(goal.apps)

    def code_of(self, deployment: DeploymentId) -> tuple[CodeEnvironment, str] | None:
        """Return where the user code of a deployment runs, and which code it is; None if there is no such one."""
        app = self._goal.apps.get(deployment.app_name)
        found = [d for d in (*app.deployments, *app.retired) if d.id == deployment] if app else []
        return (found[0].environment, app.code_version) if found and app else None

    def goal_of(self, names: Sequence[str]) -> Goal:
        """Return what is wanted of these applications, without payloads."""
        return self._goal.outline(names)

    def status(self) -> ServeStatus:
        """Return what `serve.status()` answers."""
        return instance_status(self._goal, self._observed, self._current_facts())

    def details(self) -> dict[str, Any]:
        """Return what `GET /api/serve/applications/` answers."""
        scaling = self._scaler.details(self._goal)
        return instance_details(self._goal, self._observed, self._current_facts(), scaling)

    async def metrics(self) -> list[Family]:
        """Ask all replicas, wait about a second at most, and return what everything of the instance measures."""
        await self._fleet.ask_metrics()
        replicas = tuple(self._observed.replicas.values())
        return [
            *lifecycle(self.status(), replicas),
            *self._scaler.families(self._goal),
            *instruments.collect(),
            *self._fleet.pictures.families(),
        ]

    def pulse(self) -> PulseView:
        """Return how the loop fares."""
        return self._pulse.view()

    def ingress_of(self, name: str) -> str:
        """Return the name of an application's ingress deployment; "" if there is no such application."""
        app = self._goal.apps.get(name)
        return app.ingress.id.name if app is not None and not app.is_deleting and app.ingress else ""

    def ask_policies(self, policy_of: Callable[[DeploymentId], Policy | None]) -> None:
        """Have custom autoscaling policies asked through this; before that, numbers stay as they are."""
        self._scaler.policy_of = policy_of

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
            apps = [self._goal.apps[name] for name in names if name in self._goal.apps]
            if all(is_settled(app, self._observed) for app in apps):
                return self.status()
            await self._changed.wait()  # every wait has an end: each pass of the loop ends this one

    async def shutdown(self, *, keep_goal: bool = False) -> None:
        """Stop everything and return when no replica is left.

        Args:
            keep_goal: the applications are wanted again when a daemon starts the next time; else they
                are deleted, and a daemon that starts meanwhile goes on deleting them.
        """
        if keep_goal:
            self._keeps_goal = True
            self._inbox.wake()
        else:
            await self._change_goal(goals.accept_shutdown)
        while (
            self._observed.replicas
            or self._observed.builds
            or (self._goal.is_shutting_down and not keep_goal)
        ):
            await self._changed.wait()  # replicas are killed after their grace, so this ends

    def replica_logs(self) -> set[str]:
        """Return the logs of the replicas that there are."""
        return {r.log_file for r in self._observed.replicas.values() if r.log_file}

    async def suspend(self) -> None:
        """Return when no change of the goal is under way; none can begin any more. Before a hand-over."""
        await self._changing.acquire()  # and never let go; those who asked before have their turn first

    # --- the loop ---

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Bring what runs to what is wanted, until cancelled.

        Started when the replicas of an earlier daemon have answered (or `ADOPTION_S` is over), which is also
        when routers are told anything.
        """
        async with anyio.create_task_group() as self._group:
            self._load(self._store.stored)
            wake_at: float | None = self._clock()
            is_started = False
            while True:
                self._pulse.falls_asleep(wake_at)
                events = await self._inbox.collect(until=wake_at)
                self._pulse.begins_pass()
                try:
                    wake_at = self._pass(events)
                except Exception:  # boundary: the loop outlives our own faults
                    logger.exception("a pass of the controller failed")
                    wake_at = self._clock() + AFTER_FAULT_S
                self._pulse.ends_pass()
                if not is_started and self._publisher.published.is_set():
                    is_started = True
                    task_status.started()

    def _load(self, stored: Stored) -> None:
        """Take up where the last daemon left."""
        self._publisher.begin_again()
        now = self._started_at = self._clock()
        self._fleet = Fleet(
            group=self._group,
            spawner=self._spawner,
            store=self._store,
            post=self._inbox.post,
            note=self._note_phase,
            clock=self._clock,
            epoch=stored.epoch,
            on_stats=self._scaler.take_stats,
            environments=self._environments,
            groups=self._groups,
        )
        self._fleet.prober.counts_of = self._ejects_outliers
        self._group.start_soon(self._fleet.prober.run)
        self._observed = Observed(deployments=stored.deployments)
        self._set_goal(stored.goal)
        alive = [row for row in stored.replicas if self._fleet.adopt(row)]
        found = [self._found(row, now) for row in alive]
        self._awaited = {row.id for row in alive if row.was_ready}
        self._observed = fold(self._observed, found)
        self._spawner.sweep()
        if any(row.allotment.needs.memory_bytes for row in stored.replicas):
            self._group.start_soon(self._groups.sweep, [row.id for row in alive])
        if found:
            logger.info("adopting %d replicas", len(found))

    def _found(self, row: ReplicaRow, now: float) -> ev.ReplicaFound:
        return ev.ReplicaFound(
            replica=row.id,
            deployment=row.deployment,
            version=row.version,
            settings=row.settings,
            pid=row.pid,
            rank=row.rank,
            wall_time=row.wall_time,
            log_file=row.log_file,
            phases=row.phases,
            allotment=row.allotment,
            at=now,
        )

    def _pass(self, events: Sequence[ev.Event]) -> float | None:
        """Do everything there is to do now; return when to look again if nothing happens."""
        now = self._clock()
        before = self._observed
        self._fold(events)
        goal = self._goal
        if self._keeps_goal:
            goal = msgspec.structs.replace(goal, is_shutting_down=True)
        # What callers tell, where they do, is newer than what a replica answered last.
        load = {**self._fleet.loads(), **self._scaler.load_by_replica()}
        plan = reconcile(goal, self._observed, now, load, self._inventory.machine_for(goal))
        self._fold(plan.findings)
        begun = [self._begin(action, now) for action in plan.actions]
        self._fold(event for event, _ in begun if event is not None)
        self._publish(goal, now)
        for _, perform in begun:
            if perform is not None:
                perform()
        self._remember(before)
        self._memory.follow(self._observed)
        self._finish_shutdown()
        self._changed.set()
        self._changed = anyio.Event()
        is_still = all(event is None for event, _ in begun) and not plan.findings
        if not is_still:
            return now
        if not self._publisher.published.is_set():  # replicas that are still to answer would be missed
            return self._wake_at(plan.wake_at)
        scalings, scale_at = self._scaler.plan(goal, self._observed, now)
        for scaling in scalings:
            self._group.start_soon(self._scale, scaling)
        return self._wake_at(min((t for t in (plan.wake_at, scale_at) if t is not None), default=None))

    def _fold(self, events: Iterable[ev.Event]) -> None:
        for event in events:
            try:
                self._observed = fold(self._observed, (event,))
            except (IllegalMoveError, KeyError):
                logger.exception("an event does not fit what is known, and is left out: %r", event)

    def _note_phase(self, event: ev.ReplicaPhased | ev.BuildPhased) -> None:
        """Show a phase at once, without a pass of the loop: nothing is decided by it."""
        self._fold((event,))

    def _publish(self, goal: Goal, now: float) -> None:
        """Tell routers; the first time only when the replicas of the last daemon have answered."""
        if not self._publisher.published.is_set():
            is_adopting = any(
                r.state is ReplicaState.RECOVERING and r.id in self._awaited
                for r in self._observed.replicas.values()
            )
            if is_adopting and now < self._started_at + ADOPTION_S:
                return
        self._publisher.publish(goal, self._observed)

    def _wake_at(self, planned: float | None) -> float | None:
        if self._publisher.published.is_set():
            return planned
        until = self._started_at + ADOPTION_S
        return until if planned is None else min(planned, until)

    # --- carrying out ---

    def _begin(self, action: act.Action, now: float) -> tuple[ev.Event | None, Callable[[], None] | None]:
        """Return what the action means for the view at once, and what performs it."""
        match action:
            case act.StartReplica():
                return self._begin_start(action, now)
            case act.StopReplica():
                return self._begin_stop(action, now)
            case act.ReconfigureReplica():
                return self._begin_reconfigure(action, now)
            case act.PlaceReplica():
                return self._begin_place(action, now)
            case act.CheckHealth():
                event: ev.Event = ev.ReplicaHealthAsked(replica=action.replica, at=now)
                return event, lambda: self._fleet.check_health(action.replica, action.timeout_s)
            case act.StartBuild():
                event = ev.BuildStarted(app=action.app, revision=action.revision, at=now)
                return event, lambda: self._start_build(action)
            case act.CancelBuild():
                event = ev.BuildEnded(app=action.app, revision=action.revision, at=now)
                return event, lambda: self._cancel_build(action)
            case act.ForgetApp():
                return None, lambda: self._start_forgetting(action)
            case act.MarkProven() | act.RollBack():
                return None, lambda: self._start_looking_back(action)
            case _:
                assert_never(action)

    def _begin_start(self, action: act.StartReplica, now: float) -> tuple[ev.Event, Callable[[], None]]:
        goal = self._deployment_goal(action.deployment)
        name = replica_id(goal.id, "".join(secrets.choice(_ALPHABET) for _ in range(8)))
        row = ReplicaRow(
            id=name,
            deployment=goal.id,
            version=goal.version,
            settings=goal.settings,
            rank=action.rank,
            wall_time=time.time(),
            log_file=self._spawner.log_path("replica", name),
            allotment=action.allotment,
        )
        event = ev.ReplicaPlanned(
            replica=name,
            deployment=goal.id,
            version=goal.version,
            settings=goal.settings,
            rank=action.rank,
            world_size=goal.target,
            wall_time=row.wall_time,
            log_file=row.log_file,
            allotment=action.allotment,
            at=now,
        )
        request = InitRequest(
            replica_id=name,
            app_name=goal.id.app_name,
            deployment=goal.id.name,
            version=goal.version,
            code=goal.spec.code,
            init=goal.spec.init,
            config=goal.config,
            route_prefix=goal.route_prefix,
            rank=action.rank,
            world_size=goal.target,
            epoch=self.epoch,
            control_socket=self._control_socket,
            orphan_grace_s=self._orphan_grace_s,
            allotment=action.allotment,
        )
        environment = with_devices(goal.environment, action.allotment, self._inventory.machine)
        has = [
            *(f"GPU {gpu}" for gpu in action.allotment.gpu_ids),
            *([f"CPU {in_ranges(action.allotment.cpu_ids)}"] if action.allotment.cpu_ids else ()),
        ]
        where = f" ({', '.join(has)})" if has else ""
        self._record(name, f"start: {action.reason}{where}")
        return event, lambda: self._fleet.start(row, request, environment, planned_at=now)

    def _begin_stop(self, action: act.StopReplica, now: float) -> tuple[ev.Event, Callable[[], None]]:
        view = self._observed.replicas[action.replica]
        order = self._stop_order(view, action.is_graceful) if action.can_obey else StopOrder.now()
        event = ev.ReplicaStopping(
            replica=action.replica,
            reason=action.reason,
            is_failure=action.is_failure,
            spread=secrets.randbelow(1000) / 1000,
            at=now,
        )
        self._record(action.replica, f"stop: {action.reason}")
        return event, lambda: self._fleet.stop(action.replica, order)

    def _begin_reconfigure(
        self, action: act.ReconfigureReplica, now: float
    ) -> tuple[ev.Event, Callable[[], None]]:
        goal = self._deployment_goal(self._observed.replicas[action.replica].deployment)
        request = ReconfigureRequest(config=goal.config, route_prefix=goal.route_prefix, epoch=self.epoch)
        event = ev.ReplicaReconfiguring(replica=action.replica, settings=goal.settings, at=now)
        self._record(action.replica, f"reconfigure: {action.reason}")
        return event, lambda: self._fleet.reconfigure(action.replica, request, goal.settings)

    def _begin_place(self, action: act.PlaceReplica, now: float) -> tuple[ev.Event, Callable[[], None]]:
        request = PlaceRequest(rank=action.rank, world_size=action.world_size, epoch=self.epoch)
        event = ev.ReplicaPlaced(
            replica=action.replica, rank=action.rank, world_size=action.world_size, at=now
        )
        self._record(action.replica, f"rank {action.rank} of {action.world_size}: {action.reason}")
        return event, lambda: self._fleet.place(action.replica, request)

    def _stop_order(self, view: ReplicaView, is_graceful: bool) -> StopOrder:
        app = self._goal.apps.get(view.deployment.app_name)
        known = [d for d in (*app.deployments, *app.retired) if d.id == view.deployment] if app else []
        if not known:
            return StopOrder(is_graceful=is_graceful)
        return StopOrder(is_graceful=is_graceful, timeout_s=known[0].config.graceful_shutdown_timeout_s)

    def _deployment_goal(self, deployment: DeploymentId) -> DeploymentGoal:
        app = self._goal.apps[deployment.app_name]
        return next(d for d in app.deployments if d.id == deployment)

    # --- builds ---

    def _start_build(self, action: act.StartBuild) -> None:
        scope = anyio.CancelScope()
        self._builds[action.app] = (action.revision, scope)
        self._group.start_soon(self._build, action.app, action.revision, scope)

    def _cancel_build(self, action: act.CancelBuild) -> None:
        revision, scope = self._builds.get(action.app, (0, None))
        if scope is not None and revision == action.revision:
            logger.info("Received new config for application %r. Cancelling previous request.", action.app)
            scope.cancel()

    async def _build(self, app: str, revision: int, scope: anyio.CancelScope) -> None:
        """Have an application built and make the result the goal. Cancelling the scope ends the importer.

        Its deployments' environments are prepared before: what cannot start must not replace what runs.
        """
        with scope:
            try:
                try:
                    building = self._goal.apps[app]
                    result = goals.known_build(building) or await self._imported(building)
                    alive = {r.deployment for r in self._observed.replicas.values()}
                    await self._prepare(
                        goals.accept_build(self._goal, app, revision, result, alive), app, revision
                    )
                    await self._change_goal(
                        lambda goal: goals.accept_build(goal, app, revision, result, alive)
                    )
                    self._record(app, f"revision {revision} is built")
                except ServeLiteError as error:
                    message = f"Deploying app '{app}' failed with exception:\n{describe(error)}"
                    await self._change_goal(lambda goal: goals.reject_build(goal, app, revision, message))
                    self._record(app, f"revision {revision} could not be built: {error}")
            except Exception:  # boundary: say it, and try the build again on the next pass after a while
                logger.exception("building application %r failed for a fault of ours", app)
                await anyio.sleep(AFTER_FAULT_S)
        if self._builds.get(app) == (revision, scope):
            del self._builds[app]
        self._inbox.post(ev.BuildEnded(app=app, revision=revision, at=self._clock()))

    async def _imported(self, app: AppGoal) -> BuildResult:
        """Return what an importer finds, in the environment that it needs."""
        assert app.submission.build is not None
        if app.submission.environment.parts:
            self._enter(app.name, app.revision, Phase.PREPARING_ENVIRONMENT)
            await self._environments.resolve(app.submission.environment)
            self._enter(app.name, app.revision, Phase.IMPORTING)
        return await self._builder.build(app.submission.build, app.submission.environment)

    def _enter(self, app: str, revision: int, phase: Phase) -> None:
        self._note_phase(ev.BuildPhased(app=app, revision=revision, phase=phase, at=self._clock()))

    async def _prepare(self, goal: Goal, app: str, revision: int) -> None:
        """Have everything prepared that the deployments of an application need."""
        found = goal.apps.get(app)
        deployments = found.deployments if found is not None else ()
        parts = dict.fromkeys(part for d in deployments for part in d.environment.parts)
        if parts:
            self._enter(app, revision, Phase.PREPARING_ENVIRONMENT)
            await self._environments.resolve(CodeEnvironment(parts=tuple(parts)))

    def _wanted_environments(self) -> list[CodeEnvironment]:
        """Return the environments that the goal uses, or is about to."""
        apps = self._goal.apps.values()
        deployments = [d for app in apps for d in (*app.deployments, *app.retired)]
        return [*(app.submission.environment for app in apps), *(d.environment for d in deployments)]

    # --- scaling ---

    async def _scale(self, scaling: Scaling) -> None:
        """Make autoscaling's target the goal's."""
        is_stored = False
        try:
            goal = await self._change_goal(
                lambda goal: goals.accept_scaling(goal, scaling.deployment, scaling.target, scaling.window),
                lambda _old, _new: self._scaled_events(scaling),
            )
            is_stored = True
            now_wanted = {d.id: d.target for app in goal.apps.values() for d in app.deployments}
            self._record(
                str(scaling.deployment),
                f"scaled from {scaling.was} to {now_wanted.get(scaling.deployment)} replicas: {scaling.reason}",
            )
        except ServeLiteError as error:
            logger.error("%s was not scaled: %s", scaling.deployment, error)
        finally:
            self._scaler.done(scaling, is_stored=is_stored)

    def _scaled_events(self, scaling: Scaling) -> list[ev.Event]:
        return goals.scaled_events(
            scaling.deployment, scaling.was, scaling.target, scaling.bounds, self._observed, self._clock()
        )

    def _outer_scaling_events(self, deployment: DeploymentId, old: Goal, target: int) -> list[ev.Event]:
        """Return what a number from a scaler outside means for the deployment's status."""
        was = next(d.target for d in old.apps[deployment.app_name].deployments if d.id == deployment)
        exactly = Bounds(target, target)
        return goals.scaled_events(deployment, was, target, exactly, self._observed, self._clock())

    # --- the goal ---

    async def _change_goal(
        self,
        change: Callable[[Goal], Goal],
        events: Callable[[Goal, Goal], Sequence[ev.Event]] | None = None,
    ) -> Goal:
        """Change the goal: stored first, then believed. What `change` raises leaves it as it was.

        Args:
            events: returns what the step from one goal to the next means; None: what a deploy means.
        """
        async with self._changing:
            goal = with_claims(self._goal, change(self._goal))
            if goal is not self._goal:
                # A caller who goes away in the middle must not leave file and memory different.
                with anyio.CancelScope(shield=True):
                    await self._store.save_goal(goal)
                self._set_goal(goal, events)
            return goal

    def _set_goal(self, goal: Goal, events: Callable[[Goal, Goal], Sequence[ev.Event]] | None = None) -> None:
        """Believe a goal and tell the view what it means, in one step: a status asked for now is true."""
        old, self._goal = self._goal, goal
        self._fold(ev.AppForgotten(app=name, at=self._clock()) for name in old.apps.keys() - goal.apps.keys())
        if events is None:
            self._fold(goals.configured_events(old, goal, self._observed, self._clock()))
        else:
            self._fold(events(old, goal))
        self._inbox.wake()

    def _ejects_outliers(self, deployment: DeploymentId) -> bool:
        app = self._goal.apps.get(deployment.app_name)
        return app is not None and any(
            d.config.outlier_ejection is not None for d in app.deployments if d.id == deployment
        )

    def _start_forgetting(self, action: act.ForgetApp) -> None:
        if action.app not in self._tidying and not self._keeps_goal:
            self._tidying.add(action.app)
            self._group.start_soon(self._forget, action.app)

    async def _forget(self, name: str) -> None:
        def change(goal: Goal) -> Goal:
            app = goal.apps.get(name)
            return goals.forget_app(goal, name) if app is not None and app.is_deleting else goal

        await self._tidy(name, change)

    def _start_looking_back(self, action: act.MarkProven | act.RollBack) -> None:
        key = f"{action.app} revision {action.revision}"
        if key in self._tidying or self._keeps_goal:
            return
        self._tidying.add(key)
        if isinstance(action, act.RollBack):
            self._group.start_soon(self._fall_back, key, action)
            return
        self._group.start_soon(
            self._tidy, key, lambda goal: goals.mark_proven(goal, action.app, action.revision), _no_events
        )

    async def _fall_back(self, key: str, action: act.RollBack) -> None:
        """Make the last revision that worked the goal again, and write down why."""
        app = self._goal.apps.get(action.app)
        known = await self._store.revisions(action.app) if app is not None else []
        past = next((p for p in known if app is not None and p.revision == app.proven), None)
        alive = {r.deployment for r in self._observed.replicas.values()}
        await self._tidy(
            key,
            lambda goal: goals.accept_fallback(
                goal, action.app, action.revision, past, action.reason, now=time.time(), alive=alive
            ),
        )
        after = self._goal.apps.get(action.app)
        if after is not None and after.fallback:
            self._record(action.app, after.fallback)

    def _finish_shutdown(self) -> None:
        """When all is gone, the instance is as new: the next daemon need not go on shutting down."""
        is_done = self._goal.is_shutting_down and not self._goal.apps and not self._observed.replicas
        if is_done and "" not in self._tidying:
            self._tidying.add("")
            self._group.start_soon(
                self._tidy, "", lambda goal: msgspec.structs.replace(goal, is_shutting_down=False)
            )

    async def _tidy(
        self,
        what: str,
        change: Callable[[Goal], Goal],
        events: Callable[[Goal, Goal], Sequence[ev.Event]] | None = None,
    ) -> None:
        try:
            await self._change_goal(change, events)
        except ServeLiteError as error:
            logger.error("%s", error)
            await anyio.sleep(AFTER_FAULT_S)
            self._inbox.wake()
        finally:
            self._tidying.discard(what)

    # --- remembering ---

    def _remember(self, before: Observed) -> None:
        """Queue what changed about deployments for the store."""
        old, new = before.deployments, self._observed.deployments
        for deployment in old.keys() - new.keys():
            self._store.put_deployment(deployment, None)
            self._fleet.pictures.forget(deployment)
        for deployment, view in new.items():
            if old.get(deployment) is not view:
                self._store.put_deployment(deployment, view)
                was = old.get(deployment)
                if was is None or (was.status, was.message) != (view.status, view.message):
                    self._record(str(deployment), f"{view.status} ({view.trigger}) {view.message}".rstrip())

    def _record(self, subject: str | ReplicaId, text: str, level: int = logging.INFO) -> None:
        logger.log(level, "%s: %s", subject, text)
        self._store.add_events([EventRow(at=time.time(), subject=subject, text=text)])

    def _current_facts(self) -> InstanceFacts:
        has_limits = any(
            d.config.ray_actor_options.get("memory")
            for app in self._goal.apps.values()
            for d in app.deployments
        )
        return msgspec.structs.replace(
            self._facts,
            memory_limits=self._groups.told if has_limits else "",
            proxy_status=self.proxy_status,
            wall_minus_monotonic=time.time() - self._clock(),
        )


def _no_events(_old: Goal, _new: Goal) -> Sequence[ev.Event]:
    """The step from one goal to the next means nothing for any deployment."""
    return ()
