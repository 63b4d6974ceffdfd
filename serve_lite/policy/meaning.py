"""What the step from one goal to the next means for each deployment's status.

Pure. The controller folds these events into what is observed, in the same step in which it believes the goal.
"""

from __future__ import annotations

from collections.abc import Iterable

from serve_lite.policy.autoscaling import Bounds
from serve_lite.policy.update import status_move
from serve_lite.schema import DeploymentStatus
from serve_lite.state import events as ev
from serve_lite.state.goal import Goal
from serve_lite.state.ids import DeploymentId
from serve_lite.state.lifecycle import DeploymentMove
from serve_lite.state.observed import Observed


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
                    standby_version=deployment.before.version if deployment.before else "",
                    standby_settings=deployment.before.settings if deployment.before else "",
                    at=at,
                )
            )
    return events


def has_fewer(new: Goal, apps: Iterable[str], observed: Observed) -> bool:
    """Whether a goal wants fewer replicas of these applications than there are: then it matters which are idle."""
    return any(
        d.target < sum(r.is_alive for r in observed.replicas_of(d.id))
        for app in (new.apps.get(name) for name in apps)
        if app is not None and not app.is_deleting
        for d in app.deployments
    )


def scaled_by_hand_events(
    deployment: DeploymentId, old: Goal, new: Goal, observed: Observed, at: float
) -> list[ev.DeploymentConfigured]:
    """Return what another number of replicas that a user asks for means for the deployment's status.

    For one that has fallen back, nothing: what serves is scaled, and what failed is not tried again by it.
    """
    view = observed.deployments.get(deployment)
    if view is not None and view.has_fallen_back:
        return []
    return [event for event in configured_events(old, new, observed, at) if event.deployment == deployment]


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
