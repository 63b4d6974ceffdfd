"""The control socket: what drivers, handles and the command line ask of the daemon, and who answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import anyio.abc
import msgspec

from serve_lite.daemon.proxy_asks import ProxyAsks
from serve_lite.schema import ServeStatus
from serve_lite.state.goal import Goal
from serve_lite.state.ids import DeploymentId
from serve_lite.wire.control import ControlMethods, ItemSink
from serve_lite.wire.messages import (
    AdviserPlace,
    AdviserRequest,
    DeleteRequest,
    DeploymentLoad,
    DeployReply,
    DeployRequest,
    DetailsReply,
    Empty,
    GoalRequest,
    IngressReply,
    IngressRequest,
    InstanceInfo,
    InstanceSettings,
    Membership,
    ProxyMetrics,
    ReloadKeysReply,
    RoutesRequest,
    RouteTarget,
    UpgradeReply,
    UpgradeRequest,
    WaitRequest,
    WatchRequest,
)
from serve_lite.wire.spawning import GrpcServices

V = TypeVar("V")


class Controls(Protocol):
    """What is asked of the controller."""

    async def submit(self, request: DeployRequest, /) -> DeployReply: ...
    async def delete(self, names: list[str], /) -> object: ...
    async def wait_apps(self, names: list[str], /) -> ServeStatus: ...
    def status(self) -> ServeStatus: ...
    def goal_of(self, names: list[str], /) -> Goal: ...
    def details(self) -> dict[str, Any]: ...
    def ingress_of(self, name: str, /) -> str: ...
    def take_load(self, load: DeploymentLoad, /) -> None: ...
    def forget_caller(self, deployment: DeploymentId, caller: str, /) -> None: ...


class Memberships(Protocol):
    """What is asked of the publisher."""

    def watch(
        self, app: str, deployment: str, on_change: Callable[[Membership], None], /
    ) -> Callable[[], None]: ...
    def watch_routes(self, on_change: Callable[[tuple[RouteTarget, ...]], None], /) -> Callable[[], None]: ...


class AdviserPlaces(Protocol):
    """What is asked of the adviser processes."""

    async def tell_place(
        self, target: DeploymentId, tell: Callable[[AdviserPlace], Awaitable[None]], /
    ) -> None: ...


class ControlSocket:
    """The methods of the control socket, by name. `shutdown` is the daemon's own business: it is told, and tells
    when nothing is left."""

    def __init__(
        self,
        group: anyio.abc.TaskGroup,
        controller: Controls,
        memberships: Memberships,
        advisers: AdviserPlaces,
        info: InstanceInfo,
        settings: InstanceSettings,
        leave: Callable[[], Any],
        upgrade: Callable[[UpgradeRequest], Awaitable[UpgradeReply]],
        read_services: Callable[[], Awaitable[GrpcServices]],
        asks: ProxyAsks,
        reload_keys: Callable[[], Awaitable[ReloadKeysReply]],
    ) -> None:
        self._controller, self._memberships, self._info, self._leave = controller, memberships, info, leave
        self._advisers, self._settings, self._upgrade = advisers, settings, upgrade
        self._read_services, self._reload_keys, self._asks = read_services, reload_keys, asks
        self.proxies: dict[int, list[int]] = {}  #: pids of proxy processes that are connected, by number
        self._upgraders = 0
        self._left = asyncio.Event()
        self._leavers = 0
        self.methods = methods = ControlMethods(group)
        methods.method("info", Empty, self._tell_info)
        methods.method("settings", Empty, self._tell_settings)
        methods.method("deploy", DeployRequest, controller.submit)
        methods.method("wait_apps", WaitRequest, self._wait_apps)
        methods.method("status", Empty, self._status)
        methods.method("goal", GoalRequest, self._goal)
        methods.method("details", Empty, self._details)
        methods.method("delete", DeleteRequest, self._delete)
        methods.method("ingress", IngressRequest, self._ingress)
        methods.method("shutdown", Empty, self._shutdown)
        methods.method("upgrade", UpgradeRequest, self._wait_for_upgrade)
        methods.method("reload_keys", Empty, self._tell_keys)
        methods.method("proxy_metrics", ProxyMetrics, asks.take)
        methods.method("load", DeploymentLoad, self._load)
        methods.method("grpc_services", Empty, self._tell_services)
        methods.stream("watch", WatchRequest, self._watch)
        methods.stream("routes", RoutesRequest, self._tell_routes)
        methods.stream("adviser", AdviserRequest, self._tell_adviser)

    async def tell_left(self) -> None:
        """Answer everyone who has asked for the shutdown."""
        self._left.set()
        while self._leavers:  # each needs one pass of the loop
            await asyncio.sleep(0)

    async def tell_upgraded(self) -> None:
        """Return when everyone who has asked for the upgrade, of which the outcome is known, has his answer."""
        while self._upgraders:  # each needs one pass of the loop, or a few
            await asyncio.sleep(0)

    async def _wait_for_upgrade(self, request: UpgradeRequest) -> UpgradeReply:
        self._upgraders += 1
        try:
            return await self._upgrade(request)
        finally:
            self._upgraders -= 1

    async def _tell_info(self, _: Empty) -> InstanceInfo:
        return self._info

    async def _tell_settings(self, _: Empty) -> InstanceSettings:
        return self._settings

    async def _tell_keys(self, _: Empty) -> ReloadKeysReply:
        return await self._reload_keys()

    async def _wait_apps(self, request: WaitRequest) -> msgspec.Struct:
        return await self._controller.wait_apps(request.names)

    async def _status(self, _: Empty) -> msgspec.Struct:
        return self._controller.status()

    async def _goal(self, request: GoalRequest) -> msgspec.Struct:
        return self._controller.goal_of(request.names)

    async def _details(self, _: Empty) -> DetailsReply:
        return DetailsReply(applications=self._controller.details()["applications"])

    async def _delete(self, request: DeleteRequest) -> Empty:
        await self._controller.delete(request.names)
        return Empty()

    async def _ingress(self, request: IngressRequest) -> IngressReply:
        return IngressReply(deployment=self._controller.ingress_of(request.app))

    async def _load(self, load: DeploymentLoad) -> Empty:
        self._controller.take_load(load)
        return Empty()

    async def _shutdown(self, _: Empty) -> Empty:
        self._leave()
        self._leavers += 1
        try:
            await self._left.wait()  # ends with the daemon's work, which the controller bounds
        finally:
            self._leavers -= 1
        return Empty()

    async def _tell_services(self, _: Empty) -> GrpcServices:
        return await self._read_services()

    async def _tell_adviser(self, request: AdviserRequest, sink: ItemSink) -> None:
        await self._advisers.tell_place(DeploymentId(request.deployment, request.app), sink.send)

    async def _tell_routes(self, request: RoutesRequest, sink: ItemSink) -> None:
        """Send the routes now and on every change."""
        async with _latest(self._asks.watch) as next_routes:
            pids = self.proxies.setdefault(request.proxy, [])
            pids.append(request.pid)
            try:
                while True:  # ends with the client, which cancels it
                    await sink.send(await next_routes())
            finally:
                pids.remove(request.pid)

    async def _watch(self, request: WatchRequest, sink: ItemSink) -> None:
        """Send the membership now and on every change."""
        watch = partial(self._memberships.watch, request.app, request.deployment)
        try:
            async with _latest(watch) as next_membership:
                while True:  # ends with the client, which cancels it
                    await sink.send(await next_membership())
        finally:
            if request.caller:
                self._controller.forget_caller(DeploymentId(request.deployment, request.app), request.caller)


@asynccontextmanager
async def _latest(
    watch: Callable[[Callable[[V], None]], Callable[[], None]],
) -> AsyncIterator[Callable[[], Awaitable[V]]]:
    """Watch while this is open. What it gives waits for the next value: who is slow gets the latest, not each."""
    changed = asyncio.Event()
    latest: list[V] = []

    def on_change(value: V) -> None:
        latest[:] = [value]
        changed.set()

    async def wait() -> V:
        await changed.wait()
        changed.clear()
        return latest[0]

    unwatch = watch(on_change)
    try:
        yield wait
    finally:
        unwatch()
