"""Upkeep: the changes of the goal that nobody asks for.

Autoscaling's targets, applications of which nothing is left, revisions that proved to work or were given up, and the
end of a shutdown. Each is a task of its own, because the goal is stored before it is believed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import anyio
import anyio.abc
import msgspec

from serve_lite.controller import goals
from serve_lite.controller.books import Books
from serve_lite.controller.scaling import Scaler, Scaling
from serve_lite.controller.store import Store
from serve_lite.exceptions import ServeLiteError
from serve_lite.policy import actions as act
from serve_lite.policy.meaning import scaled_events
from serve_lite.policy.standby import goal_in_force
from serve_lite.state import events as ev
from serve_lite.state.goal import Goal
from serve_lite.state.ids import subject_of

logger = logging.getLogger(__name__)

AFTER_FAULT_S = 1.0  #: wait after a change that could not be stored


class Upkeep:
    """Changes the goal on the loop's behalf, each thing once at a time.

    Lifetime: tasks live in `group`.
    """

    def __init__(self, group: anyio.abc.TaskGroup, books: Books, store: Store, scaler: Scaler) -> None:
        self._group, self._books, self._store, self._scaler = group, books, store, scaler
        self._running: set[str] = set()  #: what is under way; "" for the shutdown itself

    def forget(self, action: act.ForgetApp) -> None:
        """Take a deleted application of which nothing is left out of the goal."""
        if action.app not in self._running and not self._books.keeps_goal:
            self._running.add(action.app)
            self._group.start_soon(self._forget, action.app)

    async def _forget(self, name: str) -> None:
        def change(goal: Goal) -> Goal:
            app = goal.apps.get(name)
            return goals.forget_app(goal, name) if app is not None and app.is_deleting else goal

        await self._tidy(name, change)

    def look_back(self, action: act.MarkProven | act.RollBack) -> None:
        """Remember a revision as one to go back to, or go back to it."""
        key = f"{action.app} revision {action.revision}"
        if key in self._running or self._books.keeps_goal:
            return
        self._running.add(key)
        if isinstance(action, act.RollBack):
            self._group.start_soon(self._fall_back, key, action)
            return
        self._group.start_soon(self._tidy, key, partial(self._proven, action), _no_events)

    def _proven(self, action: act.MarkProven, goal: Goal) -> Goal:
        return goals.mark_proven(
            goal, action.app, action.revision, action.deployments, is_whole=action.is_whole
        )

    async def _fall_back(self, key: str, action: act.RollBack) -> None:
        """Make the last revision that worked the goal again, and write down why."""
        app = self._books.goal.apps.get(action.app)
        known = await self._store.revisions(action.app) if app is not None else []
        past = next((p for p in known if app is not None and p.revision == app.proven), None)
        alive = self._books.alive()
        await self._tidy(
            key,
            lambda goal: goals.accept_fallback(
                goal, action.app, action.revision, past, action.reason, now=time.time(), alive=alive
            ),
        )
        after = self._books.goal.apps.get(action.app)
        if after is not None and after.fallback:
            self._books.record(action.app, after.fallback)

    def finish_shutdown(self) -> None:
        """When all is gone, the instance is as new: the next daemon need not go on shutting down."""
        is_done = (
            self._books.goal.is_shutting_down
            and not self._books.goal.apps
            and not self._books.observed.replicas
        )
        if is_done and "" not in self._running:
            self._running.add("")
            self._group.start_soon(
                self._tidy, "", lambda goal: msgspec.structs.replace(goal, is_shutting_down=False)
            )

    async def scale(self, scaling: Scaling) -> None:
        """Make autoscaling's target the goal's."""
        is_stored = False
        try:
            goal = await self._books.change(
                lambda goal: goals.accept_scaling(goal, scaling.deployment, scaling.target, scaling.window),
                lambda _old, _new: self._scaled_events(scaling),
            )
            is_stored = True
            views = self._books.observed.deployments
            in_force = goal_in_force(goal, views).apps.values()
            now_wanted = {d.id: d.target for app in in_force for d in app.deployments}
            self._books.record(
                subject_of(scaling.deployment),
                f"scaled from {scaling.was} to {now_wanted.get(scaling.deployment)} replicas: {scaling.reason}",
            )
        except ServeLiteError as error:
            logger.error("%s was not scaled: %s", scaling.deployment, error)
        finally:
            self._scaler.done(scaling, is_stored=is_stored)

    def _scaled_events(self, scaling: Scaling) -> list[ev.Event]:
        return scaled_events(
            scaling.deployment,
            scaling.was,
            scaling.target,
            scaling.bounds,
            self._books.observed,
            self._books.clock(),
        )

    async def _tidy(
        self,
        what: str,
        change: Callable[[Goal], Goal],
        events: Callable[[Goal, Goal], Sequence[ev.Event]] | None = None,
    ) -> None:
        try:
            await self._books.change(change, events)
        except ServeLiteError as error:
            logger.error("%s", error)
            await anyio.sleep(AFTER_FAULT_S)
            self._books.wake()
        finally:
            self._running.discard(what)


def _no_events(_old: Goal, _new: Goal) -> Sequence[ev.Event]:
    """The step from one goal to the next means nothing for any deployment."""
    return ()
