"""The page shows medians with their spread, targets, losses as plainly as wins, and all that failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import plots, results
from benchmarks.contenders.base import Contender
from benchmarks.figures import Figure, Goal, milliseconds, per_s
from benchmarks.report import markdown
from benchmarks.results import Results, Sample
from benchmarks.rows.base import Measured, Plot, Row
from benchmarks.server import Server


class Rates(Row):
    name = "rates"
    group = "Rates"
    about = "How often, and how fast."
    figures = (
        Figure("rate", "rate", per_s, more_is_better=True, target=Goal(100, ("other", 0.5)), aim=Goal(200)),
        Figure("time", "time", milliseconds),
    )
    plots = (
        Plot("bars", "Bars", ("rate",), "requests/s"),
        Plot("curves", "Curves", ("rate", "time"), "ms", xs=(1, 16), x_title="connections"),
    )

    def lacks(self, contender: Contender) -> str | None:
        return None

    def measure(self, server: Server) -> Measured:
        raise NotImplementedError


def taken(*samples: Sample) -> Results:
    return Results(
        taken_at="2026-01-01T00:00:00+00:00",
        machine={"processor": "a processor", "memory": "1 GiB", "system": "Linux", "load": "wrk"},
        settings={"rounds": 3, "seconds": 1.0, "warm_up_s": 0.5},
        load_average_before=0.0,
        titles={"serve-lite": "serve-lite", "other": "Other", "absent": "Absent"},
        versions={"serve-lite": {"python": "3.12"}, "other": {"python": "3.12"}},
        absent={"absent": "not installed"},
        why_not={"rates": {"other": "it has no times"}},
        samples=list(samples),
        seconds_taken=90.0,
        ended="complete",
    )


def rate(contender: str, number: int, value: float) -> Sample:
    return Sample("rates", contender, number, figures={"rate": value})


def test_a_cell_is_the_median_with_the_lowest_and_the_highest_round() -> None:
    text = markdown(
        taken(*(rate("serve-lite", n, value) for n, value in enumerate((900, 1100, 1000)))), [Rates()]
    )
    assert "| rate | 1,000/s (900/s to 1,100/s) | 100/s | 200/s | aim reached |" in text


def test_a_target_that_is_a_share_is_shown_as_what_it_comes_to() -> None:
    text = markdown(taken(rate("serve-lite", 1, 90), rate("other", 1, 100)), [Rates()])
    assert "| rate | 90/s | 50/s (0.5 × Other) | 200/s | reached | 100/s |" in text
    assert "Of 1 targets of serve-lite 1 are reached, 0 of them up to the aim." in text


def test_a_loss_is_told_as_a_ratio_below_one_and_a_missed_target_by_name() -> None:
    text = markdown(taken(rate("serve-lite", 1, 40), rate("other", 1, 100)), [Rates()])
    assert "| rate | 0.4 × |" in text
    assert "**missed**" in text
    assert "Missed: rate." in text


def test_without_ours_the_others_are_shown_without_targets() -> None:
    text = markdown(taken(rate("other", 1, 100)), [Rates()])
    assert "|  | Other |" in text
    assert "target" not in text


def test_what_failed_what_was_noted_and_what_is_missing_are_told() -> None:
    failed = Sample("rates", "other", 1, figures={"rate": 5.0}, error="Broken.\nlog")
    noted = Sample("rates", "serve-lite", 1, figures={"rate": 500.0}, notes=["3 of 100 failed"])
    text = markdown(taken(failed, noted), [Rates()])
    assert "- Other, rates, round 1: Broken.\n" in text
    assert "- serve-lite, rates, round 1: 3 of 100 failed." in text
    assert "- Absent: skipped: not installed" in text
    assert "- Other: *rates*: it has no times" in text
    assert "| 5/s |" in text, "what was measured before it failed is shown"


def test_a_run_that_did_not_come_to_its_end_says_so() -> None:
    part = taken(rate("serve-lite", 1, 500))
    part.ended = "interrupted"
    assert "The run did not come to its end: interrupted." in markdown(part, [Rates()])


def test_results_read_again_are_what_was_written(tmp_path: Path) -> None:
    before = taken(rate("serve-lite", 1, 500), Sample("rates", "other", 1, error="no"))
    before.save(tmp_path / "run.json")
    assert vars(results.load(tmp_path / "run.json")) == vars(before)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_results_of_another_layout_are_refused(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"samples": []}')
    with pytest.raises(ValueError, match="layout"):
        results.load(tmp_path / "old.json")


def test_a_run_taken_in_pieces_is_shown_as_one() -> None:
    first, second = (
        taken(rate("serve-lite", 1, 900)),
        taken(rate("serve-lite", 1, 1100), rate("other", 1, 100)),
    )
    first.ended = "interrupted"
    first.why_not = {"rates": {"absent": "because"}, "elsewhere": {"other": "why"}}
    whole = results.merged([first, second], ["other", "serve-lite"])
    assert [sample.figures["rate"] for sample in whole.samples] == [900, 1100, 100]
    assert list(whole.versions) == ["other", "serve-lite"]
    assert (whole.seconds_taken, whole.ended) == (180.0, "interrupted")
    assert whole.why_not == {
        "rates": {"absent": "because", "other": "it has no times"},
        "elsewhere": {"other": "why"},
    }


def test_plots_are_the_same_bytes_for_the_same_numbers(tmp_path: Path) -> None:
    seen = taken(
        Sample("rates", "serve-lite", 1, figures={"rate": 500.0, "time": 2.0}), rate("other", 1, 100.0)
    )
    assert plots.write(seen, [Rates()], tmp_path / "a") == ["bars.svg", "curves.svg"]
    plots.write(seen, [Rates()], tmp_path / "b")
    for name in ("bars.svg", "curves.svg"):
        picture = (tmp_path / "a" / name).read_text()
        assert picture == (tmp_path / "b" / name).read_text()
        assert "serve-lite" in picture and "Other" in picture


def test_of_figures_that_nobody_has_there_is_no_plot(tmp_path: Path) -> None:
    assert plots.write(taken(), [Rates()], tmp_path) == []
