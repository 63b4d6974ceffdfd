"""Builds: from a submission to deployments as data, in a process of its own (`importer.py`).

The loop starts and cancels them; what comes of one becomes the goal.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio
import anyio.abc

from serve_lite.controller import goals
from serve_lite.controller.books import Books
from serve_lite.controller.environments import Environments
from serve_lite.controller.failures import describe
from serve_lite.exceptions import InstanceError, ServeLiteError
from serve_lite.policy import actions as act
from serve_lite.policy.meaning import has_fewer
from serve_lite.schema import Phase
from serve_lite.state import events as ev
from serve_lite.state.goal import AppGoal, BuildRequest, BuildResult, CodeEnvironment, Goal

logger = logging.getLogger(__name__)

AFTER_FAULT_S = 1.0  #: wait after a build that failed for a fault of ours


class Builder(Protocol):
    """Builds applications in another process (`importer.py`)."""

    async def build(self, request: BuildRequest, environment: CodeEnvironment, /) -> BuildResult: ...


class Builds:
    """The builds that run, one for each application at most.

    Lifetime: they run in `group`; when that is cancelled, their importers end with them.

    Args:
        post: tells the loop that a build has ended.
        ask_load: has replicas tell what they do.
    """

    def __init__(
        self,
        group: anyio.abc.TaskGroup,
        books: Books,
        builder: Builder,
        environments: Environments,
        *,
        post: Callable[[ev.Event], None],
        ask_load: Callable[[], Awaitable[None]],
    ) -> None:
        self._group, self._books, self._builder, self._environments = group, books, builder, environments
        self._post, self._ask_load = post, ask_load
        self._running: dict[str, tuple[int, anyio.CancelScope]] = {}
        environments.wanted = self.wanted_environments

    def start(self, action: act.StartBuild) -> None:
        """Start a build. Event: BuildEnded, with the goal changed by then."""
        scope = anyio.CancelScope()
        self._running[action.app] = (action.revision, scope)
        self._group.start_soon(self._build, action.app, action.revision, scope)

    def cancel(self, action: act.CancelBuild) -> None:
        """End a build that nobody waits for any more."""
        revision, scope = self._running.get(action.app, (0, None))
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
                    building = self._books.goal.apps[app]
                    result = goals.known_build(building) or await self._imported(building)
                    alive = self._books.alive()
                    built = goals.accept_build(self._books.goal, app, revision, result, alive)
                    await self._prepare(built, app, revision)
                    if has_fewer(built, [app], self._books.observed):
                        await self._ask_load()
                    await self._books.change(
                        lambda goal: goals.accept_build(goal, app, revision, result, alive)
                    )
                    self._books.record(app, f"revision {revision} is built")
                except ServeLiteError as error:
                    message = f"Deploying app '{app}' failed with exception:\n{describe(error)}"
                    await self._books.change(lambda goal: goals.reject_build(goal, app, revision, message))
                    self._books.record(app, f"revision {revision} could not be built: {error}")
            except Exception:  # boundary: say it, and try the build again on the next pass after a while
                logger.exception("building application %r failed for a fault of ours", app)
                await anyio.sleep(AFTER_FAULT_S)
        if self._running.get(app) == (revision, scope):
            del self._running[app]
        self._post(ev.BuildEnded(app=app, revision=revision, at=self._books.clock()))

    async def built(self, goal: Goal, name: str) -> Goal:
        """Return the goal with an application built, or with why it was not."""
        app = goal.apps[name]
        try:
            result = goals.known_build(app) or await self._imported(app)
            return goals.accept_build(goal, name, app.revision, result, ())
        except InstanceError:
            raise
        except ServeLiteError as error:
            return goals.reject_build(goal, name, app.revision, describe(error))

    async def _imported(self, app: AppGoal) -> BuildResult:
        """Return what an importer finds, in the environment that it needs."""
        assert app.submission.build is not None
        if app.submission.environment.parts:
            self._enter(app.name, app.revision, Phase.PREPARING_ENVIRONMENT)
            await self._environments.resolve(app.submission.environment)
            self._enter(app.name, app.revision, Phase.IMPORTING)
        return await self._builder.build(app.submission.build, app.submission.environment)

    def _enter(self, app: str, revision: int, phase: Phase) -> None:
        self._books.fold((ev.BuildPhased(app=app, revision=revision, phase=phase, at=self._books.clock()),))

    async def _prepare(self, goal: Goal, app: str, revision: int) -> None:
        """Have everything prepared that the deployments of an application need."""
        found = goal.apps.get(app)
        deployments = found.deployments if found is not None else ()
        parts = dict.fromkeys(part for d in deployments for part in d.environment.parts)
        if parts:
            self._enter(app, revision, Phase.PREPARING_ENVIRONMENT)
            await self._environments.resolve(CodeEnvironment(parts=tuple(parts)))

    def wanted_environments(self) -> list[CodeEnvironment]:
        """Return the environments that the goal uses, or is about to."""
        apps = self._books.goal.apps.values()
        wanted = [d for app in apps for d in (*app.deployments, *app.retired)]
        deployments = [*wanted, *(d.before for d in wanted if d.before is not None)]
        return [*(app.submission.environment for app in apps), *(d.environment for d in deployments)]
