"""One application's goal: from what was submitted and what was built to the deployments that should run.

Functions from values to values, used by `goals.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from serve_lite.config import LoggingConfig
from serve_lite.exceptions import InvalidConfigError
from serve_lite.options import apply_overrides, route_prefix
from serve_lite.policy.capacity import initial_target
from serve_lite.policy.standby import following
from serve_lite.policy.update import settings_of, version_of
from serve_lite.runtime_env.merging import own_environment
from serve_lite.state.environment import RuntimeEnv
from serve_lite.state.goal import (
    AppGoal,
    AppSubmission,
    CapacityDirection,
    CodeEnvironment,
    DeploymentGoal,
    DeploymentSpec,
    Goal,
)
from serve_lite.state.ids import DeploymentId

_DEFAULT_LOGS = LoggingConfig().to_dict()


def accept_app(
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
        new = with_deployments(app, submission.deployments, submission, revision, goal, alive)
        if _has_new_parts(new, app):  # prepared in a build, for which the payloads are kept
            return msgspec.structs.replace(app, submission=submission, is_building=True)
        return new
    is_known = before is not None and before.deployments and may_be_known(submission)
    if is_known and before is not None and before.code_version == submission.code_version:
        specs = tuple(d.spec for d in before.deployments)
        new = with_deployments(app, specs, submission, revision, goal, alive)
        if not _has_new_parts(new, app):
            return new
    return msgspec.structs.replace(app, is_building=True)


def _has_new_parts(new: AppGoal, old: AppGoal) -> bool:
    """Whether there is something to prepare before the new deployments can start."""
    known = {part for d in old.deployments for part in d.environment.parts}
    return any(part not in known for d in new.deployments for part in d.environment.parts)


def without_payload(app: AppGoal) -> AppGoal:
    """Return the application without what only its build needed."""
    if not app.submission.deployments:
        return app
    return msgspec.structs.replace(app, submission=msgspec.structs.replace(app.submission, deployments=()))


def with_deployments(
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
    goal = DeploymentGoal(
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
    return following(previous, goal)


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


def may_be_known(submission: AppSubmission) -> bool:
    """Whether an equal code version says that what was built before is what would be built."""
    return bool(submission.code_version) and not submission.is_reread
