"""When to ask a replica whether it is well, and when to believe that it is not.

Three things can be wrong, and each is told as itself: the user's `check_health` fails (asked from here), the process
does not answer, or its loop does not turn (both found by `controller/probes.py`). A long call that blocks the loop and
computes is none of them.
"""

from __future__ import annotations

import msgspec

from serve_lite.config import DeploymentConfig
from serve_lite.schema import ReplicaState
from serve_lite.state.observed import ReplicaView
from serve_lite.state.pulse import Doing, Silence

#: Failed checks in a row after which a replica is replaced. Ray Serve: REPLICA_HEALTH_CHECK_UNHEALTHY_THRESHOLD.
STRIKES = 3


class Illness(msgspec.Struct, frozen=True, kw_only=True):
    """Why a replica is to be replaced."""

    reason: str
    can_obey: bool = True  #: it can still be asked to finish what it has


def is_unhealthy(replica: ReplicaView) -> bool:
    return replica.health.strikes >= STRIKES


def diagnose(replica: ReplicaView, config: DeploymentConfig) -> Illness | None:
    """Return why the replica is to be replaced; None if it is not."""
    if replica.state not in (ReplicaState.RUNNING, ReplicaState.UPDATING):
        return None
    pulse = replica.pulse
    if pulse.silence:
        # Whoever holds it in a debugger knows why, and would lose what is looked at.
        is_over = _reaches(pulse.silent_s, config.alive_timeout_s) and pulse.silence is not Silence.TRACED
        return Illness(reason=str(pulse), can_obey=False) if is_over else None
    if not replica.is_running:  # its `reconfigure` may block the loop as long as it likes
        return None
    if pulse.doing is Doing.AWAITS_LOCK and _reaches(pulse.stuck_s, config.deadlock_timeout_s):
        return Illness(reason=f"it is deadlocked: {pulse}", can_obey=False)
    if pulse.blocked_s and _reaches(pulse.blocked_s, config.progress_timeout_s):
        return Illness(reason=str(pulse), can_obey=False)
    if is_unhealthy(replica):
        reason = f"it failed {replica.health.strikes} health checks: {replica.health.error}"
        return Illness(reason=f"{reason}; {pulse}" if str(pulse) else reason)
    return None


def next_check_at(replica: ReplicaView, config: DeploymentConfig) -> float | None:
    """Return when to ask next; None while an answer is awaited, and for user code without a check.

    One period after the last question was asked, a tenth of it sooner or later so that replicas
    that were started together are not asked together.
    """
    health = replica.health
    if health.is_asked or not replica.has_health_check:
        return None
    last = health.asked_at if health.asked_at is not None else replica.since
    return last + config.health_check_period_s * (0.9 + 0.2 * health.spread)


def _reaches(seconds: float, limit_s: float | None) -> bool:
    return limit_s is not None and seconds >= limit_s
