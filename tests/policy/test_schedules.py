"""Schedules of autoscaling: when windows are open, over changes of clocks too, and which bounds they make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from serve_lite import cron
from serve_lite.config import AutoscalingConfig, AutoscalingSchedule, DeploymentConfig
from serve_lite.exceptions import InvalidConfigError
from serve_lite.policy.autoscaling import Bounds, Load, Timer, decide
from serve_lite.policy.capacity import initial_target, scaling_bounds
from serve_lite.policy.schedules import NO_WINDOW, Window, open_until, window_at

BERLIN = ZoneInfo("Europe/Berlin")


def schedule(**fields: Any) -> AutoscalingSchedule:
    given = {"cron": "0 8 * * mon-fri", "timezone": "Europe/Berlin", "min_replicas": 3, **fields}
    return AutoscalingSchedule(**given if "duration_s" in given else {"until": "18:00", **given})


def berlin(*parts: int, fold: int = 0) -> float:
    return datetime(*parts, tzinfo=BERLIN, fold=fold).timestamp()  # type: ignore[arg-type, misc]


# --- by example ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "is_open"),
    [
        ((2026, 7, 6, 7, 59, 59), False), ((2026, 7, 6, 8, 0), True), ((2026, 7, 6, 17, 59, 59), True),
        ((2026, 7, 6, 18, 0), False), ((2026, 7, 4, 12, 0), False), ((2026, 1, 5, 8, 0), True),
    ],
)  # fmt: skip
def test_a_window_is_open_from_its_cron_to_its_end_in_its_time_zone(
    now: tuple[int, ...], is_open: bool
) -> None:
    window = window_at([schedule()], berlin(*now))
    assert (window.lowest == 3) is is_open
    assert window.until is not None and window.until > berlin(*now)


def test_a_window_of_a_duration_is_open_so_long_and_one_that_begins_meanwhile_prolongs_it() -> None:
    hourly = schedule(cron="0 * * * *", duration_s=5400)
    at = berlin(2026, 7, 6, 12, 10)
    assert open_until(hourly, at) == berlin(2026, 7, 6, 12, 30)
    assert all(open_until(hourly, at + minutes * 60) for minutes in range(200))


def test_a_window_over_midnight_belongs_to_the_day_it_began() -> None:
    night = schedule(cron="0 22 * * fri", until="6:00")
    assert open_until(night, berlin(2026, 7, 4, 5, 59)) == berlin(2026, 7, 4, 6, 0)  # a Saturday
    assert open_until(night, berlin(2026, 7, 5, 5, 59)) is None


def test_of_several_windows_the_largest_bounds_count() -> None:
    several = [
        schedule(min_replicas=3),
        schedule(min_replicas=5, until="9:00"),
        schedule(min_replicas=None, max_replicas=7),
        schedule(min_replicas=9, cron="0 20 * * *", until="21:00"),
    ]
    window = window_at(several, berlin(2026, 7, 6, 8, 30))
    assert (window.lowest, window.highest, window.until) == (5, 7, berlin(2026, 7, 6, 9, 0))
    assert len(window.holds) == 3 and "'0 8 * * mon-fri' Europe/Berlin" in window.holds


def test_a_day_of_twentythree_and_one_of_twentyfive_hours() -> None:
    """At the end of March 2:00 to 3:00 is left out in Berlin, at the end of October it comes twice."""
    night = schedule(cron="30 1 * * *", until="04:00")
    for day, hours in (
        (datetime(2026, 3, 29), 1.5),
        (datetime(2026, 10, 25), 3.5),
        (datetime(2026, 7, 1), 2.5),
    ):
        start = berlin(day.year, day.month, day.day, 1, 30)
        assert open_until(night, start - 1) is None
        end = open_until(night, start)
        assert end == berlin(day.year, day.month, day.day, 4, 0)
        assert end == start + hours * 3600


def test_a_time_that_is_left_out_counts_right_after_the_gap_and_one_that_comes_twice_counts_once() -> None:
    lost = schedule(cron="30 2 * * *", duration_s=60)
    assert open_until(lost, berlin(2026, 3, 29, 3, 0)) is not None
    twice = schedule(cron="30 2 * * *", duration_s=600)
    assert open_until(twice, berlin(2026, 10, 25, 2, 35)) is not None
    assert open_until(twice, berlin(2026, 10, 25, 2, 35, fold=1)) is None


# --- what holds always --------------------------------------------------------------------------

#: Zones that change their clocks in either half of the year, by half an hour, at midnight, or never.
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana", "Asia/Kolkata"]
#: Around each change of clocks of 2026, and any time.
CHANGES = [
    datetime(2026, month, day, tzinfo=UTC).timestamp()
    for month, day in ((3, 8), (3, 29), (4, 4), (10, 3), (10, 25), (11, 1))
]
TIMES = st.one_of(
    st.builds(lambda at, hours: at + hours * 3600, st.sampled_from(CHANGES), st.floats(-48, 72)),
    st.floats(1_700_000_000, 1_900_000_000),
)
MINUTES = st.sampled_from(["0", "30", "*/15", "59", "*"])
HOURS = st.sampled_from(["0", "1", "2", "3", "8-17", "*", "*/6", "23", "1,2,3"])
DAYS = st.sampled_from(["*", "mon-fri", "sun", "0,6"])
LENGTHS = st.one_of(
    st.builds(lambda s: {"duration_s": float(s)}, st.integers(1, 200_000)),
    st.builds(lambda h, m: {"until": f"{h:02}:{m:02}"}, st.integers(0, 23), st.sampled_from([0, 30, 59])),
)
SCHEDULES = st.builds(
    lambda minute, hour, day, zone, length: AutoscalingSchedule(
        cron=f"{minute} {hour} * * {day}", timezone=zone, min_replicas=2, **length
    ),
    MINUTES, HOURS, DAYS, st.sampled_from(ZONES), LENGTHS,
)  # fmt: skip


@settings(deadline=None)
@given(SCHEDULES, TIMES)
def test_nothing_changes_before_the_time_at_which_it_is_to_be_looked_at_again(
    one: AutoscalingSchedule, now: float
) -> None:
    window = window_at([one], now)
    assert window.until is not None and window.until > now
    for share in (0.001, 0.3, 0.7, 0.999):
        later = now + (window.until - now) * share
        assume(later < window.until)
        assert window_at([one], later).lowest == window.lowest


@settings(deadline=None, max_examples=60)
@given(SCHEDULES, TIMES)
def test_a_window_is_open_exactly_while_one_of_its_starts_has_not_ended(
    one: AutoscalingSchedule, now: float
) -> None:
    """Against all starts of the last three days, each with its own end."""
    at, is_open = now - 3 * 86400, False
    while (start := cron.next_time(one.cron, one.timezone, at)) is not None and start <= now:
        assert start > at
        end = (
            start + one.duration_s
            if one.duration_s is not None
            else cron.next_time_of_day(str(one.until), one.timezone, start)
        )
        is_open = is_open or end > now
        at = start
    assert (open_until(one, now) is not None) is is_open


@given(
    st.sampled_from(["0 2 * * *", "30 8 * * *", "15 23 * * *", "30 2 * * *"]), st.sampled_from(ZONES), TIMES
)
def test_a_daily_time_comes_once_a_day_whatever_clocks_do(text: str, zone: str, now: float) -> None:
    first = cron.next_time(text, zone, now)
    assert first is not None
    second = cron.next_time(text, zone, first)
    assert second is not None
    place = ZoneInfo(zone)
    days = [datetime.fromtimestamp(at, place).date() for at in (first, second)]
    assert days[1] - days[0] == timedelta(days=1)
    assert 22 * 3600 <= second - first <= 26 * 3600


@given(st.integers(0, 23), st.integers(0, 59), st.sampled_from(ZONES), TIMES)
def test_a_time_of_day_comes_within_a_day_and_an_hour(
    hour: int, minute: int, zone: str, after: float
) -> None:
    at = cron.next_time_of_day(f"{hour}:{minute:02}", zone, after)
    assert after < at <= after + 26 * 3600


@settings(deadline=None)
@given(st.one_of(st.text(), st.text("0123456789*/-,#LW MON", min_size=9, max_size=30)))
def test_every_text_is_an_expression_or_refused(text: str) -> None:
    try:
        clean = cron.cron_expression(text, "cron", False)
    except InvalidConfigError as error:
        assert error.path == "cron"
    else:
        assert cron.next_time(clean, "Europe/Berlin", 1_700_000_000.0) is not None


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_every_text_is_a_time_zone_or_refused(text: str) -> None:
    try:
        cron.time_zone(text, "timezone", False)
    except InvalidConfigError as error:
        assert error.path == "timezone"
    else:
        cron.zone(text)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "path", "says"),
    [
        ({"cron": None}, "cron", "it must be a cron expression"),
        ({"cron": "0 8 * *"}, "cron", "it must have five fields"),
        ({"cron": "0 0 8 * * *"}, "cron", "it must have five fields"),
        ({"cron": "0 24 * * *"}, "cron", "whose hour is wrong"),
        ({"cron": "0 0 31 2 *"}, "cron", "whose day of month is wrong"),
        ({"timezone": "Europe/Berln"}, "timezone", "did you mean 'Europe/Berlin'"),
        ({"timezone": "../etc/passwd"}, "timezone", "no time zone"),
        ({"timezone": "America"}, "timezone", "no time zone"),
        ({"until": "24:00"}, "until", "a time of day in quotes"),
        ({"until": 1080}, "until", "a time of day in quotes"),
        ({"duration_s": 60}, "", "give either duration_s or until"),
        ({"until": None}, "", "give either duration_s or until"),
        ({"min_replicas": None}, "", "give min_replicas or max_replicas"),
        ({"min_replica": 3}, "min_replica", "did you mean 'min_replicas'"),
    ],
)  # fmt: skip
def test_a_wrong_schedule_is_refused_with_its_place(fields: dict[str, Any], path: str, says: str) -> None:
    given = {"cron": "0 8 * * *", "until": "18:00", "min_replicas": 3, **fields}
    with pytest.raises(InvalidConfigError, match=says) as caught:
        AutoscalingConfig.from_value(
            {"max_replicas": 5, "schedules": [given]}, "autoscaling_config", lax=False
        )
    assert caught.value.path.startswith("autoscaling_config.schedules[0]" + (f".{path}" if path else ""))


def test_a_schedule_without_cron_and_bounds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(InvalidConfigError, match="has no 'cron'"):
        AutoscalingConfig.from_value({"schedules": [{"until": "18:00"}]}, "autoscaling_config")
    with pytest.raises(InvalidConfigError, match="at least 3 and at most 2"):
        AutoscalingConfig(max_replicas=2, schedules=(schedule(),))
    with pytest.raises(InvalidConfigError, match="at least 4 and at most 3"):
        AutoscalingConfig(
            min_replicas=4, max_replicas=9, schedules=(schedule(min_replicas=None, max_replicas=3),)
        )


def test_schedules_survive_being_shown_and_are_only_shown_where_there_are_some() -> None:
    config = AutoscalingConfig(max_replicas=5, schedules=(schedule(), schedule(duration_s=60)))
    assert AutoscalingConfig.from_value(config.to_dict(), "autoscaling_config", lax=False) == config
    assert "schedules" not in AutoscalingConfig().to_dict()


# --- what they do -------------------------------------------------------------------------------


def test_a_window_raises_the_bounds_and_target_capacity_scales_what_it_says() -> None:
    config = AutoscalingConfig(min_replicas=1, max_replicas=4)
    assert scaling_bounds(config, window=NO_WINDOW) == Bounds(1, 4)
    raised = scaling_bounds(config, window=Window(lowest=3, holds=("'x' UTC",)))
    assert (raised.lowest, raised.highest, raised.why) == (3, 4, " (schedule 'x' UTC)")
    assert scaling_bounds(config, window=Window(lowest=6, highest=8)) == Bounds(6, 8)
    assert scaling_bounds(config, 50, window=Window(lowest=6, highest=8)) == Bounds(3, 4)
    assert scaling_bounds(config, 0, window=Window(lowest=6, highest=8)) == Bounds(0, 0)
    assert scaling_bounds(config, window=Window(highest=2)) == Bounds(1, 2)


def test_a_raised_minimum_counts_at_once_and_its_end_leaves_the_load_to_decide() -> None:
    config = AutoscalingConfig(min_replicas=1, max_replicas=4, upscale_delay_s=30, downscale_delay_s=600)
    open_bounds = Bounds(3, 4, " (schedule 'x' UTC)")
    up = decide(config, open_bounds, Load(), running=1, target=1, timer=Timer(), now=0)
    assert up.target == 3 and up.reason.endswith("the bounds are 3 and 4 (schedule 'x' UTC)")
    after = decide(config, Bounds(1, 4), Load(), running=3, target=3, timer=up.timer, now=100)
    assert (after.target, after.due) == (3, 700)
    assert decide(config, Bounds(1, 4), Load(), running=3, target=3, timer=after.timer, now=700).target == 1


def test_a_deploy_keeps_what_a_schedule_has_raised() -> None:
    scaling = AutoscalingConfig(max_replicas=2, schedules=(schedule(min_replicas=5, max_replicas=6),))
    config = DeploymentConfig(autoscaling_config=scaling)
    assert initial_target(config, None, 5, is_changed=False) == 5
    assert initial_target(config, None, None) == 1
