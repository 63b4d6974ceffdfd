"""A replica: the process that runs one copy of a deployment.

`main` is its life: listen, be told what to run (`init`), serve, be told to stop (`stop`), exit. The daemon
may come and go meanwhile; a replica that has heard of none for `orphan_grace_s` stops by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import anyio
import uvloop

from serve_lite import instruments, logs, shipping
from serve_lite.config import DeploymentConfig, RequestRouterConfig
from serve_lite.context import (
    ReplicaContext,
    ReplicaRank,
    make_replica_context,
    note_allotment,
    note_ongoing_limit,
    set_replica_context,
)
from serve_lite.exceptions import RayServeException
from serve_lite.replica import reporting
from serve_lite.replica.access_log import ReplicaAccessLog
from serve_lite.replica.admission import Admission
from serve_lite.replica.asgi import AsgiApp, Lifespan, limit_threads
from serve_lite.replica.facts import Facts
from serve_lite.replica.requests import RequestRunner
from serve_lite.replica.telling import PhaseTeller
from serve_lite.replica.user_code import UserCode, called_exit
from serve_lite.replica.watchdog import Watchdog
from serve_lite.replica.wear import Wear, has_limits
from serve_lite.routing import runtime as caller_runtime
from serve_lite.routing.metrics import router_metrics
from serve_lite.schema import Phase
from serve_lite.wire.callbacks import start_soon
from serve_lite.wire.calls import CalleeTable, IncomingCall
from serve_lite.wire.control import ControlMethods, News
from serve_lite.wire.frames import Kind
from serve_lite.wire.ledger import LedgerWriter
from serve_lite.wire.listener import Listener, listen
from serve_lite.wire.messages import (
    AdoptRequest,
    Empty,
    InitRequest,
    MetricsReply,
    PlaceRequest,
    ReconfigureRequest,
    RejectReason,
    ReplicaReport,
    StopRequest,
)
from serve_lite.wire.pulse import pulse_path

log = logging.getLogger("serve_lite.replica")

_LAST_ANSWERS_S = 1.0  #: how long control calls may still be answered once the replica has stopped
_COUNT_EVERY_S = 1.0  #: how often a replica that stops tells how many requests it still has
_FIRST_CONTACT_S = 60.0  #: how long a new replica waits for the daemon that started it


def main(listen_socket: socket.socket, replica_id: str) -> None:
    """Serve on this listening socket until told to stop. Returns when the process should exit."""
    _log_for_now()
    uvloop.run(_serve(listen_socket, replica_id))


def _log_for_now() -> None:
    """Write logs until the deployment says how (`logs.configure`)."""
    handler = logging.StreamHandler()
    handler._serve_lite = True  # type: ignore[attr-defined]  # replaced then
    logging.basicConfig(
        level=logging.INFO,
        format="%(levelname)s %(asctime)s %(name)s -- %(message)s",
        handlers=[handler],
    )


async def _serve(listen_socket: socket.socket, replica_id: str) -> None:
    async with anyio.create_task_group() as group:
        replica = Replica(replica_id)
        methods = ControlMethods(group)
        replica.register(methods)
        ledger = LedgerWriter(listen_socket.getsockname())
        listener = await listen(
            listen_socket,
            lambda call: replica.handle_call(call, methods),
            gauge=replica.admission,
            ledger=ledger,
        )
        replica.attach(listener)
        replica.watchdog = Watchdog(pulse_path(listen_socket.getsockname()), replica_id)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: start_soon(group, replica.stop, StopRequest()))
        await replica.ended.wait()  # ends with a stop: told, terminated or orphaned
        await methods.finish(_LAST_ANSWERS_S)
        await listener.aclose()
        await replica.aclose()
        group.cancel_scope.cancel()


class Replica:
    """What one replica process holds. One loop, one instance of the user's code."""

    def __init__(self, replica_id: str) -> None:
        self.id = replica_id
        self.admission = Admission()
        self.ended = asyncio.Event()
        self._version = ""
        self._epoch = 0
        self._config = DeploymentConfig()
        self._is_half_configured = False  #: the last `reconfigure` of user code raised
        self._context: ReplicaContext | None = None
        self._user: UserCode | None = None
        self._runner: RequestRunner | None = None
        self._access: ReplicaAccessLog | None = None  #: None: there is to be none
        self._lifespan: Lifespan | None = None
        self._runtime: caller_runtime.Runtime | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._stop_teller = PhaseTeller()
        self._docs_path: str | None = None
        self._facts: Facts | None = None
        self.watchdog: Watchdog | None = None  #: started when the replica is ready
        self._wear: Wear | None = None  #: from when it is to be replaced some time
        self._idle = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()
        self._owner: CalleeTable | None = None  #: the daemon's connection
        self._orphan_grace_s = _FIRST_CONTACT_S
        self._orphan_timer = self._loop.call_later(_FIRST_CONTACT_S, self._orphaned)

    def register(self, methods: ControlMethods) -> None:
        """Offer the control calls of `wire/messages.py`."""
        methods.telling("init", InitRequest, self.init)
        methods.method("adopt", AdoptRequest, self.adopt)
        methods.method("reconfigure", ReconfigureRequest, self.reconfigure)
        methods.method("place", PlaceRequest, self.place)
        methods.method("check_health", Empty, self.check_health)
        methods.method("report", Empty, self.report)
        methods.method("metrics", Empty, self.metrics)
        methods.telling("stop", StopRequest, self.stop)

    def attach(self, listener: Listener) -> None:
        """Hear of callers that go."""
        listener.on_decline = self.admission.offer_room
        listener.on_lost = self._lost
        self._facts = Facts(listener)

    def handle_call(self, call: IncomingCall, methods: ControlMethods) -> None:
        """Take one call off the wire."""
        if call.kind != Kind.CALL_CONTROL:
            if self._runner is None:
                call.reject(RejectReason.NOT_READY)
            else:
                self._runner.start(call)
            return
        self._owner = call.table
        self._orphan_timer.cancel()
        methods.handle_call(call)

    async def init(self, request: InitRequest, news: News | None = None) -> ReplicaReport:
        """Build the user's object; answered when it is ready to serve.

        Raises:
            RayServeException: user code has called `sys.exit`, or its health check gave no answer in time.
            Exception: whatever else user code raises.
        """
        try:
            return await self._init(request, PhaseTeller(news))
        except SystemExit as error:
            if not self.has_process:
                raise
            raise called_exit(error) from error  # the daemon ends the process, once it has heard why

    async def _init(self, request: InitRequest, teller: PhaseTeller) -> ReplicaReport:
        self._obey(request.epoch)
        self._version = request.version
        self._config = request.config
        self._orphan_grace_s = request.orphan_grace_s
        self._context = make_replica_context(
            self.id,
            request.app_name,
            request.deployment,
            rank=request.rank,
            world_size=request.world_size,
            code_version=request.version,
        )
        note_ongoing_limit(self._context, request.config.max_ongoing_requests)
        note_allotment(self._context, request.allotment)
        self.become(self._context)
        self.write_logs(request.config, self._context)
        if request.control_socket:
            self._runtime = caller_runtime.open_here(request.control_socket)
            caller_runtime.install(self._runtime)
            routers = self._runtime.routers
            instruments.add_source(lambda: router_metrics(routers, "REPLICA"))
        on_loop = os.environ.get("RAY_SERVE_RUN_SYNC_IN_THREADPOOL", "1") == "0"
        user = self._user = UserCode(self.load_code(request), request.config, sync_on_loop=on_loop)
        args, kwargs = shipping.load_init(request.init)
        if not user.is_function:
            await teller.enter(Phase.CONSTRUCTOR)
        self._context.servable_object = await user.build(args, kwargs)
        app = await self._start_app(user, teller)
        await user.record_metadata()
        if user.has_reconfigure and (request.config.user_config is not None or user.wants_rank):
            await teller.enter(Phase.RECONFIGURE)
        await user.reconfigure(request.config.user_config)
        if user.has_health_check:
            await teller.enter(Phase.FIRST_HEALTH_CHECK)
            await user.check_health_within(request.config.health_check_timeout_s)
        self._runner = RequestRunner(user, self.admission, app)
        self._runner.log = self._access
        if self._lifespan is not None:
            self._runner.lifespan_state = self._lifespan.state
        self.admission.ready = True
        self.admission.set_limit(request.config.max_ongoing_requests)
        self._tell_facts(user, request.config)
        if self.watchdog is not None:
            self.watchdog.start(self._runner.counts)
        self._watch_wear()
        self.settle()
        return await self.report(Empty())

    async def adopt(self, request: AdoptRequest) -> ReplicaReport:
        """A daemon takes charge."""
        self._obey(request.epoch)
        return await self.report(Empty())

    async def reconfigure(self, request: ReconfigureRequest) -> ReplicaReport:
        """Apply changed options in place; calls the user's `reconfigure` only if `user_config` changed.

        After one that raised it is called in any case: it may have taken half of what it was given.
        """
        self._obey(request.epoch)
        assert self._user is not None
        if self._is_half_configured or request.config.user_config != self._config.user_config:
            self._is_half_configured = True
            await self._user.reconfigure(request.config.user_config)
            self._is_half_configured = False
        if self._context is not None and request.config.logging_config != self._config.logging_config:
            self.write_logs(request.config, self._context)
        self._config = request.config
        if self._context is not None:
            note_ongoing_limit(self._context, request.config.max_ongoing_requests)
        self.admission.set_limit(request.config.max_ongoing_requests)
        self._watch_wear()
        return await self.report(Empty())

    async def place(self, request: PlaceRequest) -> ReplicaReport:
        """Take another rank; a user's `reconfigure` that has a parameter for it is called."""
        self._obey(request.epoch)
        assert self._context is not None and self._user is not None
        old = self._context.rank.rank
        self._context.world_size = request.world_size
        self._context.rank = ReplicaRank(request.rank, 0, request.rank)
        if old != request.rank and self._user.wants_rank:
            await self._user.reconfigure(self._config.user_config)
        return await self.report(Empty())

    async def check_health(self, _: Empty) -> Empty:
        """Run the user's health check; its exception is the answer if it fails."""
        if self._user is not None:
            await self._user.check_health()
        return Empty()

    async def report(self, _: Empty) -> ReplicaReport:
        """Tell how it is."""
        return ReplicaReport(
            replica_id=self.id,
            version=self._version,
            ready=self.admission.ready,
            draining=self.admission.draining,
            ongoing=self.admission.ongoing,
            docs_path=self._docs_path,
            pid=os.getpid(),
            has_health_check=self._user is None or self._user.has_health_check,
        )

    async def metrics(self, _: Empty) -> MetricsReply:
        """Tell what it measures."""
        counts = self._runner.counts if self._runner is not None else reporting.RequestCounts()
        return MetricsReply(families=reporting.picture(self._context, self.admission.ongoing, counts))

    async def stop(self, request: StopRequest, news: News | None = None) -> MetricsReply:
        """Accept nothing more, finish what runs, call the destructor, then let the process end.

        Asked again while stopping, it waits for the same end. Answers with what it had measured by then.
        """
        self._obey(request.epoch)
        if news is not None:
            self._stop_teller = PhaseTeller(news)
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop(request.timeout_s))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(self._stopping)
        return await self.metrics(Empty())

    async def aclose(self) -> None:
        """Let go of what the process holds."""
        self._orphan_timer.cancel()
        if self._access is not None:
            self._access.close()
        if self.watchdog is not None:
            self.watchdog.close()
        if self._facts is not None:
            await self._facts.aclose()
        if self._runtime is not None:
            await self._runtime.aclose()
            caller_runtime.install(None)

    async def _stop(self, timeout_s: float | None) -> None:
        self.admission.draining = True
        self.admission.on_idle = self._idle.set
        if self._runner is not None:
            self._runner.leave()
        with anyio.move_on_after(timeout_s):
            await self._drain()
            if self._runner is not None:
                await self._runner.finish()
        if self._runner is not None:
            await self._runner.aclose()
        if self._lifespan is not None:
            await self._lifespan.shutdown()
        if self._user is not None:
            try:
                await self._user.destroy()
            except Exception:  # boundary: user code; the process ends all the same
                log.exception("the destructor of %s failed", self.id)
            if "serve_lite.multiplex" in sys.modules:  # lazily: few applications load models by id
                await sys.modules["serve_lite.multiplex"].unload_all()
        self.ended.set()

    async def _drain(self) -> None:
        """Wait until no request is left, and tell how many there are meanwhile."""
        told = 0
        while (left := self.admission.ongoing) and not self._idle.is_set():
            if left != told:
                await self._stop_teller.enter(Phase.DRAINING, f"{left} request{'s' if left > 1 else ''} left")
                told = left
            with anyio.move_on_after(_COUNT_EVERY_S):
                await self._idle.wait()
        if told:
            await self._stop_teller.enter(Phase.STOPPING)

    # --- what is otherwise where several replicas share a process (engines/inline_replica.py) ---

    has_process = True  #: to itself

    def become(self, context: ReplicaContext) -> None:
        """Say which replica the user's code runs in."""
        set_replica_context(context)

    def write_logs(self, config: DeploymentConfig, context: ReplicaContext) -> None:
        """Write this process's logs as the deployment says."""
        if self._access is not None:
            self._access.close()  # into the files that are about to be closed
        streams = logs.configure(config.logging_config, context)
        self._access = None if streams is None else ReplicaAccessLog(streams, context)
        if self._runner is not None:
            self._runner.log = self._access

    def load_code(self, request: InitRequest) -> Callable[..., Any]:
        """Return the user's class or function."""
        return shipping.load_code(request.code)

    def settle(self) -> None:
        """Start-up is over."""
        gc.collect()
        gc.freeze()  # what start-up made stays; later collections need not look at it

    def _tell_facts(self, user: UserCode, config: DeploymentConfig) -> None:
        """Begin to tell callers what they may choose by."""
        if self._facts is not None:
            router = RequestRouterConfig(**(config.request_router_config or {}))
            self._facts.follow(
                user.metadata,
                user.routing_stats if user.has_routing_stats else None,
                period_s=router.request_routing_stats_period_s,
                timeout_s=router.request_routing_stats_timeout_s,
                models=self.has_process,
            )
            if user.has_autoscaling_stats:
                self._facts.follow_autoscaling(user.autoscaling_stats)

    def _watch_wear(self) -> None:
        """Begin to look whether this process has served long enough, if its options say when that is."""
        if self._wear is None and self._facts is not None and self.has_process and has_limits(self._config):
            self._wear = Wear(self._began_at)
            self._facts.follow_wear(self._judge_wear)

    def _judge_wear(self) -> str:
        assert self._wear is not None and self._runner is not None
        return self._wear.judge(self._config, now=self._loop.time(), requests=self._runner.counts.total())

    async def _start_app(self, user: UserCode, teller: PhaseTeller) -> AsgiApp | None:
        instance: Any = user.instance
        if not getattr(type(instance), "_serve_is_asgi_ingress", False):
            return None
        app: AsgiApp | None = instance._serve_asgi_app
        if app is None:
            raise RayServeException(
                f"{type(instance).__name__!r} extends a class with @serve.ingress and has no app: its __init__ must "
                "call super().__init__(), and await it if that is async."
            )
        if user.threads_wanted is not None:
            limit_threads(user.threads_wanted)
        self._docs_path = getattr(instance, "_serve_docs_path", None)
        self._lifespan = Lifespan(app)
        await teller.enter(Phase.APPLICATION_STARTUP)
        await self._lifespan.startup()
        return app

    def _obey(self, epoch: int) -> None:
        """Refuse a daemon that a newer one has replaced."""
        if epoch and epoch < self._epoch:
            raise RayServeException(
                f"replica {self.id} obeys daemon epoch {self._epoch}, not the older {epoch}"
            )
        self._epoch = max(self._epoch, epoch)

    def _lost(self, caller: CalleeTable) -> None:
        self.admission.forget(caller)
        self.admission.offer_room()
        if caller is self._owner and self._stopping is None:
            self._owner = None
            self._orphan_timer = self._loop.call_later(self._orphan_grace_s, self._orphaned)

    def _orphaned(self) -> None:
        log.warning("replica %s has had no daemon for %.0f s and stops", self.id, self._orphan_grace_s)
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop(None))
