"""`serve run --reload`: deploy again when files change, and go on serving whatever comes of it.

Each deployment's version is made from what its files hold (`BuildRequest.by_content`), so the instance replaces those
that have changed, new replicas before old ones, and leaves the others alone. Here is only decided when to deploy
again, and told what it did. Which files count is told in `watching.py`.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Sequence

import anyio
import anyio.abc
import msgspec

from serve_lite.engines.local import connect_instance
from serve_lite.exceptions import InstanceError, ServeLiteError
from serve_lite.policy.diff import AppPlan, DeploymentPlan, compare
from serve_lite.schema import ServeStatus
from serve_lite.state.goal import Goal
from serve_lite.wire.messages import DeleteRequest, Empty, GoalRequest, InstanceInfo, WaitRequest
from serve_lite_cli.foreground import ENDED, Foreground, check_running, say
from serve_lite_cli.plan import Plan
from serve_lite_cli.watching import Changes, Watched, watch

#: So many changed files are named; of a changed branch, their number says more.
NAMED_FILES = 5

#: How a deploy is told to have gone, by what was done to a deployment (policy/diff.py).
DONE = {
    "restart": "replaced",
    "create": "started",
    "remove": "removed",
    "reconfigure": "reconfigured",
    "scale": "scaled",
    "update": "updated",
    "nothing": "left alone",
}


class ReloadingForeground(Foreground):
    """One `serve run --reload`. Lifetime: as `Foreground`; it watches from before the first deploy until it ends.

    A change that comes while a deploy goes on ends the wait for that deploy: the files are deployed again as they
    are then, which also cancels a build. So none is lost, and a constructor that never returns can be mended.
    """

    def __init__(
        self, plan: Plan, info: InstanceInfo, read_plan: Callable[[], Plan], *, owns_instance: bool
    ) -> None:
        """Prepare to run `plan`, and what `read_plan` returns after each change."""
        super().__init__(plan, info, owns_instance=owns_instance, blocking=True)
        self._read_plan = read_plan
        self._changes = Changes()
        self._watched: Watched | None = None
        self._watching = anyio.CancelScope()
        self._running: Goal | None = None  # what was deployed last without failing
        self._is_current = False  # nothing was deployed since
        self._ours: list[str] = []  # the applications that the last accepted deploy left

    async def _serve(self) -> None:
        failure: Exception | None = None
        async with anyio.create_task_group() as group:

            async def end_with_instance() -> None:
                await self._is_gone.wait()
                group.cancel_scope.cancel()

            group.start_soon(end_with_instance)
            try:
                await self._serve_files(group)
            except ServeLiteError as error:
                failure = error
            group.cancel_scope.cancel()
        raise failure or InstanceError(ENDED)

    async def _serve_files(self, group: anyio.abc.TaskGroup) -> None:
        """Deploy now and after each change, until cancelled.

        Raises:
            ServeLiteError: the first deploy was refused, files cannot be watched, or the instance has ended.
        """
        await self._watch(group, self._plan)
        plan = self._read_plan()  # again: it may have changed before it was watched
        await self._watch(group, plan)
        await self._submit(with_content_versions(plan))
        await self._settle(plan)
        while True:
            await self._changes.come()
            paths = self._changes.take()
            forget_bytecode(paths)
            say(f"Detected file change in path {named(paths)}. Redeploying app.")
            try:
                plan = self._read_plan()
                await self._watch(group, plan)
                await self._remove([name for name in self._ours if name not in plan.names])
                await self._look_at_what_runs()
                await self._submit(with_content_versions(plan))
            except ServeLiteError as error:
                await self._complain(error)
            else:
                await self._settle(plan)

    async def _watch(self, group: anyio.abc.TaskGroup, plan: Plan) -> None:
        """Watch what `plan` is made from; the old watcher ends when the new one watches."""
        watched = Watched.of(plan)
        if watched != self._watched:
            scope = await group.start(watch, watched, self._changes)
            self._watching.cancel()
            self._watching, self._watched = scope, watched

    async def _settle(self, plan: Plan) -> None:
        """Wait until an accepted deploy is done, or until there is another change, and tell how it went."""
        self._logs.add(plan.names)
        self._tell_what_waits(plan)
        self._plan, self._ours, self._is_current = plan, plan.names, False
        status = await self._status_when_done(plan)
        if status is None:
            return
        try:
            check_running(plan.names, status)
            goal = await self._ask("goal", GoalRequest(names=plan.names), Goal)
        except ServeLiteError as error:
            await self._complain(error)
            return
        done = compare(self._running or Goal(), goal)
        for app in plan.request.apps:
            if app.name in done and done[app.name].action != "create":
                say(outcome(app.name, done[app.name]))
            else:
                say(self._ready_line(app.name, app.route_prefix))
        if self._running is None:
            self._tell_grpc()
        self._running, self._is_current = goal, True
        self._may_remove = list(dict.fromkeys([*self._may_remove, *plan.names]))

    async def _look_at_what_runs(self) -> None:
        """Take in what others, or autoscaling, have changed since the last deploy: it is not what this one does."""
        if self._is_current:
            self._running = await self._ask("goal", GoalRequest(names=self._ours), Goal)

    async def _status_when_done(self, plan: Plan) -> ServeStatus | None:
        """Return the status once nothing of the plan is being deployed; None if files change before."""
        status: ServeStatus | None = None
        async with anyio.create_task_group() as group:

            async def give_up_on_change() -> None:
                await self._changes.come()
                group.cancel_scope.cancel()

            group.start_soon(give_up_on_change)
            failure: ServeLiteError | None = None
            try:
                status = await self._ask("wait_apps", WaitRequest(names=plan.names), ServeStatus)
            except ServeLiteError as error:
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return status

    async def _remove(self, gone: list[str]) -> None:
        """Delete applications that the config file does not list any more."""
        if gone:
            await self._ask("delete", DeleteRequest(names=gone), Empty)
            self._may_remove = [name for name in self._may_remove if name not in gone]
            self._ours = [name for name in self._ours if name not in gone]
            for name in gone:
                say(f"Application '{name}' is removed.")

    async def _complain(self, error: ServeLiteError) -> None:
        """Tell what went wrong.

        Raises:
            InstanceError: the instance has ended, so it is the last thing that could go wrong.
        """
        if isinstance(error, InstanceError):
            connection = await connect_instance(self._info.home)
            if connection is None:
                raise error
            connection.close()
        print(f"Error: {error}", file=sys.stderr, flush=True)
        what_is = "What ran before goes on" if self._running is not None else "Nothing runs yet"
        say(
            f"Deploying the latest version of the application failed. {what_is}; waiting for the next change."
        )

    def _tell_what_waits(self, plan: Plan) -> None:
        was, will_be = _options(self._plan), _options(plan)
        if changed := [key for key in was if was[key] != will_be.get(key)]:
            say(
                f"Changed {' and '.join(changed)} take effect when an instance starts: stop, and run it again."
            )


def _options(plan: Plan) -> dict[str, object]:
    """Return what only the start of an instance takes from a config file."""
    document = plan.document
    if "applications" not in document:  # a file of the older kind has them among everything else
        return {"http_options": {key: document[key] for key in ("host", "port") if key in document}}
    return {key: document.get(key) or {} for key in ("http_options", "grpc_options", "proxy_location")}


def with_content_versions(plan: Plan) -> Plan:
    """Return the plan with applications that are built anew each time, and versioned by content."""
    apps = [
        msgspec.structs.replace(
            app,
            build=None if app.build is None else msgspec.structs.replace(app.build, by_content=True),
            code_version=f"reload {secrets.token_hex(8)}",  # none is known: files are read each time
        )
        for app in plan.request.apps
    ]
    return msgspec.structs.replace(plan, request=msgspec.structs.replace(plan.request, apps=apps))


def forget_bytecode(paths: Iterable[str]) -> None:
    """Remove what Python has compiled from these files.

    Python believes it as long as second and size of the source are the same, which two quick edits may well be.
    """
    for path in paths:
        if not path.endswith(".py"):
            continue
        folder, name = os.path.split(importlib.util.cache_from_source(path))
        pattern = os.path.join(glob.escape(folder), f"{glob.escape(name.partition('.')[0])}.*.pyc")
        for compiled in glob.iglob(pattern):
            try:
                os.unlink(compiled)
            except FileNotFoundError:
                pass


def named(paths: Sequence[str]) -> str:
    """Return changed files as the user knows them: from here if they are below, else whole."""
    here = os.path.realpath(os.curdir) + os.sep
    shown = [path.removeprefix(here) for path in paths[:NAMED_FILES]]
    rest = len(paths) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def outcome(name: str, plan: AppPlan) -> str:
    """Return what a deploy did to an application that was there before."""
    by_word: dict[str, list[str]] = {word: [] for word in DONE.values()}
    for deployment, step in plan.deployments.items():
        by_word[DONE[step.action]].append(_deployment(deployment, step))
    told = [f"{word} {', '.join(deployments)}" for word, deployments in by_word.items() if deployments]
    return f"Application '{name}' is up to date: {'; '.join(told)}."


def _deployment(name: str, step: DeploymentPlan) -> str:
    if step.action == "scale":
        return f"{name} from {step.replicas_before} to {step.replicas_after}"
    return name
