"""The books of the instance: what is wanted, what is seen of it, and the lines of its history.

Everything that changes the goal goes through `Books.change`, which stores it before anybody believes it. The loop
(`controller.py`) compares both; operators (`desk.py`), builds (`builds.py`) and upkeep (`upkeep.py`) change the goal.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

import anyio

from serve_lite.controller.store import EventRow, Store
from serve_lite.policy.claims import with_claims
from serve_lite.policy.meaning import configured_events
from serve_lite.schema import ApplicationStatus
from serve_lite.state import events as ev
from serve_lite.state.applications import (
    STATUS_OF,
    Condition,
    IllegalStatusError,
    condition_of,
    next_application_status,
)
from serve_lite.state.goal import DeploymentGoal, Goal
from serve_lite.state.ids import DeploymentId, ReplicaId
from serve_lite.state.lifecycle import IllegalMoveError
from serve_lite.state.observed import Observed, fold

logger = logging.getLogger(__name__)


class Books:
    """What is wanted and what is seen, in one place. Everything is called on the controller's loop."""

    def __init__(self, store: Store, *, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        self.goal = Goal()
        self.observed = Observed()
        self.keeps_goal = False  #: everything stops, and is wanted again by the next daemon
        self.wake = wake  #: has the loop look again soon
        self.clock = clock
        self._store = store
        self._statuses: dict[str, ApplicationStatus] = {}  #: of applications, as last seen
        self._moves: list[tuple[str, str]] = []  #: of these, to be written down after what caused them
        self._changing = anyio.Lock()  #: one change of the goal at a time, stored before it counts
        self._passed = anyio.Event()  #: replaced after every pass

    def alive(self) -> set[DeploymentId]:
        """Return the deployments that have replicas."""
        return {r.deployment for r in self.observed.replicas.values()}

    def deployment(self, deployment: DeploymentId) -> DeploymentGoal | None:
        """Return what is wanted of a deployment, or was of one that is retired; None if there is no such one."""
        app = self.goal.apps.get(deployment.app_name)
        found = [d for d in (*app.deployments, *app.retired) if d.id == deployment] if app else []
        return found[0] if found else None

    async def change(
        self,
        change: Callable[[Goal], Goal],
        events: Callable[[Goal, Goal], Sequence[ev.Event]] | None = None,
    ) -> Goal:
        """Change the goal: stored first, then believed. What `change` raises leaves it as it was.

        Args:
            events: returns what the step from one goal to the next means; None: what a deploy means.
        """
        async with self._changing:
            goal = with_claims(self.goal, change(self.goal))
            if goal is not self.goal:
                # A caller who goes away in the middle must not leave file and memory different.
                with anyio.CancelScope(shield=True):
                    await self._store.save_goal(goal)
                self.believe(goal, events)
            return goal

    def believe(self, goal: Goal, events: Callable[[Goal, Goal], Sequence[ev.Event]] | None = None) -> None:
        """Believe a goal and tell the view what it means, in one step: a status asked for now is true."""
        old, self.goal = self.goal, goal
        gone = old.apps.keys() - goal.apps.keys()
        told = (events or self._configured)(old, goal)
        self.fold([*(ev.AppForgotten(app=name, at=self.clock()) for name in gone), *told])
        self._follow(name for name, app in goal.apps.items() if old.apps.get(name) is not app)
        self.wake()

    def fold(self, events: Iterable[ev.Event]) -> None:
        """See what has happened. An event that does not fit is a fault of ours: it is logged and left out."""
        moved: set[str] = set()
        for event in events:
            try:
                self.observed = fold(self.observed, (event,))
            except (IllegalMoveError, KeyError):
                logger.exception("an event does not fit what is known, and is left out: %r", event)
            if isinstance(event, ev.DeploymentConfigured | ev.DeploymentMoved):
                moved.add(event.deployment.app_name)
            elif isinstance(event, ev.AppForgotten):
                self._statuses.pop(event.app, None)
        self._follow(moved)

    def _configured(self, old: Goal, new: Goal) -> Sequence[ev.Event]:
        return configured_events(old, new, self.observed, self.clock())

    def _follow(self, apps: Iterable[str]) -> None:
        """See where these applications stand now, and whether they may."""
        for name in apps:
            app = self.goal.apps.get(name)
            if app is None:
                continue
            was = self._statuses.get(name, ApplicationStatus.NOT_STARTED)
            condition, _ = condition_of(app, self.observed)
            try:
                status = next_application_status(name, was, condition)
            except IllegalStatusError:
                logger.exception("the status of an application made a move that it should not make")
                status = STATUS_OF[condition]
            self._statuses[name] = status
            is_known = was is not ApplicationStatus.NOT_STARTED or condition is not Condition.WELL
            if status is not was and is_known:  # else only the daemon is new
                self._moves.append((name, f"{status}: {condition.value}"))

    def record(self, subject: str | ReplicaId, text: str, level: int = logging.INFO) -> None:
        """Write a line of history, in the log and in the store."""
        logger.log(level, "%s: %s", subject, text)
        self._store.add_events([EventRow(at=time.time(), subject=subject, text=text)])

    async def suspend(self) -> None:
        """Return when no change of the goal is under way; none can begin any more. Before a hand-over."""
        await self._changing.acquire()  # and never let go; those who asked before have their turn first

    def end_pass(self) -> None:
        """The loop has done all there was to do: those who wait for it look again."""
        moves, self._moves = self._moves, []
        for name, text in moves:
            self.record(name, text)
        self._passed.set()
        self._passed = anyio.Event()

    async def next_pass(self) -> None:
        """Return after the next pass of the loop."""
        await self._passed.wait()  # every change wakes the loop, and each pass ends this
