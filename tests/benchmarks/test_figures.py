"""Goals are met by the better side of a number, on a machine of any speed; ratios above one are ours."""

from __future__ import annotations

import pytest

from benchmarks.figures import Figure, Goal, Reached, milliseconds, per_s
from benchmarks.rows.all import BY_NAME as ROWS_BY_NAME
from benchmarks.rows.all import GROUPS, ROWS
from benchmarks.spread import percentile, spread

RATE = Figure(
    "rate",
    "rate",
    per_s,
    more_is_better=True,
    target=Goal(100, ("limit", 0.4)),
    aim=Goal(200, ("limit", 0.7)),
)
TIME = Figure("time", "time", milliseconds, target=Goal(2.0), aim=Goal(1.0))


def test_without_the_other_contender_the_number_itself_is_the_goal() -> None:
    assert [RATE.reached(ours, {}) for ours in (99, 100, 199, 200)] == [
        Reached.MISSED,
        Reached.TARGET,
        Reached.TARGET,
        Reached.AIM,
    ]


def test_beside_the_other_contender_its_share_is_the_goal() -> None:
    on_a_slow_machine = {"limit": 50.0}
    assert RATE.reached(35, on_a_slow_machine) is Reached.AIM
    assert RATE.reached(20, on_a_slow_machine) is Reached.TARGET
    assert RATE.reached(19, on_a_slow_machine) is Reached.MISSED
    assert RATE.reached(250, {"limit": 1000.0}) is Reached.MISSED


def test_of_a_time_less_is_better() -> None:
    assert [TIME.reached(ours, {}) for ours in (1.0, 1.5, 2.5)] == [
        Reached.AIM,
        Reached.TARGET,
        Reached.MISSED,
    ]
    assert TIME.advantage(ours=1.0, other=3.0) == 3.0
    assert RATE.advantage(ours=1.0, other=4.0) == 0.25


def test_a_figure_without_goals_is_neither_reached_nor_missed_and_nothing_is_infinitely_better() -> None:
    assert Figure("a", "a", per_s).reached(1.0, {}) is None
    assert TIME.advantage(ours=0.0, other=3.0) is None


def test_a_spread_is_told_only_where_it_can_be_seen() -> None:
    rates, same = spread([900, 1100, 1000]), spread([1000.1, 1000.2])
    assert rates is not None and same is not None
    assert rates.written(per_s) == "1,000/s (900/s to 1,100/s)"
    assert same.written(per_s) == "1,000/s"
    assert spread([]) is None


@pytest.mark.parametrize(("percent", "value"), [(1, 1.0), (50, 5.0), (51, 6.0), (99, 10.0), (100, 10.0)])
def test_a_percentile_is_one_of_the_values(percent: int, value: float) -> None:
    assert percentile([float(n) for n in range(10, 0, -1)], percent) == value


def test_of_no_values_there_is_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_each_figure_has_a_key_and_a_title_of_its_own() -> None:
    figures = [figure for row in ROWS for figure in row.figures]
    assert len({figure.key for figure in figures}) == len(figures)
    assert len({(row.group, figure.title) for row in ROWS for figure in row.figures}) == len(figures)


def test_rows_and_groups_have_names_of_their_own_and_plots_show_their_figures() -> None:
    assert len(ROWS_BY_NAME) == len(ROWS)
    assert not set(GROUPS) & set(ROWS_BY_NAME)
    assert {name for group in GROUPS.values() for name in group} <= set(ROWS_BY_NAME)
    for row in ROWS:
        for plot in row.plots:
            assert set(plot.keys) <= {figure.key for figure in row.figures}
            assert len(plot.xs) in (0, len(plot.keys))


def test_an_aim_is_never_easier_than_its_target() -> None:
    for figure in (figure for row in ROWS for figure in row.figures if figure.target and figure.aim):
        assert figure.target is not None and figure.aim is not None
        aim, target = figure.aim.value, figure.target.value
        assert aim >= target if figure.more_is_better else aim <= target, figure.title
