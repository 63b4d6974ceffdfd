"""What the daemon asks of its proxy processes: to read their API keys again, and what they have counted.

Both are asked by a number that is sent with the routes and rises; answers to the second come as control calls. A proxy
that is slow to tell is shown as it last was. What one that is gone had counted stays, so that sums do not fall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import anyio
import msgspec

from serve_lite.instruments import Family, Series
from serve_lite.schema import ProxyStatus
from serve_lite.state.status import ProxyFacts
from serve_lite.wire.messages import Empty, ProxyMetrics, Routes, RouteTarget

_KEPT_GONE = 16  #: processes that are gone; what older ones had counted is put together
ANSWERS_S = 1.0  #: that proxies may take to tell

#: Ray Serve's numbers.
_STATUSES: Final = {
    ProxyStatus.STARTING: 1,
    ProxyStatus.HEALTHY: 2,
    ProxyStatus.UNHEALTHY: 3,
    ProxyStatus.DRAINING: 4,
    ProxyStatus.DRAINED: 5,
}

_WatchRoutes = Callable[[Callable[[tuple[RouteTarget, ...]], None]], Callable[[], None]]


class ProxyAsks:
    """The daemon's side.

    Args:
        watch_routes: tells the routes, now and on every change.
    """

    def __init__(self, watch_routes: _WatchRoutes) -> None:
        self._watch_routes = watch_routes
        self._keys = self._scrape = 0
        self._tellers: list[Callable[[], None]] = []
        self._last: dict[int, ProxyMetrics] = {}  #: by pid
        self._gone: dict[int, list[Family]] = {}  #: what lasts of those that are gone, by pid
        self._told = anyio.Event()  #: somebody has; replaced each time

    def watch(self, on_change: Callable[[Routes], None]) -> Callable[[], None]:
        """Tell one proxy the routes and what is asked, now and on every change; returns what ends it."""
        latest: list[tuple[RouteTarget, ...]] = []

        def tell() -> None:
            if latest:
                on_change(Routes(latest[0], self._keys, self._scrape))

        def on_routes(targets: tuple[RouteTarget, ...]) -> None:
            latest[:] = [targets]
            tell()

        self._tellers.append(tell)
        unwatch = self._watch_routes(on_routes)

        def end() -> None:
            self._tellers.remove(tell)
            unwatch()

        return end

    def have_keys_read(self) -> None:
        """Have every proxy read its keys. It does so in a moment."""
        self._keys += 1
        self._tell()

    async def scrape(self, pids: Iterable[int]) -> None:
        """Have the present numbers of these proxies, if they tell them in time."""
        self._scrape += 1
        asked, awaited = self._scrape, set(pids)
        for pid in self._last.keys() - awaited:
            self._gone[pid] = [family for family in self._last.pop(pid).families if family.kind != "gauge"]
        if len(self._gone) > _KEPT_GONE:
            first, second = list(self._gone)[:2]
            self._gone[second] = added(self._gone.pop(first), self._gone[second])
        self._tell()
        with anyio.move_on_after(ANSWERS_S):
            while not awaited <= {pid for pid, last in self._last.items() if last.serial >= asked}:
                await self._told.wait()

    async def take(self, told: ProxyMetrics) -> Empty:
        """A proxy tells."""
        self._gone.pop(told.pid, None)  # it had only lost its connection
        self._last[told.pid] = told
        self._told.set()
        self._told = anyio.Event()
        return Empty()

    def families(self, node_id: str) -> list[Family]:
        """Return what all proxies have counted, together; gauges that tell of one proxy name it after the node."""
        families = added(*self._gone.values(), *(last.families for last in self._last.values()))
        return [
            _renamed(family, node_id) if "node_id" in family.label_names else family for family in families
        ]

    def _tell(self) -> None:
        for tell in tuple(self._tellers):
            tell()


def added(*pictures: Iterable[Family]) -> list[Family]:
    """Return families of several processes as one: series with the same labels are added."""
    families: dict[str, Family] = {}
    sums: dict[str, dict[tuple[str, ...], list[float]]] = {}
    for family in (family for picture in pictures for family in picture):
        families.setdefault(family.name, family)
        rows = sums.setdefault(family.name, {})
        for series in family.series:
            labels = tuple(series.labels)
            known = rows.get(labels)
            rows[labels] = (
                [a + b for a, b in zip(known, series.values, strict=True)] if known else list(series.values)
            )
    return [
        msgspec.structs.replace(
            family, series=[Series([*labels], values) for labels, values in sums[name].items()]
        )
        for name, family in families.items()
    ]


def _renamed(family: Family, node_id: str) -> Family:
    """Return a family whose proxies are called as REST calls them."""
    at = family.label_names.index("node_id")
    series = [
        Series([*s.labels[:at], f"{node_id}-{s.labels[at]}", *s.labels[at + 1 :]], s.values)
        for s in family.series
    ]
    return msgspec.structs.replace(family, series=series)


def proxy_status(proxies: Iterable[ProxyFacts], node_id: str, address: str) -> Family:
    """Return how each proxy stands."""
    return Family(
        "serve_proxy_status",
        "gauge",
        "1 STARTING, 2 HEALTHY, 3 UNHEALTHY, 4 DRAINING, 5 DRAINED.",
        ["node_id", "node_ip_address"],
        [Series([facts.name_in(node_id), address], [_STATUSES[facts.status]]) for facts in proxies],
    )
