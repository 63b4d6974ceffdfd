"""The numbers of a process's routers as metrics, under Ray Serve's names. Made when somebody scrapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from serve_lite.instruments import LATENCY_MS, Family, Series
from serve_lite.routing.router import Router, Routers

_LABELS = ["deployment", "application", "handle_source"]


def router_metrics(routers: Routers, source: Literal["PROXY", "REPLICA"]) -> list[Family]:
    """Return what the routers of this process have counted.

    Args:
        source: whose calls they route.
    """
    known = list(routers)

    def labels(router: Router) -> list[str]:
        return [router.deployment.name, router.deployment.app_name, source]

    def family(name: str, kind: str, help: str, value: Callable[[Router], float]) -> Family:
        return Family(name, kind, help, _LABELS, [Series(labels(r), [value(r)]) for r in known])

    return [
        family(
            "serve_num_router_requests",
            "counter",
            "The number of calls that were given to this router.",
            lambda r: r.num_submitted,
        ),
        family(
            "serve_deployment_queued_queries",
            "gauge",
            "The number of calls that wait here for a replica with room.",
            lambda r: r.num_queued,
        ),
        family(
            "serve_num_ongoing_requests_at_replicas",
            "gauge",
            "The number of calls from here that replicas have and have not answered.",
            lambda r: r.num_ongoing,
        ),
        Family(
            "serve_request_router_fulfillment_time_ms",
            "histogram",
            "Milliseconds that calls waited here before they went to a replica.",
            _LABELS,
            [Series(labels(r), r.waits()) for r in known],
            [float(bound) for bound in LATENCY_MS],
        ),
        Family(
            "serve_request_router_queue_len",
            "gauge",
            "The number of calls that a replica has, as far as this router knows.",
            [*_LABELS, "replica_id"],
            [
                Series([*labels(r), replica_id], [float(ongoing)])
                for r in known
                for replica_id, ongoing in r.known_load().items()
            ],
        ),
    ]
