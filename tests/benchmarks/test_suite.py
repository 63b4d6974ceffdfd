"""A run takes turns, keeps what it has, and goes on when a contender does not."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks import results
from benchmarks.__main__ import _chosen
from benchmarks.asks import ASKS, Ask, document
from benchmarks.contenders.all import CONTENDERS
from benchmarks.contenders.base import App, Command, Contender, Place
from benchmarks.figures import Figure, count
from benchmarks.rows.all import ROWS
from benchmarks.rows.base import Measured, Row
from benchmarks.server import BenchmarkError, Server
from benchmarks.settings import QUICK
from benchmarks.suite import Suite, visits


class Here(Contender):
    """A contender that starts nothing, or something that ends at once."""

    environment = ""
    apps = ("noop", "sync")
    code: ClassVar[str] = ""

    def __init__(self, name: str, apps: Sequence[App] = ("noop", "sync")) -> None:
        self.name = self.title = name  # type: ignore[misc]
        self.apps = apps  # type: ignore[misc]

    @property
    def python(self) -> Path:
        return Path(sys.executable)

    def commands(self, app: App, place: Place) -> list[Command]:
        return [Command([str(self.python), "-c", self.code])]


class Broken(Here):
    code = "print('it cannot be'); raise SystemExit(1)"


class Fixed(Row):
    group = "Fixed"
    about = "Numbers without a measurement."
    app = "nothing"
    figures = (Figure("one", "one", count), Figure("two", "two", count))

    def __init__(self, name: str, app: App = "nothing", *, once: bool = False, fails: bool = False) -> None:
        self.name, self.app, self.once = name, app, once  # type: ignore[misc]
        self._fails = fails

    def measure(self, server: Server) -> Measured:
        yield "one", 1
        if self._fails:
            raise BenchmarkError("no second one")
        server.notes.append("of this row")
        yield "two", 2


def test_contenders_take_turns_application_by_application_and_round_by_round() -> None:
    rows = [Fixed("a", "noop"), Fixed("b", "sync"), Fixed("c", "noop", once=True)]
    order = [
        (v.round, v.app, v.contender.name, [row.name for row in v.rows])
        for v in visits(rows, [Here("x"), Here("y", ["noop"])], 2)
    ]
    assert order == [
        (1, "noop", "x", ["a", "c"]),
        (1, "noop", "y", ["a", "c"]),
        (1, "sync", "x", ["b"]),
        (2, "noop", "x", ["a"]),
        (2, "noop", "y", ["a"]),
        (2, "sync", "x", ["b"]),
    ]


def test_a_row_that_fails_keeps_what_it_has_and_the_next_one_is_measured(tmp_path: Path) -> None:
    suite = Suite([Fixed("bad", fails=True), Fixed("good")], [Here("x")], QUICK, folder=tmp_path)
    bad, good = suite.run().samples
    assert (bad.figures, bad.error, bad.notes) == ({"one": 1.0}, "no second one", [])
    assert (good.figures, good.error, good.notes) == ({"one": 1.0, "two": 2.0}, None, ["of this row"])
    assert vars(results.load(suite.path)) == vars(suite.results)


def test_a_contender_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    suite = Suite(
        [Fixed("a", "noop"), Fixed("b", "noop")], [Broken("x"), Here("y", [])], QUICK, folder=tmp_path
    )
    taken = suite.run()
    assert taken.ended == "complete"
    assert [(s.row, s.contender) for s in taken.samples] == [("a", "x"), ("b", "x")]
    assert all(
        s.error and s.error.startswith("It ended before it answered. It wrote last: it cannot be")
        for s in taken.samples
    )
    assert taken.why_not["a"] == {"y": "it has nothing of the kind"}


def test_when_the_budget_is_used_up_nothing_more_is_started(tmp_path: Path) -> None:
    taken = Suite([Fixed("a")], [Here("x")], QUICK, folder=tmp_path, budget_s=-1.0).run()
    assert taken.samples == []
    assert "budget" in taken.ended


def test_an_interrupted_run_keeps_what_was_measured(tmp_path: Path) -> None:
    class Interrupted(Fixed):
        def measure(self, server: Server) -> Measured:
            raise KeyboardInterrupt

    suite = Suite([Fixed("a"), Interrupted("b"), Fixed("c")], [Here("x")], QUICK, folder=tmp_path)
    taken = suite.run()
    assert ([s.row for s in taken.samples], taken.ended) == (["a"], "interrupted")
    assert results.load(suite.path).ended == "interrupted"


def test_what_is_not_installed_is_absent_with_its_reason(tmp_path: Path) -> None:
    class Elsewhere(Here):
        @property
        def python(self) -> Path:
            return tmp_path / "python"

    taken = Suite([Fixed("a")], [Elsewhere("x")], QUICK, folder=tmp_path).run()
    assert taken.absent == {"x": "not installed; run `make bench-setup`"}


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_each_contender_can_tell_of_each_row_whether_it_has_it(contender: Contender) -> None:
    reasons = {row.name: row.lacks(contender) for row in ROWS}
    assert None in reasons.values(), "it has something"
    assert all(reason is None or len(reason) > 10 for reason in reasons.values())


def test_names_stand_for_one_thing_or_several_and_others_are_refused() -> None:
    known = {"a": 1, "b": 2, "c": 3}
    assert _chosen("c,a", known, {}) == [1, 3]
    assert _chosen("both,c", known, {"both": ("a", "b")}) == [1, 2, 3]
    with pytest.raises(Exception, match="'d' is none of a, b, c, both"):
        _chosen("d", known, {"both": ("a", "b")})


def test_only_the_right_answer_counts_as_right() -> None:
    ask = Ask(answer={"message": "hello"})
    assert ask.is_right(200, b'{"message":"hello"}')
    assert not ask.is_right(500, b'{"message":"hello"}')
    assert not ask.is_right(200, b'{"message":"bye"}')
    assert not ask.is_right(200, b"not JSON")


def test_documents_have_the_size_that_they_are_asked_for() -> None:
    for size in (1000, 100_000):
        assert 0.9 * size < len(ASKS[f"json-{size // 1000}k"].body) <= size
    assert [item["id"] for item in document(300)["items"]] == [1000, 1001, 1002, 1003]
