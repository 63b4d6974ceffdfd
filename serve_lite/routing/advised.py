"""A user's router in the process that calls: drivers and replicas, which run user code anyway."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from serve_lite.context import ReplicaID
from serve_lite.request_router import (
    PendingRequest,
    RequestMetadata,
    RequestRouter,
    RunningReplica,
    groups_of_ids,
)
from serve_lite.routing.ranked import Advised, candidate
from serve_lite.routing.replica_set import Link
from serve_lite.state.ids import DeploymentId, suffix_of
from serve_lite.wire.messages import CallFacts, Candidate, Membership, RouterChoice

log = logging.getLogger("serve_lite.routing")


def local_adviser(membership: Membership) -> LocalAdviser | None:
    """Return the deployment's router, made here; None, with a warning, if it cannot be."""
    choice = membership.router
    assert choice is not None
    target = DeploymentId(name=membership.deployment, app_name=membership.app)
    try:
        return LocalAdviser(RouterHost(target, choice))
    except Exception:  # boundary: the user's module and constructor
        log.exception("the request router %s cannot be used here; the built-in one chooses", choice.path)
        return None


class RouterHost:
    """One instance of a user's router, spoken to in ids.

    Raises:
        ImportError, AttributeError, TypeError: there is no such router class.
    """

    def __init__(self, target: DeploymentId, choice: RouterChoice) -> None:
        self._target = target
        self._router = _router_class(choice.path)(deployment_id=target)
        self._router.initialize_state(**choice.kwargs)
        self._known: dict[str, RunningReplica] = {}

    async def rank(
        self,
        facts: CallFacts,
        arguments: tuple[tuple[Any, ...], Mapping[str, Any]],
        candidates: Sequence[Candidate],
    ) -> list[list[str]]:
        """Ask the router; returns groups of the candidates' ids."""
        self._learn(candidates)
        pending = _pending(facts, arguments)
        router = self._router
        ranked = await router.choose_replicas(list(self._known.values()), pending)
        return [
            [self._full_id(replica) for replica in group]
            for group in groups_of_ids(ranked, type(router).__qualname__)
        ]

    def placed(
        self, facts: CallFacts, arguments: tuple[tuple[Any, ...], Mapping[str, Any]], replica_id: str
    ) -> None:
        """Tell the router where the call went."""
        self._router.on_request_routed(_pending(facts, arguments), self._short_id(replica_id), None)

    def ended(self, facts: CallFacts, replica_id: str) -> None:
        """Tell the router that a call has left its replica."""
        self._router.on_request_completed(self._short_id(replica_id), facts.request_id)

    def _learn(self, candidates: Sequence[Candidate]) -> None:
        known = {c.replica_id: self._known.get(c.replica_id) for c in candidates}
        is_new = len(known) != len(self._known) or None in known.values()
        replicas = {name: found or RunningReplica(self._short_id(name)) for name, found in known.items()}
        for c in candidates:
            replica = replicas[c.replica_id]
            replica.max_ongoing_requests, replica.queue_len = c.max_ongoing, c.ongoing
            replica.multiplexed_model_ids = set(c.model_ids)
            replica.routing_stats, replica.replica_metadata = c.routing_stats, c.metadata
        self._known = replicas
        if is_new:
            self._router.update_replicas(list(replicas.values()))

    def _short_id(self, replica_id: str) -> ReplicaID:
        return ReplicaID(suffix_of(replica_id), self._target)

    def _full_id(self, replica: ReplicaID) -> str:
        return f"{self._target.app_name}#{self._target.name}#{replica.unique_id}"


class LocalAdviser:
    """`routing.ranked.Adviser` on a router in this process."""

    def __init__(self, host: RouterHost) -> None:
        self._host = host

    async def rank(self, call: Advised, links: Sequence[Link]) -> list[list[str]]:
        return await self._host.rank(call.facts(), call.arguments, [candidate(link) for link in links])

    def placed(self, call: Advised, replica_id: str) -> None:
        _tell(lambda: self._host.placed(call.facts(), call.arguments, replica_id))

    def ended(self, call: Advised, replica_id: str) -> None:
        _tell(lambda: self._host.ended(call.facts(), replica_id))

    def close(self) -> None:
        """Nothing to end: the router is an object like any other."""


def _tell(hook: Any) -> None:
    try:
        hook()
    except Exception:  # boundary: the user's hook; the request itself is fine
        log.exception("a hook of a request router failed")


def _pending(facts: CallFacts, arguments: tuple[tuple[Any, ...], Mapping[str, Any]]) -> PendingRequest:
    args, kwargs = arguments
    metadata = RequestMetadata(
        request_id=facts.request_id,
        internal_request_id=facts.request_id,
        call_method=facts.method,
        route=facts.route,
        app_name=facts.app,
        multiplexed_model_id=facts.model_id,
        session_id=facts.session_id,
        is_streaming=facts.streaming,
        is_http_request=facts.is_http,
    )
    return PendingRequest(list(args), dict(kwargs), metadata)


def _router_class(path: str) -> type[RequestRouter]:
    module, _, name = path.replace(":", ".").rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if not (isinstance(found, type) and issubclass(found, RequestRouter)):
        raise TypeError(f"{path!r} is not a subclass of serve_lite.request_router.RequestRouter.")
    return found
