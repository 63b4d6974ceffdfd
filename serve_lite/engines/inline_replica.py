"""A replica in a thread of this process: the real one, except for what belongs to a process of its own.

Its loop, admission, request runner and socket are those of `replica/process.py`. Nobody controls it over
the socket: the application it belongs to starts and stops it (`inline.py`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from serve_lite.config import DeploymentConfig
from serve_lite.context import ReplicaContext, set_local_replica_context
from serve_lite.engines.loops import LoopThread
from serve_lite.replica.process import Replica
from serve_lite.state.goal import DeploymentSpec
from serve_lite.state.ids import DeploymentId, replica_id, suffix_of
from serve_lite.wire.calls import IncomingCall
from serve_lite.wire.frames import Kind
from serve_lite.wire.ledger import LedgerWriter
from serve_lite.wire.listener import Listener
from serve_lite.wire.messages import InitRequest, RejectReason, ReplicaEndpoint, StopRequest

log = logging.getLogger("serve_lite")

_LAST_STEPS_S = 5.0  #: for clean-up of cancelled requests and the destructor, after the grace


class InlineReplica:
    """One instance of one deployment, on an event loop of its own.

    Lifetime: `start` builds the user's object; `stop` lets its requests end, runs its destructor and ends
    the thread.

    Args:
        code: the user's class or function, used as it is.
        folder: where its socket goes.
        on_crash: called in its thread if that ends without `stop`.
    """

    def __init__(
        self,
        target: DeploymentId,
        spec: DeploymentSpec,
        code: Callable[..., Any],
        *,
        folder: str,
        on_crash: Callable[[ReplicaEndpoint], None],
    ) -> None:
        self.id = replica_id(target, os.urandom(4).hex())
        self.target = target
        self.config: DeploymentConfig = spec.config
        self.endpoint = ReplicaEndpoint(
            replica_id=self.id,
            socket=os.path.join(folder, f"r-{suffix_of(self.id)}.sock"),
            max_ongoing=spec.config.max_ongoing_requests,
        )
        self.has_crashed = False
        self._spec, self._code = spec, code
        self._on_crash = on_crash
        self._is_told = False  #: to stop
        self._told: asyncio.Event | None = None  #: set by `stop`; there once the user's object is built
        self._task: asyncio.Task[None] | None = None
        self._thread = LoopThread(f"serve-lite {target.app_name}/{target.name}", self._serve)

    @property
    def is_ready(self) -> bool:
        """Whether the user's object is built and serves."""
        return self._told is not None and not self.has_crashed

    def start(self) -> None:
        """Build the user's object and serve it; raises what its constructor and hooks raise, as it is."""
        self._thread.start()

    def stop(self) -> bool:
        """Accept nothing more, let requests end, run the destructor; return whether all that has come to its end.

        Requests have `graceful_shutdown_timeout_s` and are cancelled then. A thread cannot be killed, so code
        that never returns keeps its own.
        """
        self._is_told = True
        self._thread.post(self._tell)
        has_ended = self._thread.join(self.config.graceful_shutdown_timeout_s + _LAST_STEPS_S)
        if not has_ended:
            log.warning(
                "%s does not end: some of its code has not returned %.0f s after it was told to stop; its thread "
                "is left behind.",
                self.target,
                self.config.graceful_shutdown_timeout_s + _LAST_STEPS_S,
            )
        return has_ended

    def _tell(self) -> None:
        if self._told is not None:
            self._told.set()
        elif self._task is not None:
            self._task.cancel()  # still in the constructor

    async def _serve(self, ready: Callable[[], None]) -> None:
        self._task = asyncio.current_task()
        replica = _Replica(self.id, self._code)
        listener = Listener(replica.take, replica.admission, LedgerWriter(self.endpoint.socket))
        replica.attach(listener)
        try:
            await replica.init(self._init_request())
            await self._open(listener)
            self._told = asyncio.Event()
            ready()
            await self._told.wait()  # ends with `stop`, or cancelled because user code has ended the loop
            await replica.stop(StopRequest(timeout_s=self.config.graceful_shutdown_timeout_s))
        finally:
            if self._told is not None and not self._is_told:
                self.has_crashed = True
                self._on_crash(self.endpoint)
            await listener.aclose()  # first: callers of a replica that has crashed hear that it died
            await replica.stop(StopRequest(timeout_s=0))
            await replica.aclose()

    async def _open(self, listener: Listener) -> None:
        """Let callers in; only now, so that all that comes from them runs in the replica's context."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(self.endpoint.socket)
            sock.listen(128)
            await listener.open(sock)
        except BaseException:
            sock.close()
            raise

    def _init_request(self) -> InitRequest:
        return InitRequest(
            replica_id=self.id,
            app_name=self.target.app_name,
            deployment=self.target.name,
            version="local",
            code=b"",
            init=self._spec.init,
            config=self.config,
        )


class _Replica(Replica):
    """A replica that has its loop to itself, but not its process."""

    has_process = False

    def __init__(self, full_id: str, code: Callable[..., Any]) -> None:
        super().__init__(full_id)
        self._code = code
        self._orphan_timer.cancel()  # there is no daemon to miss

    def take(self, call: IncomingCall) -> None:
        """Run one call."""
        if call.kind == Kind.CALL_CONTROL or self._runner is None:
            call.reject(RejectReason.NOT_READY)  # whoever controls it is in this process
        else:
            self._runner.start(call)

    def become(self, context: ReplicaContext) -> None:
        set_local_replica_context(context)

    def write_logs(self, config: DeploymentConfig, context: ReplicaContext) -> None:
        """Logs are the test's own: whoever runs this process has set them up."""

    def load_code(self, request: InitRequest) -> Callable[..., Any]:
        return self._code

    def settle(self) -> None:
        """Freezing what the garbage collector looks at would freeze the objects of others too."""
