"""The replicas of one deployment as one router sees them: connections, and how loaded each seems."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Coroutine
from typing import Any

import msgspec

from serve_lite.policy.choice import has_room, less_loaded, prefer_warm
from serve_lite.wire.connection import Connection, ConnectionLostError, connect
from serve_lite.wire.messages import ReplicaEndpoint, ReplicaFacts

_NO_FACTS = ReplicaFacts()
_ASSUMED_MODELS = 32  #: ids that a replica is taken to load because we sent it a call for them
_decode_facts = msgspec.msgpack.Decoder(ReplicaFacts).decode

_RECONNECT_S = (0.0, 0.02, 0.05, 0.1, 0.25, 0.5)  #: waits before attempts, last one repeated


class Link:
    """One replica: the connection to it, and what we know of its load."""

    __slots__ = ("connection", "draining", "endpoint", "facts", "is_tried", "mine", "model_ids", "others")

    def __init__(self, endpoint: ReplicaEndpoint) -> None:
        self.endpoint = endpoint
        self.connection: Connection | None = None
        self.is_tried = False  #: connecting was tried, whatever came of it
        self.draining = False  #: it said that it stops; nothing more is sent to it
        self.mine = 0  #: our calls that it has not answered
        self.others = 0  #: calls of other processes, as of its last answer
        self.facts = _NO_FACTS  #: what it told of itself
        self.model_ids: dict[str, None] = {}  #: models it holds, or will when it has seen what we sent

    @property
    def ongoing(self) -> int:
        """Ongoing requests, as far as we know."""
        return self.mine + self.others

    @property
    def limit(self) -> int:
        """Ongoing requests it accepts."""
        return self.endpoint.max_ongoing

    def heard(self, reported: int) -> None:
        """Take the replica's own count of ongoing requests, which includes ours that reached it."""
        others = reported - self.mine
        self.others = others if others > 0 else 0

    def expect_model(self, model_id: str) -> None:
        """A call for this model was sent there: until it tells more, later ones should follow."""
        if model_id not in self.model_ids:
            self.model_ids[model_id] = None
            if len(self.model_ids) > len(self.facts.model_ids) + _ASSUMED_MODELS:
                del self.model_ids[next(iter(self.model_ids))]

    def take_facts(self) -> None:
        """Read what the replica told last."""
        if self.connection is not None and self.connection.table.facts:
            self.facts = _decode_facts(self.connection.table.facts)
            self.model_ids = dict.fromkeys(self.facts.model_ids)


class ReplicaSet:
    """Keeps one connection to each replica that membership names.

    Lifetime: `update` and `close` are called on the loop; connecting tasks belong to the `spawn` that the
    owner gives and end with it.

    Args:
        spawn: starts a task that the owner awaits at its end.
        on_room: some replica may have become able to take a call; returns whether one was sent.
        memory_files: send large buffers through shared memory.
    """

    def __init__(
        self,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        on_room: Callable[[], bool],
        *,
        memory_files: bool = False,
    ) -> None:
        self._memory_files = memory_files
        self.usable: list[Link] = []  #: connected and not draining
        self._links: dict[str, Link] = {}
        self._spawn = spawn
        self._on_room = on_room
        self._draw = random.Random().random

    @property
    def is_settled(self) -> bool:
        """Whether every replica was tried to be reached, so that those that are usable are all there are."""
        return all(link.is_tried for link in self._links.values())

    def choose(self, model_id: str = "") -> Link | None:
        """Return a replica with room, the less loaded of two drawn ones if it has; None if all are full.

        With a model id, those that hold the model come first.
        """
        usable = self.usable
        if model_id and len(usable) > 1:
            usable = prefer_warm([link for link in usable if has_room(link)], model_id)
        n = len(usable)
        if n == 1:
            return usable[0] if has_room(usable[0]) else None
        if n == 0:
            return None
        first = int(self._draw() * n)
        second = int(self._draw() * (n - 1))
        best = less_loaded(usable[first], usable[second if second < first else second + 1])
        if has_room(best):
            return best
        return next((link for link in usable if has_room(link)), None)

    def update(self, endpoints: tuple[ReplicaEndpoint, ...], silent: Collection[str] = ()) -> None:
        """Connect to what is new; let go of what is gone once its calls have ended.

        Args:
            silent: replicas that do not answer: calls that they have not accepted are lost to them at once.
        """
        wanted = {e.replica_id: e for e in endpoints}
        gone = [self._links.pop(replica_id) for replica_id in [r for r in self._links if r not in wanted]]
        for link in gone:
            self._unuse(link)
        for link in gone:
            if link.connection is not None and link.endpoint.replica_id in silent:
                link.connection.take_back()
            self._retire(link)
        for replica_id, endpoint in wanted.items():
            known = self._links.get(replica_id)
            if known is not None:
                if known.endpoint != endpoint:
                    known.others = 0  # guessed under another limit: ask the replica again
                known.endpoint = endpoint
            else:
                link = self._links[replica_id] = Link(endpoint)
                self._spawn(self._keep_connected(link))

    def mark_draining(self, link: Link) -> None:
        """The replica refused because it stops; membership will follow."""
        link.draining = True
        self._unuse(link)

    def finished(self, link: Link) -> None:
        """One of our calls to it has ended; closes a retired connection after its last call."""
        link.mine -= 1
        if link.mine == 0 and link.connection is not None and link.endpoint.replica_id not in self._links:
            link.connection.close()

    @property
    def is_connected(self) -> bool:
        """Whether every replica that membership names is connected, or has said that it stops."""
        usable = self.usable
        return all(link.draining or link in usable for link in self._links.values())

    def find(self, replica_id: str) -> Link | None:
        """Return the connected replica with this id."""
        return next((link for link in self.usable if link.endpoint.replica_id == replica_id), None)

    def counts(self) -> dict[str, int]:
        """Return our open calls by replica, without those that have none or are not members any more."""
        return {replica_id: link.mine for replica_id, link in self._links.items() if link.mine}

    def close(self) -> None:
        """Close every connection; open calls hear that they are lost."""
        links, self._links = list(self._links.values()), {}
        for link in links:
            self._unuse(link)
            if link.connection is not None:
                link.connection.close()

    def _retire(self, link: Link) -> None:
        self._unuse(link)
        if link.mine == 0 and link.connection is not None:
            link.connection.close()

    def _unuse(self, link: Link) -> None:
        if link in self.usable:
            self.usable.remove(link)

    async def _keep_connected(self, link: Link) -> None:
        """Connect, and again while membership names the replica although its connection was lost."""
        replica_id, attempt = link.endpoint.replica_id, 0
        while self._links.get(replica_id) is link:
            await asyncio.sleep(_RECONNECT_S[min(attempt, len(_RECONNECT_S) - 1)])
            attempt += 1
            with contextlib.suppress(OSError, ConnectionLostError):  # dying: membership will say so
                connection = await connect(link.endpoint.socket, memory_files=self._memory_files)
                if self._links.get(replica_id) is not link:
                    connection.close()
                    return
                attempt = 0
                link.is_tried = True
                await self._use(link, connection)
            if not link.is_tried:
                link.is_tried = True
                self._on_room()

    async def _use(self, link: Link, connection: Connection) -> None:
        link.connection = connection
        link.mine = link.others = 0
        connection.table.on_room = lambda: self._heard_room(link)
        connection.table.on_facts = link.take_facts
        link.take_facts()
        connection.on_closed = lambda: self._unuse(link)
        if not link.draining:
            self.usable.append(link)
        self._on_room()
        try:
            await connection.wait_closed()
        finally:
            connection.close()

    def _heard_room(self, link: Link) -> bool:
        if link.connection is not None:
            link.heard(link.connection.load)
        return self._on_room()
