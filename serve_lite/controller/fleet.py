"""The replicas of this instance: the only place that starts and stops them.

One supervised task for each replica owns its process from the moment it is planned until it is reaped and its socket
removed. The task does what `controller.py` tells it (`start`, `adopt`, `stop`, `reconfigure`, `check_health`) and
tells what happens as events; it decides nothing.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from serve_lite.controller.cgroups import ReplicaGroups
from serve_lite.controller.child import Child, ExitInfo
from serve_lite.controller.environments import Environments
from serve_lite.controller.failures import describe, last_words
from serve_lite.controller.metrics import Pictures
from serve_lite.controller.oom import count_oom_kills, explain_kill, explain_limit
from serve_lite.controller.probes import Prober
from serve_lite.controller.spawner import Spawner, SpawnLimits
from serve_lite.controller.store import ReplicaRow, Store
from serve_lite.exceptions import ServeLiteError
from serve_lite.schema import Phase
from serve_lite.state import events as ev
from serve_lite.state.goal import CodeEnvironment
from serve_lite.state.ids import DeploymentId, ReplicaId
from serve_lite.state.phases import Progress
from serve_lite.state.resources import Allotment
from serve_lite.wire.connection import Connection, ConnectionLostError, connect
from serve_lite.wire.messages import (
    AdoptRequest,
    Empty,
    InitRequest,
    MetricsReply,
    PhaseNews,
    PlaceRequest,
    ReconfigureRequest,
    ReplicaFacts,
    ReplicaReport,
    StopRequest,
)

logger = logging.getLogger(__name__)

_decode_facts = msgspec.msgpack.Decoder(ReplicaFacts).decode
_decode_phase = msgspec.msgpack.Decoder(PhaseNews).decode

ADOPT_S = 30.0  #: a replica that has not answered a new daemon by then is given up
ADOPT_UNREADY_S = 0.5  #: the same for one whose start the death of the last daemon has interrupted
CLEAN_UP_S = 1.0  #: for clean-up and destructor once a replica's grace is over and its requests are cancelled
SHORT_GRACE_S = 5.0  #: between SIGTERM and SIGKILL for a replica that has no requests to finish
RECONNECT_S = 0.2  #: between attempts to reach a replica whose control connection broke
LAST_LINES = 20  #: of a dead replica's output that are kept
READ_LINES = 60  #: of it that are looked at: a crash leaves a long stack, most of which says nothing
LAST_ANSWER_S = 1.0  #: for what a replica wrote before its process ended to be read
METRICS_S = 1.0  #: replicas that have not told their metrics by then are shown as they were


class StopOrder(msgspec.Struct, frozen=True, kw_only=True):
    """How a replica is to be ended."""

    is_graceful: bool = True  #: let it finish what it has
    timeout_s: float = (
        20.0  #: then its requests are cancelled, and SIGKILL comes soon after; 0: SIGKILL at once
    )

    @classmethod
    def now(cls) -> StopOrder:
        """Return the order for a process that does not hear what it is told."""
        return cls(is_graceful=False, timeout_s=0.0)


class Fleet:
    """Starts, adopts, talks to and ends replicas.

    Lifetime: tasks live in `group`, which the controller owns. When it is cancelled, replicas are left running for
    the next daemon; ending them is an order like any other, given before.
    """

    def __init__(
        self,
        *,
        group: anyio.abc.TaskGroup,
        spawner: Spawner,
        store: Store,
        post: Callable[[ev.Event], None],
        note: Callable[[ev.ReplicaPhased], None],
        clock: Callable[[], float],
        epoch: int,
        on_stats: Callable[[ReplicaId, DeploymentId, dict[str, float], float], None],
        environments: Environments,
        groups: ReplicaGroups,
    ) -> None:
        self._group, self._spawner, self._store = group, spawner, store
        self._groups = groups
        self._post, self._clock, self._epoch = post, clock, epoch
        self._note = note  #: hears of phases, at once: they are shown and decide nothing
        self._environments = environments
        self._on_stats = on_stats  #: hears what a replica's `record_autoscaling_stats` returned
        self._live: dict[ReplicaId, _Supervised] = {}
        self.pictures = Pictures()  #: what replicas told of their metrics
        self.prober = Prober(spawner.run_dir, epoch, post, clock)  #: run by the controller

    def start(
        self, row: ReplicaRow, request: InitRequest, environment: CodeEnvironment, *, planned_at: float
    ) -> None:
        """Start a replica. Events: Spawned, Phased, then Ready or StartFailed, and in the end Exited."""
        replica = self._live[row.id] = _Supervised(row)
        replica.progress = Progress(phase=Phase.STARTING_PROCESS, since=planned_at)
        self._group.start_soon(self._supervise, replica, lambda: self._run_new(replica, request, environment))

    def adopt(self, row: ReplicaRow) -> bool:
        """Take over a replica of an earlier daemon; False if it is gone, in which case its row is dropped.

        Events: Ready, StartFailed or Stopping, and in the end Exited.
        """
        child = None
        if row.pid:
            child = self._spawner.adopt_child(row.pid, row.start_time, replica=row.id, log_path=row.log_file)
        if child is None:
            self._store.drop_replica(row.id)
            return False
        if row.allotment.needs.memory_bytes:
            self._groups.adopt(row.id, child.pid)
        replica = self._live[row.id] = _Supervised(row)
        replica.child = child
        self._group.start_soon(self._supervise, replica, lambda: self._run_adopted(replica))
        return True

    def stop(self, replica: ReplicaId, order: StopOrder) -> None:
        """End a replica. It must have left every membership before: what it has not accepted goes elsewhere."""
        supervised = self._live.get(replica)
        self.prober.end(replica)
        if supervised is not None and supervised.order is None:
            supervised.order = order
            supervised.ordered.set()

    def reconfigure(self, replica: ReplicaId, request: ReconfigureRequest, settings: str) -> None:
        """Have a running replica take other settings. Events: Reconfigured or Refused."""
        supervised = self._live.get(replica)
        if supervised is not None and supervised.tasks is not None:
            supervised.tasks.start_soon(self._reconfigure, supervised, request, settings)

    def place(self, replica: ReplicaId, request: PlaceRequest) -> None:
        """Tell a running replica its rank. If its `reconfigure` fails on it, that is logged and it goes on."""
        supervised = self._live.get(replica)
        if supervised is not None and supervised.tasks is not None:
            supervised.tasks.start_soon(self._place, supervised, request)

    def check_health(self, replica: ReplicaId, timeout_s: float) -> None:
        """Ask a running replica whether it is well. Event: HealthAnswered."""
        supervised = self._live.get(replica)
        if supervised is not None and supervised.tasks is not None:
            supervised.tasks.start_soon(self._check_health, supervised, timeout_s)

    async def ask_metrics(self) -> None:
        """Have the metrics of all ready replicas in `pictures`; those that are slow to answer stay as they were."""
        asked = [self._begin_asking(replica) for replica in self._live.values()]
        with anyio.move_on_after(METRICS_S):
            for answered in asked:
                if answered is not None:
                    await answered.wait()

    def loads(self) -> dict[ReplicaId, int]:
        """Return the requests that each ready replica had when it last answered anything (`ask_metrics`, for one)."""
        return {
            name: replica.connection.load
            for name, replica in self._live.items()
            if replica.connection is not None and replica.is_initialised
        }

    # --- one replica's life ---

    async def _supervise(self, replica: _Supervised, life: Callable[[], Awaitable[str]]) -> None:
        """Run one replica to its end and tell it."""
        try:
            detail = await life()
        except Exception as error:  # boundary: one replica's trouble must not end the others
            logger.exception("replica %s: supervision failed", replica.id)
            if replica.child is not None:
                replica.child.kill()
                await replica.child.wait()  # ends with the SIGKILL
            detail = f"could not be supervised: {error}"
        finally:
            if replica.connection is not None:
                replica.connection.close()
        del self._live[replica.id]
        self.prober.end(replica.id)
        self.pictures.end(replica.id, replica.row.deployment)
        with anyio.CancelScope(shield=True):  # a few seconds at most
            await self._groups.close(replica.id)
        self._store.drop_replica(replica.id)
        self._post(ev.ReplicaExited(replica=replica.id, at=self._clock(), detail=detail, spread=_spread()))

    async def _run_new(self, replica: _Supervised, request: InitRequest, environment: CodeEnvironment) -> str:
        try:
            resolved = await self._resolve(replica, environment)
            if resolved is None:
                return "was stopped before it was started"
            # A daemon that leaves in between would leave a process that nobody has written down.
            with anyio.CancelScope(shield=True):
                await self._store.plan_replica(replica.row)
                cgroup = await self._groups.open(replica.id, replica.row.allotment.needs.memory_bytes)
                child = await self._spawner.spawn_replica(
                    replica.id, resolved, replica.row.log_file, limits=_limits(replica.row.allotment, cgroup)
                )
                replica.child = child
                replica.row = msgspec.structs.replace(replica.row, pid=child.pid, start_time=child.start_time)
                self._store.put_replica(replica.row)
        except (ServeLiteError, OSError) as error:
            self._fail_start(replica, describe(error))
            return f"was not started: {error}"
        self._post(ev.ReplicaSpawned(replica=replica.id, at=self._clock(), pid=child.pid))
        return await self._accompany(replica, child, lambda: self._initialise(replica, request))

    async def _resolve(self, replica: _Supervised, environment: CodeEnvironment) -> CodeEnvironment | None:
        """Return the environment with everything prepared; None if the replica is not wanted any more."""
        if not environment.parts:
            return environment
        self._enter(replica, PhaseNews(Phase.PREPARING_ENVIRONMENT, self._clock()))
        resolved: CodeEnvironment | None = None
        failure: ServeLiteError | None = None

        async def resolve() -> None:
            nonlocal resolved, failure
            try:
                resolved = await self._environments.resolve(environment)
            except ServeLiteError as error:
                failure = error
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(resolve)
            await replica.ordered.wait()  # or the above
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if replica.ordered.is_set():
            return None
        self._enter(replica, PhaseNews(Phase.STARTING_PROCESS, self._clock()))
        return resolved

    async def _run_adopted(self, replica: _Supervised) -> str:
        assert replica.child is not None
        return await self._accompany(replica, replica.child, lambda: self._greet(replica))

    async def _accompany(
        self, replica: _Supervised, child: Child, converse: Callable[[], Coroutine[Any, Any, None]]
    ) -> str:
        """Talk to a process until it is gone; return how it ended."""
        async with anyio.create_task_group() as tasks:
            replica.tasks = tasks
            tasks.start_soon(converse)
            tasks.start_soon(self._stop_when_ordered, replica, child)
            info = await child.wait()  # ends with the process
            if replica.stop_asked is not None:
                with anyio.move_on_after(LAST_ANSWER_S):
                    await replica.stop_asked.wait()
            replica.tasks = None
            tasks.cancel_scope.cancel()
        return await self._detail(replica, child, info)

    async def _initialise(self, replica: _Supervised, request: InitRequest) -> None:
        """Have the new process build the user's object."""
        try:
            connection = replica.connection = await connect(self._spawner.socket_path(replica.id))
            self._listen(replica, connection)
            # The first phase is the same for all, so it need not be told over the wire.
            self._enter(replica, PhaseNews(Phase.IMPORTING, self._clock()))
            report = await connection.control(
                "init", request, ReplicaReport, timeout_s=None, on_news=lambda news: self._hear(replica, news)
            )
        except (ConnectionLostError, OSError) as error:
            # Almost always the process has ended, which is told with its exit status and ends this task.
            await anyio.sleep(SHORT_GRACE_S)
            self._fail_start(replica, f"it broke off the connection: {error}")
            await self._end(replica)
        except ServeLiteError as error:
            self._fail_start(replica, describe(error))
            await self._end(replica)
        else:
            self._become_ready(replica, report)
            await self._stay_connected(replica)

    async def _greet(self, replica: _Supervised) -> None:
        """Take charge of a process that an earlier daemon started."""
        try:
            with anyio.fail_after(ADOPT_S if replica.row.was_ready else ADOPT_UNREADY_S):
                report = await self._adopt(replica)
        except (TimeoutError, ServeLiteError, OSError) as error:
            self._fail_start(replica, f"it could not be adopted: {describe(error)}", is_counted=False)
            await self._end(replica)
            return
        if report.draining:
            self._post(
                ev.ReplicaStopping(
                    replica=replica.id, at=self._clock(), reason="it was stopping when the daemon started"
                )
            )
            self.stop(replica.id, StopOrder())
        elif not report.ready:  # its `init` went down with the daemon that sent it
            self._fail_start(replica, "its start was interrupted", is_counted=False)
            await self._end(replica)
            return
        else:
            self._become_ready(replica, report)
        await self._stay_connected(replica)

    async def _adopt(self, replica: _Supervised) -> ReplicaReport:
        connection = replica.connection = await connect(self._spawner.socket_path(replica.id))
        self._listen(replica, connection)
        return await connection.control(
            "adopt", AdoptRequest(epoch=self._epoch), ReplicaReport, timeout_s=None
        )

    def _listen(self, replica: _Supervised, connection: Connection) -> None:
        """Hear what the replica tells of itself."""

        def hear(is_news: bool = True) -> None:
            if not connection.table.facts:
                return
            facts = _decode_facts(connection.table.facts)
            if facts.autoscaling_stats and facts.autoscaling_at != replica.stats_at:
                replica.stats_at = facts.autoscaling_at
                at = facts.autoscaling_at if is_news else 0.0
                self._on_stats(replica.id, replica.row.deployment, facts.autoscaling_stats, at)
            if facts.worn != replica.worn:
                replica.worn = facts.worn
                self._post(ev.ReplicaWorn(replica=replica.id, reason=facts.worn, at=self._clock()))

        connection.table.on_facts = hear
        hear(is_news=False)

    async def _stay_connected(self, replica: _Supervised) -> None:
        """Connect again whenever the connection breaks while the process lives; it counts on us being there."""
        while True:
            assert replica.connection is not None
            await replica.connection.wait_closed()
            replica.connection = None
            while replica.connection is None:  # ends with a connection, or with the process
                await anyio.sleep(RECONNECT_S)
                try:
                    await self._adopt(replica)
                except (ServeLiteError, OSError) as error:
                    logger.debug("replica %s cannot be reached: %s", replica.id, error)
                    if replica.connection is not None and replica.connection.closed:
                        replica.connection = None

    async def _stop_when_ordered(self, replica: _Supervised, child: Child) -> None:
        """Carry out the order to stop; the exit of the process ends this task."""
        await replica.ordered.wait()
        order = replica.order
        assert order is not None
        is_graceful = order.is_graceful and replica.is_initialised
        patience_s = order.timeout_s + CLEAN_UP_S if order.timeout_s else 0.0
        with anyio.move_on_after(patience_s if is_graceful else min(patience_s, SHORT_GRACE_S)):
            if not is_graceful or not await self._ask_to_stop(replica, order):
                child.terminate()
            await anyio.sleep_forever()
        if order.is_graceful:
            logger.warning("replica %s did not end within %g s and is killed", replica.id, patience_s)
        child.kill()

    async def _ask_to_stop(self, replica: _Supervised, order: StopOrder) -> bool:
        """Return whether the replica has drained and is about to exit."""
        if replica.connection is None:
            return False
        request = StopRequest(timeout_s=order.timeout_s, epoch=self._epoch)
        replica.stop_asked = anyio.Event()
        try:
            last = await replica.connection.control(  # `timeout_s` bounds it
                "stop",
                request,
                MetricsReply,
                timeout_s=None,
                on_news=lambda news: self._hear(replica, news),
            )
            self.pictures.take(replica.id, last.families)
        except ServeLiteError as error:
            logger.debug("replica %s did not answer the order to stop: %s", replica.id, error)
            return False
        finally:
            replica.stop_asked.set()
        return True

    async def _end(self, replica: _Supervised) -> None:
        """End a process that serves nothing; its exit ends this task."""
        assert replica.child is not None
        replica.child.terminate()
        await anyio.sleep(SHORT_GRACE_S)
        replica.child.kill()

    # --- calls to a running replica ---

    async def _reconfigure(self, replica: _Supervised, request: ReconfigureRequest, settings: str) -> None:
        try:
            if replica.connection is None:
                raise ConnectionLostError("its control connection is broken")
            await replica.connection.control("reconfigure", request, ReplicaReport, timeout_s=None)
        except ServeLiteError as error:
            # What it works with now is not known: a daemon that adopts it has to tell it again.
            replica.row = msgspec.structs.replace(replica.row, settings="")
            self._store.put_replica(replica.row)
            self._post(
                ev.ReplicaRefused(
                    replica=replica.id, at=self._clock(), error=describe(error), spread=_spread()
                )
            )
            return
        replica.row = msgspec.structs.replace(replica.row, settings=settings)
        self._store.put_replica(replica.row)
        self._post(ev.ReplicaReconfigured(replica=replica.id, at=self._clock()))

    async def _place(self, replica: _Supervised, request: PlaceRequest) -> None:
        try:
            if replica.connection is None:
                raise ConnectionLostError("its control connection is broken")
            await replica.connection.control("place", request, ReplicaReport, timeout_s=None)
        except ServeLiteError as error:
            logger.warning("replica %s did not take rank %d: %s", replica.id, request.rank, describe(error))
            return
        replica.row = msgspec.structs.replace(replica.row, rank=request.rank)
        self._store.put_replica(replica.row)

    async def _check_health(self, replica: _Supervised, timeout_s: float) -> None:
        error = ""
        try:
            if replica.connection is None:
                raise ConnectionLostError("its control connection is broken")
            await replica.connection.control("check_health", Empty(), Empty, timeout_s=timeout_s)
        except TimeoutError:
            error = f"no answer within {timeout_s:g} s"
        except ServeLiteError as failure:
            error = describe(failure)
        self._post(
            ev.ReplicaHealthAnswered(replica=replica.id, at=self._clock(), error=error, spread=_spread())
        )

    def _begin_asking(self, replica: _Supervised) -> anyio.Event | None:
        """Return what is set when a ready replica has answered; None for one that cannot be asked."""
        if replica.tasks is None or replica.connection is None or not replica.is_initialised:
            return None
        # One question at a time: a replica that is blocked for long finds one when it is free again.
        if replica.metrics_asked is None:
            replica.metrics_asked = anyio.Event()
            replica.tasks.start_soon(self._ask_metrics, replica, replica.connection, replica.metrics_asked)
        return replica.metrics_asked

    async def _ask_metrics(self, replica: _Supervised, connection: Connection, answered: anyio.Event) -> None:
        """Ask one replica; ends with its answer, its connection or its process."""
        try:
            reply = await connection.control("metrics", Empty(), MetricsReply, timeout_s=None)
            self.pictures.take(replica.id, reply.families)
        except ConnectionLostError as error:
            logger.debug("replica %s did not tell its metrics: %s", replica.id, error)
        except ServeLiteError as error:
            logger.warning("replica %s cannot tell its metrics: %s", replica.id, error)
        finally:
            replica.metrics_asked = None
            answered.set()

    # --- telling ---

    def _hear(self, replica: _Supervised, news: memoryview) -> None:
        self._enter(replica, _decode_phase(news))

    def _enter(self, replica: _Supervised, news: PhaseNews) -> None:
        if replica.progress is not None:
            replica.progress = replica.progress.enter(news.phase, news.at, news.note)
        self._note(ev.ReplicaPhased(replica=replica.id, at=news.at, phase=news.phase, note=news.note))

    def _become_ready(self, replica: _Supervised, report: ReplicaReport) -> None:
        replica.is_initialised = True
        self.pictures.begin(replica.id, replica.row.deployment)
        now = self._clock()
        if replica.progress is not None:
            phases = replica.progress.enter(Phase.READY, now).finished
            replica.row = msgspec.structs.replace(replica.row, phases=phases)
        replica.row = msgspec.structs.replace(replica.row, was_ready=True)
        self._store.put_replica(replica.row)
        self._post(
            ev.ReplicaReady(
                replica=replica.id,
                at=now,
                docs_path=report.docs_path,
                has_health_check=report.has_health_check,
            )
        )
        if replica.child is not None and replica.order is None:
            path = self._spawner.socket_path(replica.id)
            self.prober.begin(replica.id, replica.row.deployment, replica.child.pid, path)

    def _fail_start(self, replica: _Supervised, error: str, *, is_counted: bool = True) -> None:
        self._post(
            ev.ReplicaStartFailed(
                replica=replica.id, at=self._clock(), error=error, spread=_spread(), is_counted=is_counted
            )
        )

    async def _detail(self, replica: _Supervised, child: Child, info: ExitInfo) -> str:
        """Return how a process ended, with its last words if nobody had asked it to."""
        if self._groups.is_over(replica.id):
            return f"it {info}{explain_limit(replica.row.allotment.needs.memory_bytes)}"
        if replica.order is not None:
            return f"it {info}"
        how = f"it {info}{explain_kill(info, replica.oom_kills, count_oom_kills())}"
        with anyio.CancelScope(shield=True):
            output = await anyio.to_thread.run_sync(child.tail, READ_LINES)
        lines = last_words(output, LAST_LINES)
        return how + (". Its last output:\n" + "\n".join(lines) if lines else "")


class _Supervised:
    """One replica that has a task."""

    def __init__(self, row: ReplicaRow) -> None:
        self.id = row.id
        self.row = row
        self.child: Child | None = None
        self.oom_kills = count_oom_kills()  #: before it was started, or adopted
        self.connection: Connection | None = None  #: None until there is one, and while it is broken
        self.tasks: anyio.abc.TaskGroup | None = None  #: ends with the process
        self.order: StopOrder | None = None
        self.ordered = anyio.Event()
        self.progress: Progress | None = None  #: of its start, if it began under this daemon
        self.is_initialised = False  #: it may have requests to finish
        self.stats_at = 0.0  #: when its `record_autoscaling_stats` returned what was told last
        self.worn = ""  #: what it said last of having served long enough
        self.stop_asked: anyio.Event | None = None  #: set when it has answered the order to stop, or cannot
        self.metrics_asked: anyio.Event | None = None  #: set when it has told its metrics, or cannot


def _limits(allotment: Allotment, cgroup: str) -> SpawnLimits:
    threads = max(1, int(allotment.needs.cpus)) if allotment.needs.cpus else 0
    return SpawnLimits(cgroup=cgroup, cpus=allotment.cpu_ids, threads=threads)


def _spread() -> float:
    return random.random()
