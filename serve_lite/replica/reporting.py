"""What a replica tells of its metrics: a picture of everything it measures, each series with whose it is.

Taken when the daemon asks (control call `metrics`) and once more when the replica has stopped, so that nothing that
it counted is lost. What the daemon makes of it is in `controller/metrics.py`.
"""

from __future__ import annotations

from collections import defaultdict

import msgspec

from serve_lite import instruments
from serve_lite.context import ReplicaContext
from serve_lite.instruments import Family, Series


class RequestCounts:
    """How many requests have ended in a replica. Plain numbers: adding to one is all that a request pays."""

    __slots__ = ("ended", "failed")

    def __init__(self) -> None:
        self.ended: defaultdict[str, int] = defaultdict(int)  #: by route; the failed among them
        self.failed: defaultdict[tuple[str, str], int] = defaultdict(int)  #: by route and type of exception

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
