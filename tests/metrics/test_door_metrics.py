"""Metrics of the doors and of routers: what they count is what happened, and what is ongoing goes back to nothing."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.instruments import LATENCY_MS
from serve_lite.proxy.accounts import Accounts
from serve_lite.proxy.metrics import door_metrics
from tests.instances import Instance, until
from tests.metrics.test_metrics_of_an_instance import OPENMETRICS, ask, deploy, scrape, until_page


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
async def test_answers_are_counted_by_route_method_and_status(daemon: Instance, accept: str) -> None:
    await deploy(daemon, "counted", n="1")
    for method, path, status in (
        ("GET", "/shop", 200),
        ("GET", "/shop/below", 200),
        ("POST", "/shop?count=0", 500),
        ("GET", "/nowhere", 404),
        ("GET", "/-/healthz", 200),  # not counted, as in Ray Serve
    ):
        assert (await daemon.http.request(method, path)).status_code == status
    page = await scrape(daemon, accept)
    labels = ("route", "method", "application", "status_code")
    counted = {
        ("/shop", "GET", "shop", "200"): 2,
        ("/shop", "POST", "shop", "500"): 1,
        ("", "GET", "", "404"): 1,
    }
    assert page.rows("serve_num_http_requests_total", *labels) == counted
    assert page.rows("serve_http_request_latency_ms_count", *labels) == counted
    longest = page.rows("serve_http_request_latency_ms_bucket", *labels, le="+Inf")
    assert longest == counted
    assert page.rows("serve_http_request_latency_ms_sum", "route", status_code="200")["/shop"] > 0
    errors = ("route", "error_code", "method", "application")
    assert page.rows("serve_num_http_error_requests_total", *errors) == {
        ("/shop", "500", "POST", "shop"): 1, ("", "404", "GET", ""): 1,
    }  # fmt: skip
    assert page.rows("serve_num_deployment_http_error_requests_total", "deployment", *errors) == {
        ("Counted", "/shop", "500", "POST", "shop"): 1
    }
    (node,) = page.rows("serve_num_ongoing_http_requests", "node_id")
    assert page.rows("serve_num_ongoing_http_requests", "node_id") == {node: 0}
    assert page.rows("serve_proxy_status", "node_id") == {node: 2}
    details = (await daemon.admin.get("/api/serve/applications/")).json()
    assert list(details["proxies"]) == [node]


async def test_calls_that_wait_and_run_are_seen_and_are_gone_in_the_end(
    daemon: Instance, tmp_path: Path
) -> None:
    await deploy(daemon, "gated", folder=str(tmp_path))
    mine = {"deployment": "Gated", "application": "shop", "handle_source": "PROXY"}
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(daemon.http.get, "/shop")
        await until(lambda: (tmp_path / "entered").exists(), "one request has come to the replica")
        page = await until_page(daemon, lambda p: p.total("serve_num_ongoing_http_requests") == 3)
        assert page.total("serve_deployment_queued_queries", **mine) == 2
        assert page.total("serve_num_ongoing_requests_at_replicas", **mine) == 1
        (replica,) = page.rows("serve_deployment_replica_healthy", "replica")
        assert page.rows("serve_request_router_queue_len", "replica_id", **mine) == {
            f"shop#Gated#{replica}": 1
        }
        assert page.total("serve_num_router_requests_total", **mine) == 3
        assert page.total("serve_request_router_fulfillment_time_ms_count", **mine) == 1
        (tmp_path / "gate").touch()
    page = await scrape(daemon)
    for gone in (
        "serve_num_ongoing_http_requests",
        "serve_deployment_queued_queries",
        "serve_num_ongoing_requests_at_replicas",
    ):
        assert page.total(gone) == 0, gone
    assert page.total("serve_request_router_fulfillment_time_ms_count", **mine) == 3
    assert page.total("serve_request_router_fulfillment_time_ms_sum", **mine) > 0


async def test_a_client_that_leaves_is_counted_and_waits_no_more(daemon: Instance, tmp_path: Path) -> None:
    await deploy(daemon, "gated", folder=str(tmp_path))
    async with anyio.create_task_group() as group:
        group.start_soon(daemon.http.get, "/shop")
        await until(lambda: (tmp_path / "entered").exists(), "one request has come to the replica")
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(daemon.http.get, "/shop")
            await until_page(daemon, lambda p: p.total("serve_deployment_queued_queries") == 1)
            leaving.cancel_scope.cancel()
        page = await until_page(daemon, lambda p: p.total("serve_deployment_queued_queries") == 0)
        assert page.rows("serve_num_http_requests_total", "status_code") == {"499": 1}
        (tmp_path / "gate").touch()


async def test_handles_in_replicas_tell_of_their_calls_too(daemon: Instance) -> None:
    await deploy(daemon, "composed")
    for _ in range(3):
        await ask(daemon)
    page = await scrape(daemon)
    labels = ("deployment", "application", "handle_source")
    assert page.rows("serve_num_router_requests_total", *labels) == {
        ("Counted", "shop", "PROXY"): 3, ("Inner", "shop", "REPLICA"): 3,
    }  # fmt: skip
    caller = page.rows("serve_deployment_replica_healthy", "replica", deployment="Counted")
    told = page.rows("serve_num_router_requests_total", "replica", handle_source="REPLICA")
    assert told.keys() == caller.keys(), "`replica` is the one that calls"


@given(
    st.lists(
        st.tuples(st.sampled_from(["GET", "POST"]), st.sampled_from([200, 404, 500]), st.floats(0, 1000))
    )
)
def test_what_is_shown_is_what_was_counted(requests: list[tuple[str, int, float]]) -> None:
    accounts = Accounts()
    for method, status, seconds in requests:
        accounts.route("/a", "app", "D").count(method, status, seconds)
    families = {family.name: family for family in door_metrics("http", accounts, ("n", "ip"))}
    total = sum(series.values[0] for series in families["serve_num_http_requests"].series)
    errors = sum(series.values[0] for series in families["serve_num_http_error_requests"].series)
    assert (total, errors) == (len(requests), sum(status >= 400 for _, status, _ in requests))
    latencies = families["serve_http_request_latency_ms"].series
    assert sum(sum(series.values[:-1]) for series in latencies) == len(requests)
    slow = sum(seconds * 1000 > 100 for _, _, seconds in requests)
    above = LATENCY_MS.index(100) + 1
    assert sum(sum(series.values[above:-1]) for series in latencies) == slow
