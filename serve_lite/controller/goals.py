"""From what a user hands in to the next goal: checks, numbers revisions, replaces or adds.

Functions from a goal and a request to the next goal; they change nothing themselves, and refuse a request whole.
`controller.py` stores what they return before it is acted on. What is *in* an option is checked before it gets
here (options.py, schema.py); here is checked what only the instance knows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from serve_lite.checks import invalid
from serve_lite.config import LoggingConfig
from serve_lite.exceptions import InvalidConfigError, RayServeException
from serve_lite.options import apply_overrides, route_prefix
from serve_lite.policy.autoscaling import Bounds
from serve_lite.policy.capacity import initial_target, scaling_bounds
from serve_lite.policy.schedules import NO_WINDOW, Window
from serve_lite.policy.update import settings_of, status_move, version_of
from serve_lite.runtime_env.merging import own_environment
from serve_lite.schema import DeploymentStatus
from serve_lite.state import events as ev
from serve_lite.state.environment import RuntimeEnv
from serve_lite.state.goal import (
    AppGoal,
    AppSubmission,
    BuildResult,
    CapacityDirection,
    CodeEnvironment,
    DeploymentGoal,
    DeploymentSpec,
    Goal,
)
from serve_lite.state.ids import DeploymentId
from serve_lite.state.lifecycle import DeploymentMove
from serve_lite.state.observed import Observed
from serve_lite.wire.messages import DeployRequest

#: "#" separates the parts of a replica's id; a slash or a control character would do harm in paths and logs.
_BAD_IN_NAMES = re.compile(r"[#/\x00-\x1f\x7f]")

_DEFAULT_LOGS = LoggingConfig().to_dict()


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
    _check_kind(goal, request)
    _check_names(request)
    for i, app in enumerate(request.apps):
        route_prefix(app.route_prefix, _place(request, i, "route_prefix"))
    apps = dict(goal.apps)
    listed = {app.name for app in request.apps}
    for old in goal.apps.values():
        is_replaced = request.replace_declarative and old.submission.source == "declarative"
        if (is_replaced or request.replace_all) and old.name not in listed:
            apps[old.name] = _deleting(old)
    _check_prefixes(apps, request)
    revision = goal.revision + 1
    goal = _with_capacity(goal, request)
    for submission in request.apps:
        apps[submission.name] = _accept_app(apps.get(submission.name), submission, revision, now, goal, alive)
    return msgspec.structs.replace(
        goal,
        revision=revision,
        apps=apps,
        document=_document(goal, request),
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
    new = _with_deployments(old, result.deployments, old.submission, revision, goal, alive)
    return _with_app(goal, _without_payload(new))


def reject_build(goal: Goal, app: str, revision: int, message: str) -> Goal:
    """Return the goal after a build failed: what ran before goes on."""
    old = goal.apps.get(app)
    if old is None or not old.is_building or old.revision != revision:
        return goal
    rejected = msgspec.structs.replace(old, is_building=False, build_error=message)
    return _with_app(goal, _without_payload(rejected))


def known_build(app: AppGoal) -> BuildResult | None:
    """Return the deployments of the newest submission if they are known without an importer.

    Such an application still counts as being built: parts of its environment are to be prepared.
    """
    if app.submission.build is None:
        return BuildResult(deployments=app.submission.deployments)
    is_same = app.submission.code_version == app.code_version and app.deployments
    is_known = is_same and _may_be_known(app.submission)
    return BuildResult(deployments=tuple(d.spec for d in app.deployments)) if is_known else None


def _may_be_known(submission: AppSubmission) -> bool:
    """Whether an equal code version says that what was built before is what would be built."""
    return bool(submission.code_version) and not submission.is_reread


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
    if not is_manual and not (app.submission.document or {}).get("external_scaler_enabled", False):
        raise NotScalableError(
            f"Application {app.name!r} takes no external scaler: set external_scaler_enabled in its config."
        )
    revision = goal.revision + 1
    new = msgspec.structs.replace(old, target=target)
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
    _check_prefixes(goal.apps, DeployRequest(apps=[wanted]))
    present = goal.apps.get(past.name)
    running = (*present.retired, *present.deployments) if present is not None else ()
    names = {d.id.name for d in past.deployments}
    left_out = {d.id.name: d for d in running if d.id.name not in names and d.id in alive}
    revision = goal.revision + 1
    app = msgspec.structs.replace(
        past,
        revision=revision,
        deployed_at=now,
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


def mark_proven(goal: Goal, name: str, revision: int) -> Goal:
    """Return the goal with this revision as the one to go back to; the same one if the application has changed."""
    app = goal.apps.get(name)
    if app is None or app.is_deleting or app.revision != revision:
        return goal
    return _with_app(goal, msgspec.structs.replace(app, proven=revision))


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
    scaling = goal.config.autoscaling_config
    if scaling is None:
        return goal
    return msgspec.structs.replace(
        goal, target=scaling_bounds(scaling, capacity, direction, window).clip(target)
    )


def forget_app(goal: Goal, name: str) -> Goal:
    """Return the goal without an application of which nothing is left."""
    return msgspec.structs.replace(goal, apps={n: a for n, a in goal.apps.items() if n != name})


def configured_events(old: Goal, new: Goal, observed: Observed, at: float) -> list[ev.DeploymentConfigured]:
    """Return what the step from one goal to the next means for each deployment's status."""
    events = []
    for app in new.apps.values():
        before = old.apps.get(app.name)
        if before is app or app.is_deleting:
            continue
        is_first_look = before is None  # of a new application, or of a new daemon
        is_waiting = app.is_building or bool(app.build_error)  # what should run is what it was
        had = {d.id: d for d in before.deployments} if before is not None and not before.is_deleting else {}
        for deployment in app.deployments:
            view = observed.deployments.get(deployment.id)
            wanted = (deployment.version, deployment.settings)
            is_known = view is not None and (view.version, view.settings) == wanted
            if is_known and (is_first_look or is_waiting):
                continue
            previous = had.get(deployment.id)
            events.append(
                ev.DeploymentConfigured(
                    deployment=deployment.id,
                    version=deployment.version,
                    settings=deployment.settings,
                    min_ready_s=deployment.config.min_ready_s,
                    move=status_move(previous, deployment),
                    at=at,
                )
            )
    return events


def scaled_events(
    deployment: DeploymentId, was: int, target: int, bounds: Bounds, observed: Observed, at: float
) -> list[ev.Event]:
    """Return what another number of replicas means for a deployment's status, when no user asked for it.

    Args:
        bounds: a deploy that has brought so many replicas up is not told of any more.
    """
    view = observed.deployments.get(deployment)
    if view is None or was == target:
        return []
    running = sum(r.is_running and r.version == view.version for r in observed.replicas_of(deployment))
    is_under_way = not running or bounds.clip(running) != running
    if view.status is DeploymentStatus.UPDATING and is_under_way:
        return []  # it is the deploy that is told of
    is_up = target > was
    return [
        ev.DeploymentMoved(
            deployment=deployment,
            move=DeploymentMove.AUTOSCALED_UP if is_up else DeploymentMove.AUTOSCALED_DOWN,
            message=f"{'Up' if is_up else 'Down'}scaling from {was} to {target} replicas.",
            at=at,
        )
    ]


# --- one application ----------------------------------------------------------------------------


def _accept_app(
    old: AppGoal | None,
    submission: AppSubmission,
    revision: int,
    now: float,
    goal: Goal,
    alive: Collection[DeploymentId],
) -> AppGoal:
    before = old if old is not None and not old.is_deleting else None
    app = AppGoal(
        name=submission.name,
        revision=revision,
        submission=msgspec.structs.replace(submission, deployments=()),
        deployed_at=now,
        deployments=before.deployments if before else (),
        retired=before.retired if before else (),
        route_prefix=before.route_prefix if before else None,
        code_version=before.code_version if before else "",
        autoscaling_policy=before.autoscaling_policy if before else None,
        proven=before.proven if before else 0,
    )
    if submission.build is None:
        if not submission.deployments:
            raise InvalidConfigError(f"Application {submission.name!r} has no deployments.")
        new = _with_deployments(app, submission.deployments, submission, revision, goal, alive)
        if _has_new_parts(new, app):  # prepared in a build, for which the payloads are kept
            return msgspec.structs.replace(app, submission=submission, is_building=True)
        return new
    is_known = before is not None and before.deployments and _may_be_known(submission)
    if is_known and before is not None and before.code_version == submission.code_version:
        specs = tuple(d.spec for d in before.deployments)
        new = _with_deployments(app, specs, submission, revision, goal, alive)
        if not _has_new_parts(new, app):
            return new
    return msgspec.structs.replace(app, is_building=True)


def _has_new_parts(new: AppGoal, old: AppGoal) -> bool:
    """Whether there is something to prepare before the new deployments can start."""
    known = {part for d in old.deployments for part in d.environment.parts}
    return any(part not in known for d in new.deployments for part in d.environment.parts)


def _without_payload(app: AppGoal) -> AppGoal:
    """Return the application without what only its build needed."""
    if not app.submission.deployments:
        return app
    return msgspec.structs.replace(app, submission=msgspec.structs.replace(app.submission, deployments=()))


def _with_deployments(
    app: AppGoal,
    specs: Sequence[DeploymentSpec],
    submission: AppSubmission,
    revision: int,
    goal: Goal,
    alive: Collection[DeploymentId],
) -> AppGoal:
    """Return the application with `specs` as what should run."""
    overrides = _overrides_by_name(app.name, specs, submission.overrides)
    code_version = submission.code_version or f"revision {revision}"
    prefix = route_prefix(submission.route_prefix, "route_prefix")
    ingress = ([s.name for s in specs if s.is_ingress] or [specs[-1].name])[-1] if specs else None
    before = {d.id.name: d for d in app.deployments}
    capacity, direction = goal.capacity_of(submission.source)
    deployments = tuple(
        _deployment_goal(
            DeploymentId(spec.name, app.name),
            spec,
            overrides.get(spec.name, {}),
            environment=_environment_of(submission, spec, overrides.get(spec.name, {})),
            logging_config=submission.logging_config,
            code_version=code_version,
            prefix=prefix if spec.name == ingress else None,
            capacity=capacity,
            direction=direction,
            previous=before.get(spec.name),
        )
        for spec in specs
    )
    names = {d.id.name for d in deployments}
    left_out = {d.id.name: d for d in (*app.retired, *app.deployments) if d.id.name not in names}
    return msgspec.structs.replace(
        app,
        deployments=deployments,
        retired=tuple(d for d in left_out.values() if d.id in alive),
        route_prefix=prefix,
        code_version=submission.code_version,
        autoscaling_policy=submission.autoscaling_policy,
        is_building=False,
        build_error="",
    )


def _deployment_goal(
    deployment: DeploymentId,
    spec: DeploymentSpec,
    overrides: Mapping[str, Any],
    *,
    environment: CodeEnvironment,
    logging_config: dict[str, Any] | None,
    code_version: str,
    prefix: str | None,
    capacity: float | None,
    direction: CapacityDirection,
    previous: DeploymentGoal | None,
) -> DeploymentGoal:
    where = f"Deployment {deployment.name!r}"
    config = apply_overrides(spec.config, spec.configured_options, overrides, where)
    if config.logging_config is None:
        config = msgspec.structs.replace(config, logging_config=logging_config)
    if config.logging_config == _DEFAULT_LOGS:  # as `serve build` writes it: says as much as none
        config = msgspec.structs.replace(config, logging_config=None)
    return DeploymentGoal(
        id=deployment,
        spec=spec,
        config=config,
        version=version_of(code_version, spec, config, environment),
        settings=settings_of(config, prefix),
        target=initial_target(
            config,
            capacity,
            previous.target if previous else None,
            direction=direction,
            is_changed=previous is None or previous.config.autoscaling_config != config.autoscaling_config,
        ),
        environment=environment,
        route_prefix=prefix,
    )


def _overrides_by_name(
    app: str, specs: Sequence[DeploymentSpec], overrides: Sequence[Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    names = [spec.name for spec in specs]
    for override in overrides:
        if override.get("name") not in names:
            raise InvalidConfigError(
                f"Deployment {override.get('name')!r} does not exist in application {app!r}. Available: {names}."
            )
    return {str(override["name"]): override for override in overrides}


def _environment_of(
    submission: AppSubmission, spec: DeploymentSpec, override: Mapping[str, Any]
) -> CodeEnvironment:
    """Return the environment of one deployment: its own wins over the application's."""
    app = submission.environment
    app = msgspec.structs.replace(app, sys_path=(*spec.added_path, *app.sys_path))
    own = spec.runtime_env
    if override.get("ray_actor_options") is not None:  # replaces what the code says, as a whole
        own = submission.own_runtime_envs.get(spec.name, RuntimeEnv())
    elif own is None:  # built by a release that had only this much
        given = spec.config.ray_actor_options.get("runtime_env") or {}
        own = RuntimeEnv(env_vars=given.get("env_vars") or {})
    return own_environment(app, submission.runtime_env, own)


def _deleting(app: AppGoal) -> AppGoal:
    return msgspec.structs.replace(app, is_deleting=True, is_building=False, build_error="")


def _with_app(goal: Goal, app: AppGoal) -> Goal:
    return msgspec.structs.replace(goal, apps={**goal.apps, app.name: app})


# --- checks -------------------------------------------------------------------------------------


def _place(request: DeployRequest, index: int, field: str) -> str:
    """Return where a field of an application stands in the document that the request came from."""
    is_list = request.document is not None and "applications" in request.document
    return f"applications[{index}].{field}" if is_list else field


def _check_names(request: DeployRequest) -> None:
    seen: set[str] = set()
    for i, app in enumerate(request.apps):
        where = _place(request, i, "name")
        if not app.name:
            raise invalid(where, "An application's name may not be empty.")
        for name, kind in [(app.name, "application"), *((d.name, "deployment") for d in app.deployments)]:
            if _BAD_IN_NAMES.search(name):
                raise invalid(
                    where,
                    f"{name!r} cannot be the name of {'an' if kind[0] == 'a' else 'a'} {kind}: "
                    "'#', '/' and control characters are not allowed.",
                )
        if app.name in seen:
            raise invalid(where, f"Two applications are called {app.name!r}; names must be unique.")
        seen.add(app.name)
        names = [d.name for d in app.deployments]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise InvalidConfigError(
                f"Two deployments of application {app.name!r} are called {double!r}; names must be unique."
            )


def _check_kind(goal: Goal, request: DeployRequest) -> None:
    """Refuse to mix the two kinds of documents, as Ray Serve 2.7 does, while an application of one is live."""
    if not request.keeps_kind or goal.document is None or request.document is None:
        return
    was_many, is_many = ("applications" in document for document in (goal.document, request.document))
    is_live = any(a.submission.source == "declarative" and not a.is_deleting for a in goal.apps.values())
    if was_many is is_many or not is_live:
        return
    kinds = ("a single-application config", "a multi-application config")
    advice = (
        "use PUT /api/serve/deployments/, delete the application first (`serve delete default`), or add applications "
        "to it with ?merge=true.",
        "use PUT /api/serve/applications/, or delete the applications first.",
    )
    raise InvalidConfigError(
        f"You are trying to deploy {kinds[is_many]}, however {kinds[was_many]} has been deployed to the current "
        f"Serve instance already. Mixing single-app and multi-app is not allowed: {advice[was_many]}"
    )


def _check_prefixes(apps: Mapping[str, AppGoal], request: DeployRequest) -> None:
    """Refuse a prefix that another application has, or is about to have."""
    owners: dict[str, str] = {}
    submitted = {s.name for s in request.apps}
    for app in apps.values():
        if app.is_deleting or app.name in submitted:
            continue
        wanted = app.submission.route_prefix if app.is_building else None
        for prefix in (app.route_prefix, wanted):
            if prefix is not None:
                owners[prefix] = app.name
    for i, submission in enumerate(request.apps):
        prefix = submission.route_prefix
        if prefix is None:
            continue
        if prefix in owners:
            error = RayServeException(
                f'Prefix {prefix} is being used by application "{owners[prefix]}". Failed to deploy application '
                f'"{submission.name}". Give it another route_prefix, or delete "{owners[prefix]}" first.'
            )
            error.path = _place(request, i, "route_prefix")
            raise error
        owners[prefix] = submission.name


def _with_capacity(goal: Goal, request: DeployRequest) -> Goal:
    """Return the goal with the document's `target_capacity`, and in which direction that changes it."""
    if not (request.replace_declarative or request.merge) or request.document is None:
        return goal
    if request.merge and "target_capacity" not in request.document:
        return goal
    given = request.document.get("target_capacity")
    capacity = None if given is None else float(given)
    direction = _direction(goal, _document(goal, request) or {}, capacity)
    return msgspec.structs.replace(goal, target_capacity=capacity, capacity_direction=direction)


def _direction(goal: Goal, document: Mapping[str, Any], capacity: float | None) -> CapacityDirection:
    """Return where the capacity goes, by Ray Serve's rules: None is as much as 100, and other apps begin at 0."""
    if capacity is None:
        return None
    if goal.document is None or _names(goal.document) != _names(document):
        return "UP"
    before = goal.target_capacity
    if before is None or capacity < before:
        return "DOWN"
    return "UP" if capacity > before else goal.capacity_direction


def _names(document: Mapping[str, Any]) -> set[str]:
    return {str(app.get("name", "default")) for app in document.get("applications", [document])}


def _document(goal: Goal, request: DeployRequest) -> dict[str, Any] | None:
    """Return the document in force after the request."""
    if request.merge and request.document is not None:
        return merged(goal.document, request.document)
    return request.document if request.replace_declarative else goal.document


def merged(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with what `new` gives, and the applications of `old` that it does not name."""
    if old is None:
        return dict(new)
    if "applications" not in old:  # a single application, of the older kind
        old = {"applications": [{k: v for k, v in old.items() if k not in ("host", "port")}]}
    apps = {app.get("name", "default"): app for app in (*old["applications"], *new["applications"])}
    return {**old, **new, "applications": list(apps.values())}
