"""Proxy processes: their API keys, their access log and what they count are those of one instance."""

from __future__ import annotations

from pathlib import Path

import anyio
import httpx

from serve_lite.daemon.proxy_asks import ProxyAsks, added
from serve_lite.instruments import Family, Series
from serve_lite.proxy.key_file import add_key, remove_key
from serve_lite.proxy.keys import new_key
from serve_lite.wire.messages import Empty, ProxyMetrics, ReloadKeysReply, Routes
from tests.instances import DEADLINE_S, Instance, Instances, until
from tests.metrics.test_metrics_of_an_instance import scrape
from tests.processes.test_kills import kill
from tests.processes.test_proxy_processes import behind, fresh, ready_proxies

__all__ = ["behind"]  # a fixture
HERE = Path(__file__).parent


async def status_of(url: str, key: str) -> int:
    """Ask on a new connection, which may be either proxy's."""
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        return (await client.get(url, headers={"x-api-key": key})).status_code


async def until_all(url: str, key: str, status: int) -> None:
    """Return once twenty connections in a row got this answer."""
    seen = 0
    with anyio.fail_after(DEADLINE_S):
        while seen < 20:
            seen = seen + 1 if await status_of(url, key) == status else 0


async def test_every_proxy_heeds_the_keys_at_once_and_writes_the_access_log(
    instances: Instances, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    instance = await instances.start(
        instances.options(proxy_processes=2, require_api_key=True, access_log=str(log))
    )
    await instance.deploy("served:who", folder=HERE)
    await ready_proxies(instance)
    path = f"{instance.home}/api-keys"
    key, shown = new_key("alice")
    assert await status_of(instance.http_url, shown) == 401
    add_key(path, key)
    told = await instance.ask("reload_keys", Empty(), ReloadKeysReply)
    assert (told.keys, told.is_asked_for) == (1, True)
    await until_all(instance.http_url, shown, 200)
    remove_key(path, "alice")
    await instance.ask("reload_keys", Empty(), ReloadKeysReply)
    await until_all(instance.http_url, shown, 401)
    page = await scrape(instance)
    asked = page.total("serve_num_http_requests_total")
    await instances.stop(instance)
    statuses = [line.split()[6] for line in log.read_text().splitlines()]
    assert len(statuses) == asked and set(statuses) == {"200", "401"}


async def test_what_proxies_count_is_shown_together_and_stays_when_one_is_killed(behind: Instance) -> None:
    await behind.deploy("served:who", folder=HERE)
    pids = await ready_proxies(behind)
    for _ in range(10):
        (await fresh(behind)).raise_for_status()
    page = await scrape(behind)
    assert page.rows("serve_num_http_requests_total", "route", "status_code") == {("/", "200"): 10}
    assert page.total("serve_http_request_latency_ms_count") == 10
    assert page.total("serve_num_router_requests_total", handle_source="PROXY") == 10
    details = (await behind.admin.get("/api/serve/applications/")).json()
    assert page.rows("serve_proxy_status", "node_id") == dict.fromkeys(details["proxies"], 2)
    assert page.rows("serve_num_ongoing_http_requests", "node_id") == dict.fromkeys(details["proxies"], 0)
    kill(min(pids))
    await until(lambda: len(behind.pids("proxy") - {min(pids)}) == 2, "there is another one")
    await ready_proxies(behind)
    for _ in range(5):
        (await fresh(behind)).raise_for_status()
    page = await scrape(behind)
    assert page.total("serve_num_http_requests_total") == 15
    assert page.rows("serve_num_ongoing_http_requests", "node_id").keys() == details["proxies"].keys()


# --- the daemon's side, without processes ---------------------------------------------------------


def counted(value: float, gauge: float = 0.0) -> list[Family]:
    return [
        Family("c", "counter", "", ["a"], [Series(["x"], [value])]),
        Family("g", "gauge", "", [], [Series([], [gauge])]),
    ]


def total(asks: ProxyAsks, name: str) -> float:
    return sum(s.values[0] for family in asks.families("n") if family.name == name for s in family.series)


async def test_a_proxy_that_comes_back_is_not_counted_twice_and_one_that_is_gone_stays() -> None:
    asks = ProxyAsks(lambda on_change: lambda: None)
    for pid in (1, 2):
        await asks.take(ProxyMetrics(number=1, pid=pid, serial=1, families=counted(10, 1)))
    assert (total(asks, "c"), total(asks, "g")) == (20, 2)
    await asks.scrape([])  # both have lost their connections
    assert (total(asks, "c"), total(asks, "g")) == (20, 0)
    await asks.take(ProxyMetrics(number=1, pid=2, serial=2, families=counted(11, 1)))
    assert (total(asks, "c"), total(asks, "g")) == (21, 1)
    for pid in range(100, 200):  # many that come and go
        await asks.take(ProxyMetrics(number=1, pid=pid, serial=2, families=counted(1)))
        await asks.scrape([])
    assert total(asks, "c") == 121


async def test_what_is_asked_is_told_with_the_routes_once_there_are_any() -> None:
    told: list[Routes] = []
    watchers = []

    def watch_routes(on_change: object) -> object:
        watchers.append(on_change)
        return lambda: watchers.remove(on_change)

    asks = ProxyAsks(watch_routes)  # type: ignore[arg-type]
    end = asks.watch(told.append)
    asks.have_keys_read()
    assert told == [], "routes are not known yet"
    watchers[0](())
    asks.have_keys_read()
    assert [(routes.keys, routes.scrape) for routes in told] == [(1, 0), (2, 0)]
    end()
    asks.have_keys_read()
    assert (len(told), watchers) == (2, [])


def test_series_with_the_same_labels_are_added() -> None:
    one, other = counted(1), [Family("c", "counter", "", ["a"], [Series(["x"], [2]), Series(["y"], [3])])]
    (family,) = [family for family in added(one, other) if family.name == "c"]
    assert [(s.labels, s.values) for s in family.series] == [(["x"], [3]), (["y"], [3])]
    assert one[0].series[0].values == [1], "what is added is left alone"
