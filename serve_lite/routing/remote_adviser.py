"""A user's router in an adviser process: asked by the daemon and by proxy processes, which run no user code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from serve_lite.exceptions import RayServeException
from serve_lite.routing.daemon_link import DaemonLink
from serve_lite.routing.ranked import Advised, Adviser, candidate
from serve_lite.routing.replica_set import Link
from serve_lite.state.ids import DeploymentId
from serve_lite.wire.calls import OutgoingCall
from serve_lite.wire.connection import Connection, ConnectionLostError, connect
from serve_lite.wire.messages import (
    AdviserPlace,
    AdviserRequest,
    Membership,
    RankReply,
    RankRequest,
    RouterChoice,
    RouterNote,
)

_RANK_S = 5.0  #: a router that has not answered by then is passed over for this request
_MOST_NOTES = 1000  #: kept between two questions; older ones are dropped


class Process(Protocol):
    """An adviser process."""

    @property
    def connection(self) -> Connection | None:
        """None while there is no process to ask."""
        ...


class RemoteAdviser:
    """`routing.ranked.Adviser` on a router in an adviser process."""

    def __init__(
        self,
        process: Process,
        target: DeploymentId,
        choice: RouterChoice,
        let_go: Callable[[], None],
    ) -> None:
        self._process, self._target, self._choice, self._let_go = process, target, choice, let_go
        self._notes: list[RouterNote] = []

    async def rank(self, call: Advised, links: Sequence[Link]) -> list[list[str]]:
        """Ask the process.

        Raises:
            RayServeException: there is no process at the moment.
            RemoteControlError, ConnectionLostError, TimeoutError: it did not answer with a ranking.
        """
        connection = self._process.connection
        if connection is None:
            raise RayServeException(f"the adviser process of application {self._target.app_name!r} is not up")
        notes, self._notes = self._notes, []
        request = RankRequest(
            self._target.app_name,
            self._target.name,
            self._choice,
            call.facts(),
            [candidate(link) for link in links],
            notes,
        )
        return (await connection.control("rank", request, RankReply, timeout_s=_RANK_S)).groups

    def placed(self, call: Advised, replica_id: str) -> None:
        self._note(RouterNote(call.facts(), replica_id, False))

    def ended(self, call: Advised, replica_id: str) -> None:
        self._note(RouterNote(call.facts(), replica_id, True))

    def close(self) -> None:
        self._let_go()

    def _note(self, note: RouterNote) -> None:
        self._notes.append(note)
        if len(self._notes) > _MOST_NOTES:
            del self._notes[: _MOST_NOTES // 2]


class ToldProcess:
    """An adviser process of the daemon's, which tells where it listens.

    Args:
        spawn: starts a task that the owner ends, at the latest, when it closes.
    """

    def __init__(
        self,
        link: DaemonLink,
        target: DeploymentId,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self.connection: Connection | None = None
        self._link, self._target, self._spawn = link, target, spawn
        self._connecting: asyncio.Task[None] | None = None
        self._stream: OutgoingCall | None = None
        link.on_connected.append(self._ask)
        if link.connection is not None:
            self._ask(link.connection)

    def close(self) -> None:
        """Nobody asks it any more."""
        self._link.on_connected.remove(self._ask)
        if self._stream is not None:
            self._stream.cancel()
        self._hear(AdviserPlace())

    def _ask(self, daemon: Connection) -> None:
        request = AdviserRequest(app=self._target.app_name, deployment=self._target.name)
        try:
            self._stream = daemon.watch("adviser", request, AdviserPlace, self._hear, lambda _: None)
        except ConnectionLostError:  # the link calls again
            return

    def _hear(self, place: AdviserPlace) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        if place.socket:
            self._connecting = self._spawn(self._connect(place.socket))

    async def _connect(self, path: str) -> None:
        try:
            self.connection = await connect(path)
        except (OSError, ConnectionLostError):  # it has just ended: the daemon tells of the next one
            return


def remote_adviser(
    link: DaemonLink,
    membership: Membership,
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
) -> Adviser:
    """Return who ranks replicas for a deployment whose user has written a router."""
    assert membership.router is not None
    target = DeploymentId(name=membership.deployment, app_name=membership.app)
    process = ToldProcess(link, target, spawn)
    return RemoteAdviser(process, target, membership.router, process.close)
