"""The gRPC door: requests of any registered method go, as raw bytes, through the routers to replicas and back.

What the methods are comes from a child that imports the users' servicer functions (`replica/servicers.py`). Loaded
only by an instance that serves gRPC. `grpc_exchange` is one request on the wire, `grpc_builtins` what is answered here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, cast

import anyio
import anyio.abc
import h2.config
import h2.exceptions
import h2.settings
import msgspec
from grpclib.config import Configuration
from grpclib.exceptions import StreamTerminatedError
from grpclib.protocol import AbstractHandler, H2Protocol, Stream
from hyperframe.frame import GoAwayFrame

from serve_lite.proxy import grpc_builtins as builtins
from serve_lite.proxy.access_log import AccessLog
from serve_lite.proxy.accounts import Accounts, RouteAccount
from serve_lite.proxy.exchange import request_ids
from serve_lite.proxy.grpc_exchange import GrpcExchange, GrpcRequestError
from serve_lite.proxy.grpc_guard import refuse_grpc
from serve_lite.proxy.guard import Doorkeeper, Guard
from serve_lite.proxy.http import DRAINING, NOT_POPULATED, RouterLike, RouterSource
from serve_lite.proxy.tls import certificates_of
from serve_lite.routing.router import PendingCall
from serve_lite.wire import grpc_status as status
from serve_lite.wire.calls import ITEM_OVERHEAD_BYTES, WINDOW_BYTES
from serve_lite.wire.frames import Kind
from serve_lite.wire.messages import CallFacts, ErrorHead, GrpcHead, GrpcStatus, RouteTarget
from serve_lite.wire.spawning import GrpcMethod, GrpcServices

_PING: Final = " Ping /ray.serve.RayServeAPIService/ListApplications for available applications."
_MAX_STREAMS: Final = 10_000  #: requests at once on one connection; gRPC clients have just one
_CLOSE_S: Final = 1.0
_LAST_STREAM: Final = 2**31 - 1

_log = logging.getLogger("serve_lite.proxy")
_encode = msgspec.msgpack.Encoder().encode
_decode_status = msgspec.msgpack.Decoder(GrpcStatus).decode
_decode_error = msgspec.msgpack.Decoder(ErrorHead).decode


class GrpcOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the door behaves."""

    request_timeout_s: float | None = None
    enable_reflection: bool = True
    backlog: int = 4096
    ssl_certfile: str | None = None  #: with the key: the door speaks TLS
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None  #: clients must show a certificate signed by one of these


class _Lane(NamedTuple):
    """One application with all that its requests need."""

    app: str
    router: RouterLike
    account: RouteAccount
    guard: Guard | None


class GrpcDoor:
    """Answers gRPC requests: builtins itself, everything else through the routers.

    Lifetime: `serve_grpc`. `set_routes` is given to the publisher of routes.
    """

    def __init__(
        self,
        routers: RouterSource,
        services: GrpcServices,
        options: GrpcOptions,
        keeper: Doorkeeper | None = None,
        log: AccessLog | None = None,
    ) -> None:
        self.accounts = Accounts()
        self._log = log
        self._options = options
        self._certificates = certificates_of(options, ("h2",))
        self._routers = routers
        self._keeper = keeper or Doorkeeper()
        self._methods = {method.name: method for method in services.methods}
        self._services = {
            builtins.RAY_SERVICE,
            builtins.HEALTH_SERVICE,
            *(name.split("/")[1] for name in self._methods),
        }
        self._reflection = builtins.Reflection(services) if options.enable_reflection else None
        self._lanes: dict[str, _Lane] = {}
        self._nowhere = self.accounts.route("", "", "")
        self._was_populated = False
        self._is_draining = False
        self._is_retiring = False
        self._changed = asyncio.Event()  #: routes or draining did; replaced each time
        self._new_request_id = request_ids()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()  #: a request has; replaced each time
        self._listener: asyncio.Server | None = None

    def set_routes(self, targets: tuple[RouteTarget, ...]) -> None:
        """Take the applications that may be called from now on: those that HTTP reaches too."""
        self._lanes = {
            target.app: _Lane(
                target.app,
                self._routers.get(target.app, target.deployment),
                self.accounts.route(target.app, target.app, target.deployment),
                self._keeper.guard_of(target),
            )
            for target in targets
        }
        self._was_populated = self._was_populated or bool(targets)
        self._tell_changed()

    async def listen(self, sock: socket.socket) -> None:
        """Begin to accept."""
        sock.setblocking(False)
        self._listener = await asyncio.get_running_loop().create_server(
            self._new_protocol,
            sock=sock,
            backlog=self._options.backlog,
            ssl=self._certificates.context if self._certificates is not None else None,
        )

    def reload_certificates(self) -> bool:
        """Read the certificates again, for new connections; return whether there are any.

        Raises:
            InvalidConfigError: they cannot be used; the old ones stay in force.
        """
        if self._certificates is None:
            return False
        self._certificates.reload()
        return True

    async def drain(self) -> None:
        """Accept nothing more and return when every request is answered. Whoever asks has a deadline."""
        self._is_draining = True
        self._tell_changed()
        if self._listener is not None:
            self._listener.close()
        while self.accounts.ongoing:
            await self._ended.wait()

    async def retire(self, grace_s: float) -> None:
        """Leave the socket to another daemon that accepts on it: finish what there is, and return.

        Clients are asked to open a new connection for their next requests, each when it has no request open, and after
        half of the time even so. Whatever comes on an old connection is answered. After `grace_s` seconds what is left
        is for `close` to cut.
        """
        if self._listener is not None:
            self._listener.close()
        self._is_retiring = True
        for connection in tuple(self._connections):
            connection.leave_if_idle()
        with anyio.move_on_after(grace_s / 2):
            await self._wait_until_empty()
            return
        for connection in tuple(self._connections):
            connection.ask_to_leave()
        with anyio.move_on_after(grace_s / 2):
            await self._wait_until_empty()

    async def _wait_until_empty(self) -> None:
        while self._connections:
            await self._ended.wait()

    async def close(self) -> None:
        """Cut every connection and return when nothing runs for one any more."""
        if self._listener is not None:
            self._listener.close()
        for connection in tuple(self._connections):
            connection.abort()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await asyncio.wait(tuple(self._tasks))

    def accept(self, stream: Stream, headers: list[tuple[str, str]]) -> asyncio.Task[None]:
        """Begin to answer a request."""
        exchange = GrpcExchange(stream, headers, self._new_request_id())
        task = asyncio.get_running_loop().create_task(self._answer(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def remember(self, connection: _Connection) -> None:
        """A connection is made."""
        self._connections.add(connection)

    def forget(self, connection: _Connection) -> None:
        """A connection has ended."""
        self._connections.discard(connection)
        self._tell_ended()

    def is_to_leave(self) -> bool:
        """Whether clients are to open new connections."""
        return self._is_retiring

    def _new_protocol(self) -> asyncio.BaseProtocol:
        return _Protocol(_Connection(self), Configuration().__for_server__(), _H2_CONFIG)

    # --- one request ----------------------------------------------------------------------------

    async def _answer(self, exchange: GrpcExchange) -> None:
        """Answer one request, whatever it is. Cancelled when its client gives up."""
        try:
            if exchange.http_refusal:
                await exchange.refuse_http(exchange.http_refusal)
            elif (method := self._methods.get(exchange.path)) is not None:
                await self._answer_user(exchange, method)
            else:
                await self._answer_builtin(exchange)
        except (h2.exceptions.ProtocolError, StreamTerminatedError, ConnectionError):
            pass  # the client is gone, or no longer speaks HTTP/2
        except Exception:  # boundary: one request must not hurt others
            _log.exception("a gRPC request for %r failed", exchange.path)

    async def _answer_user(self, exchange: GrpcExchange, method: GrpcMethod) -> None:
        lane = self._find_lane(exchange.noted("application"))
        self.accounts.ongoing += 1
        outcome = GrpcStatus(status.CANCELLED)  # unless it comes to an answer
        try:
            outcome = await self._outcome(exchange, method, lane)
            await exchange.finish(outcome.code, outcome.details, outcome.trailing)
        finally:
            self.accounts.ongoing -= 1
            self._tell_ended()
            account = self._nowhere if isinstance(lane, GrpcStatus) else lane.account
            latency_s, name = time.monotonic() - exchange.started, status.NAMES[outcome.code]
            account.count(method.name, name, latency_s)
            if self._log is not None:
                self._log.note(
                    "grpc",
                    exchange.client_host(),
                    exchange.request_id.encode("ascii"),
                    account.app,
                    method.name,
                    "-",
                    name,
                    latency_s,
                    exchange.sent_bytes,
                )

    async def _outcome(
        self, exchange: GrpcExchange, method: GrpcMethod, lane: _Lane | GrpcStatus
    ) -> GrpcStatus:
        """Send the messages of the answer and return how it ended."""
        if isinstance(lane, GrpcStatus):
            return lane
        if (refused := refuse_grpc(lane.guard, exchange)) is not None:
            return refused
        try:
            limits = (exchange.timeout_s(), self._options.request_timeout_s)
            timeout_s = min((limit for limit in limits if limit is not None), default=None)
            async with asyncio.timeout(timeout_s) as scope:
                return await self._forward(exchange, method, lane, timeout_s)
        except GrpcRequestError as error:
            return GrpcStatus(error.code, error.details)
        except TimeoutError:
            if not scope.expired():
                raise
            assert timeout_s is not None
            return GrpcStatus(status.DEADLINE_EXCEEDED, status.timed_out(timeout_s))

    async def _forward(
        self, exchange: GrpcExchange, method: GrpcMethod, lane: _Lane, timeout_s: float | None
    ) -> GrpcStatus:
        metadata = exchange.metadata()
        call = GrpcCall(exchange, method, lane.app)
        if not method.client_streaming:
            message = await exchange.receive()
            if message is None:
                raise GrpcRequestError(
                    status.INVALID_ARGUMENT, f"{method.name!r} needs a message; none came."
                )
            call.buffers = (message,)
        call.envelope = _encode(
            GrpcHead(
                method.name,
                method.servicer,
                exchange.request_id,
                method.client_streaming,
                method.server_streaming,
                0.0 if timeout_s is None else exchange.started + timeout_s,
                lane.app,
                call.model_id,
                exchange.noted("session_id"),
                exchange.noted("traceparent"),
                exchange.peer(),
                metadata,
            )
        )
        pumping: asyncio.Task[None] | None = None
        try:
            lane.router.submit(call)
            if method.client_streaming:
                pumping = asyncio.get_running_loop().create_task(call.pump())
            return await call.answer()
        finally:
            if not call.has_ended:
                lane.router.cancel(call)
            if pumping is not None:
                pumping.cancel()
                await asyncio.gather(pumping, return_exceptions=True)

    def _find_lane(self, app: str) -> _Lane | GrpcStatus:
        """Return where requests for an application go, or why they go nowhere."""
        if (unavailable := self._why_unavailable()) is not None:
            return unavailable
        lanes = self._lanes
        if len(lanes) == 1:
            return next(iter(lanes.values()))
        if app in lanes:
            return lanes[app]
        said = f"Application '{app}' not found." if app else "Application metadata not set."
        return GrpcStatus(status.NOT_FOUND, said + _PING)

    def _why_unavailable(self) -> GrpcStatus | None:
        if self._is_draining:
            return GrpcStatus(status.UNAVAILABLE, DRAINING)
        if not self._was_populated:
            return GrpcStatus(status.UNAVAILABLE, NOT_POPULATED)
        return None

    # --- what is answered here --------------------------------------------------------------------

    async def _answer_builtin(self, exchange: GrpcExchange) -> None:
        path = exchange.path
        try:
            if path in (builtins.LIST_APPLICATIONS, builtins.HEALTHZ):
                outcome = await self._answer_ray(exchange)
            elif path == builtins.HEALTH_CHECK:
                outcome = await self._check_health(exchange)
            elif path == builtins.HEALTH_WATCH:
                outcome = await self._watch_health(exchange)
            elif path in builtins.REFLECTION and self._reflection is not None:
                outcome = await self._reflect(exchange, self._reflection)
            else:
                outcome = GrpcStatus(status.UNIMPLEMENTED, "Method not found!")
        except GrpcRequestError as error:
            outcome = GrpcStatus(error.code, error.details)
        except ValueError as error:
            outcome = GrpcStatus(status.INVALID_ARGUMENT, str(error))
        await exchange.finish(outcome.code, outcome.details)

    async def _answer_ray(self, exchange: GrpcExchange) -> GrpcStatus:
        await exchange.receive()
        if (unavailable := self._why_unavailable()) is not None:
            return unavailable
        is_list = exchange.path == builtins.LIST_APPLICATIONS
        await exchange.send(builtins.applications(self._lanes) if is_list else builtins.healthz(), 0)
        return GrpcStatus()

    async def _check_health(self, exchange: GrpcExchange) -> GrpcStatus:
        service = builtins.asked_service(await exchange.receive() or b"")
        state = self._health_of(service)
        if state == builtins.SERVICE_UNKNOWN:
            return GrpcStatus(status.NOT_FOUND, f"There is no service {service!r}.")
        await exchange.send(builtins.health(state), 0)
        return GrpcStatus()

    async def _watch_health(self, exchange: GrpcExchange) -> GrpcStatus:
        service = builtins.asked_service(await exchange.receive() or b"")
        told = 0
        while True:  # ends with the client, or with the door
            state, changed = self._health_of(service), self._changed
            if state != told:
                told = state
                await exchange.send(builtins.health(state), 0)
            await changed.wait()

    def _health_of(self, service: str) -> int:
        if service and service not in self._services:
            return builtins.SERVICE_UNKNOWN
        return builtins.NOT_SERVING if self._why_unavailable() is not None else builtins.SERVING

    async def _reflect(self, exchange: GrpcExchange, reflection: builtins.Reflection) -> GrpcStatus:
        while (request := await exchange.receive()) is not None:
            await exchange.send(reflection.answer(request), 0)
        return GrpcStatus()

    def _tell_ended(self) -> None:
        self._ended.set()
        self._ended = asyncio.Event()

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class GrpcCall(PendingCall):
    """One request that an application answers: what the router calls back arrives at `answer`."""

    kind = Kind.CALL_GRPC

    def __init__(self, exchange: GrpcExchange, method: GrpcMethod, app: str) -> None:
        self.has_ended = False  #: the router has nothing more of it
        self.model_id = exchange.noted("multiplexed_model_id")
        self.streams_body = method.client_streaming
        self._exchange = exchange
        self._method = method
        self._app = app
        self._arrived: deque[tuple[int, bytes | memoryview, int]] = (
            deque()
        )  #: compression, message, window bytes
        self._outcome: GrpcStatus | None = None
        self._news = asyncio.Event()
        self._writable = asyncio.Event()  #: a message of the request may be sent
        self._kept: list[bytes] = []  #: messages sent, while they may have to be sent again
        self._kept_bytes = 0
        self._body_ended = False

    def facts(self) -> CallFacts:
        return CallFacts(
            request_id=self._exchange.request_id,
            method=self._method.name.rpartition("/")[2],
            route=self._app,
            app=self._app,
            model_id=self.model_id,
            session_id=self._exchange.noted("session_id"),
            streaming=self._method.server_streaming,
        )

    async def answer(self) -> GrpcStatus:
        """Send the messages of the answer to the client, and return how it ended."""
        while True:
            while self._arrived:
                compression, message, window_bytes = self._arrived.popleft()
                await self._exchange.send(message, compression)
                if self.outgoing is not None:
                    self.outgoing.consumed(window_bytes)
            if self._outcome is not None:
                return self._outcome
            self._news.clear()
            await self._news.wait()  # ends with the replica's answer or end; a deadline cancels it

    async def pump(self) -> None:
        """Send the client's messages to the replica."""
        try:
            while (message := await self._exchange.receive()) is not None:
                await self._send(message)
        except GrpcRequestError as error:
            self._end(GrpcStatus(error.code, error.details), by_router=False)
            return
        self._body_ended = True
        if self.outgoing is not None:
            self.outgoing.end()

    async def _send(self, message: bytes) -> None:
        if self.retryable and self._kept_bytes > WINDOW_BYTES:
            # More than a window may be sent only with credit, which comes from a replica that has accepted the call.
            self.retryable, self._kept = False, []
        elif self.retryable:
            self._kept_bytes += len(message) + ITEM_OVERHEAD_BYTES
            self._kept.append(message)
        self._writable.clear()
        if self.outgoing is not None and self.outgoing.send_item(b"", message):
            return
        await self._writable.wait()  # until a replica has it and takes more

    # --- from the router --------------------------------------------------------------------------

    def on_sent(self, replica_id: str) -> None:
        if not self.streams_body:
            return
        assert self.outgoing is not None
        writable = True
        for message in self._kept:  # the first time, or a replica has refused the call: all again
            writable = self.outgoing.send_item(b"", message)
        if self._body_ended:
            self.outgoing.end()
        if writable:
            self._writable.set()

    def on_writable(self) -> None:
        self._writable.set()

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        message = buffers[0] if buffers else b""
        self._arrived.append((envelope[0] if envelope else 0, message, len(envelope) + len(message)))
        self._news.set()

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None:
        outcome = _decode_status(envelope)
        if outcome.code == status.OK:
            self._arrived.append((outcome.compression, buffers[0] if buffers else b"", 0))
        self._end(outcome)

    def on_end(self, envelope: bytes) -> None:
        self._end(_decode_status(envelope))

    def on_error(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self._end(GrpcStatus(status.INTERNAL, status.shortened(_decode_error(envelope).text)))

    def on_failed(self, error: Exception) -> None:
        if isinstance(error, TimeoutError):
            self._end(GrpcStatus(status.DEADLINE_EXCEEDED, "Request timed out before it was started."))
        else:
            code, details = status.status_of(error)
            if code == status.INTERNAL:
                _log.warning(
                    "request %s failed: %s: %s", self._exchange.request_id, type(error).__name__, error
                )
            self._end(GrpcStatus(code, details))

    def _end(self, outcome: GrpcStatus, *, by_router: bool = True) -> None:
        self.has_ended = by_router
        self._outcome = outcome
        self._news.set()


# --- connections ----------------------------------------------------------------------------------

# latin-1 decodes anything; what may not be in a header is refused in our words.
_H2_CONFIG: Final = h2.config.H2Configuration(
    client_side=False,
    header_encoding="latin-1",
    validate_inbound_headers=True,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)


class _Connection(AbstractHandler):
    """What grpclib tells of one connection."""

    def __init__(self, door: GrpcDoor) -> None:
        self._door = door
        self._requests: dict[Stream, asyncio.Task[None]] = {}
        self.transport: asyncio.Transport | None = None
        self._has_asked = False

    def accept(
        self, stream: Stream, headers: list[tuple[str, str]], release_stream: Callable[[], None]
    ) -> None:
        task = self._requests[stream] = self._door.accept(stream, headers)

        def done(_: asyncio.Task[None]) -> None:
            self._requests.pop(stream, None)
            release_stream()
            if self._door.is_to_leave():
                self.leave_if_idle()

        task.add_done_callback(done)

    def cancel(self, stream: Stream) -> None:
        """The client has reset this request."""
        task = self._requests.get(stream)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """The connection is gone."""
        self._door.forget(self)
        for task in tuple(self._requests.values()):
            task.cancel()

    def leave_if_idle(self) -> None:
        """Ask the client to leave, unless a request is open."""
        if not self._requests:
            self.ask_to_leave()

    def ask_to_leave(self) -> None:
        """Send GOAWAY without refusing any stream, which h2 itself has no call for (RFC 9113, 6.8)."""
        if self.transport is not None and not self.transport.is_closing() and not self._has_asked:
            self._has_asked = True
            self.transport.write(GoAwayFrame(0, last_stream_id=_LAST_STREAM, error_code=0).serialize())

    def abort(self) -> None:
        """Cut the connection."""
        if self.transport is not None:
            self.transport.abort()


class _Protocol(H2Protocol):
    """A connection that allows more requests at once than grpclib's own."""

    handler: _Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.connection._connection.update_settings(
            {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: _MAX_STREAMS}
        )
        self.connection.flush()
        self.handler.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.handler._door.remember(self.handler)


async def serve_grpc(
    sock: socket.socket,
    door: GrpcDoor,
    *,
    task_status: anyio.abc.TaskStatus[GrpcDoor] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve gRPC on a bound socket until cancelled. Reports the door through `task_status` once it accepts.

    Lifetime: the caller's task group. A graceful end is `await door.drain()`, then cancel.
    """
    try:
        await door.listen(sock)
        task_status.started(door)
        await anyio.sleep_forever()
    finally:
        await door.close()
