"""Where requests go, as a proxy process hears it from the daemon."""

from __future__ import annotations

import os
from collections.abc import Callable

from serve_lite.routing.daemon_link import DaemonLink
from serve_lite.wire.connection import Connection, ConnectionLostError
from serve_lite.wire.messages import Routes, RoutesRequest, RouteTarget

OnRoutes = Callable[[tuple[RouteTarget, ...]], None]


class RemoteRoutes:
    """The routes in force. While the daemon is away, what was last heard stays true.

    Args:
        proxy: number of the proxy process that this is, from 1.
    """

    def __init__(self, link: DaemonLink, *, proxy: int) -> None:
        self._proxy = proxy
        self._watchers: list[OnRoutes] = []
        self._routes: tuple[RouteTarget, ...] | None = None  #: None: nothing was heard yet
        self._asked = (0, 0)
        self.on_keys: Callable[[], None] = _nothing  #: API keys are to be read again
        self.on_scrape: Callable[[int], None] = (
            _nothing_of  #: what was counted is to be told, with this number
        )
        link.on_connected.append(self._ask)

    def watch_routes(self, on_change: OnRoutes) -> Callable[[], None]:
        """Call `on_change` with the present routes, once they are known, and with all later ones; returns what ends
        it."""
        self._watchers.append(on_change)
        if self._routes is not None:
            on_change(self._routes)

        def unwatch() -> None:
            if on_change in self._watchers:
                self._watchers.remove(on_change)

        return unwatch

    def _ask(self, connection: Connection) -> None:
        request = RoutesRequest(proxy=self._proxy, pid=os.getpid())
        try:
            connection.watch("routes", request, Routes, self._hear, lambda _: None)
        except ConnectionLostError:  # the link asks again
            return

    def _hear(self, routes: Routes) -> None:
        is_first, (keys, scrape) = self._routes is None, self._asked
        self._routes, self._asked = routes.targets, (routes.keys, routes.scrape)
        for on_change in tuple(self._watchers):
            on_change(routes.targets)
        if routes.keys != keys and not is_first:
            self.on_keys()
        if routes.scrape != scrape and not is_first:
            self.on_scrape(routes.scrape)


def _nothing() -> None:
    """Nobody wants to hear it."""


def _nothing_of(serial: int) -> None:
    """Nobody wants to hear it."""
