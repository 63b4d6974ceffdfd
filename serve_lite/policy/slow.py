"""What is told of starts that take long: that they do, and in which phase each of them is."""

from __future__ import annotations

from collections.abc import Sequence

from serve_lite.state.ids import DeploymentId, suffix_of
from serve_lite.state.observed import ReplicaView

#: A start that takes longer is mentioned in the status, and told of anew each time as much has passed again.
#: Ray Serve: RAY_SERVE_SLOW_STARTUP_WARNING_S.
SLOW_START_S = 30.0
#: Replicas that are named; the others are counted.
NAMED = 5


def describe_slow_starts(
    deployment: DeploymentId, starting: Sequence[ReplicaView], now: float
) -> tuple[str, float | None]:
    """Return what there is to tell ("" for nothing), and when there will be more.

    The text stays the same until then, unless a replica comes to another phase.
    """
    slow = [r for r in starting if r.begun_at + SLOW_START_S <= now]
    if not slow:
        return "", min((r.begun_at + SLOW_START_S for r in starting), default=None)
    told_at, next_at = _period(min(r.begun_at for r in slow), now)
    soon = [r.begun_at + SLOW_START_S for r in starting if r not in slow]
    where = ", ".join(_where(r, told_at) for r in slow[:NAMED])
    others = f", and {len(slow) - NAMED} more" if len(slow) > NAMED else ""
    return (
        f"Deployment '{deployment.name}' in application '{deployment.app_name}' has {len(slow)} replicas that have "
        f"taken more than {SLOW_START_S:.0f}s to initialize. This may be caused by a slow __init__ or "
        f"reconfigure method. Now: {where}{others}."
    ), min([next_at, *soon])


def _period(begun_at: float, now: float) -> tuple[float, float]:
    """Return when the present period since `begun_at` began, and when it ends, which is later than `now`."""
    periods = int((now - begun_at) / SLOW_START_S)
    if begun_at + SLOW_START_S * (periods + 1) <= now:  # the division was rounded down
        periods += 1
    return begun_at + SLOW_START_S * periods, begun_at + SLOW_START_S * (periods + 1)


def _where(replica: ReplicaView, told_at: float) -> str:
    progress = replica.progress
    lasted_s = told_at - progress.since
    since = f" since {lasted_s:.0f} s" if lasted_s >= 1 else ""
    note = f" ({progress.note})" if progress.note else ""
    return f"{suffix_of(replica.id)} {progress.phase}{since}{note}"
