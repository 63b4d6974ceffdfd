"""Routers that users write: which replicas a request should go to, best first.

A subclass of `RequestRouter` is named in `request_router_config`. Every process that calls the deployment
has a copy of its own: drivers and replicas run it themselves, and for the HTTP proxy a process beside the
daemon does. It gets a ranking from `choose_replicas`; limits, queueing and retries stay with Serve.

The names and their meaning are those of Ray Serve 2.60.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import random
import time
from bisect import bisect
from collections.abc import Iterable, Sequence
from typing import Any

from serve_lite.context import ReplicaID
from serve_lite.policy.choice import prefer_warm
from serve_lite.state.ids import DeploymentId

__all__ = [
    "ConsistentHashRouter",
    "FIFOMixin",
    "LocalityMixin",
    "MultiplexMixin",
    "PendingRequest",
    "ReplicaID",
    "RequestMetadata",
    "RequestRouter",
    "RoundRobinRouter",
    "RunningReplica",
]


@dataclasses.dataclass
class RequestMetadata:
    """What is known of a request before it runs."""

    request_id: str = ""
    internal_request_id: str = ""
    call_method: str = "__call__"
    route: str = ""
    app_name: str = ""
    multiplexed_model_id: str = ""
    session_id: str = ""
    is_streaming: bool = False
    is_http_request: bool = False


@dataclasses.dataclass
class PendingRequest:
    """A request that waits for a replica.

    `args` and `kwargs` are those of a handle call. Of an HTTP request they are empty: its body has not been
    read, and user code does not run where it could be.
    """

    args: list[Any]
    kwargs: dict[str, Any]
    metadata: RequestMetadata
    created_at: float = dataclasses.field(default_factory=time.time)  #: seconds since the epoch


@dataclasses.dataclass(eq=False)
class RunningReplica:
    """One replica that may be sent requests, as this caller knows it."""

    replica_id: ReplicaID
    max_ongoing_requests: int = 0
    queue_len: int = 0  #: ongoing requests, as far as this caller knows
    multiplexed_model_ids: set[str] = dataclasses.field(default_factory=set)
    routing_stats: dict[str, Any] = dataclasses.field(default_factory=dict)  #: from `record_routing_stats`
    replica_metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    node_id: str = "local"
    availability_zone: str | None = None

    @property
    def actor_id(self) -> str:
        """The unique part of the replica's id."""
        return self.replica_id.unique_id

    @property
    def model_ids(self) -> set[str]:
        """Same as `multiplexed_model_ids`."""
        return self.multiplexed_model_ids

    @property
    def ongoing(self) -> int:
        """Same as `queue_len`."""
        return self.queue_len

    @property
    def limit(self) -> int:
        """Same as `max_ongoing_requests`."""
        return self.max_ongoing_requests


class _QueueLengths:
    """The queue lengths of `curr_replicas`, under the name that Ray Serve's routers look for."""

    def __init__(self, replicas: dict[ReplicaID, RunningReplica]) -> None:
        self._replicas = replicas

    def get(self, replica_id: ReplicaID) -> int | None:
        """Return the ongoing requests of a replica as far as known here; None for one that is unknown."""
        replica = self._replicas.get(replica_id)
        return None if replica is None else replica.queue_len


class RequestRouter(abc.ABC):
    """Base of routers: override `choose_replicas`, and the hooks that are of use.

    Made by Serve, one for each deployment in each process; all its methods are called on one event loop.
    """

    def __init__(self, deployment_id: DeploymentId, **_: Any) -> None:
        self._deployment_id = deployment_id
        self._replicas: dict[ReplicaID, RunningReplica] = {}
        self._queue_lengths = _QueueLengths(self._replicas)

    # --- for users to override ---

    def initialize_state(self, **kwargs: Any) -> None:  # noqa: B027  # overriding it is a choice
        """Take `request_router_kwargs`; called once, before anything else."""

    @abc.abstractmethod
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return groups of replicas, the best group first.

        The request goes to the least loaded replica with room of the first group that has one. If none has,
        this is asked again after a back-off, or when something changed.
        """

    def on_request_routed(  # noqa: B027
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any = None
    ) -> None:
        """The request was sent to this replica. `result` is None here; Ray passes an object of its own."""

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:  # noqa: B027
        """A request has left this replica, whichever way."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """The set of replicas has changed. Overriding it, call `super().update_replicas(replicas)`."""
        self._replicas.clear()
        self._replicas.update({replica.replica_id: replica for replica in replicas})

    # --- for users to use ---

    @property
    def app_name(self) -> str:
        """Name of the application."""
        return self._deployment_id.app_name

    @property
    def deployment_name(self) -> str:
        """Name of the deployment."""
        return self._deployment_id.name

    @property
    def curr_replicas(self) -> dict[ReplicaID, RunningReplica]:
        """The replicas that may be sent requests."""
        return self._replicas

    @property
    def replica_queue_len_cache(self) -> _QueueLengths:
        """`get(replica_id)`: its ongoing requests, as far as known here."""
        return self._queue_lengths

    def select_available_replicas(
        self, candidates: Iterable[RunningReplica] | None = None
    ) -> list[RunningReplica]:
        """Return the replicas that seem to have room, of `candidates` or of all."""
        known = self._replicas.values() if candidates is None else candidates
        return [replica for replica in known if replica.queue_len < replica.max_ongoing_requests]


class LocalityMixin:
    """Ranking by distance. On one machine every replica is as near as any other."""

    def apply_locality_routing(self, pending_request: PendingRequest | None = None) -> set[ReplicaID]:
        """Return the ids of the nearest replicas: all of them."""
        return set(self.curr_replicas)  # type: ignore[attr-defined]  # mixed into a RequestRouter

    def rank_replicas_via_locality(self, replicas: list[RunningReplica]) -> list[list[RunningReplica]]:
        """Return the replicas in three groups: same node, same zone, elsewhere."""
        return [list(replicas), [], []]


class MultiplexMixin:
    """Ranking by the models that replicas have loaded."""

    def apply_multiplex_routing(self, pending_request: PendingRequest | None = None) -> set[ReplicaID]:
        """Return the ids of the replicas that hold the request's model; if none does, of those with the fewest."""
        known: dict[ReplicaID, RunningReplica] = self.curr_replicas  # type: ignore[attr-defined]
        model_id = pending_request.metadata.multiplexed_model_id if pending_request else ""
        replicas = list(known.values())
        return {r.replica_id for r in (prefer_warm(replicas, model_id) if model_id else replicas)}

    def rank_replicas_via_multiplex(
        self, replicas: list[RunningReplica], multiplexed_model_id: str
    ) -> list[list[RunningReplica]]:
        """Return the replicas in three groups: those that hold the model, those with the fewest, the others."""
        warm = [r for r in replicas if multiplexed_model_id in r.multiplexed_model_ids]
        cold = [r for r in replicas if multiplexed_model_id not in r.multiplexed_model_ids]
        fewest = min((len(r.multiplexed_model_ids) for r in cold), default=0)
        return [
            warm,
            [r for r in cold if len(r.multiplexed_model_ids) == fewest],
            [r for r in cold if len(r.multiplexed_model_ids) > fewest],
        ]


class FIFOMixin:
    """Requests are placed in the order in which they came: so are they here with every router."""


class RoundRobinRouter(FIFOMixin, MultiplexMixin, RequestRouter):
    """Takes the replicas in turn, beginning anywhere; a full one is passed over.

    Requests with a model id go round the replicas that hold that model.
    """

    def initialize_state(self, **kwargs: Any) -> None:
        """Take no options; whatever is given is ignored."""
        self._turns: dict[str, int] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return each replica as a group of its own, from the one whose turn it is."""
        model_id = pending_request.metadata.multiplexed_model_id if pending_request else ""
        warm = [r for r in candidate_replicas if model_id in r.multiplexed_model_ids]
        key = model_id if warm else ""
        ring = sorted(warm or candidate_replicas, key=lambda r: r.replica_id.unique_id)
        if not ring:
            return []
        turn = self._turns.get(key)
        start = random.randrange(len(ring)) if turn is None else (turn + 1) % len(ring)
        self._turns[key] = start
        rest = [r for r in candidate_replicas if r not in ring]
        return [[r] for r in ring[start:] + ring[:start]] + ([rest] if rest else [])


class ConsistentHashRouter(RequestRouter):
    """Sends requests of one session to one replica, and few sessions elsewhere when replicas come and go.

    The key is the session id (`handle.options(session_id=...)`, header `x-session-id`), else the request id.
    Karger et al., "Consistent Hashing and Random Trees", STOC 1997.

    `request_router_kwargs`: `num_virtual_nodes` (points of each replica on the ring, 100) and
    `num_fallback_replicas` (how many others are tried when the first is full, 2).
    """

    def initialize_state(
        self, num_virtual_nodes: int = 100, num_fallback_replicas: int = 2, **kwargs: Any
    ) -> None:
        """Take the options of the ring.

        Args:
            num_virtual_nodes: places that each replica has on the ring; more spread the keys more evenly.
            num_fallback_replicas: replicas to try, in the order of the ring, when a key's own has no room.
        """
        self._num_virtual_nodes = num_virtual_nodes
        self._num_fallback_replicas = num_fallback_replicas
        self._ring: list[tuple[int, str]] = []
        self._ring_of: frozenset[str] = frozenset()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the session's replica, then its successors on the ring, each as a group of its own."""
        by_id = {r.replica_id.unique_id: r for r in candidate_replicas}
        self._build_ring(frozenset(by_id))
        if not self._ring or pending_request is None:
            return [candidate_replicas]
        metadata = pending_request.metadata
        key = metadata.session_id or metadata.internal_request_id or metadata.request_id
        start = bisect(self._ring, (_hash(key), ""))
        found: dict[str, None] = {}
        for at in range(len(self._ring)):
            found.setdefault(self._ring[(start + at) % len(self._ring)][1])
            if len(found) > self._num_fallback_replicas:
                break
        return [[by_id[name]] for name in found]

    def _build_ring(self, names: frozenset[str]) -> None:
        if names != self._ring_of:
            self._ring_of = names
            self._ring = sorted(
                (_hash(f"{name}:{i}"), name) for name in names for i in range(self._num_virtual_nodes)
            )


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def groups_of_ids(ranked: Sequence[Iterable[RunningReplica]], what: str) -> list[list[ReplicaID]]:
    """Return a router's answer as ids.

    Raises:
        TypeError: it is no list of lists of replicas.
    """
    try:
        return [[replica.replica_id for replica in group] for group in ranked]
    except (TypeError, AttributeError) as error:
        raise TypeError(
            f"{what}.choose_replicas must return a list of lists of RunningReplica, but returned {ranked!r}."
        ) from error
