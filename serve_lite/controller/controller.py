"""The loop that brings what runs to what is wanted.

One goal, one loop: a deploy changes the goal, a crash changes what is observed; each pass compares both
(`policy/reconcile.py`) and carries out what comes of it (`orders.py`, `fleet.py`). It wakes on events and at the time
the last plan asked for, and never polls.

Order within a pass: fold what happened, plan, fold what the plan begins, publish, perform. So routers have heard that
a replica leaves before it is told to stop, and an action is never planned twice.

What is wanted and what is seen is in `books.py`; operators are at the `desk.py`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import anyio.abc
import msgspec

from serve_lite.controller import goals
from serve_lite.controller.books import Books
from serve_lite.controller.builds import Builder, Builds
from serve_lite.controller.cgroups import ReplicaGroups
from serve_lite.controller.custom_policies import Policy
from serve_lite.controller.desk import Desk
from serve_lite.controller.environments import Environments
from serve_lite.controller.fleet import Fleet
from serve_lite.controller.inbox import Inbox
from serve_lite.controller.machine import Inventory
from serve_lite.controller.memory import MemoryWatch
from serve_lite.controller.orders import Orders
from serve_lite.controller.publisher import Publisher
from serve_lite.controller.pulse import Pulse
from serve_lite.controller.scaling import Scaler
from serve_lite.controller.spawner import Spawner
from serve_lite.controller.store import ReplicaRow, Store, Stored
from serve_lite.controller.upkeep import Upkeep
from serve_lite.policy.reconcile import reconcile
from serve_lite.policy.standby import goal_in_force
from serve_lite.schema import ReplicaState
from serve_lite.state import events as ev
from serve_lite.state.goal import Goal
from serve_lite.state.ids import DeploymentId, ReplicaId, subject_of
from serve_lite.state.observed import Observed, fold
from serve_lite.state.resources import MachineOptions
from serve_lite.state.status import InstanceFacts

logger = logging.getLogger(__name__)

#: A new daemon tells routers of an incomplete set of replicas only if adopting the others takes longer than this.
#: Calls to a deployment whose only replica is missing still wait for it. Ray Serve waits 10 s, but there the proxy goes
#: on with what it knows; here all traffic stands still meanwhile.
ADOPTION_S = 2.0
AFTER_FAULT_S = 1.0  #: wait after a pass that failed for a fault of ours


class Controller:
    """What is wanted, what runs, and the loop between them.

    Lifetime: the daemon starts `run` in `group` and awaits its start; the other methods may be used from then on.
    When `group` is cancelled, replicas are left running for the next daemon; `shutdown` ends them. Store and spawner
    are open as long as it runs.

    Args:
        group: where everything that the controller starts lives.
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
        group: anyio.abc.TaskGroup,
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
        self.epoch = store.stored.epoch  #: of this daemon; replicas obey the newest
        self._group, self._store, self._spawner, self._publisher = group, store, spawner, publisher
        self._inbox = Inbox(clock)
        self._pulse = Pulse(clock)
        self._books = Books(store, clock=clock, wake=self._inbox.wake)
        self._started_at = 0.0
        self._awaited: set[ReplicaId] = set()  #: were serving when the last daemon ended
        self._scaler = Scaler(
            clock=clock,
            wake=self._inbox.wake,
            spawn=lambda work: group.start_soon(lambda: work),
            record=self._books.record,
        )
        self._inventory = Inventory(
            machine,
            wake=self._inbox.wake,
            spawn=lambda look: group.start_soon(look, name="look for GPUs"),
        )
        self._groups = groups or ReplicaGroups(store.stored.node_id)
        self._memory = MemoryWatch(
            tell=self._inbox.post,
            clock=clock,
            is_held=self._groups.holds,
            spawn=lambda watch: group.start_soon(watch, name="watch memory"),
        )
        self._fleet = Fleet(
            group=group,
            spawner=spawner,
            store=store,
            post=self._inbox.post,
            note=self._note_phase,
            clock=clock,
            epoch=self.epoch,
            on_stats=self._scaler.take_stats,
            environments=environments,
            groups=self._groups,
        )
        self._fleet.prober.counts_of = self._ejects_outliers
        builds = Builds(
            group,
            self._books,
            builder,
            environments,
            post=self._inbox.post,
            ask_load=self._fleet.ask_metrics,
        )
        self._upkeep = Upkeep(group, self._books, store, self._scaler)
        self._orders = Orders(
            self._books,
            self._fleet,
            builds,
            self._upkeep,
            spawner,
            self._inventory,
            epoch=self.epoch,
            control_socket=control_socket,
            orphan_grace_s=orphan_grace_s,
        )
        facts = InstanceFacts(
            node_id=store.stored.node_id,
            epoch=self.epoch,
            pid=os.getpid(),
            http_options=dict(http_options or {}),
            grpc_options=dict(grpc_options or {}),
            proxy_location=proxy_location,
            log_file=log_file,
        )
        #: answers operators
        self.desk = Desk(
            self._books,
            store,
            builds,
            environments,
            self._fleet,
            self._scaler,
            self._pulse,
            facts,
            logging_config=logging_config,
            memory_limits=lambda: self._groups.told,
        )
        publisher.on_load = self._scaler.take_load

    def ask_policies(self, policy_of: Callable[[DeploymentId], Policy | None]) -> None:
        """Have custom autoscaling policies asked through this; before that, numbers stay as they are."""
        self._scaler.policy_of = policy_of

    async def shutdown(self, *, keep_goal: bool = False) -> None:
        """Stop everything and return when no replica is left.

        Args:
            keep_goal: the applications are wanted again when a daemon starts the next time; else they
                are deleted, and a daemon that starts meanwhile goes on deleting them.
        """
        if keep_goal:
            self._books.keeps_goal = True
            self._books.wake()
        else:
            await self._books.change(goals.accept_shutdown)
        while (
            self._books.observed.replicas
            or self._books.observed.builds
            or (self._books.goal.is_shutting_down and not keep_goal)
        ):
            await self._books.next_pass()  # replicas are killed after their grace, so this ends

    def replica_logs(self) -> set[str]:
        """Return the logs of the replicas that there are."""
        return {r.log_file for r in self._books.observed.replicas.values() if r.log_file}

    async def suspend(self) -> None:
        """Return when no change of the goal is under way; none can begin any more. Before a hand-over."""
        await self._books.suspend()

    # --- the loop ---

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Bring what runs to what is wanted, until cancelled.

        Started when the replicas of an earlier daemon have answered (or `ADOPTION_S` is over), which is also
        when routers are told anything.
        """
        self._load(self._store.stored)
        wake_at: float | None = self._books.clock()
        is_started = False
        while True:
            self._pulse.falls_asleep(wake_at)
            events = await self._inbox.collect(until=wake_at)
            self._pulse.begins_pass()
            try:
                wake_at = self._pass(events)
            except Exception:  # boundary: the loop outlives our own faults
                logger.exception("a pass of the controller failed")
                wake_at = self._books.clock() + AFTER_FAULT_S
            self._pulse.ends_pass()
            if not is_started and self._publisher.published.is_set():
                is_started = True
                task_status.started()

    def _load(self, stored: Stored) -> None:
        """Take up where the last daemon left."""
        self._publisher.begin_again()
        now = self._started_at = self._books.clock()
        self._group.start_soon(self._fleet.prober.run)
        self._books.observed = Observed(deployments=stored.deployments)
        self._books.believe(stored.goal)
        alive = [row for row in stored.replicas if self._fleet.adopt(row)]
        found = [self._found(row, now) for row in alive]
        self._awaited = {row.id for row in alive if row.was_ready}
        self._books.observed = fold(self._books.observed, found)
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
        now = self._books.clock()
        before = self._books.observed
        self._books.fold(events)
        goal = self._books.goal
        if self._books.keeps_goal:
            goal = msgspec.structs.replace(goal, is_shutting_down=True)
        # What callers tell, where they do, is newer than what a replica answered last.
        load = {**self._fleet.loads(), **self._scaler.load_by_replica()}
        plan = reconcile(goal, self._books.observed, now, load, self._inventory.machine_for(goal))
        self._books.fold(plan.findings)
        begun = [self._orders.begin(action, now) for action in plan.actions]
        self._books.fold(event for event, _ in begun if event is not None)
        self._publish(goal, now)
        for _, perform in begun:
            if perform is not None:
                perform()
        self._remember(before)
        self._memory.follow(self._books.observed)
        self._upkeep.finish_shutdown()
        self._books.end_pass()
        is_still = all(event is None for event, _ in begun) and not plan.findings
        if not is_still:
            return now
        if not self._publisher.published.is_set():  # replicas that are still to answer would be missed
            return self._wake_at(plan.wake_at)
        scalings, scale_at = self._scaler.plan(
            goal_in_force(goal, self._books.observed.deployments), self._books.observed, now
        )
        for scaling in scalings:
            self._group.start_soon(self._upkeep.scale, scaling)
        return self._wake_at(min((t for t in (plan.wake_at, scale_at) if t is not None), default=None))

    def _note_phase(self, event: ev.ReplicaPhased | ev.BuildPhased) -> None:
        """Show a phase at once, without a pass of the loop: nothing is decided by it."""
        self._books.fold((event,))

    def _publish(self, goal: Goal, now: float) -> None:
        """Tell routers; the first time only when the replicas of the last daemon have answered."""
        if not self._publisher.published.is_set():
            is_adopting = any(
                r.state is ReplicaState.RECOVERING and r.id in self._awaited
                for r in self._books.observed.replicas.values()
            )
            if is_adopting and now < self._started_at + ADOPTION_S:
                return
        self._publisher.publish(goal, self._books.observed)

    def _wake_at(self, planned: float | None) -> float | None:
        if self._publisher.published.is_set():
            return planned
        until = self._started_at + ADOPTION_S
        return until if planned is None else min(planned, until)

    def _ejects_outliers(self, deployment: DeploymentId) -> bool:
        goal = self._books.deployment(deployment)
        return goal is not None and goal.config.outlier_ejection is not None

    def _remember(self, before: Observed) -> None:
        """Queue what changed about deployments for the store."""
        old, new = before.deployments, self._books.observed.deployments
        for deployment in old.keys() - new.keys():
            self._store.put_deployment(deployment, None)
            self._fleet.pictures.forget(deployment)
        for deployment, view in new.items():
            if old.get(deployment) is not view:
                self._store.put_deployment(deployment, view)
                was = old.get(deployment)
                if was is None or (was.status, was.message) != (view.status, view.message):
                    self._books.record(
                        subject_of(deployment), f"{view.status} ({view.trigger}) {view.message}".rstrip()
                    )
