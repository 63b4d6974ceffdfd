"""The order in which the deployments of an application are updated: callees first.

A deployment that holds handles to others, and that serves with an older version, starts nothing of its new one
before the new versions of its callees have taken over entirely. So a new caller never meets an old callee, and what
a callee has to get along with is one thing: callers of the version before it. When an earlier revision is taken
back, callers come first, for the same reason.

Availability goes before order. A deployment of which nothing serves is not held back: there is no older version of
it to keep, and its calls wait for a callee that is not ready.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from serve_lite.policy.available import is_available
from serve_lite.policy.rollout import is_current
from serve_lite.schema import ReplicaState
from serve_lite.state.goal import AppGoal, DeploymentGoal
from serve_lite.state.ids import DeploymentId
from serve_lite.state.observed import DeploymentView, ReplicaView

Replicas = Mapping[DeploymentId, Sequence[ReplicaView]]


def updated_before(app: AppGoal) -> dict[DeploymentId, list[DeploymentGoal]]:
    """Return for each deployment those of its application that are updated before it.

    They are those that it calls; when an earlier revision is taken back, those that call it. Two that call each
    other, be it through others, are updated together.
    """
    known = {d.id.name: d for d in app.deployments}
    calls = {name: [c for c in d.spec.calls if c in known and c != name] for name, d in known.items()}
    reached = {name: _reachable(name, calls) for name in calls}
    edges = [
        (caller, callee) for caller in calls for callee in calls[caller] if caller not in reached[callee]
    ]
    if app.is_going_back:
        edges = [(callee, caller) for caller, callee in edges]
    return {d.id: [known[first] for later, first in edges if later == d.id.name] for d in app.deployments}


def waits_for(
    goal: DeploymentGoal,
    view: DeploymentView,
    before: Sequence[DeploymentGoal],
    replicas: Replicas,
    now: float,
    fallen_back: Collection[DeploymentId] = (),
) -> DeploymentGoal | None:
    """Return the deployment of `before` whose update comes first now; None if nothing holds this one back.

    Args:
        fallen_back: what was wanted of these was given up, and will not come.
    """
    own = replicas.get(goal.id, ())
    if view.starts.has_started or any(r.is_running and is_current(goal, r) for r in own):
        return None  # its update has begun, or there is none
    if not any(_is_older(goal, r) for r in own):
        # What stands by takes the place of what is gone, if the wait is without an end.
        return next((d for d in before if d.id in fallen_back), None) if goal.before is not None else None
    return next((d for d in before if not _has_taken_over(d, replicas.get(d.id, ()), now)), None)


def _has_taken_over(goal: DeploymentGoal, replicas: Sequence[ReplicaView], now: float) -> bool:
    """Whether what is wanted of a deployment serves, and nothing else of it."""
    if any(_is_older(goal, r) for r in replicas):
        return False
    return not goal.target or any(is_current(goal, r) and is_available(goal, r, now) for r in replicas)


def _is_older(goal: DeploymentGoal, replica: ReplicaView) -> bool:
    """Whether calls may reach a replica that is not what the goal wants."""
    is_open = replica.is_alive and replica.state is not ReplicaState.STARTING
    return is_open and not is_current(goal, replica)


def _reachable(name: str, calls: Mapping[str, Sequence[str]]) -> set[str]:
    found: set[str] = set()
    ahead = list(calls[name])
    while ahead:
        callee = ahead.pop()
        if callee not in found:
            found.add(callee)
            ahead += calls[callee]
    return found
