"""What is counted from a kill on, and how it is told."""

from __future__ import annotations

from benchmarks.recovery import QUICK, Seen, line, page


def seen() -> Seen:
    """Answers each second, but none between 10.5 and 14; failures around that."""
    return Seen(
        answered_at=[8.0, 9.0, 10.0, 10.5, 14.0, 15.0],
        failed_at=[(7.0, "broken"), (11.0, "broken"), (12.0, "refused"), (12.1, "refused")],
    )


def test_only_what_came_after_the_kill_counts_and_a_gap_begins_with_the_answer_before_it() -> None:
    after = seen().after(10.7)
    assert after.longest_gap_s() == 3.5
    assert after.causes() == {"broken": 1, "refused": 2}


def test_without_an_answer_there_is_no_gap_to_measure() -> None:
    assert Seen().longest_gap_s() == 0.0
    assert Seen().after(1.0).answered_at == []


def test_a_line_has_medians_and_the_causes_of_all_rounds() -> None:
    quiet = Seen(answered_at=[1.0, 1.25], failed_at=[])
    told = line("Name", "proxy", [seen().after(10.7), quiet, quiet])
    assert told == "| Name | proxy | 0 | 0 | 2 refused, 1 broken | 0.25 s |"


def test_a_round_that_failed_is_told_and_one_that_was_never_well_too() -> None:
    quiet = Seen(answered_at=[1.0, 1.25], failed_at=[])
    assert "not all is well" in line("Name", "proxy", [quiet, "not all is well"])
    assert line("Name", "proxy", ["It did not start."]) == "| Name | proxy | - | - | It did not start. | - |"


def test_the_page_says_how_it_was_taken() -> None:
    text = page([line("Name", "replica", [seen()])], QUICK, 0.25)
    assert "python -m benchmarks.recovery" in text
    assert "Load average before: 0.2" in text
    assert "| Name | replica |" in text
