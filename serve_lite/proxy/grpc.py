"""The gRPC door: requests of any registered method go, as raw bytes, through the routers to replicas and back.

What the methods are comes from a child that imports the users' servicer functions (`replica/servicers.py`). Loaded
only by an instance that serves gRPC. From the socket inwards: `grpc_connection` reads and writes, `h2_server` has the
streams, `grpc_exchange` the messages of one request, `grpc_calls` takes it to a replica, `grpc_builtin_calls` answers
here.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Iterable
from typing import Final

import anyio
import anyio.abc
import msgspec

from serve_lite.proxy import grpc_builtins as builtins
from serve_lite.proxy.access_log import AccessLog
from serve_lite.proxy.accounts import Accounts
from serve_lite.proxy.exchange import request_ids
from serve_lite.proxy.grpc_builtin_calls import (
    MAX_MESSAGE_BYTES,
    ReflectionCall,
    Watcher,
    health_call,
    ray_call,
    refused_call,
)
from serve_lite.proxy.grpc_calls import CallLimits, GrpcCall, Lane
from serve_lite.proxy.grpc_connection import USUAL_PATIENCE, GrpcConnection, Patience
from serve_lite.proxy.grpc_exchange import GrpcExchange, Larder
from serve_lite.proxy.grpc_guard import client_host, refuse_grpc
from serve_lite.proxy.grpc_headers import RequestHead
from serve_lite.proxy.guard import Doorkeeper
from serve_lite.proxy.h2_server import MAX_HEADER_BYTES, USUAL_LIMITS, H2Stream, Limits
from serve_lite.proxy.http import DRAINING, NOT_POPULATED, RouterSource
from serve_lite.proxy.tls import certificates_of
from serve_lite.wire import grpc_status as status
from serve_lite.wire.messages import GrpcStatus, RouteTarget
from serve_lite.wire.spawning import GrpcMethod, GrpcServices

_PING: Final = " Ping /ray.serve.RayServeAPIService/ListApplications for available applications."
_CLOSE_S: Final = 1.0


class GrpcOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the door behaves."""

    request_timeout_s: float | None = None
    enable_reflection: bool = True
    max_receive_message_bytes: int = 2**31 - 1  #: of one message of a client, also once decompressed
    max_send_message_bytes: int = 2**31 - 1  #: of one message of an application
    max_held_bytes: int = 2**32  #: for large messages of clients that have not come whole, all together
    max_connections: int | None = None  #: more are turned away; None: no limit but the descriptors
    backlog: int = 4096
    ssl_certfile: str | None = None  #: with the key: the door speaks TLS
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None  #: clients must show a certificate signed by one of these


class GrpcDoor:
    """Answers gRPC requests: builtins itself, everything else through the routers.

    Lifetime: `serve_grpc`. `set_routes` is given to the publisher of routes.
    """

    def __init__(
        self,
        routers: RouterSource,
        services: GrpcServices,
        options: GrpcOptions,
        *,
        limits: Limits = USUAL_LIMITS,
        patience: Patience = USUAL_PATIENCE,
        keeper: Doorkeeper | None = None,
        log: AccessLog | None = None,
    ) -> None:
        self.accounts = Accounts()
        self._keeper = keeper or Doorkeeper()
        self._log = log
        self.limits = limits
        self.patience = patience
        self._options = options
        self._max_connections = options.max_connections or sys.maxsize
        self._call_limits = CallLimits(
            options.request_timeout_s, options.max_receive_message_bytes, options.max_send_message_bytes
        )
        self._larder = Larder(options.max_held_bytes)
        self._certificates = certificates_of(options, ("h2",))
        self._routers = routers
        self._methods = {method.name: method for method in services.methods}
        self._services = {
            builtins.RAY_SERVICE,
            builtins.HEALTH_SERVICE,
            *(name.split("/")[1] for name in self._methods),
        }
        self._reflection = builtins.Reflection(services) if options.enable_reflection else None
        self._lanes: dict[str, Lane] = {}
        self._nowhere = Lane("", _NoRouter(), self.accounts.route("", "", ""))
        self._was_populated = False
        self._is_draining = False
        self._is_retiring = False
        self._watchers: set[Watcher] = set()
        self._new_request_id = request_ids()
        self._connections: set[GrpcConnection] = set()
        self._ended = asyncio.Event()  #: a request or connection has; replaced each time
        self._listener: asyncio.Server | None = None

    def set_routes(self, targets: tuple[RouteTarget, ...]) -> None:
        """Take the applications that may be called from now on: those that HTTP reaches too."""
        self._lanes = {
            target.app: Lane(
                target.app,
                self._routers.get(target.app, target.deployment),
                self.accounts.route(target.app, target.app, target.deployment),
                self._keeper.guard_of(target),
            )
            for target in targets
        }
        self._was_populated = self._was_populated or bool(targets)
        self._tell_watchers()

    async def listen(self, sock: socket.socket) -> None:
        """Begin to accept."""
        sock.setblocking(False)
        self._listener = await asyncio.get_running_loop().create_server(
            lambda: GrpcConnection(self),
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
        """Accept nothing more and return when every request is answered. Whoever asks has a deadline.

        Requests that still come are told UNAVAILABLE, on the connections that there are: they are closed, with a
        GOAWAY, when nothing runs any more.
        """
        self._is_draining = True
        self._tell_watchers()
        if self._listener is not None:
            self._listener.close()
        while self.accounts.ongoing:
            await self._ended.wait()
        for connection in tuple(self._connections):
            connection.close()

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
            self._dismiss_if_idle(connection)
        with anyio.move_on_after(grace_s / 2):
            await self._wait_until_empty()
            return
        for connection in tuple(self._connections):
            self._dismiss(connection)
        with anyio.move_on_after(grace_s / 2):
            await self._wait_until_empty()

    async def close(self) -> None:
        """Cut every connection and return when nothing is left of them."""
        if self._listener is not None:
            self._listener.close()
        for connection in tuple(self._connections):
            connection.close()
            connection.abort()
        with anyio.move_on_after(_CLOSE_S, shield=True):
            await self._wait_until_empty()

    async def _wait_until_empty(self) -> None:
        while self._connections:
            await self._ended.wait()

    def _dismiss_if_idle(self, connection: GrpcConnection) -> None:
        """Ask a client to leave unless a request is open; to watch how services are does not count as one."""
        watching = [watcher for watcher in self._watchers if watcher.connection is connection]
        if len(connection.h2.streams) <= len(watching):
            self._dismiss(connection)

    def _dismiss(self, connection: GrpcConnection) -> None:
        connection.ask_to_leave()
        for watcher in tuple(self._watchers):
            if watcher.connection is connection:
                watcher.leave()

    # --- of connections -------------------------------------------------------------------------

    def admit(self, connection: GrpcConnection) -> str:
        self._connections.add(connection)
        return "too_many_connections" if len(self._connections) > self._max_connections else ""

    def forget(self, connection: GrpcConnection) -> None:
        self._connections.discard(connection)
        self._tell_ended()

    def request_over(self, connection: GrpcConnection) -> None:
        if self._is_retiring:
            self._dismiss_if_idle(connection)

    def begin(self, connection: GrpcConnection, stream: H2Stream, head: RequestHead) -> None:
        method = self._methods.get(head.path)
        request_id = head.request_id or self._new_request_id()
        limit = self._options.max_receive_message_bytes if method is not None else MAX_MESSAGE_BYTES
        exchange = GrpcExchange(
            stream,
            head,
            peer=connection.peer,
            request_id=request_id,
            larder=self._larder,
            max_message_bytes=limit,
        )
        stream.content_left = head.content_length
        if head.http_refusal:
            refused_call(exchange, 0, "", http_status=head.http_refusal)
        elif head.size > MAX_HEADER_BYTES:
            details = f"The metadata has {head.size} bytes, and {MAX_HEADER_BYTES} are allowed."
            refused_call(exchange, status.RESOURCE_EXHAUSTED, details)
        elif method is not None:
            self._begin_call(exchange, method)
        else:
            self._begin_builtin(exchange, connection)

    # --- what applications answer ---------------------------------------------------------------

    def _begin_call(self, exchange: GrpcExchange, method: GrpcMethod) -> None:
        self.accounts.ongoing += 1
        lane = self._find_lane(exchange.head.noted(b"application"))
        if isinstance(lane, GrpcStatus):
            GrpcCall(exchange, method, self._nowhere, self._call_limits, self).refuse(lane)
        elif (refused := refuse_grpc(lane.guard, exchange)) is not None:
            GrpcCall(exchange, method, lane, self._call_limits, self).refuse(refused)
        else:
            GrpcCall(exchange, method, lane, self._call_limits, self).begin()

    def call_ended(self, call: GrpcCall, code: int) -> None:
        self.accounts.ongoing -= 1
        exchange = call.exchange
        account, name = call.lane.account, status.NAMES[code]
        latency_s = time.monotonic() - exchange.started
        account.count(call.method.name, name, latency_s)
        if self._log is not None:
            self._log.note(
                "grpc",
                client_host(exchange.peer),
                exchange.request_id.encode("ascii"),
                account.app,
                call.method.name,
                "-",
                name,
                latency_s,
                exchange.sent_bytes,
            )
        if self._is_draining:
            self._tell_ended()

    def _find_lane(self, app: str) -> Lane | GrpcStatus:
        """Return where requests for an application go, or why they go nowhere."""
        if (unavailable := self.why_unavailable()) is not None:
            return unavailable
        lanes = self._lanes
        if len(lanes) == 1:
            return next(iter(lanes.values()))
        if app in lanes:
            return lanes[app]
        said = f"Application '{app}' not found." if app else "Application metadata not set."
        return GrpcStatus(status.NOT_FOUND, said + _PING)

    # --- what is answered here ------------------------------------------------------------------

    def _begin_builtin(self, exchange: GrpcExchange, connection: GrpcConnection) -> None:
        path = exchange.head.path
        if path in (builtins.LIST_APPLICATIONS, builtins.HEALTHZ):
            ray_call(exchange, self)
        elif path == builtins.HEALTH_CHECK:
            health_call(exchange, self)
        elif path == builtins.HEALTH_WATCH:
            Watcher(exchange, self, connection)
        elif path in builtins.REFLECTION and self._reflection is not None:
            ReflectionCall(exchange, self._reflection)
        else:
            refused_call(exchange, status.UNIMPLEMENTED, "Method not found!")

    def why_unavailable(self) -> GrpcStatus | None:
        if self._is_draining:
            return GrpcStatus(status.UNAVAILABLE, DRAINING)
        if not self._was_populated:
            return GrpcStatus(status.UNAVAILABLE, NOT_POPULATED)
        return None

    def health_of(self, service: str) -> int:
        if service and service not in self._services:
            return builtins.SERVICE_UNKNOWN
        return builtins.NOT_SERVING if self.why_unavailable() is not None else builtins.SERVING

    def applications(self) -> Iterable[str]:
        return self._lanes

    def watch(self, watcher: Watcher) -> None:
        self._watchers.add(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)

    def _tell_watchers(self) -> None:
        for watcher in tuple(self._watchers):
            watcher.tell()

    def _tell_ended(self) -> None:
        self._ended.set()
        self._ended = asyncio.Event()


class _NoRouter:
    """The router of requests that go nowhere."""

    def submit(self, call: object) -> None:
        raise AssertionError("a request that was refused is not submitted")

    def cancel(self, call: object) -> None:
        raise AssertionError("a request that was refused was not submitted")


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
