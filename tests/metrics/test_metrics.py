"""Counter, Gauge and Histogram: what they check, and what they keep in a replica and outside one."""

from __future__ import annotations

import contextvars
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import serve_lite as serve
from serve_lite import instruments
from serve_lite.context import (
    ReplicaContext,
    RequestContext,
    _serve_request_context,
    make_replica_context,
    set_local_replica_context,
)
from serve_lite.instruments import Family
from serve_lite.metrics import Counter, Gauge, Histogram

MAKERS: list[Callable[..., Any]] = [
    Counter,
    Gauge,
    lambda name, *args, **more: Histogram(name, *args, boundaries=[1, 2], **more),
]
USES: dict[str, Callable[[Any, Any], None]] = {
    "counter": lambda metric, tags: metric.inc(1, tags),
    "gauge": lambda metric, tags: metric.set(1, tags),
    "histogram": lambda metric, tags: metric.observe(1, tags),
}


class InReplica:
    """Runs code as if in a replica of its own, as local testing mode does."""

    def __init__(self, suffix: str = "r1", deployment: str = "D", app: str = "shop") -> None:
        self.context: ReplicaContext = make_replica_context(
            f"{app}#{deployment}#{suffix}", app, deployment, world_size=1
        )
        self._task = contextvars.Context()
        self._task.run(set_local_replica_context, self.context)
        self.own = {"deployment": deployment, "replica": suffix, "application": app}

    def __call__(self, function: Callable[[], Any]) -> Any:
        return self._task.run(function)

    def families(self) -> dict[str, Family]:
        """Return the families that have a series of this replica, with those series only, by name."""
        found = {}
        for family in instruments.collect():
            if list(self.own) != family.label_names[:3]:
                continue
            series = [s for s in family.series if s.labels[:3] == list(self.own.values())]
            if series:
                found[family.name] = Family(
                    family.name, family.kind, family.help, family.label_names, series, family.bounds
                )
        return found

    def values(self, name: str) -> dict[tuple[str, ...], list[float]]:
        """Return a metric's values by its own labels' values."""
        return {tuple(s.labels[3:]): s.values for s in self.families()[name].series}


@pytest.fixture
def replica(request: pytest.FixtureRequest) -> Iterator[InReplica]:
    yield InReplica(suffix=f"r-{request.node.name}")


@pytest.fixture(params=["outside", "inside"])
def anywhere(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Runs code outside a replica, or in one: arguments are checked in both."""
    return (lambda function: function()) if request.param == "outside" else InReplica(request.node.name)


# --- checks ---

WRONG_MAKING: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "a list of tag keys": (lambda: Counter("c", tag_keys=["a"]), TypeError, "must be a tuple, not list"),  # type: ignore[arg-type]
    "a str of tag keys": (lambda: Gauge("c", tag_keys="ab"), TypeError, "must be a tuple, not str"),  # type: ignore[arg-type]
    "a tag key that is no str": (lambda: Counter("c", tag_keys=(1,)), TypeError, "Tag keys must be str"),  # type: ignore[arg-type]
    "an empty tag key": (lambda: Counter("c", tag_keys=("",)), ValueError, "empty tag key"),
    "a tag key twice": (lambda: Counter("c", tag_keys=("a", "a")), ValueError, "twice"),
    "keys that look alike": (lambda: Counter("c", tag_keys=("a-b", "a_b")), ValueError, "a_b"),
    "an empty name": (lambda: Counter(""), ValueError, "name"),
    "no name": (lambda: Counter(None), TypeError, "NoneType"),  # type: ignore[arg-type]
    "a description that is no str": (lambda: Counter("c", 5), TypeError, "description"),  # type: ignore[arg-type]
    "no boundaries": (lambda: Histogram("h"), ValueError, "boundaries=\\[10, 100\\]"),
    "empty boundaries": (lambda: Histogram("h", boundaries=[]), ValueError, "boundaries"),
    "boundary 0": (lambda: Histogram("h", boundaries=[0, 1]), ValueError, "above 0"),
    "boundary below 0": (lambda: Histogram("h", boundaries=[-1, 1]), ValueError, "above 0"),
    "boundary inf": (lambda: Histogram("h", boundaries=[1, float("inf")]), ValueError, "finite"),
    "falling boundaries": (lambda: Histogram("h", boundaries=[2, 1]), ValueError, "rise"),
    "a boundary that is no number": (lambda: Histogram("h", boundaries=["1"]), TypeError, "'1'"),  # type: ignore[list-item]
    "boundaries that are no list": (lambda: Histogram("h", boundaries=5), TypeError, "int"),  # type: ignore[arg-type]
    "le": (lambda: Histogram("h", boundaries=[1], tag_keys=("le",)), ValueError, "'le'"),
}


@pytest.mark.parametrize("case", WRONG_MAKING)
def test_a_metric_made_wrong_is_refused(case: str, anywhere: Callable[..., Any]) -> None:
    make, error, words = WRONG_MAKING[case]
    with pytest.raises(error, match=words):
        anywhere(make)


WRONG_USE: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "inc 0": (lambda: Counter("w_c").inc(0), ValueError, "above 0"),
    "inc below 0": (lambda: Counter("w_c").inc(-1), ValueError, "above 0"),
    "inc nan": (lambda: Counter("w_c").inc(float("nan")), ValueError, "above 0"),
    "inc inf": (lambda: Counter("w_c").inc(float("inf")), ValueError, "above 0"),
    "inc a str": (lambda: Counter("w_c").inc("1"), TypeError, "a number, not '1'"),  # type: ignore[arg-type]
    "inc None": (lambda: Counter("w_c").inc(None), TypeError, "NoneType"),  # type: ignore[arg-type]
    "set a str": (lambda: Gauge("w_g").set("1"), TypeError, "a number"),  # type: ignore[arg-type]
    "observe None": (lambda: Histogram("w_h", boundaries=[1]).observe(None), TypeError, "a number"),  # type: ignore[arg-type]
    "observe nan": (lambda: Histogram("w_h", boundaries=[1]).observe(float("nan")), ValueError, "spoil"),
    "tags that are no dict": (lambda: Counter("w_c").inc(tags=["a"]), TypeError, "must be a dict"),  # type: ignore[arg-type]
    "a tag value that is no str": (
        lambda: Counter("w_t", tag_keys=("a",)).inc(tags={"a": 1}),  # type: ignore[dict-item]
        TypeError,
        "Tag values must be str",
    ),
    "a missing tag": (
        lambda: Counter("w_t2", tag_keys=("a", "b")).inc(tags={"a": "1"}),
        ValueError,
        r"Missing value for tag key\(s\): b",
    ),
    "missing tags": (lambda: Counter("w_t2", tag_keys=("b", "a")).inc(), ValueError, r"tag key\(s\): b, a"),
    "an unknown default tag": (
        lambda: Counter("w_t", tag_keys=("a",)).set_default_tags({"b": "1"}),
        ValueError,
        "Unrecognized tag key 'b'",
    ),
    "a default tag that is no str": (
        lambda: Counter("w_t", tag_keys=("a",)).set_default_tags({"a": 1}),  # type: ignore[dict-item]
        TypeError,
        "Tag values must be str",
    ),
    "a reserved default tag": (
        lambda: Counter("w_c").set_default_tags({"replica": "x"}),
        ValueError,
        "reserved",
    ),
}


@pytest.mark.parametrize("case", WRONG_USE)
def test_a_metric_used_wrong_says_so(case: str, anywhere: Callable[..., Any]) -> None:
    use, error, words = WRONG_USE[case]
    with pytest.raises(error, match=words):
        anywhere(use)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("key", ["deployment", "replica", "application"])
def test_tags_that_every_replica_has_are_reserved_in_one(make: Any, key: str, replica: InReplica) -> None:
    with pytest.raises(ValueError, match=f"'{key}'.*reserved"):
        replica(lambda: make("mine", tag_keys=(key,)))
    made_outside = make("mine", tag_keys=(key,))
    USES[made_outside._kind](made_outside, {key: "x"})  # nothing is recorded here, so nothing clashes
    with pytest.raises(ValueError, match=f"'{key}'.*reserved"):
        replica(lambda: USES[made_outside._kind](made_outside, {key: "x"}))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", ["my-counter", "1st", "a b", "é", "x\n"])
def test_a_bad_name_is_warned_of_and_the_metric_discarded(make: Any, name: str, replica: InReplica) -> None:
    with pytest.warns(UserWarning, match="discarded") as told:
        metric = replica(lambda: make(name, tag_keys=("a",)))
    assert told[0].filename == __file__
    replica(lambda: USES[metric._kind](metric, {"a": "1"}))
    assert replica.families() == {}
    with pytest.raises(ValueError, match="Missing value"):
        replica(lambda: USES[metric._kind](metric, {}))


@pytest.mark.parametrize("name", ["a", "_a", ":a", "A:b_9"])
def test_good_names_are_not_warned_of(name: str, replica: InReplica) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replica(lambda: Counter(name).inc())
    assert replica.values(name) == {(): [1.0]}


# --- what is kept ---


def test_a_counter_counts_by_its_tags(replica: InReplica) -> None:
    def count() -> None:
        counter = Counter("things", "How many.", tag_keys=("kind", "colour")).set_default_tags(
            {"colour": "red"}
        )
        counter.inc(tags={"kind": "a"})
        counter.inc(2.5, {"kind": "a"})
        counter.inc(tags={"kind": "a", "colour": "blue", "unknown": "passed over"})

    replica(count)
    family = replica.families()["things"]
    assert (family.kind, family.help) == ("counter", "How many.")
    assert family.label_names == ["deployment", "replica", "application", "colour", "kind"]
    assert replica.values("things") == {("red", "a"): [3.5], ("blue", "a"): [1.0]}


def test_default_tags_replace_those_set_before_and_are_copied(replica: InReplica) -> None:
    counter = Counter("defaults", tag_keys=("a", "b"))
    given = {"a": "1", "b": "2"}
    assert counter.set_default_tags(given) is counter
    given["a"] = "changed later"
    replica(counter.inc)
    counter.set_default_tags({"b": "3"})
    with pytest.raises(ValueError, match=r"tag key\(s\): a"):
        counter.inc()
    assert replica.values("defaults") == {("1", "2"): [1.0]}


def test_a_gauge_keeps_the_last_value_and_none_changes_nothing(replica: InReplica) -> None:
    gauge = Gauge("level")
    for value in (3, None, -2.5, None):
        replica(lambda value=value: gauge.set(value))  # type: ignore[misc]
    assert replica.values("level") == {(): [-2.5]}
    assert replica.families()["level"].kind == "gauge"


def test_a_histogram_counts_in_buckets_whose_bound_is_included_and_adds_up_exactly(
    replica: InReplica,
) -> None:
    histogram = Histogram("sizes", boundaries=[1, 2.5, 10], tag_keys=("a",))
    for value in (0.5, 1, 1.5, 2.5, 10, 10.25, 1e6, -1):
        replica(lambda value=value: histogram.observe(value, {"a": "x"}))  # type: ignore[misc]
    family = replica.families()["sizes"]
    assert family.bounds == [1.0, 2.5, 10.0]
    assert replica.values("sizes") == {("x",): [3, 2, 1, 2, 0.5 + 1 + 1.5 + 2.5 + 10 + 10.25 + 1e6 - 1]}


@pytest.mark.parametrize("ending", ["_created", "_count", "_sum", "_bucket", "_info", "_total"])
def test_a_name_may_end_like_those_that_are_made(ending: str, replica: InReplica) -> None:
    replica(lambda: Counter(f"a{ending}").inc(2))
    replica(lambda: Gauge(f"b{ending}").set(3))
    replica(lambda: Histogram(f"c{ending}", boundaries=[1]).observe(0.5))
    assert [f.series[0].values for f in replica.families().values()] == [[2], [3], [1, 0, 0.5]]


def test_numbers_of_numpy_are_numbers(replica: InReplica) -> None:
    numpy = pytest.importorskip("numpy")
    replica(lambda: Counter("np").inc(numpy.int64(2)))
    replica(lambda: Counter("np").inc(numpy.float32(0.5)))
    assert replica.values("np") == {(): [2.5]}


def test_nothing_is_kept_outside_a_replica() -> None:
    before = instruments.collect()
    Counter("nowhere").inc()
    Gauge("nowhere", tag_keys=("a",)).set(1, {"a": "x"})
    Histogram("nowhere_h", boundaries=[1]).observe(1)
    assert [f.name for f in instruments.collect()] == [f.name for f in before]


def test_prometheus_client_is_only_imported_in_a_replica() -> None:
    code = """
import sys
import serve_lite as serve
counter = serve.metrics.Counter("c", tag_keys=("a",)).set_default_tags({"a": "1"})
counter.inc()
serve.metrics.Gauge("g").set(1)
serve.metrics.Histogram("h", boundaries=[1]).observe(1)
assert "prometheus_client" not in sys.modules, "outside"
from serve_lite.context import make_replica_context, set_replica_context
set_replica_context(make_replica_context("a#D#r", "a", "D", world_size=1))
counter.inc()
assert "prometheus_client" in sys.modules, "inside"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tags_are_looked_up_where_a_metric_is_used_not_where_it_was_made() -> None:
    shared = Counter("shared", tag_keys=("a",))  # as a module's, imported by everybody
    first, second = InReplica("one"), InReplica("two", deployment="Other")
    first(lambda: shared.inc(1, {"a": "x"}))
    second(lambda: shared.inc(2, {"a": "x"}))
    first(lambda: shared.inc(4, {"a": "x"}))
    assert first.values("shared") == {("x",): [5.0]}
    assert second.values("shared") == {("x",): [2.0]}
    assert second(lambda: shared.info["default_tags"]) == second.own


def test_replicas_in_one_process_may_use_one_name_differently() -> None:
    first, second = InReplica("kinds-one"), InReplica("kinds-two")
    first(lambda: Counter("either").inc())
    second(lambda: Gauge("either", tag_keys=("a",)).set(2, {"a": "x"}))
    assert first.families()["either"].kind == "counter"
    assert second.families()["either"].kind == "gauge"


def test_what_a_replica_measured_goes_with_it() -> None:
    replica = InReplica("short-lived")
    replica(lambda: Counter("short_lived").inc())
    assert "short_lived" in replica.families()
    del replica
    assert "short_lived" not in [f.name for f in instruments.collect()]


# --- the same name again ---


def test_the_same_name_twice_is_the_same_metric(replica: InReplica) -> None:
    def count() -> None:
        Counter("again", tag_keys=("a", "b")).inc(tags={"a": "1", "b": "2"})
        Counter("again", "described later", tag_keys=("b", "a")).inc(tags={"a": "1", "b": "2"})
        Counter("again_total", tag_keys=("a", "b")).inc(
            tags={"a": "1", "b": "2"}
        )  # shown under the same name

    replica(count)
    assert replica.values("again") == {("1", "2"): [3.0]}


CLASHES: dict[str, Callable[[], object]] = {
    "another kind": lambda: Gauge("clash", tag_keys=("a",)),
    "other tags": lambda: Counter("clash", tag_keys=("b",)),
    "fewer tags": lambda: Counter("clash"),
    "a histogram": lambda: Histogram("clash", boundaries=[1], tag_keys=("a",)),
    "a gauge that looks like the counter": lambda: Gauge("clash_total"),
}


@pytest.mark.parametrize("case", CLASHES)
def test_the_same_name_for_something_else_is_refused(case: str, replica: InReplica) -> None:
    replica(lambda: Counter("clash", tag_keys=("a",)).inc(tags={"a": "1"}))
    with pytest.raises(ValueError, match=r"'clash(_total)?'.*another name"):
        replica(CLASHES[case])
    assert replica.values("clash") == {("1",): [1.0]}


def test_other_boundaries_under_the_same_name_are_refused(replica: InReplica) -> None:
    replica(lambda: Histogram("bounds", boundaries=[1, 2]))
    with pytest.raises(ValueError, match=r"boundaries \[1.0, 2.0\]"):
        replica(lambda: Histogram("bounds", boundaries=[1, 3]))


# --- route ---


def in_request(route: str, function: Callable[[], Any]) -> Any:
    token = _serve_request_context.set(RequestContext("id", route=route))
    try:
        return function()
    finally:
        _serve_request_context.reset(token)


def test_route_is_filled_from_the_request(replica: InReplica) -> None:
    counter = Counter("by_route", tag_keys=("route",))
    replica(lambda: in_request("/shop", counter.inc))
    replica(lambda: in_request("/shop", lambda: counter.inc(tags={})))
    replica(lambda: in_request("/shop", lambda: counter.inc(tags={"route": "mine"})))
    replica(counter.inc)  # no request: no route
    assert replica.values("by_route") == {("/shop",): [2.0], ("mine",): [1.0], ("",): [1.0]}


def test_a_default_route_counts_where_the_request_has_none(replica: InReplica) -> None:
    counter = Counter("route_default", tag_keys=("route",)).set_default_tags({"route": "none"})
    replica(lambda: in_request("/shop", counter.inc))
    replica(lambda: in_request("", counter.inc))
    replica(counter.inc)
    assert replica.values("route_default") == {("/shop",): [1.0], ("none",): [2.0]}


# --- info and pickle ---


def test_info_tells_what_was_given(replica: InReplica) -> None:
    counter = Counter("told", "Help.", tag_keys=("a", "b")).set_default_tags({"a": "1"})
    expected = {"name": "told", "description": "Help.", "tag_keys": ("a", "b"), "default_tags": {"a": "1"}}
    assert counter.info == expected
    assert replica(lambda: counter.info) == {
        **expected,
        "tag_keys": ("deployment", "replica", "application", "a", "b"),
        "default_tags": {**replica.own, "a": "1"},
    }
    assert Histogram("told_h", boundaries=[1, 2]).info["boundaries"] == [1, 2]


def test_metrics_travel_by_what_they_were_made_of(replica: InReplica) -> None:
    counter = Counter("travels", "Help.", tag_keys=("a",)).set_default_tags({"a": "1"})
    replica(counter.inc)
    copy = pickle.loads(pickle.dumps(counter))
    assert type(copy) is Counter
    assert copy.info == {**counter.info, "default_tags": {}}
    histogram = Histogram("travels_h", "Help.", [1, 2], ("a",))
    assert pickle.loads(pickle.dumps(histogram)).info == histogram.info
    gauge = pickle.loads(pickle.dumps(Gauge("travels_g")))
    assert type(gauge) is Gauge
    replica(lambda: copy.inc(tags={"a": "1"}))
    assert replica.values("travels") == {("1",): [2.0]}


def test_they_are_under_the_public_name() -> None:
    assert serve.metrics.Counter is Counter


# --- threads and odd text ---


def test_no_value_is_lost_between_threads(replica: InReplica) -> None:
    threads, times = 8, 2000
    start = threading.Barrier(threads)

    def work(number: int) -> None:
        start.wait(10)
        counter, histogram = Counter("t_c", tag_keys=("n",)), Histogram("t_h", boundaries=[1, 2])
        for _ in range(times):
            counter.inc(tags={"n": str(number % 2)})
            histogram.observe(1.5)

    contexts = [replica(contextvars.copy_context) for _ in range(threads)]
    running = [threading.Thread(target=c.run, args=(work, n)) for n, c in enumerate(contexts)]
    for thread in running:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in running):  # ends with the threads
        seen += list(replica.values("t_h").values()) if "t_h" in replica.families() else []
    for thread in running:
        thread.join(10)
    assert all(total == 1.5 * (low + middle + high) for low, middle, high, total in seen)
    half = threads // 2 * times
    assert replica.values("t_c") == {("0",): [half], ("1",): [half]}
    assert replica.values("t_h") == {(): [0, threads * times, 0, 1.5 * threads * times]}


def test_text_that_utf8_cannot_hold_and_keys_that_prometheus_cannot_are_made_to_fit(
    replica: InReplica,
) -> None:
    replica(lambda: Counter("odd", "half \ud800", tag_keys=("user-id",)).inc(tags={"user-id": "\ud800x"}))
    family = replica.families()["odd"]
    assert family.label_names[3:] == ["user_id"]
    assert replica.values("odd") == {("?x",): [1.0]}
    assert family.help == "half ?"
