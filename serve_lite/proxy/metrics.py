"""The doors' numbers as metrics, under Ray Serve's names. Made when somebody scrapes of what `accounts` counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from serve_lite.instruments import LATENCY_MS, Family, Series
from serve_lite.proxy.accounts import Accounts, Cell, RouteAccount
from serve_lite.wire.grpc_status import NAMES, OK

_BOUNDS = [float(bound) for bound in LATENCY_MS]
_SHOWN = {"http": "HTTP", "grpc": "gRPC"}
_NODE = ["node_id", "node_ip_address"]

_Row = tuple[RouteAccount, str, int | str, Cell]


def door_metrics(door: Literal["http", "grpc"], accounts: Accounts, node: tuple[str, str]) -> list[Family]:
    """Return what one door has counted.

    Args:
        node: this machine's id and address.
    """
    rows = list(_rows(accounts))
    errors = [row for row in rows if _is_error(row[2])]
    return [
        Family(
            f"serve_num_{door}_requests",
            "counter",
            f"The number of {_SHOWN[door]} requests that the proxy has answered.",
            ["route", "method", "application", "status_code"],
            [Series([a.route, method, a.app, str(status)], [c.count]) for a, method, status, c in rows],
        ),
        Family(
            f"serve_num_{door}_error_requests",
            "counter",
            f"The number of {_SHOWN[door]} requests that were answered with an error.",
            ["route", "error_code", "method", "application"],
            [Series([a.route, str(status), method, a.app], [c.count]) for a, method, status, c in errors],
        ),
        Family(
            f"serve_num_deployment_{door}_error_requests",
            "counter",
            f"The number of {_SHOWN[door]} requests to each ingress that were answered with an error.",
            ["deployment", "error_code", "method", "route", "application"],
            [
                Series([a.deployment, str(status), method, a.route, a.app], [c.count])
                for a, method, status, c in errors
                if a.deployment
            ],
        ),
        Family(
            f"serve_{door}_request_latency_ms",
            "histogram",
            f"Milliseconds from the head of a {_SHOWN[door]} request to the end of its answer.",
            ["method", "route", "application", "status_code"],
            [
                Series([method, a.route, a.app, str(status)], [*c.buckets, c.total_ms])
                for a, method, status, c in rows
            ],
            _BOUNDS,
        ),
        Family(
            f"serve_num_ongoing_{door}_requests",
            "gauge",
            f"The number of {_SHOWN[door]} requests that the proxy is answering.",
            _NODE,
            [Series([*node], [accounts.ongoing])],
        ),
    ]


def _rows(accounts: Accounts) -> Iterator[_Row]:
    for account in accounts:
        for (method, status), cell in account.cells.items():
            yield account, method, status, cell


def _is_error(status: int | str) -> bool:
    return status >= 400 if isinstance(status, int) else status != NAMES[OK]
