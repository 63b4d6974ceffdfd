"""How many replicas a deployment is to have, before any scaling decision."""

from __future__ import annotations

import math

from serve_lite.config import AutoscalingConfig, DeploymentConfig
from serve_lite.policy.autoscaling import Bounds
from serve_lite.policy.schedules import NO_WINDOW, Window
from serve_lite.state.goal import CapacityDirection


def adjusted(replicas: int, target_capacity: float | None) -> int:
    """Return `replicas` at `target_capacity` percent: rounded half up, at least 1 unless either is 0."""
    if target_capacity is None or target_capacity == 100:
        return replicas
    if target_capacity == 0 or replicas == 0:
        return 0
    return max(1, math.floor(replicas * target_capacity / 100 + 0.5))


def scaling_bounds(
    scaling: AutoscalingConfig,
    target_capacity: float | None = None,
    direction: CapacityDirection = None,
    window: Window = NO_WINDOW,
) -> Bounds:
    """Return the fewest and the most replicas that autoscaling may choose.

    Args:
        direction: "UP" while `target_capacity` rises: then `initial_replicas`, if set, are the fewest.
        window: what schedules ask for now.
    """
    fewest = scaling.min_replicas
    if direction == "UP" and scaling.initial_replicas is not None:
        fewest = scaling.initial_replicas
    fewest = max(fewest, window.lowest)
    most = max(scaling.max_replicas if window.highest is None else window.highest, window.lowest)
    highest = adjusted(most, target_capacity)
    why = f" (schedule {', '.join(window.holds)})" if window.holds else ""
    return Bounds(min(adjusted(fewest, target_capacity), highest), highest, why)


def initial_target(
    config: DeploymentConfig,
    target_capacity: float | None,
    previous: int | None,
    *,
    direction: CapacityDirection = None,
    is_changed: bool = True,
) -> int:
    """Return the number of replicas that a deploy asks for.

    With autoscaling: `initial_replicas` if they are given and new, else what the deployment has now; always
    within the bounds.

    Args:
        previous: target that the deployment has now; None for a new one.
        direction: of the last change of `target_capacity`.
        is_changed: whether the autoscaling options differ from those that held till now.
    """
    scaling = config.autoscaling_config
    if scaling is None:
        return adjusted(config.num_replicas, target_capacity)
    # What a schedule has raised is kept: whether its window is open is not for a deploy to say.
    most = max([scaling.max_replicas, *(s.max_replicas or 0 for s in scaling.schedules)])
    bounds = scaling_bounds(scaling, target_capacity, direction, Window(highest=most))
    if scaling.initial_replicas is not None and (is_changed or previous is None):
        return bounds.clip(adjusted(scaling.initial_replicas, target_capacity))
    return bounds.clip(previous if previous is not None else bounds.lowest)
