"""When to ask a replica whether it is well, and when to believe that it is not."""

from __future__ import annotations

from serve_lite.config import DeploymentConfig
from serve_lite.state.observed import ReplicaView

#: Failed checks in a row after which a replica is replaced. Ray Serve: REPLICA_HEALTH_CHECK_UNHEALTHY_THRESHOLD.
STRIKES = 3


def is_unhealthy(replica: ReplicaView) -> bool:
    return replica.health.strikes >= STRIKES


def next_check_at(replica: ReplicaView, config: DeploymentConfig) -> float | None:
    """Return when to ask next; None while an answer is awaited.

    One period after the last question was asked, a tenth of it sooner or later so that replicas
    that were started together are not asked together.
    """
    health = replica.health
    if health.is_asked:
        return None
    last = health.asked_at if health.asked_at is not None else replica.since
    return last + config.health_check_period_s * (0.9 + 0.2 * health.spread)
