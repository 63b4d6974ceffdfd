"""The page at /metrics: read back by prometheus_client's own parsers, for its text format and for OpenMetrics."""

from __future__ import annotations

import logging
import math
from typing import Any

import httpx
import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from serve_lite.admin.app import build_app
from serve_lite.admin.exposition import render
from serve_lite.controller.metrics import (
    APPLICATION_NUMBERS,
    DEPLOYMENT_NUMBERS,
    KEPT_GONE,
    KEPT_GONE_BYTES,
    Pictures,
    lifecycle,
)
from serve_lite.instruments import Family, Series
from serve_lite.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    ReplicaState,
    ServeStatus,
)
from serve_lite.state.ids import DeploymentId
from serve_lite.state.observed import Health, ReplicaView

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
FORMATS: dict[str, tuple[str, Any]] = {
    "text": ("", parse_text),
    "openmetrics": (OPENMETRICS, parse_openmetrics),
}


def counter(name: str, value: float, **labels: str) -> Family:
    return Family(name, "counter", "Help.", list(labels), [Series(list(labels.values()), [value])])


def gauge(name: str, value: float, **labels: str) -> Family:
    return Family(name, "gauge", "Help.", list(labels), [Series(list(labels.values()), [value])])


def histogram(name: str, bounds: list[float], values: list[float], **labels: str) -> Family:
    return Family(name, "histogram", "Help.", list(labels), [Series(list(labels.values()), values)], bounds)


@pytest.fixture(params=FORMATS)
def read(request: pytest.FixtureRequest) -> Any:
    """Renders families and returns what a reader of that format sees, by name."""
    accept, parse = FORMATS[request.param]

    def rendered(families: list[Family], prefix: str = "") -> dict[str, Metric]:
        page, _ = render(families, accept, prefix)
        found = list(parse(page.decode()))
        assert len({m.name for m in found}) == len(found), "a name is given twice"
        return {metric.name: metric for metric in found}

    return rendered


def samples(metric: Metric) -> set[tuple[str, tuple[tuple[str, str], ...], float]]:
    return {(s.name, tuple(sorted(s.labels.items())), s.value) for s in metric.samples}


def test_families_of_many_replicas_become_one(read: Any) -> None:
    found = read([counter("c", 1, replica="a"), gauge("g", -2.5), counter("c", 2, replica="b")])
    assert found["c"].type == "counter"
    assert samples(found["c"]) == {("c_total", (("replica", "a"),), 1), ("c_total", (("replica", "b"),), 2)}
    assert found["g"].type == "gauge"
    assert samples(found["g"]) == {("g", (), -2.5)}


def test_a_counter_that_is_called_total_is_not_called_so_twice(read: Any) -> None:
    found = read([counter("c_total", 1, replica="a"), counter("c", 2, replica="b")])
    assert {s.name for s in found["c"].samples} == {"c_total"}
    assert len(found["c"].samples) == 2


def test_buckets_are_added_up_and_the_sum_is_exact(read: Any) -> None:
    total = 0.1 + 0.2 + 1e-9
    metric = read([histogram("h", [0.5, 10], [1, 2, 3, total], a="x")])["h"]
    assert metric.type == "histogram"
    assert [(s.name, s.labels.get("le"), s.value) for s in metric.samples] == [
        ("h_bucket", "0.5", 1),
        ("h_bucket", "10.0", 3),
        ("h_bucket", "+Inf", 6),
        ("h_count", None, 6),
        ("h_sum", None, total),
    ]


@pytest.mark.parametrize(
    "odd", ['a "quoted" word', "back\\slash", "two\nlines", "ünï ☃", "{}=,#", "a\\nb", " "]
)
def test_help_and_label_values_come_through_as_they_are(odd: str, read: Any) -> None:
    family = counter("c", 1, label=odd)
    family.help = odd
    metric = read([family])["c"]
    assert metric.samples[0].labels == {"label": odd}
    assert metric.documentation.strip() == odd.strip()


@pytest.mark.parametrize("value", [0.0, 1e300, -1e-300, math.inf, -math.inf, math.nan, 2**53 + 0.0])
def test_numbers_come_through_as_they_are(value: float, read: Any) -> None:
    (sample,) = read([gauge("g", value)])["g"].samples
    assert sample.value == value or (math.isnan(value) and math.isnan(sample.value))


@pytest.mark.parametrize(
    ("first", "second", "name_of_second"),
    [
        (counter("x", 1), gauge("x", 2, a="b"), "x_gauge"),
        (counter("x", 1), gauge("x_total", 2), "x_total_gauge"),
        (gauge("x_total", 2), counter("x", 1), "x_counter"),
        (histogram("x", [1], [1, 1, 3.0]), counter("x", 2), "x_counter"),
        (histogram("x", [1], [1, 1, 3.0]), gauge("x_sum", 2), "x_sum_gauge"),
        (gauge("x_count", 2), histogram("x", [1], [1, 1, 3.0]), "x_histogram"),
    ],
)
def test_a_metric_whose_name_is_taken_is_shown_under_another(
    first: Family, second: Family, name_of_second: str, read: Any, caplog: pytest.LogCaptureFixture
) -> None:
    found = read([first, second])
    assert found.keys() == {
        first.name.removesuffix("_total") if first.kind == "counter" else first.name,
        name_of_second,
    }
    assert found[name_of_second].type == second.kind
    assert name_of_second in caplog.text


def test_different_boundaries_are_shown_side_by_side_and_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    families = [histogram("h", [1], [1, 0, 1.0], replica="a"), histogram("h", [2], [0, 1, 3.0], replica="b")]
    warned: set[str] = set()
    for _ in range(2):
        page, _ = render(families, "", "", warned)
        (metric,) = parse_text(page.decode())
    assert {(s.labels["replica"], s.labels["le"]) for s in metric.samples if s.name == "h_bucket"} == {
        ("a", "1.0"), ("a", "+Inf"), ("b", "2.0"), ("b", "+Inf"),
    }  # fmt: skip
    assert [r.levelno for r in caplog.records] == [logging.WARNING]


def test_a_series_that_is_there_twice_is_shown_once(read: Any, caplog: pytest.LogCaptureFixture) -> None:
    metric = read([gauge("g", 1, a="x"), gauge("g", 2, a="x"), gauge("g", 3, a="y")])["g"]
    assert samples(metric) == {("g", (("a", "x"),), 1), ("g", (("a", "y"),), 3)}
    assert "two series" in caplog.text


def test_nothing_is_a_page_too(read: Any) -> None:
    assert read([]) == {}


def test_a_prefix_is_put_in_front_of_every_name(read: Any) -> None:
    found = read([counter("c", 1), gauge("g", 1), histogram("h", [1], [1, 0, 1.0])], prefix="ray_")
    assert set(found) == {"ray_c", "ray_g", "ray_h"}
    assert {s.name for m in found.values() for s in m.samples} == {
        "ray_c_total", "ray_g", "ray_h_bucket", "ray_h_count", "ray_h_sum",
    }  # fmt: skip


# --- over HTTP ---


class Options:
    admin_host = "127.0.0.1"


class Measured:
    """A controller of which only the metrics are asked."""

    async def metrics(self) -> list[Family]:
        return [counter("c", 1, a="x")]

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked")


def client(headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    app = build_app(Measured(), Options())
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost:52365", headers=headers or {}
    )


PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "kind", "end"),
    [
        ("*/*", "text/plain", b'c_total{a="x"} 1.0\n'),
        ("text/html", "text/plain", b"1.0\n"),
        ("text/plain;version=0.0.4", "text/plain", b"1.0\n"),
        (OPENMETRICS, "application/openmetrics-text", b"# EOF\n"),
        (PROMETHEUS, "application/openmetrics-text", b"# EOF\n"),
    ],
)
async def test_the_accept_header_chooses_the_format(accept: str, kind: str, end: bytes) -> None:
    answer = await client().get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["content-type"].count("charset") == 1
    assert answer.content.endswith(end)


async def test_the_gate_guards_it() -> None:
    assert (await client({"origin": "https://elsewhere.example"}).get("/metrics")).status_code == 403
    assert (await client({"host": "rebound.example"}).get("/metrics")).status_code == 403


async def test_a_prefix_can_be_asked_for_and_must_fit() -> None:
    assert b'ray_c_total{a="x"} 1.0' in (await client().get("/metrics?prefix=ray_")).content
    refused = await client().get("/metrics", params={"prefix": "ray-"})
    assert (refused.status_code, refused.json()["path"]) == (400, "prefix")
    assert "'ray-'" in refused.json()["error"]


# --- what the daemon keeps ---

SHOP = DeploymentId(name="D", app_name="shop")


def test_counters_of_gone_replicas_stay_and_gauges_go() -> None:
    pictures = Pictures()
    pictures.begin("shop#D#r1", SHOP)
    pictures.take("shop#D#r1", [counter("c", 1), gauge("g", 1), histogram("h", [1], [1, 0, 1.0])])
    pictures.take("shop#D#r1", [counter("c", 5), gauge("g", 5), histogram("h", [1], [5, 0, 5.0])])
    assert [f.name for f in pictures.families()] == ["serve_deployment_replica_starts", "c", "g", "h"]
    pictures.end("shop#D#r1", SHOP)
    assert [(f.name, f.series[0].values) for f in pictures.families()] == [
        ("serve_deployment_replica_starts", [1.0]),
        ("c", [5]),
        ("h", [5, 0, 5.0]),
    ]
    pictures.take("shop#D#r1", [counter("c", 6)])  # an answer that comes too late
    pictures.forget(DeploymentId(name="Other", app_name="shop"))
    assert len(pictures.families()) == 3
    pictures.forget(SHOP)
    assert pictures.families() == []


def test_only_the_newest_gone_replicas_are_kept() -> None:
    pictures = Pictures()
    for number in range(KEPT_GONE + 5):
        pictures.begin(f"shop#D#{number}", SHOP)
        pictures.end(f"shop#D#{number}", SHOP)
    kept = [f.series[0].labels[1] for f in pictures.families()]
    assert kept == [str(number) for number in range(5, KEPT_GONE + 5)]


def test_gone_replicas_with_very_many_series_are_kept_within_a_megabyte() -> None:
    pictures, names = Pictures(), [f"{'c' * 1000}{number}" for number in range(100)]
    for number in range(30):  # of 100 kB each
        replica = f"shop#D#{number}"
        pictures.begin(replica, SHOP)
        pictures.take(replica, [counter(name, number) for name in names])
        pictures.end(replica, SHOP)
    kept = [f.series[0].labels[1] for f in pictures.families() if f.label_names]
    assert kept and kept == [str(number) for number in range(30 - len(kept), 30)]  # the newest
    assert sum(len(f.name) for f in pictures.families()) < KEPT_GONE_BYTES


def test_a_replica_that_was_never_ready_leaves_nothing() -> None:
    pictures = Pictures()
    pictures.take("shop#D#r1", [counter("c", 1)])
    pictures.end("shop#D#r1", SHOP)
    assert pictures.families() == []


def test_every_status_has_its_number() -> None:
    assert set(DEPLOYMENT_NUMBERS) == set(DeploymentStatus)
    assert set(APPLICATION_NUMBERS) == set(ApplicationStatus)


@pytest.mark.parametrize(
    ("state", "strikes", "healthy"),
    [
        (ReplicaState.RUNNING, 0, 1),
        (ReplicaState.UPDATING, 0, 1),
        (ReplicaState.RUNNING, 1, 0),
        (ReplicaState.STARTING, 0, 0),
        (ReplicaState.STOPPING, 0, 0),
    ],
)
def test_lifecycle_tells_how_everything_stands(state: ReplicaState, strikes: int, healthy: int) -> None:
    deployment = DeploymentStatusOverview(
        status=DeploymentStatus.UPSCALING, status_trigger=DeploymentStatusTrigger.UNSPECIFIED
    )
    app = ApplicationStatusOverview(status=ApplicationStatus.DEPLOYING, deployments={"D": deployment})
    replica = ReplicaView(
        id="shop#D#r1", deployment=SHOP, version="1", settings="", state=state, begun_at=0, since=0,
        health=Health(strikes=strikes),
    )  # fmt: skip
    families = {f.name: f for f in lifecycle(ServeStatus(applications={"shop": app}), [replica])}
    told = {n: (f.label_names, f.series[0].labels, f.series[0].values) for n, f in families.items()}
    assert told == {
        "serve_application_status": (["application"], ["shop"], [5.0]),
        "serve_deployment_status": (["deployment", "application"], ["D", "shop"], [4.0]),
        "serve_deployment_replica_healthy": (
            ["deployment", "replica", "application"],
            ["D", "r1", "shop"],
            [healthy],
        ),
    }
