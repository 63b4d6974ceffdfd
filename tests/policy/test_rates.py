"""Rates: how they are written, and what may pass in any stretch of time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.exceptions import InvalidConfigError
from serve_lite.rates import Rate, parse_rate, rate_or_null, take

RATES = st.builds(Rate, st.floats(0.01, 10_000), st.integers(1, 1000))
START = st.floats(0, 1e7)  # of a monotonic clock


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/s", Rate(100.0, 100)),
        ("600/min", Rate(10.0, 600)),
        ("1800/h", Rate(0.5, 1800)),
        ("10/s burst 50", Rate(10.0, 50)),
        ("1/h burst 1", Rate(1 / 3600, 1)),
    ],
)
def test_a_rate_is_read_as_it_is_written(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate
    assert rate_or_null(text, "rate_limit", False) == text


@pytest.mark.parametrize(
    "text", ["", "100", "0/s", "-1/s", "1.5/s", "10/day", "10 /s", "10/s burst 0", "٣/s", 5, True]
)
def test_what_is_no_rate_is_refused_with_what_is_one(text: object) -> None:
    with pytest.raises(InvalidConfigError, match=r'rate_limit is .*"100/s"'):
        rate_or_null(text, "rate_limit", False)
    if isinstance(text, str):
        with pytest.raises(ValueError, match='"100/s"'):
            parse_rate(text)


@given(RATES, START, st.lists(st.floats(0, 100), max_size=300))
def test_no_stretch_of_time_has_more_than_the_burst_and_what_flowed_in(
    rate: Rate, start: float, pauses: list[float]
) -> None:
    now, full_at, passed = start, 0.0, []
    for pause in pauses:
        now += pause / rate.per_s
        full_at, wait_s = take(rate, full_at, now)
        if not wait_s:
            passed.append(now)
    for i, first in enumerate(passed):
        for j in range(i, len(passed)):
            assert j - i + 1 <= rate.burst + (passed[j] - first + 1e-6) * rate.per_s + 1e-3


@given(RATES, START, st.integers(1, 300))
def test_whoever_keeps_to_the_rate_is_never_refused(rate: Rate, start: float, count: int) -> None:
    full_at = 0.0
    for i in range(count):
        full_at, wait_s = take(rate, full_at, start + i / rate.per_s)
        assert wait_s == 0


@given(RATES, START)
def test_after_a_pause_a_burst_passes_and_no_more(rate: Rate, start: float) -> None:
    full_at = 0.0
    for _ in range(rate.burst):
        full_at, wait_s = take(rate, full_at, start)
        assert wait_s == 0
    refused_at, wait_s = take(rate, full_at, start)
    assert (refused_at, wait_s > 0) == (full_at, True), "a refusal must use nothing"
    again, more_s = take(rate, full_at, start + wait_s + 1e-6)
    assert (again > full_at, more_s) == (True, 0.0), "the wait that is told must be long enough"
