"""Metrics of real replicas, scraped from a real daemon over HTTP."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from serve_lite.schema import ApplicationStatus, ServeStatus
from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeployReply, DeployRequest, WaitRequest
from tests.instances import DEADLINE_S, Instance, until

HERE = Path(__file__).parent
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Page:
    """What one scrape showed."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    @property
    def names(self) -> set[str]:
        return {metric.name for metric in self._metrics}

    def metric(self, name: str) -> Metric:
        (found,) = [metric for metric in self._metrics if metric.name == name]
        return found

    def rows(self, sample: str, *labels: str, **where: str) -> dict[Any, float]:
        """Return the samples of this name by these labels' values (one: bare), where others have these values."""
        found: dict[Any, float] = {}
        for metric in self._metrics:
            for s in metric.samples:
                if s.name == sample and where.items() <= s.labels.items():
                    key = tuple(s.labels.get(label, "") for label in labels)
                    key = key[0] if len(labels) == 1 else key
                    assert key not in found, f"{sample} is there twice for {key}"
                    found[key] = s.value
        return found

    def total(self, sample: str, **where: str) -> float:
        return sum(
            s.value
            for metric in self._metrics
            for s in metric.samples
            if s.name == sample and where.items() <= s.labels.items()
        )


async def scrape(daemon: Instance, accept: str = "") -> Page:
    answer = await daemon.admin.get("/metrics", headers={"accept": accept})
    assert answer.status_code == 200, answer.text
    parse: Callable[[str], Any] = parse_openmetrics if "openmetrics" in accept else parse_text
    return Page(list(parse(answer.text)))


async def deploy(daemon: Instance, path: str, *overrides: dict[str, Any], **args: str) -> None:
    """Deploy an application of `counted.py` as "shop" at /shop; other overrides are no new version."""
    app = AppSubmission(
        name="shop",
        source="declarative",
        route_prefix="/shop",
        environment=CodeEnvironment(cwd=str(HERE), sys_path=(str(HERE),)),
        build=BuildRequest(app_name="shop", import_path=f"counted:{path}", args=args),
        overrides=overrides,
        code_version="the same",
    )
    await daemon.ask("deploy", DeployRequest(apps=[app]), DeployReply)
    status = await daemon.ask("wait_apps", WaitRequest(names=["shop"]), ServeStatus)
    assert status.applications["shop"].status is ApplicationStatus.RUNNING, status.applications[
        "shop"
    ].message


async def ask(daemon: Instance, query: str = "") -> Any:
    """Make one request on a connection of its own."""
    async with httpx.AsyncClient(base_url=daemon.http_url, timeout=DEADLINE_S) as client:
        answer = await client.get(f"/shop?{query}")
        assert answer.status_code == 200, answer.text
        return answer.json()


async def ask_each(daemon: Instance, query: str, replicas: int) -> dict[str, tuple[int, int]]:
    """Ask until every replica has answered at least once; return pid and number of answers by replica."""
    answered: dict[str, tuple[int, int]] = {}
    for _ in range(1000):
        said = await ask(daemon, query)
        answered[said["replica"]] = said["pid"], answered.get(said["replica"], (0, 0))[1] + 1
        if len(answered) == replicas:
            return answered
    raise AssertionError(f"of {replicas} replicas only {list(answered)} answer")


async def until_page(daemon: Instance, condition: Callable[[Page], bool]) -> Page:
    """Scrape until the condition holds."""
    with anyio.fail_after(DEADLINE_S):
        while not condition(page := await scrape(daemon)):
            await anyio.sleep(0.01)
        return page


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
async def test_counts_of_all_replicas_are_there_with_their_tags(daemon: Instance, accept: str) -> None:
    await deploy(daemon, "counted", n="2")
    answered = await ask_each(daemon, "count=2.5&size=5&level=7", 2)
    page = await scrape(daemon, accept)
    metric = page.metric("calls")
    assert (metric.type, metric.documentation) == ("counter", 'Calls, with "quotes" and a \\ in the help.')
    everywhere = {"deployment": "Counted", "application": "shop"}
    assert [s.labels for s in metric.samples if s.labels["replica"] == min(answered)] == [
        {**everywhere, "replica": min(answered), "route": "/shop", "kind": "plain"}
    ]
    expected = {replica: 2.5 * times for replica, (_, times) in answered.items()}
    assert page.rows("calls_total", "replica", **everywhere, route="/shop", kind="plain") == expected
    assert page.rows("level", "replica", **everywhere) == dict.fromkeys(answered, 7.0)
    times = {replica: times for replica, (_, times) in answered.items()}
    assert page.rows("sizes_sum", "replica", kind="x") == {r: 5.0 * n for r, n in times.items()}
    assert page.rows("sizes_count", "replica", kind="x") == times
    assert page.rows("sizes_bucket", "replica", le="1.0") == dict.fromkeys(times, 0.0)
    assert page.rows("sizes_bucket", "replica", le="10.0") == times
    assert page.rows("sizes_bucket", "replica", le="+Inf") == times


async def test_the_daemon_tells_how_everything_stands(daemon: Instance) -> None:
    await deploy(daemon, "counted", n="2")
    page = await scrape(daemon)
    replicas = set((await ask_each(daemon, "", 2)).keys())
    assert page.rows("serve_application_status", "application") == {"shop": 6}
    assert page.rows("serve_deployment_status", "deployment", "application") == {("Counted", "shop"): 6}
    mine = {"deployment": "Counted", "application": "shop"}
    assert page.rows("serve_deployment_replica_healthy", "replica", **mine) == dict.fromkeys(replicas, 1)
    assert page.rows("serve_deployment_replica_starts_total", "replica", **mine) == dict.fromkeys(replicas, 1)
    assert page.rows("serve_replica_processing_queries", "replica", **mine) == dict.fromkeys(replicas, 0)


async def test_requests_and_exceptions_are_counted_by_route(daemon: Instance) -> None:
    await deploy(daemon, "counted", n="1")
    for query, status in (("", 200), ("count=1", 200), ("count=0", 500), ("count=x", 500)):
        assert (await daemon.http.get(f"/shop?{query}")).status_code == status
    page = await scrape(daemon)
    mine = {"deployment": "Counted", "application": "shop", "route": "/shop"}
    assert list(page.rows("serve_deployment_request_counter_total", "replica", **mine).values()) == [4]
    assert page.rows("serve_deployment_error_counter_total", "exception_type", **mine) == {"ValueError": 2}


async def test_a_nested_call_counts_for_the_route_it_came_from(daemon: Instance) -> None:
    await deploy(daemon, "composed")
    await ask(daemon)
    page = await scrape(daemon)
    assert page.rows("inner_calls_total", "deployment", "route") == {("Inner", "/shop"): 1}


async def test_what_serve_lite_measures_itself_gets_the_tags_too(daemon: Instance) -> None:
    await deploy(daemon, "instrumented")
    await ask(daemon)
    page = await scrape(daemon)
    (replica,) = page.rows("serve_deployment_replica_starts_total", "replica")
    (series,) = page.metric("serve_test_loads").samples
    assert (series.name, series.value) == ("serve_test_loads_total", 2)
    own = {"deployment": "Instrumented", "replica": replica, "application": "shop", "model_id": "m1"}
    assert series.labels == own
    assert page.rows("serve_test_latency_ms_sum", *own) == {tuple(own.values()): 7}


async def test_batches_are_measured(daemon: Instance) -> None:
    await deploy(daemon, "batched")
    assert await ask(daemon, "value=4") == 8
    page = await scrape(daemon, OPENMETRICS)
    mine = {"deployment": "Batched", "application": "shop", "function_name": "double"}
    assert page.total("serve_batches_processed_total", **mine) == 1
    assert page.total("serve_actual_batch_size_sum", **mine) == 1


async def test_a_page_without_replicas_is_a_page(daemon: Instance) -> None:
    for accept in ("", OPENMETRICS):
        assert (await scrape(daemon, accept)).names <= {
            "serve_application_status", "serve_deployment_status", "serve_deployment_replica_healthy",
            "serve_proxy_status", "serve_num_ongoing_http_requests",
        }  # fmt: skip


async def test_a_killed_replica_leaves_its_counts_of_the_last_scrape_but_no_gauges(daemon: Instance) -> None:
    await deploy(daemon, "counted", n="2")
    answered = await ask_each(daemon, "count=1&size=5&level=7", 2)
    before = await scrape(daemon)
    counted = before.rows("calls_total", "replica")
    assert counted.keys() == answered.keys()
    killed, (pid, _) = next(iter(answered.items()))
    os.kill(pid, signal.SIGKILL)

    def is_replaced(page: Page) -> bool:
        serving = page.rows("serve_deployment_replica_healthy", "replica")
        return killed not in serving and list(serving.values()) == [1, 1]

    page = await until_page(daemon, is_replaced)
    assert page.rows("calls_total", "replica").items() >= counted.items()
    assert page.rows("sizes_sum", "replica")[killed] == before.rows("sizes_sum", "replica")[killed]
    assert killed not in page.rows("level", "replica")
    assert killed not in page.rows("serve_replica_processing_queries", "replica")
    assert page.total("serve_deployment_replica_starts_total") == 3
    assert page.total("ends_total") == 0, "nobody could have been told"


async def test_replicas_that_are_drained_leave_exact_last_values(daemon: Instance) -> None:
    await deploy(daemon, "counted", {"name": "Counted", "num_replicas": 4})
    answered = await ask_each(daemon, "count=0.125&size=0.5&level=7", 4)  # no scrape before they go
    times = sum(n for _, n in answered.values())
    await deploy(daemon, "counted", {"name": "Counted", "num_replicas": 1})
    await until(lambda: len(daemon.pids("replica")) == 1, "one replica is left")
    page = await until_page(daemon, lambda p: len(p.rows("serve_deployment_replica_healthy", "replica")) == 1)
    (left,) = page.rows("serve_deployment_replica_healthy", "replica")
    expected = {replica: n / 8 for replica, (_, n) in answered.items()}
    assert page.rows("calls_total", "replica") == expected
    assert page.total("sizes_sum") == times / 2
    assert page.total("sizes_count") == times
    assert page.rows("level", "replica").keys() == {left}
    ended = page.rows("ends_total", "replica")
    assert ended == {replica: float(replica != left) for replica in answered}, "destructors count too"


async def test_what_a_deleted_deployment_counted_is_forgotten(daemon: Instance) -> None:
    await deploy(daemon, "counted", n="1")
    await ask(daemon, "count=1")
    assert (await scrape(daemon)).total("calls_total") == 1
    await daemon.delete("shop")
    page = await until_page(daemon, lambda p: "calls" not in p.names)
    assert page.rows("serve_deployment_replica_starts_total", "replica") == {}
    await deploy(daemon, "counted", n="1")
    await ask(daemon, "count=1")
    assert (await scrape(daemon)).total("calls_total") == 1


async def test_a_blocked_replica_is_shown_as_it_was_and_holds_up_nobody(
    daemon: Instance, tmp_path: Path
) -> None:
    await deploy(daemon, "blocking", folder=str(tmp_path))
    seen = set()
    while len(seen) < 2:
        seen.add(await ask(daemon))
    before = (await scrape(daemon)).rows("blocking_calls_total", "replica")
    async with anyio.create_task_group() as group:
        group.start_soon(ask, daemon, "block=1")
        await until(lambda: list(tmp_path.glob("blocked-*")), "a replica is blocked")
        while (await ask(daemon)) != next(iter(seen - {blocked_pid(tmp_path)})):
            pass
        for _ in range(2):  # the second finds the question of the first still open
            now = (await scrape(daemon)).rows("blocking_calls_total", "replica")
            assert now.keys() == before.keys()
            changed = {replica for replica in now if now[replica] > before[replica]}
            assert len(changed) == 1, "only the one that is not blocked can tell"
        (tmp_path / "gate").touch()
    (blocked,) = before.keys() - changed
    page = await until_page(
        daemon, lambda p: p.rows("blocking_calls_total", "replica")[blocked] == before[blocked] + 1
    )
    assert page.rows("blocking_calls_total", "replica").keys() == before.keys()


def blocked_pid(folder: Path) -> int:
    (file,) = folder.glob("blocked-*")
    return int(file.name.removeprefix("blocked-"))


async def test_a_stopped_replica_holds_up_nobody(daemon: Instance) -> None:
    await deploy(daemon, "counted", n="2")
    answered = await ask_each(daemon, "count=1", 2)
    pid, _ = next(iter(answered.values()))
    before = (await scrape(daemon)).rows("calls_total", "replica")
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            assert (await scrape(daemon)).rows("calls_total", "replica") == before
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_new_daemon_learns_the_metrics_of_the_replicas_it_adopts(daemon: Instance) -> None:
    await deploy(daemon, "counted", n="2")
    answered = await ask_each(daemon, "count=1", 2)
    old = await daemon.daemon_pid()
    os.kill(old, signal.SIGKILL)
    with anyio.fail_after(DEADLINE_S):
        while await daemon.daemon_pid() == old:
            await anyio.sleep(0.01)
    page = await scrape(daemon)
    assert page.rows("calls_total", "replica") == {r: n for r, (_, n) in answered.items()}


async def test_scrapes_at_once_agree(daemon: Instance) -> None:
    await deploy(daemon, "counted", n="2")
    answered = await ask_each(daemon, "count=1", 2)
    expected = {replica: times for replica, (_, times) in answered.items()}
    pages: list[Page] = []

    async def one() -> None:
        pages.append(await scrape(daemon))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(one)
    assert [page.rows("calls_total", "replica") for page in pages] == [expected] * 8
