"""When a replica may be started again after failures: at once, later, or not any more.

Failures are counted by the fold (`state/observed.py`, `StartRecord`) for the wanted version only; here they
are judged. The first failure is tried again at once, since most are accidents; after that the wait doubles
from 1 s to 64 s, and the caller's drawn `spread` adds up to half, so that deployments that broke together do
not come back together.
"""

from __future__ import annotations

import msgspec

from serve_lite.state.observed import StartRecord

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 64.0
#: Failed starts that each wanted replica is allowed. Ray Serve: RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT.
TRIES_PER_REPLICA = 3
#: Failed starts that a rolling update is allowed for each replica it starts at a time: one after the other and with
#: growing waits, three for each wanted replica would take a quarter of an hour to tell that a version is bad.
TRIES_PER_PLACE = 6


class StartGate(msgspec.Struct, frozen=True, kw_only=True):
    """Whether replicas of the wanted version may be started now."""

    is_open: bool
    opens_at: float | None = None  #: if it is closed for a time
    has_given_up: bool = False  #: closed until the next deploy
    tries_left: int = 0  #: before it is given up; 0 if it never is
    held_by: str = ""  #: closed while another deployment is updated first; why, for the user


def budget(target: int, max_retries: int, places: int | None = None) -> int:
    """Return how many failures end a deploy of `target` replicas.

    Args:
        places: replicas that are started at a time while older ones serve; None if all are.
    """
    allowed = min(max_retries, TRIES_PER_REPLICA * max(1, target))
    if places is not None:
        allowed = min(allowed, TRIES_PER_PLACE * max(1, places))
    return max(1, allowed)


def wait_s(rounds: int, spread: float) -> float:
    """Return the seconds between the last failure and the next start, after `rounds` failures in a row."""
    if rounds <= 1:
        return 0.0
    # The exponent is capped before the power: a crash loop of weeks must not overflow.
    grown = FIRST_WAIT_S * 2.0 ** min(rounds - 2, 16)
    return min(LONGEST_WAIT_S, grown) * (1 + spread / 2)


def has_given_up(record: StartRecord, tries: int, *, has_older: bool) -> bool:
    """Whether nothing more is started until the next deploy.

    So it is when the budget of failures is used and no replica of the version was ever ready, or when
    replicas of an older version still serve, which are better than a version that keeps failing.

    Args:
        tries: the budget.
        has_older: replicas of another version are running.
    """
    return (not record.has_started or has_older) and record.failures >= tries


def plan_start(record: StartRecord, tries: int, *, has_older: bool, now: float) -> StartGate:
    """Judge whether to start replicas now; see `has_given_up` for the arguments."""
    if has_given_up(record, tries, has_older=has_older):
        return StartGate(is_open=False, has_given_up=True)
    is_limited = not record.has_started or has_older
    tries_left = tries - record.failures if is_limited else 0
    if record.failed_at is None or record.failed_at > now:  # later than now: the machine was restarted
        return StartGate(is_open=True, tries_left=tries_left)
    opens_at = record.failed_at + wait_s(record.rounds, record.spread)
    if now >= opens_at:
        return StartGate(is_open=True, tries_left=tries_left)
    return StartGate(is_open=False, opens_at=opens_at, tries_left=tries_left)
