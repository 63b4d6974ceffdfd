"""Who serves a deployment: what routers are told, and how other processes than the daemon hear it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from serve_lite.routing.daemon_link import DaemonLink
from serve_lite.wire.calls import OutgoingCall
from serve_lite.wire.connection import Connection, ConnectionLostError
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
    """

    def __init__(self, link: DaemonLink) -> None:
        self._link = link
        self._watches: dict[tuple[str, str], list[OnChange]] = {}
        self._last: dict[tuple[str, str], Membership] = {}
        self._streams: dict[tuple[str, str], OutgoingCall] = {}
        link.on_connected.append(self._on_connected)
        link.on_lost.append(self._streams.clear)
        link.on_gone.append(self._tell_missing)

    def watch(self, app: str, deployment: str, on_change: OnChange) -> Callable[[], None]:
        key = (app, deployment)
        listeners = self._watches.setdefault(key, [])
        listeners.append(on_change)
        if key in self._last:
            on_change(self._last[key])
        if len(listeners) == 1 and self._link.connection is not None:
            self._open_stream(self._link.connection, key)

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
        connection = self._link.connection
        if connection is None or connection.closed:
            return
        load = msgspec.structs.replace(load, caller=self._link.caller)
        connection.call(Kind.CALL_CONTROL, _LOAD, [_encode(load)], _NobodyListens())

    def _on_connected(self, connection: Connection) -> None:
        for key in list(self._watches):
            self._open_stream(connection, key)

    def _open_stream(self, connection: Connection, key: tuple[str, str]) -> None:
        app, deployment = key
        try:
            self._streams[key] = connection.watch(
                "watch",
                WatchRequest(app=app, deployment=deployment, caller=self._link.caller),
                Membership,
                lambda membership: self._tell(key, membership),
                lambda _: None,  # the connection is closing; the link opens another one
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
