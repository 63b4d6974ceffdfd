"""A proxy process: the doors of an instance outside its daemon, so that there may be as many as there are cores.

It accepts on the same sockets as its siblings, asks the daemon where requests go and who serves them, and sends them
to replicas itself. While the daemon is away it goes on with what it knows. The keeper starts and ends it
(`proxy_keeping.py` has the words).
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from functools import partial

import anyio
import anyio.abc
import anyio.to_thread

from serve_lite.controller.routers import is_shipped
from serve_lite.daemon.door_parts import DoorParts
from serve_lite.daemon.doors import Doors
from serve_lite.daemon.entry import raise_descriptor_limit, take_inherited
from serve_lite.daemon.grpc_memory import GrpcMemory
from serve_lite.daemon.home import Paths, paths, take_secrets
from serve_lite.daemon.keeper_link import KeeperSocket
from serve_lite.daemon.log_files import bound, reopen, writes_into
from serve_lite.daemon.options import InstanceOptions, options_from
from serve_lite.outputs import drop_what_has_no_room
from serve_lite.processes import set_title
from serve_lite.routing.advised import local_adviser
from serve_lite.routing.daemon_link import DaemonLink
from serve_lite.routing.membership import RemoteMembership
from serve_lite.routing.ranked import Adviser
from serve_lite.routing.remote_adviser import remote_adviser
from serve_lite.routing.router import Routers
from serve_lite.routing.routes import RemoteRoutes
from serve_lite.wire.callbacks import start_soon
from serve_lite.wire.connection import ConnectionLostError, connect
from serve_lite.wire.messages import Empty, Membership, ProxyMetrics
from serve_lite.wire.spawning import GrpcServices

logger = logging.getLogger("serve_lite.daemon")

_LOOK_AT_LOG_S = 15.0
_SERVICES_S = 60.0  #: that the daemon may take to tell of gRPC services, which it has to import perhaps
_TELL_S = 10.0  #: that the daemon may take to hear what was counted
_INSTANCE_GONE_S = 2.0  #: without a control socket; then the replicas have ended too


class ProxyProcess:
    """One run of a proxy.

    Lifetime: `serve` returns when it was told to end and has answered what it had, or the instance is gone.
    """

    def __init__(
        self, options: InstanceOptions, where: Paths, inherited: dict[str, int], number: int
    ) -> None:
        self._options, self._paths, self._number = options, where, number
        self._sockets: dict[str, socket.socket] = {
            name: socket.socket(fileno=inherited[name]) for name in ("http", "grpc") if name in inherited
        }
        self._keeper_socket = socket.socket(fileno=inherited["keeper"])
        self._keeper_pid = os.getppid()
        self._log = os.path.join(where.logs, "proxy.log")
        self._writes_log = writes_into(self._log)
        self._parts = DoorParts(options, where.home)
        self._doors = Doors(self._parts)
        self._told: anyio.Event
        self._grace_s: float | None = None  #: None: another proxy has not taken our place

    async def serve(self) -> None:
        """Bring up the doors, serve until told to end, finish."""
        self._told = anyio.Event()
        set_title(f"serve-lite: proxy {self._number}")
        keeper = KeeperSocket(self._keeper_socket, self._hear, self._told.set)
        keeper.listen()
        link = DaemonLink(self._paths.control)
        routes = RemoteRoutes(link, proxy=self._number)
        async with AsyncExitStack() as stack:
            stack.callback(self._close)
            await stack.enter_async_context(self._parts)
            group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(group.cancel_scope.cancel)
            await group.start(self._watch_signals)
            group.start_soon(link.run)
            routers = Routers(RemoteMembership(link), lambda membership: _adviser(link, membership, routers))
            stack.push_async_callback(routers.aclose)
            await self._parts.reload_keys()
            routes.on_keys = partial(start_soon, group, self._parts.reload_keys)
            routes.on_scrape = partial(start_soon, group, self._tell_metrics, link, routers)
            group.start_soon(self._parts.watch_keys)
            if await self._until_known(routes):
                await self._doors.open(
                    group, self._sockets, self._options, routers, routes, self._read_services
                )
                gc.freeze()  # what start-up made stays: later collections need not look at it
                gc.enable()
                keeper.say("ready")
                logger.info("proxy %d is ready (process %d)", self._number, os.getpid())
                group.start_soon(self._keep_log_small)
                await self._told.wait()
                await self._finish(link)

    async def _until_known(self, routes: RemoteRoutes) -> bool:
        """Wait until it is known where requests go; return False if we are to end first."""
        known = anyio.Event()
        unwatch = routes.watch_routes(lambda _: known.set())
        async with anyio.create_task_group() as group:

            async def until_told() -> None:
                await self._told.wait()
                group.cancel_scope.cancel()

            group.start_soon(until_told)
            await known.wait()  # connections wait in the sockets; the keeper ends us if nothing comes
            group.cancel_scope.cancel()
        unwatch()
        return known.is_set() and not self._told.is_set()

    async def _tell_metrics(self, link: DaemonLink, routers: Routers, serial: int) -> None:
        """Tell the daemon what was counted here."""
        told = ProxyMetrics(
            number=self._number,
            pid=os.getpid(),
            serial=serial,
            families=self._parts.families(f"proxy-{self._number}", routers),
        )
        if link.connection is not None:
            with contextlib.suppress(ConnectionLostError):  # the next daemon asks again
                await link.connection.control("proxy_metrics", told, Empty, timeout_s=_TELL_S)

    async def _read_services(self) -> GrpcServices:
        services = GrpcMemory(self._paths.home, self._keeper_pid).recall()
        if services is not None:
            return services
        connection = await connect(self._paths.control)
        try:
            return await connection.control("grpc_services", Empty(), GrpcServices, timeout_s=_SERVICES_S)
        finally:
            connection.close()

    async def _finish(self, link: DaemonLink) -> None:
        """Answer what there is, as long as there are replicas that could."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._end_with_instance, link, group.cancel_scope)
            if self._grace_s is None:
                await self._doors.drain()
            else:
                await self._doors.retire(self._grace_s)
            group.cancel_scope.cancel()
        logger.info("proxy %d has finished (process %d)", self._number, os.getpid())

    async def _end_with_instance(self, link: DaemonLink, scope: anyio.CancelScope) -> None:
        """Cancel when the instance has been gone for a while: nobody will answer any more."""
        gone_s, look_every_s = 0.0, 0.2
        while gone_s < _INSTANCE_GONE_S:
            await anyio.sleep(look_every_s)
            gone_s = gone_s + look_every_s if link.is_gone else 0.0
        scope.cancel()

    def _hear(self, word: str, rest: str) -> None:
        if word == "retire":
            self._grace_s = float(rest)
        if word in ("retire", "drain"):
            self._told.set()

    async def _keep_log_small(self) -> None:
        while self._writes_log:
            try:
                bound(self._log)
            except OSError as error:  # a full disk, or a folder that is gone: nothing else needs it
                logger.warning("the log could not be bounded: %s", error)
            await anyio.sleep(_LOOK_AT_LOG_S)

    async def _watch_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    if self._writes_log:
                        reopen(self._log)
                    await self._parts.reload_keys()
                    await anyio.to_thread.run_sync(self._doors.reload_certificates)
                else:
                    self._told.set()

    def _close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._keeper_socket.close()


def _adviser(link: DaemonLink, membership: Membership, routers: Routers) -> Adviser | None:
    assert membership.router is not None
    if is_shipped(membership.router):
        return local_adviser(membership)
    return remote_adviser(link, membership, routers.spawn)


def main() -> int:
    """Run a proxy on the sockets that the keeper passed on; return its exit status."""
    gc.disable()  # loading makes little garbage; `serve` turns it on when all is up
    inherited = take_inherited()
    raise_descriptor_limit()
    number = int(os.environ.pop("SERVE_LITE_PROXY"))
    given = os.environ.pop("SERVE_LITE_INSTANCE")
    options = options_from(given, take_secrets())
    drop_what_has_no_room()
    logging.basicConfig(
        level=options.log_level.upper(),
        format=f"%(asctime)s %(levelname)s proxy {number}: %(name)s: %(message)s",
        stream=sys.stderr,
    )
    proxy = ProxyProcess(options, paths(options.home), inherited, number)
    try:
        anyio.run(proxy.serve, backend="asyncio", backend_options={"use_uvloop": True})
    except Exception as error:  # boundary: the keeper starts another one
        logger.critical("the proxy failed", exc_info=error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
