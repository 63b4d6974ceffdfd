"""What the doors count about requests: a dictionary look-up and a few additions for each.

`metrics` shows the numbers to whoever scrapes; `access_log` has a line for each request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from serve_lite.instruments import LATENCY_MS

CLIENT_GONE: Final = 499  #: status counted and logged when the client left before its answer was complete


class Cell:
    """Requests of one route, method and status."""

    __slots__ = ("buckets", "count", "total_ms")

    def __init__(self) -> None:
        self.count = 0
        self.total_ms = 0.0
        self.buckets = [0] * (len(LATENCY_MS) + 1)


class RouteAccount:
    """Requests of one route."""

    __slots__ = ("app", "cells", "deployment", "route")

    def __init__(self, route: str, app: str, deployment: str) -> None:
        self.route, self.app, self.deployment = route, app, deployment
        self.cells: dict[tuple[str, int | str], Cell] = {}

    def count(self, method: str, status: int | str, latency_s: float) -> None:
        """Count one answered (or abandoned) request. `status` is HTTP's number, or gRPC's name."""
        try:
            cell = self.cells[method, status]
        except KeyError:
            cell = self.cells[method, status] = Cell()
        latency_ms = latency_s * 1000
        cell.count += 1
        cell.total_ms += latency_ms
        cell.buckets[bisect_left(LATENCY_MS, latency_ms)] += 1


class Accounts:
    """All routes. Counters only grow; a route that is deleted keeps its numbers."""

    def __init__(self) -> None:
        self.ongoing = 0  #: requests being worked on
        self._routes: dict[tuple[str, str, str], RouteAccount] = {}

    def route(self, route: str, app: str, deployment: str) -> RouteAccount:
        """Return the account of one route; the empty route is that of requests that match none."""
        key = (route, app, deployment)
        if key not in self._routes:
            self._routes[key] = RouteAccount(route, app, deployment)
        return self._routes[key]

    def __iter__(self) -> Iterator[RouteAccount]:
        return iter(tuple(self._routes.values()))
