"""What the proxy counts about requests, and the access log.

Counting is a dictionary look-up and a few additions; the log line is formatted later, many at a time.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final

#: upper bounds in milliseconds, as Ray Serve has them
LATENCY_BUCKETS_MS: Final = (
    1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 1000, 2000, 5000, 10000, 60000, 120000, 300000, 600000,
)  # fmt: skip
CLIENT_GONE: Final = 499  #: status counted and logged when the client left before its answer was complete

_LOG_EVERY_S: Final = 0.2
_log = logging.getLogger("serve_lite.access")


class Cell:
    """Requests of one route, method and status."""

    __slots__ = ("buckets", "count", "total_ms")

    def __init__(self) -> None:
        self.count = 0
        self.total_ms = 0.0
        self.buckets = [0] * (len(LATENCY_BUCKETS_MS) + 1)


class RouteAccount:
    """Requests of one route."""

    __slots__ = ("_accounts", "app", "cells", "deployment", "route")

    def __init__(self, accounts: Accounts, route: str, app: str, deployment: str) -> None:
        self.route, self.app, self.deployment = route, app, deployment
        self.cells: dict[tuple[str, int | str], Cell] = {}
        self._accounts = accounts

    def note(self, method: str, status: int | str, latency_s: float, request_id: bytes) -> None:
        """Count one answered (or abandoned) request. `status` is HTTP's number, or gRPC's name."""
        try:
            cell = self.cells[method, status]
        except KeyError:
            cell = self.cells[method, status] = Cell()
        latency_ms = latency_s * 1000
        cell.count += 1
        cell.total_ms += latency_ms
        cell.buckets[bisect_left(LATENCY_BUCKETS_MS, latency_ms)] += 1
        if self._accounts.logs_access:
            self._accounts.log(method, self.route, status, latency_ms, request_id)


class Accounts:
    """All routes. Counters only grow; a route that is deleted keeps its numbers.

    Args:
        logs_access: whether to write the access log, logger `serve_lite.access`.
        write: takes a batch of lines; the default logs them as one record.
    """

    def __init__(self, *, logs_access: bool = True, write: Callable[[list[str]], None] | None = None) -> None:
        self.logs_access = logs_access and (write is not None or _log.isEnabledFor(logging.INFO))
        self.ongoing = 0  #: requests being worked on
        self._routes: dict[tuple[str, str, str], RouteAccount] = {}
        self._write = write or _write_to_log
        self._lines: list[tuple[bytes, str, str, int | str, float]] = []

    def route(self, route: str, app: str, deployment: str) -> RouteAccount:
        """Return the account of one route; the empty route is that of requests that match none."""
        key = (route, app, deployment)
        if key not in self._routes:
            self._routes[key] = RouteAccount(self, route, app, deployment)
        return self._routes[key]

    def __iter__(self) -> Iterator[RouteAccount]:
        return iter(tuple(self._routes.values()))

    def log(self, method: str, route: str, status: int | str, latency_ms: float, request_id: bytes) -> None:
        """Note one line of the access log; it is written within a fifth of a second."""
        if not self._lines:
            asyncio.get_running_loop().call_later(_LOG_EVERY_S, self.flush)
        self._lines.append((request_id, method, route, status, latency_ms))

    def flush(self) -> None:
        """Write the lines noted so far."""
        lines, self._lines = self._lines, []
        if lines:
            self._write(
                [
                    f"{request_id.decode('ascii')} -- {method} {route} {status} {latency_ms:.1f}ms"
                    for request_id, method, route, status, latency_ms in lines
                ]
            )


def _write_to_log(lines: list[str]) -> None:
    _log.info("%s", "\n".join(lines))
