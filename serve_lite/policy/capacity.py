"""How many replicas a deployment is to have, before any scaling decision."""

from __future__ import annotations

import math

from serve_lite.config import DeploymentConfig


def adjusted(replicas: int, target_capacity: float | None) -> int:
    """Return `replicas` at `target_capacity` percent: rounded half up, at least 1 unless either is 0."""
    if target_capacity is None or target_capacity == 100:
        return replicas
    if target_capacity == 0 or replicas == 0:
        return 0
    return max(1, math.floor(replicas * target_capacity / 100 + 0.5))


def initial_target(config: DeploymentConfig, target_capacity: float | None, previous: int | None) -> int:
    """Return the number of replicas that a deploy asks for.

    With autoscaling: `initial_replicas`, else what the deployment has now, within the bounds.

    Args:
        previous: target that the deployment has now; None for a new one.
    """
    scaling = config.autoscaling_config
    if scaling is None:
        return adjusted(config.num_replicas, target_capacity)
    lowest = adjusted(scaling.min_replicas, target_capacity)
    highest = adjusted(scaling.max_replicas, target_capacity)
    wanted = scaling.initial_replicas
    start = adjusted(wanted, target_capacity) if wanted is not None else previous
    if start is None:
        start = max(lowest, min(1, highest))  # one to begin with: nothing wakes a deployment from zero yet
    return min(max(start, lowest), highest)
