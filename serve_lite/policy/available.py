"""When a replica counts as one: some time after it was ready, if the deployment asks for that (`min_ready_s`).

A replica that is ready serves at once. Whether others may stop for it, and whether a deploy is done, is decided
by those that are available: ready, and without a failed health check, for `min_ready_s` seconds. One of an older
version has been there before and is available as long as it runs.
"""

from __future__ import annotations

from collections.abc import Iterable

from serve_lite.state.goal import DeploymentGoal
from serve_lite.state.observed import ReplicaView


def is_available(goal: DeploymentGoal, replica: ReplicaView, now: float) -> bool:
    """Whether the replica runs, and for long enough if it is of the wanted version."""
    if not replica.is_running:
        return False
    if not goal.config.min_ready_s or replica.version != goal.version:
        return True
    return not replica.health.strikes and now >= _available_at(goal, replica)


def next_available_at(goal: DeploymentGoal, replicas: Iterable[ReplicaView], now: float) -> float | None:
    """Return when the next of these replicas becomes available; None if time alone makes none so."""
    waiting = [
        _available_at(goal, r)
        for r in replicas
        if r.is_running and not r.health.strikes and not is_available(goal, r, now)
    ]
    return min(waiting, default=None)


def _available_at(goal: DeploymentGoal, replica: ReplicaView) -> float:
    well_since = max(
        t for t in (replica.begun_at, replica.ready_at, replica.health.failed_at) if t is not None
    )
    return well_since + goal.config.min_ready_s
