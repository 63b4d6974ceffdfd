"""Which replicas fail while others of their deployment do not, and for how long they are sent nothing.

After Envoy's outlier detection: so many errors in a row eject a replica, for a time that grows with each ejection;
only a share of the replicas may be ejected at once, and never the last that serves. If all of them fail it is nobody's
fault here, so nothing is ejected. One that is ejected again and again is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from serve_lite.config import OutlierEjection
from serve_lite.state.events import Event, ReplicaEjected, ReplicaReturned
from serve_lite.state.observed import ReplicaView

#: Ejections that weigh on a replica at the same time when one more has it replaced.
LAST_EJECTION = 3


class Ejections(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out."""

    findings: tuple[Event, ...] = ()
    incurable: tuple[ReplicaView, ...] = ()  #: to be replaced
    wake_at: float | None = None


def plan_ejections(config: OutlierEjection | None, replicas: Sequence[ReplicaView], now: float) -> Ejections:
    """Return who is to be ejected, who comes back, and who is to be replaced.

    Args:
        config: None: nobody is ejected, and who was comes back.
        replicas: those of one deployment that run.
    """
    over = [r for r in replicas if r.calls.ejected_until is not None and (not config or is_over(r, now))]
    back: list[Event] = [ReplicaReturned(replica=r.id, at=now) for r in over]
    if config is None:
        return Ejections(findings=tuple(back))
    ejected = [r for r in replicas if r.calls.ejected_until is not None and r not in over]
    serving = [r for r in replicas if r.is_serving]  # those that come back have shown nothing yet
    failing = [r for r in serving if recent_streak(r) >= config.consecutive_errors]
    has_succeeded = any(r.calls.ended and not r.calls.streak for r in serving)
    room = min(places(config, len(replicas)) - len(ejected), len(serving) + len(over) - 1)
    worst_first = sorted(failing, key=lambda r: (-recent_streak(r), r.begun_at))[: max(0, room)]
    chosen = worst_first if has_succeeded else []
    incurable = [r for r in chosen if weight(config, r, now) >= LAST_EJECTION]
    out: list[Event] = [
        ReplicaEjected(
            replica=r.id,
            at=now,
            until=now + config.base_ejection_s * (weight(config, r, now) + 1),
            ejections=weight(config, r, now) + 1,
        )
        for r in chosen
        if r not in incurable
    ]
    ends = [r.calls.ejected_until for r in ejected if r.calls.ejected_until is not None]
    return Ejections(findings=(*back, *out), incurable=tuple(incurable), wake_at=min(ends, default=None))


def is_over(replica: ReplicaView, now: float) -> bool:
    """Whether its ejection has lasted long enough."""
    return replica.calls.ejected_until is not None and now >= replica.calls.ejected_until


def recent_streak(replica: ReplicaView) -> int:
    """Return its failures in a row since it came back: what was held against it before is paid for."""
    return min(replica.calls.streak, replica.calls.ended - replica.calls.ended_at_return)


def places(config: OutlierEjection, count: int) -> int:
    """Return how many of `count` replicas may be ejected at once."""
    return min(max(1, count * config.max_ejection_percent // 100), count - 1) if count else 0


def weight(config: OutlierEjection, replica: ReplicaView, now: float) -> int:
    """Return the ejections that still weigh on it: each interval since the last one makes up for one."""
    calls = replica.calls
    if calls.returned_at is None:
        return calls.ejections
    return max(0, calls.ejections - max(0, int((now - calls.returned_at) // config.interval_s)))
