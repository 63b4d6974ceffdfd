"""What a replica tells of its metrics: a picture of everything it measures, each series with whose it is.

Taken when the daemon asks (control call `metrics`) and once more when the replica has stopped, so that nothing that
it counted is lost. What the daemon makes of it is in `controller/metrics.py`.
"""

from __future__ import annotations

from collections import defaultdict

import msgspec

from serve_lite import instruments
from serve_lite.context import ReplicaContext
from serve_lite.instruments import LATENCY_MS, Family, HistogramCell, Series


class RequestCounts:
    """How many requests have ended in a replica. Plain numbers: adding to one is all that a request pays.

    Those that fail pay for the rest. The sums may be read from another thread.
    """

    __slots__ = ("_streak", "_streak_ends_at", "ended", "failed", "failures", "latencies")

    def __init__(self) -> None:
        self.ended: defaultdict[str, int] = defaultdict(int)  #: by route; the failed among them
        #: milliseconds that those that have ended took, by route
        self.latencies: defaultdict[str, HistogramCell] = defaultdict(lambda: HistogramCell(LATENCY_MS))
        self.failed: defaultdict[tuple[str, str], int] = defaultdict(int)  #: by route and type of exception
        self.failures = 0  #: requests that raised or were answered with a status from 500
        self._streak = 0
        self._streak_ends_at = (
            -1
        )  #: number of ended requests with the last failure among them, and none since

    @property
    def calls(self) -> int:
        """Requests that have ended."""
        return sum(list(self.ended.values()))

    @property
    def streak(self) -> int:
        """Failures since the last request that did not fail."""
        return self._streak if self.calls == self._streak_ends_at else 0

    def note_failure(self) -> None:
        """A request has failed and is about to be counted among those that have ended."""
        self.failures += 1
        self._streak = self.streak + 1
        self._streak_ends_at = self.calls + 1

    def total(self) -> int:
        """Return how many have ended, on all routes."""
        return sum(self.ended.values())


def picture(replica: ReplicaContext | None, ongoing: int, counts: RequestCounts) -> list[Family]:
    """Return all metrics of this replica; nothing before it knows which it is.

    Args:
        ongoing: requests that are being processed.
        counts: of those that have ended.
    """
    if replica is None:
        return []
    families = (*_of_requests(ongoing, counts), *instruments.collect())
    return [_owned(family, replica) for family in families if family.series]


def _of_requests(ongoing: int, counts: RequestCounts) -> list[Family]:
    """Return how many requests are processed, were, and failed, in Ray Serve's words."""
    return [
        Family(
            name="serve_replica_processing_queries",
            kind="gauge",
            help="The number of requests that this replica is processing.",
            label_names=[],
            series=[Series([], [ongoing])],
        ),
        Family(
            name="serve_deployment_request_counter",
            kind="counter",
            help="The number of requests that this replica has processed.",
            label_names=["route"],
            series=[Series([route], [count]) for route, count in counts.ended.items()],
        ),
        Family(
            name="serve_deployment_processing_latency_ms",
            kind="histogram",
            help="Milliseconds that requests took in this replica.",
            label_names=["route"],
            series=[Series([route], cell.picture()) for route, cell in counts.latencies.items()],
            bounds=[float(bound) for bound in LATENCY_MS],
        ),
        Family(
            name="serve_deployment_error_counter",
            kind="counter",
            help="The number of exceptions that ended a request in this replica.",
            label_names=["route", "exception_type"],
            series=[Series([*labels], [count]) for labels, count in counts.failed.items()],
        ),
    ]


def _owned(family: Family, replica: ReplicaContext) -> Family:
    """Return the family with the labels that say whose it is; one that has them already keeps its own."""
    own = {
        "deployment": replica.deployment,
        "replica": replica.replica_tag,
        "application": replica.app_name,
    }
    missing = {name: value for name, value in own.items() if name not in family.label_names}
    if not missing:
        return family
    return msgspec.structs.replace(
        family,
        label_names=[*missing, *family.label_names],
        series=[Series([*missing.values(), *s.labels], s.values) for s in family.series],
    )
