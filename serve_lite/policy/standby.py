"""The version that stands by: the last one of a deployment that ran as it should, until the wanted one has.

Pure. A deploy remembers it (`following`). If the wanted version is given up while older replicas serve, they are
what the deployment *has fallen back* to: the version that stands by is started, scaled and replaced as if it were
wanted, until the next deploy. The same holds for a deployment that is still held back for another one's update.
What the user asked for stays the goal, and the status goes on saying that it failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from serve_lite.policy.restart import StartGate, plan_start
from serve_lite.schema import DeploymentStatus
from serve_lite.state.goal import AppGoal, DeploymentGoal, Goal
from serve_lite.state.ids import DeploymentId
from serve_lite.state.observed import DeploymentView, StartRecord

_GOOD = StartRecord(has_started=True)


def following(previous: DeploymentGoal | None, new: DeploymentGoal) -> DeploymentGoal:
    """Return what a deploy makes the goal of a deployment, with what stands by for it.

    Args:
        previous: its goal so far, if it had one.
    """
    if previous is None:
        return msgspec.structs.replace(new, before=None)
    if _is_same(previous, new):
        return msgspec.structs.replace(new, is_proven=previous.is_proven, before=previous.before)
    last = msgspec.structs.replace(previous, before=None) if previous.is_proven else previous.before
    if last is not None and _is_same(last, new):
        return msgspec.structs.replace(new, is_proven=True, before=None)
    return msgspec.structs.replace(new, before=last)


def in_force(goal: DeploymentGoal, view: DeploymentView | None) -> DeploymentGoal:
    """Return what replicas of the deployment are to be: what is wanted, or what it has fallen back to."""
    has_fallen_back = view is not None and view.has_fallen_back
    return standby_of(goal) or goal if has_fallen_back else goal


def standby_of(goal: DeploymentGoal) -> DeploymentGoal | None:
    """Return the version that stands by, with the deployment's claim to resources."""
    if goal.before is None or goal.before.claim == goal.claim:
        return goal.before
    return msgspec.structs.replace(goal.before, claim=goal.claim)


def goal_in_force(goal: Goal, views: Mapping[DeploymentId, DeploymentView]) -> Goal:
    """Return the goal with what deployments have fallen back to in the place of what was given up."""
    if not any(view.has_fallen_back for view in views.values()):
        return goal
    apps = {
        name: msgspec.structs.replace(
            app, deployments=tuple(in_force(d, views.get(d.id)) for d in app.deployments)
        )
        for name, app in goal.apps.items()
    }
    return msgspec.structs.replace(goal, apps=apps)


def standby_gate(view: DeploymentView, now: float) -> StartGate:
    """Return whether replicas of the version that stands by may be started now: it is never given up."""
    starts = view.standby.starts if view.standby is not None else _GOOD
    return plan_start(starts, 0, has_older=False, now=now)


def describe_fall_back(standby: DeploymentGoal, view: DeploymentView, running: int) -> str:
    """Return what there is to tell of what a deployment has fallen back to; "" if all of it runs."""
    if running >= standby.target:
        return ""
    error = view.standby.starts.error if view.standby is not None else ""
    text = f"Of {standby.target} replicas of the version before, which serves instead, {running} run."
    return f"{text} {error}".rstrip()


def revision_in_force(
    known: Sequence[AppGoal], app: AppGoal, views: Mapping[DeploymentId, DeploymentView]
) -> int:
    """Return the revision of an application that serves: the newest, unless that one was not built or was given up.

    Args:
        known: the revisions that are kept, newest first.
    """
    has_failed = any(_has_failed(views.get(d.id)) for d in app.deployments)
    if not app.build_error and not app.is_building and not has_failed:
        return app.revision
    serving = {
        d.id: in_force(d, views.get(d.id))
        for d in (*app.retired, *app.deployments)
        if not _has_failed(view := views.get(d.id)) or (view is not None and view.has_fallen_back)
    }
    for past in known:
        if past.deployments and all(d.id in serving and _is_same(d, serving[d.id]) for d in past.deployments):
            return past.revision
    return app.revision  # what serves is of several


def _has_failed(view: DeploymentView | None) -> bool:
    return view is not None and view.status is DeploymentStatus.DEPLOY_FAILED


def _is_same(one: DeploymentGoal, other: DeploymentGoal) -> bool:
    return (one.version, one.settings) == (other.version, other.settings)
