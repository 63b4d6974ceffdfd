"""Rates of requests: how they are written, and whether one more request may pass. Pure.

A rate is a bucket that holds `burst` requests and fills evenly. All that is kept of a bucket is one number, the time
at which it will be full again (the "theoretical arrival time" of ITU-T I.371, annex A, also known as GCRA).
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from serve_lite.checks import described, wrong

#: Clocks count large numbers, and sums of them are not exact; whoever keeps to the rate must not suffer from it.
_SLACK_S: Final = 1e-6
_SECONDS: Final = {"s": 1, "min": 60, "h": 3600}
_WRITTEN: Final = re.compile(r"([1-9][0-9]{0,8})/(s|min|h)(?: burst ([1-9][0-9]{0,8}))?", re.ASCII)
_EXPECTED: Final = 'a rate such as "100/s", "600/min", "5000/h" or "10/s burst 50"'


class Rate(msgspec.Struct, frozen=True):
    """How many requests may pass."""

    per_s: float  #: in the long run, for each second
    burst: int  #: at once, after a pause


def parse_rate(text: str) -> Rate:
    """Return the rate that a text means. Without `burst`, what is allowed in one period may come at once.

    Raises:
        ValueError: it is no rate; says what is one.
    """
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not {_EXPECTED}")
    count, unit, burst = match.groups()
    return Rate(int(count) / _SECONDS[unit], int(burst or count))


def take(rate: Rate, full_at: float, now: float) -> tuple[float, float]:
    """Return when the bucket will be full if one request passes now, and 0; or `full_at` and how long to wait.

    Args:
        full_at: when the bucket will be full; anything up to `now` means that it is.
        now: seconds, on the clock of `full_at`.
    """
    then = (full_at if full_at > now else now) + 1 / rate.per_s
    missing_s = then - now - rate.burst / rate.per_s - _SLACK_S
    return (then, 0.0) if missing_s <= 0 else (full_at, missing_s)


@described({"anyOf": [{"type": "string", "pattern": f"^{_WRITTEN.pattern}$"}, {"type": "null"}]})
def rate_or_null(value: Any, where: str, lax: bool) -> str | None:
    """A rate, as it is written; or None."""
    if value is None:
        return None
    if not isinstance(value, str) or _WRITTEN.fullmatch(value) is None:
        raise wrong(value, where, f"{_EXPECTED}, or null", wrong_type=not isinstance(value, str))
    return value
