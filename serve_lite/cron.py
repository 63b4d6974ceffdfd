"""Times that come again and again: cron expressions, times of day, time zones.

Pure: the present is an argument, in seconds since the Unix epoch. Cron expressions mean what Debian's cron makes
of them, also where clocks change: a time that is skipped counts right after the gap, one that comes twice counts
once. Libraries are loaded on first use, since few configurations have a schedule.
"""

from __future__ import annotations

import difflib
import functools
import re
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any

from serve_lite.checks import described, invalid, wrong

_FIELDS = "minute, hour, day of the month, month, day of the week"
_A_DAY = datetime(2024, 1, 1, tzinfo=UTC)  #: any; an expression that never comes does not come after it
_DAYS_OF_A_TIME = 3  #: a time of day comes within two days, whatever clocks do


@described({"type": "string"})
def cron_expression(value: Any, where: str, lax: bool) -> str:
    """Check a cron expression; returns it with single spaces."""
    if not isinstance(value, str):
        raise wrong(value, where, f"a cron expression: {_FIELDS}", wrong_type=True)
    parts = value.split()
    if len(parts) != 5:
        raise invalid(where, f"{where} is {value!r}; it must have five fields: {_FIELDS}.")
    from cronsim import CronSim, CronSimError  # loaded here because few need it

    text = " ".join(parts)
    try:
        first = next(CronSim(text, _A_DAY), None)
    except CronSimError as error:
        what = str(error).removeprefix("Bad ").replace("-", " ")
        raise invalid(where, f"{where} is {value!r}, whose {what} is wrong. Fields: {_FIELDS}.") from None
    if first is None:
        raise invalid(where, f"{where} is {value!r}, a time that never comes.")
    return text


@described({"type": "string"})
def time_zone(value: Any, where: str, lax: bool) -> str:
    """Check the name of a time zone."""
    if not isinstance(value, str):
        raise wrong(value, where, 'the name of a time zone, such as "Europe/Berlin"', wrong_type=True)
    try:
        zone(value)
    except (KeyError, ValueError, OSError):  # unknown; no name; a folder of names
        from zoneinfo import available_timezones

        near = difflib.get_close_matches(value, available_timezones(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else 'names are such as "UTC" and "Europe/Berlin".'
        raise invalid(where, f"{where} is {value!r}, which is no time zone; {hint}") from None
    return value


@described({"type": ["string", "null"], "pattern": "^([01]?[0-9]|2[0-3]):[0-5][0-9]$"})
def time_of_day(value: Any, where: str, lax: bool) -> str | None:
    """Check a time of day, or null."""
    if value is None:
        return None
    expected = 'a time of day in quotes, such as "18:30"'
    if not isinstance(value, str):
        raise wrong(value, where, expected, wrong_type=True)
    if not re.fullmatch("([01]?[0-9]|2[0-3]):[0-5][0-9]", value, re.ASCII):
        raise wrong(value, where, expected)
    return value


@functools.cache
def zone(name: str) -> tzinfo:
    """Return a time zone.

    Raises:
        KeyError, ValueError, OSError: there is none of this name.
    """
    from zoneinfo import ZoneInfo  # loaded here because few need it

    return ZoneInfo(name)


def next_time(expression: str, zone_name: str, after: float) -> float | None:
    """Return when an expression comes next after `after`; None if not within 50 years."""
    from cronsim import CronSim  # loaded here because few need it

    for found in CronSim(expression, datetime.fromtimestamp(after, zone(zone_name))):
        if (at := found.timestamp()) > after:  # in an hour that comes twice the first one is found
            return at
    return None


def next_time_of_day(text: str, zone_name: str, after: float) -> float:
    """Return when it is next so late in a time zone, after `after`; of two such times of a day the first one counts."""
    hour, minute = (int(part) for part in text.split(":"))
    place = zone(zone_name)
    day = datetime.fromtimestamp(after, place).date()
    times = (
        datetime.combine(day + timedelta(days=i), time(hour, minute), place).timestamp()
        for i in range(_DAYS_OF_A_TIME)
    )
    return next(at for at in times if at > after)
