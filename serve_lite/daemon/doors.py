"""The doors of an instance: HTTP and gRPC of one process, on sockets that other processes may accept on as well.

The daemon has them, or, with `proxy_processes`, processes of their own (`proxy_process.py`). They are no part of the
control plane: what they need to know, who serves what, comes from a `RouteSource`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.abc
import msgspec

from serve_lite.controller.machine import usable_memory_bytes
from serve_lite.daemon.door_parts import DoorParts
from serve_lite.daemon.options import InstanceOptions
from serve_lite.exceptions import InvalidConfigError
from serve_lite.proxy.http import RequestHandler
from serve_lite.proxy.options import ProxyOptions
from serve_lite.proxy.server import HttpServer, affordable_connections, serve_http
from serve_lite.routing.router import Routers
from serve_lite.wire.messages import RouteTarget
from serve_lite.wire.spawning import GrpcServices

if TYPE_CHECKING:
    from serve_lite.proxy import grpc, http3_server

logger = logging.getLogger("serve_lite.daemon")


class RouteSource(Protocol):
    """Tells where requests go, now and on every change."""

    def watch_routes(self, on_change: Callable[[tuple[RouteTarget, ...]], None], /) -> Callable[[], None]: ...


class Doors:
    """HTTP and gRPC of this process, as far as there are sockets for them.

    Lifetime: `open` starts them in the caller's task group. A graceful end is `drain` or `retire`, then cancel.
    """

    def __init__(self, parts: DoorParts) -> None:
        self._parts = parts
        self._http: HttpServer | None = None
        self._http3: http3_server.Http3Server | None = None
        self._grpc: grpc.GrpcDoor | None = None

    async def open(
        self,
        group: anyio.abc.TaskGroup,
        sockets: Mapping[str, socket.socket],
        options: InstanceOptions,
        routers: Routers,
        routes: RouteSource,
        read_services: Callable[[], Awaitable[GrpcServices]],
    ) -> None:
        """Begin to accept on the sockets called `http` and `grpc`.

        Args:
            read_services: returns what gRPC can be asked for; only called if there is a socket for it.

        Raises:
            InvalidConfigError: a certificate or a servicer function cannot be used.
        """
        if "http" in sockets:
            parts = self._parts
            handler = RequestHandler(routers, proxy_options(options), parts.keeper, parts.log)
            parts.accounts["http"] = handler.accounts
            routes.watch_routes(handler.set_routes)
            self._http = await group.start(serve_http, sockets["http"], handler)
            if options.http3:
                await self._open_http3(group, sockets.get("http3"), handler)
        if "grpc" in sockets:
            # Before anybody can ask: what is wrong with the services must be told to whoever starts the instance.
            await self._open_grpc(group, sockets["grpc"], options, routers, routes, await read_services())
        # After the doors have heard of the routes, which are all that they need routers for.
        routes.watch_routes(
            lambda targets: routers.keep_only({(target.app, target.deployment) for target in targets})
        )

    async def drain(self) -> None:
        """Accept nothing more, and return when every request is answered."""
        async with anyio.create_task_group() as group:
            for door in (self._http, self._http3, self._grpc):
                if door is not None:
                    group.start_soon(door.drain)

    async def retire(self, grace_s: float) -> None:
        """Leave the sockets to another process that accepts on them; return when all there is here is finished.

        What takes longer than `grace_s` seconds is cut when the task group of the doors is cancelled.
        """
        if self._http3 is not None:
            self._http3.end()  # of two readers of its socket each would get a part of what a client sends
        async with anyio.create_task_group() as group:
            for door in (self._http, self._grpc):
                if door is not None:
                    group.start_soon(door.retire, grace_s)

    def reload_certificates(self) -> None:
        """Read the certificates of HTTP and gRPC again; connections that are open keep theirs.

        Files that cannot be used are logged, and what was read before stays in force.
        """
        for name, door in (("HTTP", self._http), ("gRPC", self._grpc)):
            try:
                if door is not None and door.reload_certificates():
                    if name == "HTTP" and self._http3 is not None:
                        self._http3.reload_certificates()
                    logger.info("new connections of %s have the certificates read just now", name)
            except InvalidConfigError as error:
                logger.error("%s keeps its certificates: %s", name, error)

    async def _open_http3(
        self, group: anyio.abc.TaskGroup, sock: socket.socket | None, handler: RequestHandler
    ) -> None:
        from serve_lite.proxy import http3_server  # brings QUIC, which few instances need

        if sock is None:
            raise InvalidConfigError(
                "http_options.http3 needs a keeper, which holds its socket; systemd has given none. Start the instance "
                "with `serve start`, or leave the option out."
            )
        self._http3 = await group.start(http3_server.serve_http3, sock, handler)

    async def _open_grpc(
        self,
        group: anyio.abc.TaskGroup,
        sock: socket.socket,
        options: InstanceOptions,
        routers: Routers,
        routes: RouteSource,
        services: GrpcServices,
    ) -> None:
        from serve_lite.proxy import grpc  # brings another HTTP/2 stack, which few instances need

        door = grpc.GrpcDoor(
            routers,
            services,
            grpc.GrpcOptions(
                request_timeout_s=options.grpc_request_timeout_s,
                enable_reflection=options.grpc_enable_reflection,
                max_receive_message_bytes=options.grpc_max_receive_message_bytes,
                max_send_message_bytes=options.grpc_max_send_message_bytes,
                max_held_bytes=int(usable_memory_bytes() or 2**32) // 4,
                max_connections=options.grpc_max_connections or affordable_connections(),
                backlog=options.backlog,
                ssl_certfile=options.ssl_certfile,
                ssl_keyfile=options.ssl_keyfile,
                ssl_keyfile_password=options.ssl_keyfile_password,
                ssl_ca_certs=options.ssl_ca_certs,
            ),
            keeper=self._parts.keeper,
            log=self._parts.log,
        )
        self._parts.accounts["grpc"] = door.accounts
        routes.watch_routes(door.set_routes)
        await group.start(grpc.serve_grpc, sock, door)
        self._grpc = door


def proxy_options(options: InstanceOptions) -> ProxyOptions:
    """Return what of an instance's options is the business of HTTP."""
    names = [field for field in ProxyOptions.__struct_fields__ if hasattr(options, field)]
    return msgspec.convert({name: getattr(options, name) for name in names}, ProxyOptions)
