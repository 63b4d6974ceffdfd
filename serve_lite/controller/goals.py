"""From what a user hands in to the next goal: checks, numbers revisions, replaces or adds.

Functions from a goal and a request to the next goal; they change nothing themselves, and refuse a request whole.
`controller.py` stores what they return before it is acted on. What is *in* an option is checked before it gets
here (options.py, schema.py), and what only the instance knows by `refusals.py`. One application is put together in
`assembly.py`, the document in `documents.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from serve_lite.controller.assembly import accept_app, may_be_known, with_deployments, without_payload
from serve_lite.controller.documents import document_after, merged, with_capacity
from serve_lite.controller.refusals import check_kind, check_names, check_prefixes, place_of
from serve_lite.exceptions import RayServeException
from serve_lite.options import route_prefix
from serve_lite.policy.capacity import scaling_bounds
from serve_lite.policy.schedules import NO_WINDOW, Window
from serve_lite.policy.standby import following
from serve_lite.state.goal import (
    AppGoal,
    BuildResult,
    CapacityDirection,
    DeploymentGoal,
    Goal,
    takes_scaler,
)
from serve_lite.state.ids import DeploymentId
from serve_lite.wire.messages import DeployRequest


class StaleRevisionError(RayServeException):
    """The goal has changed since the client looked at it. Look again, then decide."""


class UnknownNameError(RayServeException):
    """There is no such application, deployment or revision."""


class NotScalableError(RayServeException):
    """The number of replicas is not for this caller to set, or not now."""


def with_logging(request: DeployRequest, logging_config: dict[str, Any] | None) -> DeployRequest:
    """Return the request with the instance's logging for applications that bring none of their own."""
    if logging_config is None:
        return request
    apps = [
        app if app.logging_config is not None else msgspec.structs.replace(app, logging_config=logging_config)
        for app in request.apps
    ]
    return msgspec.structs.replace(request, apps=apps)


def at_revision(goal: Goal, revisions: Collection[int] | None) -> Goal:
    """Return the goal, if it is one that the caller has seen; None takes any.

    Raises:
        StaleRevisionError: it is not.
    """
    if revisions is not None and goal.revision not in revisions:
        raise StaleRevisionError(
            f"The configuration has changed meanwhile: it is at revision {goal.revision}. "
            "Get it again, and repeat the change."
        )
    return goal


def accept_deploy(goal: Goal, request: DeployRequest, *, now: float, alive: Collection[DeploymentId]) -> Goal:
    """Return the goal after a deploy.

    Args:
        now: wall clock, to show.
        alive: deployments that have replicas; those that the new version leaves out are retired slowly.

    Raises:
        InvalidConfigError: a name, prefix or override is wrong, or the document is of another kind than it may be.
        RayServeException: a route prefix is taken, or the instance is shutting down.
        StaleRevisionError: the request asks for another revision than the present one.
    """
    goal = at_revision(goal, request.if_revisions)
    if goal.is_shutting_down:
        raise RayServeException(
            "Serve is shutting down, so nothing can be deployed. Start it again afterwards."
        )
    check_kind(goal, request)
    check_names(request)
    for i, app in enumerate(request.apps):
        route_prefix(app.route_prefix, place_of(request, i, "route_prefix"))
    apps = dict(goal.apps)
    listed = {app.name for app in request.apps}
    for old in goal.apps.values():
        is_replaced = request.replace_declarative and old.submission.source == "declarative"
        if (is_replaced or request.replace_all) and old.name not in listed:
            apps[old.name] = _deleting(old)
    check_prefixes(apps, request)
    revision = goal.revision + 1
    goal = with_capacity(goal, request)
    for submission in request.apps:
        apps[submission.name] = accept_app(apps.get(submission.name), submission, revision, now, goal, alive)
    return msgspec.structs.replace(
        goal,
        revision=revision,
        apps=apps,
        document=document_after(goal, request),
    )


def accept_build(
    goal: Goal, app: str, revision: int, result: BuildResult, alive: Collection[DeploymentId]
) -> Goal:
    """Return the goal after an importer is done; the same one if nobody waits for it any more.

    Raises:
        InvalidConfigError: what was built does not fit the submission, for example an override names a
            deployment that does not exist.
    """
    old = goal.apps.get(app)
    if old is None or not old.is_building or old.revision != revision:
        return goal
    new = with_deployments(old, result.deployments, old.submission, revision, goal, alive)
    return _with_app(goal, without_payload(new))


def reject_build(goal: Goal, app: str, revision: int, message: str) -> Goal:
    """Return the goal after a build failed: what ran before goes on."""
    old = goal.apps.get(app)
    if old is None or not old.is_building or old.revision != revision:
        return goal
    rejected = msgspec.structs.replace(old, is_building=False, build_error=message)
    return _with_app(goal, without_payload(rejected))


def known_build(app: AppGoal) -> BuildResult | None:
    """Return the deployments of the newest submission if they are known without an importer.

    Such an application still counts as being built: parts of its environment are to be prepared.
    """
    if app.submission.build is None:
        return BuildResult(deployments=app.submission.deployments)
    is_same = app.submission.code_version == app.code_version and app.deployments
    is_known = is_same and may_be_known(app.submission)
    return BuildResult(deployments=tuple(d.spec for d in app.deployments)) if is_known else None


def accept_delete(goal: Goal, names: Iterable[str]) -> Goal:
    """Return the goal without these applications; unknown names are passed over, as in Ray Serve."""
    gone = {name: _deleting(goal.apps[name]) for name in names if name in goal.apps}
    if not gone:
        return goal
    return msgspec.structs.replace(goal, revision=goal.revision + 1, apps={**goal.apps, **gone})


def accept_clear(goal: Goal) -> Goal:
    """Return the goal without applications and without a document, as if nothing had ever been deployed."""
    is_clear = goal.document is None and goal.target_capacity is None
    if is_clear and all(app.is_deleting for app in goal.apps.values()):
        return goal
    return msgspec.structs.replace(
        goal,
        revision=goal.revision + 1,
        apps={name: _deleting(app) for name, app in goal.apps.items()},
        document=None,
        target_capacity=None,
        capacity_direction=None,
    )


def accept_scale(goal: Goal, deployment: DeploymentId, target: int, *, is_manual: bool) -> Goal:
    """Return the goal with another number of replicas of one deployment, until the next deploy says otherwise.

    Args:
        is_manual: the user asks, not a scaler that the application has to allow (`external_scaler_enabled`).

    Raises:
        UnknownNameError: there is no such deployment.
        NotScalableError: it is being deleted or built, scales by itself, or allows no scaler.
    """
    app = goal.apps.get(deployment.app_name)
    old = next((d for d in app.deployments if d.id == deployment), None) if app is not None else None
    if app is None or old is None:
        raise UnknownNameError(f"There is no deployment {deployment.name!r} in {deployment.app_name!r}.")
    if app.is_deleting:
        raise NotScalableError("Deployment is deleted")
    if app.is_building:
        raise NotScalableError(f"Application {app.name!r} is just being built; scale it when that is done.")
    if old.config.autoscaling_config is not None:
        raise NotScalableError(
            f"Deployment {deployment.name!r} has an autoscaling_config, which decides how many replicas it has. "
            "Change its min_replicas and max_replicas, or give it num_replicas instead."
        )
    if not is_manual and not takes_scaler(app.submission):
        raise NotScalableError(
            f"Application {app.name!r} takes no external scaler: set external_scaler_enabled in its config, "
            "or in `serve.run`."
        )
    revision = goal.revision + 1
    before = old.before
    if before is not None and before.config.autoscaling_config is None:
        before = msgspec.structs.replace(before, target=target)
    new = msgspec.structs.replace(old, target=target, before=before)
    deployments = tuple(new if d is old else d for d in app.deployments)
    scaled = msgspec.structs.replace(app, revision=revision, deployments=deployments)
    return msgspec.structs.replace(_with_app(goal, scaled), revision=revision)


def accept_rollback(
    goal: Goal, past: AppGoal, *, now: float, alive: Collection[DeploymentId], why: str = ""
) -> Goal:
    """Return the goal with an application as it was at an earlier revision, built parts included.

    What it imports is imported as it is today: revisions keep configuration and arguments, not files.

    Args:
        why: what the status is to say of a rollback that nobody asked for; "" for one that the user wants.

    Raises:
        RayServeException: its route prefix is taken meanwhile, or the instance is shutting down.
    """
    if goal.is_shutting_down:
        raise RayServeException("Serve is shutting down, so nothing can be rolled back.")
    wanted = msgspec.structs.replace(past.submission, route_prefix=past.route_prefix)
    check_prefixes(goal.apps, DeployRequest(apps=[wanted]))
    present = goal.apps.get(past.name)
    running = (*present.retired, *present.deployments) if present is not None else ()
    names = {d.id.name for d in past.deployments}
    left_out = {d.id.name: d for d in running if d.id.name not in names and d.id in alive}
    revision = goal.revision + 1
    had = {d.id: d for d in present.deployments} if present is not None and not present.is_deleting else {}
    app = msgspec.structs.replace(
        past,
        revision=revision,
        deployed_at=now,
        deployments=tuple(following(had.get(d.id), d) for d in past.deployments),
        retired=tuple(left_out.values()),
        is_building=False,
        build_error="",
        is_deleting=False,
        proven=present.proven if present is not None else 0,
        is_going_back=True,
        fallback=why,
    )
    document = goal.document
    if document is not None and past.submission.document is not None:
        is_list = "applications" in document
        part = past.submission.document
        document = merged(document, {"applications": [part]}) if is_list else part
    return msgspec.structs.replace(_with_app(goal, app), revision=revision, document=document)


def accept_fallback(
    goal: Goal,
    name: str,
    revision: int,
    past: AppGoal | None,
    why: str,
    *,
    now: float,
    alive: Collection[DeploymentId],
) -> Goal:
    """Return the goal after a revision was given up: the one that proved itself again, if it can be had.

    The same one if the application has changed meanwhile. If there is no way back, the status says why.

    Args:
        past: the revision that proved itself, as the store has it; None if it has not.
        why: the revision was given up.
    """
    app = goal.apps.get(name)
    if app is None or app.is_deleting or app.revision != revision or app.fallback:
        return goal
    refusal = f"it is not kept any more (revision {app.proven})"
    if past is not None:
        text = f"Revision {revision} was given up, and revision {past.revision} is wanted again. Why:\n{why}"
        try:
            return accept_rollback(goal, past, now=now, alive=alive, why=text)
        except RayServeException as error:
            refusal = str(error)
    text = f"Revision {revision} was given up, but the one before could not be taken back: {refusal}"
    return _with_app(goal, msgspec.structs.replace(app, fallback=text))


def mark_proven(
    goal: Goal, name: str, revision: int, deployments: Collection[str] = (), *, is_whole: bool = True
) -> Goal:
    """Return the goal with what is known to work; the same one if the application has changed.

    Args:
        deployments: run as they should, so nothing needs to stand by for them.
        is_whole: the revision is one to go back to.
    """
    app = goal.apps.get(name)
    if app is None or app.is_deleting or app.revision != revision:
        return goal
    return _with_app(
        goal,
        msgspec.structs.replace(
            app,
            proven=revision if is_whole else app.proven,
            deployments=tuple(
                msgspec.structs.replace(d, is_proven=True, before=None) if d.id.name in deployments else d
                for d in app.deployments
            ),
        ),
    )


def accept_shutdown(goal: Goal) -> Goal:
    """Return the goal of an instance that is to end."""
    gone = accept_delete(goal, list(goal.apps))
    return msgspec.structs.replace(gone, is_shutting_down=True, document=None)


def accept_scaling(goal: Goal, deployment: DeploymentId, target: int, window: Window = NO_WINDOW) -> Goal:
    """Return the goal with as many replicas of a deployment as autoscaling wants.

    The same one if the deployment is not scaled any more. The bounds hold, whatever has changed them meanwhile.

    Args:
        window: what schedules ask for.
    """
    app = goal.apps.get(deployment.app_name)
    if app is None or app.is_deleting:
        return goal
    deployments = tuple(
        _scaled(d, target, *goal.capacity_of(app.submission.source), window) if d.id == deployment else d
        for d in app.deployments
    )
    if deployments == app.deployments:
        return goal
    return _with_app(goal, msgspec.structs.replace(app, deployments=deployments))


def _scaled(
    goal: DeploymentGoal, target: int, capacity: float | None, direction: CapacityDirection, window: Window
) -> DeploymentGoal:
    if goal.before is not None:
        before = _scaled(goal.before, target, capacity, direction, window)
        goal = msgspec.structs.replace(goal, before=before)
    scaling = goal.config.autoscaling_config
    if scaling is None:
        return goal
    return msgspec.structs.replace(
        goal, target=scaling_bounds(scaling, capacity, direction, window).clip(target)
    )


def forget_app(goal: Goal, name: str) -> Goal:
    """Return the goal without an application of which nothing is left."""
    return msgspec.structs.replace(goal, apps={n: a for n, a in goal.apps.items() if n != name})


def _deleting(app: AppGoal) -> AppGoal:
    return msgspec.structs.replace(app, is_deleting=True, is_building=False, build_error="")


def _with_app(goal: Goal, app: AppGoal) -> Goal:
    return msgspec.structs.replace(goal, apps={**goal.apps, app.name: app})
