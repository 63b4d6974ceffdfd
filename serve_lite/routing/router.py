"""Sends each call to a replica that has room, or keeps it until one has. Callback style: no task per call.

A call that no replica has accepted goes elsewhere when its replica refuses, drains or dies; one that a
replica has accepted is never sent again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from typing import Any

from serve_lite.exceptions import (
    BackPressureError,
    DeploymentNotFoundError,
    DeploymentUnavailableError,
    ReplicaDiedError,
    ReplicaUnavailableError,
)
from serve_lite.instruments import LATENCY_MS, HistogramCell
from serve_lite.routing.load import LoadTeller
from serve_lite.routing.membership import MembershipSource
from serve_lite.routing.ranked import MakeAdviser, RankedPlacing
from serve_lite.routing.replica_set import Link, ReplicaSet
from serve_lite.state.ids import DeploymentId
from serve_lite.wire.calls import OutgoingCall
from serve_lite.wire.frames import Buffer
from serve_lite.wire.messages import CallFacts, DeploymentLoad, Membership, MemberState, RejectReason

_MAX_RESENDS = 16  #: replicas that may die under one call before it is given up


class PendingCall:
    """One call from submission to its end; the maker subclasses it and overrides what it wants to hear.

    Exactly one of `on_result`, `on_end`, `on_error`, `on_failed` ends it. All are called on the loop and
    must neither block nor raise.
    """

    kind: int
    envelope: bytes
    buffers: Sequence[Buffer] = ()
    streams_body: bool = False
    retryable: bool = True  #: set False once a streamed body can no longer be sent again
    model_id: str = ""
    pinned: str = ""  #: only this replica may take it, with or without room
    arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})  #: for routers that users write
    outgoing: OutgoingCall | None = None  #: set while a replica has it
    resends: int = 0
    waits_since: float = 0.0  #: monotonic; 0: it does not wait
    _sent: _Sent | None = None

    def on_sent(self, replica_id: str) -> None:
        """It went to this replica; may happen again after a refusal."""

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None:
        """The one answer."""

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        """One item of a stream; say `outgoing.consumed(payload bytes)` once it is used."""

    def on_end(self, envelope: bytes) -> None:
        """The end of a stream."""

    def on_error(self, envelope: bytes, buffers: list[memoryview]) -> None:
        """The replica answered with an `ErrorHead`."""

    def on_failed(self, error: Exception) -> None:
        """No answer will come; `error` is one of ours."""

    def on_writable(self) -> None:
        """`outgoing.send_item` may be used again."""

    def facts(self) -> CallFacts:
        """Return what a router that a user wrote may know of it."""
        return CallFacts(model_id=self.model_id)


class Router:
    """Calls to one deployment from this process.

    Lifetime: made by `Routers.get`, closed by `Routers.aclose`.
    """

    def __init__(
        self,
        deployment: DeploymentId,
        source: MembershipSource,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        make_adviser: MakeAdviser,
        *,
        memory_files: bool = False,
    ) -> None:
        self.deployment = deployment
        self.num_ongoing = 0
        self.num_submitted = 0  #: calls given to `submit` and `broadcast`
        self._num_refused = 0  #: of these, at once
        self._num_had_to_wait = 0
        self._waits = HistogramCell(LATENCY_MS)  #: milliseconds, of those that had to wait
        self._spawn = spawn
        self._make_adviser = make_adviser
        self._placing: RankedPlacing | None = None  #: set while a user's router chooses
        self._queue: deque[PendingCall] = deque()
        self._membership: Membership | None = None
        self._when_settled: list[Callable[[], None]] = []
        self._replicas = ReplicaSet(spawn, self._on_room, memory_files=memory_files)
        self._load = LoadTeller(self.load, source.tell_load)
        self._unwatch = source.watch(deployment.app_name, deployment.name, self._on_membership)

    @property
    def num_queued(self) -> int:
        """Calls that wait for a replica."""
        return len(self._queue)

    def waits(self) -> list[float]:
        """Return how long calls waited that have gone to a replica, or were given up: as `HistogramCell.picture`."""
        waits = self._waits.picture()
        waits[0] += self.num_submitted - self._num_refused - self._num_had_to_wait
        return waits

    def known_load(self) -> dict[str, int]:
        """Return how many calls each replica has, as far as is known here."""
        return {link.endpoint.replica_id: link.ongoing for link in self._replicas.usable}

    def is_connected(self, replica_id: str) -> bool:
        """Whether calls can be sent to this replica at once."""
        return self._replicas.find(replica_id) is not None

    @property
    def num_replicas(self) -> int:
        """Replicas that are connected and may be sent calls."""
        return len(self._replicas.usable)

    def load(self) -> DeploymentLoad:
        """Return the calls that wait, and those that each replica has."""
        return DeploymentLoad(
            app=self.deployment.app_name,
            deployment=self.deployment.name,
            queued=len(self._queue),
            running=self._replicas.counts(),
            at=time.monotonic(),
        )

    @property
    def state(self) -> MemberState | None:
        """Whether calls wait, go or fail; None before the first word of it."""
        return self._membership.state if self._membership is not None else None

    def when_settled(self, callback: Callable[[], None]) -> None:
        """Call back once it is known who serves and each of them is connected or gone: now, if that is so."""
        if self._is_settled():
            callback()
        else:
            self._when_settled.append(callback)

    def submit(self, call: PendingCall) -> None:
        """Send the call, or keep it until a replica has room. Never blocks."""
        self.num_submitted += 1
        if call.pinned:
            self._send_pinned(call)
            return
        if not self._queue and self._placing is None:
            link = self._replicas.choose(call.model_id)
            if link is not None:
                self._send(call, link)
                return
        error = self._refusal()
        if error is not None:
            self._num_refused += 1
            call.on_failed(error)
            return
        self._num_had_to_wait += 1
        call.waits_since = time.monotonic()
        self._queue.append(call)
        if not self._replicas.usable:
            self._load.call_waits()
        if self._placing is not None:
            self._placing.wake()

    def ask_anew(self) -> None:
        """Ask another adviser from now on: the process of the last one has ended for good."""
        if self._placing is not None and self._membership is not None:
            self._placing.close()
            self._placing = None
            self._follow_choice(self._membership)
            self._drain()

    def broadcast(self, make: Callable[[str], PendingCall]) -> int:
        """Send every replica a call made for it, with or without room; return how many there are."""
        links = tuple(self._replicas.usable)
        self.num_submitted += len(links)
        for link in links:
            self._send(make(link.endpoint.replica_id), link)
        return len(links)

    def cancel(self, call: PendingCall) -> None:
        """Give a call up, queued or running. It hears nothing more."""
        sent = call._sent
        if sent is not None:
            assert call.outgoing is not None
            call.outgoing.cancel()
            sent.over()
            self._drain()
        elif call in self._queue:
            self._queue.remove(call)
            self._has_waited(call)

    def close(self) -> None:
        """Fail what waits and close the connections."""
        self._unwatch()
        self._load.close()
        #: calls that their replicas turn out not to have accepted fail too
        self._membership = Membership(app=self.deployment.app_name, deployment=self.deployment.name)
        self._fail_queue(DeploymentNotFoundError(self.deployment))
        self._replicas.close()
        callbacks, self._when_settled = self._when_settled, []
        for callback in callbacks:
            callback()
        if self._placing is not None:
            self._placing.close()

    def _send(self, call: PendingCall, link: Link) -> None:
        connection = link.connection
        assert connection is not None
        sent = _Sent(self, call, link)
        try:
            call.outgoing = connection.call(
                call.kind, call.envelope, call.buffers, sent, streams_body=call.streams_body
            )
        except ValueError as error:  # too large for a frame
            call.on_failed(error)
            return
        call._sent = sent
        if call.waits_since:
            self._has_waited(call)
        link.mine += 1
        self.num_ongoing += 1
        if call.model_id:
            link.expect_model(call.model_id)
        if self._placing is not None:
            self._placing.adviser.placed(call, link.endpoint.replica_id)
        call.on_sent(link.endpoint.replica_id)

    def _has_waited(self, call: PendingCall) -> None:
        """A call waits no more, whatever comes of it."""
        if call.waits_since:
            self._waits.observe((time.monotonic() - call.waits_since) * 1000)
            call.waits_since = 0.0

    def _send_pinned(self, call: PendingCall) -> None:
        link = self._replicas.find(call.pinned)
        if link is None:
            call.on_failed(ReplicaUnavailableError(call.pinned))
        else:
            self._send(call, link)

    def _resend(self, call: PendingCall) -> None:
        """Put a call that did not run at the front of the queue and try to place it."""
        if call.pinned:
            call.on_failed(ReplicaUnavailableError(call.pinned))
            return
        if self.state in (MemberState.MISSING, MemberState.FAILED):  # nobody will come to take it
            error = self._refusal()
            assert error is not None
            call.on_failed(error)
            return
        self._queue.appendleft(call)
        self._drain()

    def _drain(self) -> bool:
        """Send what waits while there is room; return whether anything was sent."""
        queue, sent_any = self._queue, False
        if self._placing is not None:
            if queue:
                self._placing.wake()
            return False  # it takes a moment; whoever offered room may give it to another caller
        while queue:
            link = self._replicas.choose(queue[0].model_id)
            if link is None:
                break
            self._send(queue.popleft(), link)
            sent_any = True
        return sent_any

    def _refusal(self) -> Exception | None:
        """Why a call may not wait, or None."""
        membership = self._membership
        if membership is None:
            return None
        if membership.state is MemberState.MISSING:
            return DeploymentNotFoundError(self.deployment)
        if membership.state is MemberState.FAILED:
            return DeploymentUnavailableError(self.deployment)
        if 0 <= membership.max_queued <= len(self._queue):
            return BackPressureError(
                len(self._queue),
                membership.max_queued,
                membership.backpressure_status,
                membership.retry_after_s,
            )
        return None

    def _on_room(self) -> bool:
        """A replica is connected or has room."""
        self._tell_settled()
        return self._drain()

    def _is_settled(self) -> bool:
        return self._membership is not None and self._replicas.is_connected

    def _tell_settled(self) -> None:
        if self._when_settled and self._is_settled():
            callbacks, self._when_settled = self._when_settled, []
            for callback in callbacks:
                callback()

    def _on_membership(self, membership: Membership) -> None:
        self._follow_choice(membership)
        self._membership = membership
        self._replicas.update(membership.replicas, membership.silent)
        if membership.state is MemberState.AVAILABLE:
            self._drain()
        elif membership.state is MemberState.MISSING:
            self._fail_queue(DeploymentNotFoundError(self.deployment))
        else:
            self._fail_queue(DeploymentUnavailableError(self.deployment))
        self._tell_settled()
        self._load.follow(membership.load_every_s)

    def _follow_choice(self, membership: Membership) -> None:
        """Begin or end asking a user's router, as the deployment says now."""
        if self._placing is not None and self._placing.choice != membership.router:
            self._placing.close()
            self._placing = None
        if self._placing is None and membership.router is not None:
            adviser = self._make_adviser(membership)
            if adviser is not None:
                self._placing = RankedPlacing(
                    adviser,
                    membership.router,
                    queue=self._queue,
                    usable=lambda: self._replicas.usable,
                    is_settled=lambda: self._replicas.is_settled,
                    send=self._send,
                    fall_back=lambda call: self._replicas.choose(call.model_id),
                    spawn=self._spawn,
                )

    def _fail_queue(self, error: Exception) -> None:
        queue = list(self._queue)
        self._queue.clear()
        for call in queue:
            self._has_waited(call)
            call.on_failed(error)


class _Sent:
    """One call at one replica: keeps the books, then passes on what happens."""

    __slots__ = ("call", "link", "router")

    def __init__(self, router: Router, call: PendingCall, link: Link) -> None:
        self.router, self.call, self.link = router, call, link

    def over(self) -> None:
        """The replica has answered or is given up."""
        self.call.outgoing = None
        self.call._sent = None
        self.router.num_ongoing -= 1
        self.router._replicas.finished(self.link)
        if self.router._placing is not None:
            self.router._placing.adviser.ended(self.call, self.link.endpoint.replica_id)

    def answered(self) -> None:
        link = self.link
        self.over()
        connection = link.connection
        if connection is not None:
            link.heard(connection.load)

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self.answered()
        self.call.on_result(envelope, buffers)
        if self.router._queue:
            self.router._drain()

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self.call.on_item(envelope, buffers)

    def on_end(self, envelope: bytes) -> None:
        self.answered()
        self.call.on_end(envelope)
        self.router._drain()

    def on_error(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self.answered()
        self.call.on_error(envelope, buffers)
        self.router._drain()

    def on_rejected(self, reason: RejectReason, load: int) -> None:
        self.answered()
        if reason is RejectReason.EXPIRED:
            self.call.on_failed(TimeoutError("the deadline of the call has passed"))
            self.router._drain()
            return
        if reason is RejectReason.FULL:
            self.link.others = max(self.link.others, self.link.endpoint.max_ongoing - self.link.mine)
        else:
            self.router._replicas.mark_draining(self.link)
        if self.call.retryable:
            self.router._resend(self.call)
        else:
            self.call.on_failed(
                ReplicaDiedError(self.link.endpoint.replica_id, "its request cannot be sent again")
            )

    def on_lost(self, accepted: bool) -> None:
        self.over()
        call, replica_id = self.call, self.link.endpoint.replica_id
        call.resends += 1
        if accepted or not call.retryable or call.resends > _MAX_RESENDS:
            call.on_failed(ReplicaDiedError(replica_id))
        else:
            self.router._resend(call)

    def on_writable(self) -> None:
        self.call.on_writable()


class Routers:
    """All routers of one process, made when first asked for.

    Lifetime: owned by the daemon, a replica's runtime or a client's runtime, which awaits `aclose`.

    Args:
        memory_files: send large buffers through shared memory; for processes that unpickle.
    """

    def __init__(
        self,
        source: MembershipSource,
        make_adviser: MakeAdviser = lambda _: None,
        *,
        memory_files: bool = False,
    ) -> None:
        self._source = source
        self._memory_files = memory_files
        self._make_adviser = make_adviser
        self._routers: dict[tuple[str, str], Router] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def get(self, app: str, deployment: str) -> Router:
        """Return the router to a deployment. Call on the loop."""
        router = self._routers.get((app, deployment))
        if router is None:
            target = DeploymentId(name=deployment, app_name=app)
            router = self._routers[app, deployment] = Router(
                target, self._source, self.spawn, self._make_adviser, memory_files=self._memory_files
            )
        return router

    def find(self, app: str, deployment: str) -> Router | None:
        """Return the router to a deployment if there is one; from any thread."""
        return self._routers.get((app, deployment))

    def __iter__(self) -> Iterator[Router]:
        return iter(tuple(self._routers.values()))

    def keep_only(self, wanted: Collection[tuple[str, str]]) -> None:
        """Close the routers to other deployments, by application and name, that do not exist any more and have no call.

        For a process that lives through many deployments, and that alone knows who may still hold a router.
        """
        for key in self._routers.keys() - set(wanted):
            router = self._routers[key]
            if router.state is MemberState.MISSING and not (router.num_ongoing or router.num_queued):
                router.close()
                del self._routers[key]

    def ask_anew(self) -> None:
        """Have every router that asks an adviser ask another one."""
        for router in self._routers.values():
            router.ask_anew()

    def totals(self) -> tuple[int, int]:
        """Return (queued, ongoing) calls of this process."""
        routers = self._routers.values()
        return sum(r.num_queued for r in routers), sum(r.num_ongoing for r in routers)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that ends, at the latest, in `aclose`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        """Close every router and end every task."""
        for router in self._routers.values():
            router.close()
        self._routers.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
