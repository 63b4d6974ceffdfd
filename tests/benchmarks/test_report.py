"""The report shows medians with their spread, losses as plainly as wins, and what failed."""

from __future__ import annotations

from typing import Any

from benchmarks.contenders.base import Ask
from benchmarks.report import markdown


def results(*samples: dict[str, Any]) -> dict[str, Any]:
    return {
        "taken_at": "2026-01-01T00:00:00+00:00",
        "machine": {"processor": "a processor", "memory": "1 GiB", "system": "Linux", "load": "wrk"},
        "load_average_before": 0.0,
        "settings": {
            "rounds": 3,
            "seconds": 1.0,
            "warm_up_s": 1.0,
            "connections": [64],
            "stop_limit_s": 30,
        },
        "titles": {"serve-lite": "serve-lite", "other": "Other", "absent": "Absent"},
        "versions": {"serve-lite": {"python": "3.12"}, "other": {"python": "3.12"}},
        "absent": {"absent": "not installed"},
        "samples": list(samples),
    }


def sample(contender: str, number: int, rate: float, **more: Any) -> dict[str, Any]:
    load = {"requests_per_s": rate, "p50_ms": 1.0, "p99_ms": 20.0, "errors": 0, "requests": 100}
    return {
        "contender": contender,
        "app": "noop",
        "round": number,
        "start_s": 0.5,
        "http": {"64": load},
        "killed_at_stop": [],
        **more,
    }


def test_a_cell_is_the_median_with_the_lowest_and_the_highest_round() -> None:
    text = markdown(results(*(sample("serve-lite", n, rate) for n, rate in enumerate((900, 1100, 1000)))))
    assert "| no-op, 64 connections: requests/s | 1,000 (900 to 1,100) | - |" in text


def test_a_loss_is_told_as_a_ratio_below_one() -> None:
    text = markdown(results(sample("serve-lite", 1, 500), sample("other", 1, 1000)))
    assert "No-op at 64 connections, serve-lite is 0.50 × Other." in text


def test_a_contender_that_failed_is_listed_and_one_that_is_absent_says_why() -> None:
    failed = {"contender": "other", "app": "noop", "round": 1, "error": "Broken.\nlog", "killed_at_stop": []}
    text = markdown(results(sample("serve-lite", 1, 500), failed))
    assert "- Other, noop, round 1: Broken." in text
    assert "- Absent: skipped: not installed" in text


def test_requests_that_failed_under_load_are_told() -> None:
    broken = sample("other", 1, 500)
    broken["http"]["64"]["errors"] = 3
    assert "3 of 100 requests failed at 64 connections" in markdown(results(broken))


def test_only_the_right_answer_counts_as_right() -> None:
    ask = Ask(answer={"message": "hello"})
    assert ask.is_right(200, b'{"message":"hello"}')
    assert not ask.is_right(500, b'{"message":"hello"}')
    assert not ask.is_right(200, b'{"message":"bye"}')
    assert not ask.is_right(200, b"not JSON")
