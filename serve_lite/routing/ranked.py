"""Choosing a replica where that takes somebody's advice, and perhaps time: routers that users write.

An adviser ranks the replicas for a call. It may live in this process (a driver's or a replica's own copy of
the user's router) or in another one (the daemon runs no user code). Calls are placed oldest first, a few at
a time, each with the first replica in the ranking that has room.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from serve_lite.policy.choice import has_room
from serve_lite.routing.replica_set import Link
from serve_lite.wire.messages import CallFacts, Candidate, Membership, RouterChoice

log = logging.getLogger("serve_lite.routing")


class Adviser(Protocol):
    """Ranks replicas for calls of one deployment. Called on the loop."""

    async def rank(self, call: Advised, links: Sequence[Link]) -> Sequence[Sequence[str]]:
        """Return groups of replica ids, the best group first. Whatever it raises: no advice."""
        ...

    def placed(self, call: Advised, replica_id: str) -> None:
        """The call went to this replica."""
        ...

    def ended(self, call: Advised, replica_id: str) -> None:
        """The call has left this replica, whichever way."""
        ...

    def close(self) -> None:
        """No more calls will come."""
        ...


class Advised(Protocol):
    """A call that waits to be placed."""

    arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def facts(self) -> CallFacts: ...


#: makes the adviser for a deployment; None: the built-in choice is to be used
MakeAdviser = Callable[[Membership], "Adviser | None"]


class RankedPlacing:
    """Places the queue of one router as its adviser says.

    Args:
        queue: calls that wait, oldest first; whoever takes one out has it.
        usable: replicas that may be sent calls now.
        is_settled: whether those are all, with none still being connected to for the first time.
        send: puts a call on a replica.
        fall_back: the built-in choice, for calls on which the adviser failed.
        spawn: starts a task that the owner ends, at the latest, when it closes.
    """

    def __init__(
        self,
        adviser: Adviser,
        choice: RouterChoice,
        *,
        queue: Any,
        usable: Callable[[], Sequence[Link]],
        is_settled: Callable[[], bool],
        send: Callable[[Any, Link], None],
        fall_back: Callable[[Any], Link | None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self.adviser = adviser
        self.choice = choice
        self._queue = queue
        self._usable = usable
        self._is_settled = is_settled
        self._send = send
        self._fall_back = fall_back
        self._spawn = spawn
        self._taken: set[int] = set()  #: ids of calls that a worker is busy with
        self._workers = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._failures = 0
        self._closed = False

    def wake(self) -> None:
        """There is a new call, or a replica may have become able to take one."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self._closed:
            return
        limit = max(2, 2 * len(self._usable()))
        while self._workers < min(limit, len(self._queue) - len(self._taken) + self._workers):
            self._workers += 1
            self._spawn(self._work())

    def close(self) -> None:
        """Somebody else chooses from now on."""
        self._closed = True
        self.wake()
        self.adviser.close()

    async def _work(self) -> None:
        """Place calls until none waits that nobody works on."""
        try:
            while not self._closed:
                call = next((c for c in self._queue if id(c) not in self._taken), None)
                if call is None:
                    return
                self._taken.add(id(call))
                try:
                    await self._place(call)
                finally:
                    self._taken.discard(id(call))
        finally:
            self._workers -= 1

    async def _place(self, call: Any) -> None:
        wait_s = self.choice.initial_backoff_s
        while call in self._queue and not self._closed:
            link = await self._choose(call)
            if call not in self._queue or self._closed:  # it was given up, or is not ours any more
                return
            if link is not None:
                self._queue.remove(call)
                self._send(call, link)
                return
            await self._change(wait_s)
            wait_s = min(wait_s * self.choice.backoff_multiplier or wait_s, self.choice.max_backoff_s)

    async def _choose(self, call: Any) -> Link | None:
        links = self._usable()
        if not links or not self._is_settled():  # a ranking of some of them would be another one
            return None
        try:
            ranks = await self.adviser.rank(call, links)
        except Exception:  # boundary: the user's router
            self._failures += 1
            if (
                self._failures & (self._failures - 1) == 0
            ):  # the first, second, fourth ...: logs stay readable
                log.exception(
                    "the request router %s failed (%d times so far); the built-in one chose instead",
                    self.choice.path,
                    self._failures,
                )
            return self._fall_back(call)
        by_id = {link.endpoint.replica_id: link for link in self._usable()}
        return first_with_room(ranks, by_id)

    async def _change(self, patience_s: float) -> None:
        """Wait until something may have changed, at most this long."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await asyncio.wait([waiter], timeout=max(patience_s, 0.001))
        finally:
            self._waiters.discard(waiter)


def first_with_room(ranks: Iterable[Sequence[str]], links: dict[str, Link]) -> Link | None:
    """Return the least loaded replica with room of the first group that has one."""
    for group in ranks:
        roomy = [link for name in group if (link := links.get(name)) is not None and has_room(link)]
        if roomy:
            return min(roomy, key=lambda link: link.ongoing)
    return None


def candidate(link: Link) -> Candidate:
    """Return what is known of a replica."""
    facts = link.facts
    return Candidate(
        link.endpoint.replica_id,
        link.limit,
        link.ongoing,
        list(link.model_ids),
        facts.routing_stats,
        facts.metadata,
    )
