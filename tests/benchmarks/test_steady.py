"""What the clients of a kill saw: failures by cause, and the longest time without an answer."""

from __future__ import annotations

from benchmarks.loads.steady import Seen


def seen() -> Seen:
    """Answers each half second until 10.5, three failures, and answers again from 14."""
    before = [8.0 + i / 2 for i in range(6)]
    return Seen(
        answered_at=[*before, 14.0, 14.5],
        failed_at=[(9.0, "status 503"), (10.8, "broken"), (11.0, "refused"), (11.5, "refused")],
    )


def test_the_gap_begins_with_the_answer_before_it() -> None:
    after = seen().after(10.7)
    assert after.longest_gap_s() == 3.5
    assert after.causes() == {"broken": 1, "refused": 2}


def test_without_an_answer_there_is_no_gap_to_measure() -> None:
    assert Seen().longest_gap_s() == 0.0
    assert Seen().after(1.0).answered_at == []
