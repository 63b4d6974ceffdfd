"""Who serves a deployment: what routers are told, and how other processes than the daemon hear it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol

import msgspec

from serve_lite.wire.calls import OutgoingCall
from serve_lite.wire.connection import Connection, ConnectionLostError, connect
from serve_lite.wire.frames import Kind
from serve_lite.wire.messages import (
    ControlHead,
    DeploymentLoad,
    Membership,
    MemberState,
    RejectReason,
    WatchRequest,
)

OnChange = Callable[[Membership], None]

_encode = msgspec.msgpack.Encoder().encode
_LOAD = _encode(ControlHead("load"))
_RETRY_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  #: waits between attempts to reach a daemon, last one repeated


class MembershipSource(Protocol):
    """Tells who serves a deployment, now and on every change, on the loop."""

    def watch(self, app: str, deployment: str, on_change: OnChange) -> Callable[[], None]:
        """Start telling; returns a function that stops it."""
        ...

    def tell_load(self, load: DeploymentLoad) -> None:
        """Hand on the load of a watched deployment; only asked for by `Membership.load_every_s`."""
        ...


class RemoteMembership:
    """Membership over the daemon's control socket.

    While the daemon is away what was last heard stays true: replicas outlive it. When the whole instance
    is gone (its socket is removed), every deployment is MISSING.

    Lifetime: `run` is a task of the process's runtime and ends when cancelled.
    """

    def __init__(self, control_path: str) -> None:
        self._path = control_path
        self._watches: dict[tuple[str, str], list[OnChange]] = {}
        self._last: dict[tuple[str, str], Membership] = {}
        self._streams: dict[tuple[str, str], OutgoingCall] = {}
        self._connection: Connection | None = None
        self._caller = ""  #: names this process to the daemon, for the life of one connection

    def watch(self, app: str, deployment: str, on_change: OnChange) -> Callable[[], None]:
        key = (app, deployment)
        listeners = self._watches.setdefault(key, [])
        listeners.append(on_change)
        if key in self._last:
            on_change(self._last[key])
        if len(listeners) == 1 and self._connection is not None:
            self._open_stream(key)

        def unwatch() -> None:
            if on_change in listeners:
                listeners.remove(on_change)
            if not listeners and self._watches.pop(key, None) is not None:
                self._last.pop(key, None)
                stream = self._streams.pop(key, None)
                if stream is not None:
                    stream.cancel()

        return unwatch

    def tell_load(self, load: DeploymentLoad) -> None:
        """Send it to the daemon; lost while that is away, and told anew once it is back."""
        if self._connection is None or self._connection.closed:
            return
        load = msgspec.structs.replace(load, caller=self._caller)
        self._connection.call(Kind.CALL_CONTROL, _LOAD, [_encode(load)], _NobodyListens())

    async def run(self) -> None:
        """Keep connected to the daemon until cancelled."""
        failures = 0
        while True:
            try:
                connection = await connect(self._path)
            except (FileNotFoundError, ConnectionRefusedError):
                self._tell_missing()
            except (OSError, ConnectionLostError):
                pass  # the daemon is being restarted: what we know stays true
            else:
                failures = 0
                await self._serve(connection)
            await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
            failures += 1

    async def _serve(self, connection: Connection) -> None:
        self._connection, self._caller = connection, os.urandom(8).hex()
        try:
            for key in list(self._watches):
                self._open_stream(key)
            await connection.wait_closed()
        finally:
            self._connection = None
            self._streams.clear()
            connection.close()

    def _open_stream(self, key: tuple[str, str]) -> None:
        assert self._connection is not None
        app, deployment = key
        try:
            self._streams[key] = self._connection.watch(
                "watch",
                WatchRequest(app=app, deployment=deployment, caller=self._caller),
                Membership,
                lambda membership: self._tell(key, membership),
                lambda _: None,  # the connection is closing; `run` opens the streams again
            )
        except ConnectionLostError:
            return

    def _tell(self, key: tuple[str, str], membership: Membership) -> None:
        self._last[key] = membership
        for on_change in tuple(self._watches.get(key, ())):
            on_change(membership)

    def _tell_missing(self) -> None:
        for app, deployment in list(self._watches):
            missing = Membership(app=app, deployment=deployment, state=MemberState.MISSING)
            if self._last.get((app, deployment)) != missing:
                self._tell((app, deployment), missing)


class _NobodyListens:
    """The receiver of a call whose answer says nothing, and which is made again soon if it is lost."""

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None:
        """It was heard."""

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        """Never sent."""

    def on_end(self, envelope: bytes) -> None:
        """Never sent."""

    def on_error(self, envelope: bytes, buffers: list[memoryview]) -> None:
        """A daemon of another version that does not know the call."""

    def on_rejected(self, reason: RejectReason, load: int) -> None:
        """Never sent."""

    def on_lost(self, accepted: bool) -> None:
        """The connection has ended; the next one tells it anew."""

    def on_writable(self) -> None:
        """Nothing is streamed."""
