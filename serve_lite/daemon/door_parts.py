"""What both doors of a daemon share: who is let in, and the access log."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from types import TracebackType
from typing import Final, Literal, Protocol, Self

import anyio

from serve_lite import instruments
from serve_lite.config import EncodingType
from serve_lite.daemon.log_files import LogFile, write_out
from serve_lite.daemon.options import InstanceOptions
from serve_lite.instruments import Family, Series
from serve_lite.proxy.access_log import AccessLog
from serve_lite.proxy.accounts import Accounts
from serve_lite.proxy.guard import Doorkeeper
from serve_lite.proxy.key_file import FILE_NAME, KeyFile
from serve_lite.proxy.metrics import door_metrics
from serve_lite.routing.metrics import router_metrics
from serve_lite.routing.router import Routers
from serve_lite.schema import ProxyStatus
from serve_lite.wire.messages import ReloadKeysReply

STDOUT = "stdout"

#: How soon a file of keys that was changed by hand counts; `serve keys` and SIGHUP need not wait for it.
_LOOK_AT_KEYS_S = 2.0


#: Ray Serve's numbers.
_STATUSES: Final = {
    ProxyStatus.STARTING: 1,
    ProxyStatus.HEALTHY: 2,
    ProxyStatus.UNHEALTHY: 3,
    ProxyStatus.DRAINING: 4,
    ProxyStatus.DRAINED: 5,
}


class NodeFacts(Protocol):
    """What is asked of the controller."""

    @property
    def node_id(self) -> str: ...
    @property
    def proxy_status(self) -> ProxyStatus: ...


class DoorParts:
    """The doorkeeper and the access log of one daemon.

    Lifetime: the `async with` block around everything that answers requests; its end writes the last lines.
    """

    def __init__(self, options: InstanceOptions, home: str) -> None:
        self._keys = KeyFile(options.api_keys_file or os.path.join(home, FILE_NAME))
        self.accounts: dict[Literal["http", "grpc"], Accounts] = {}  #: of the doors that there are
        self.keeper = Doorkeeper(self._keys, requires_key=options.require_api_key)
        self.log: AccessLog | None = None
        self._file: LogFile | None = None
        if options.access_log is not None:
            is_json = (options.logging_config or {}).get("encoding") == EncodingType.JSON
            if options.access_log != STDOUT:
                self._file = LogFile(options.access_log)
            write = write_out if self._file is None else self._file.write
            self.log = AccessLog(write, "JSON" if is_json else "TEXT")

    def measure(self, node: Callable[[], NodeFacts], routers: Routers) -> None:
        """Show what the doors and the daemon's routers count to whoever scrapes."""
        instruments.add_source(lambda: self._metrics(node(), routers))

    def _metrics(self, node: NodeFacts, routers: Routers) -> list[Family]:
        where = (node.node_id, "127.0.0.1")
        status = Family(
            "serve_proxy_status",
            "gauge",
            "1 STARTING, 2 HEALTHY, 3 UNHEALTHY, 4 DRAINING, 5 DRAINED.",
            ["node_id", "node_ip_address"],
            [Series([*where], [_STATUSES[node.proxy_status]])],
        )
        doors = [
            family
            for door, accounts in self.accounts.items()
            for family in door_metrics(door, accounts, where)
        ]
        families = [*(doors and [status]), *doors, *router_metrics(routers, "PROXY")]
        return [family for family in families if family.series]

    async def reload_keys(self) -> ReloadKeysReply:
        """Read the file of keys; tell what is in force now."""
        await asyncio.to_thread(self._keys.load)
        return ReloadKeysReply(
            path=self._keys.path,
            keys=len(self._keys.ring),
            problem=self._keys.problem,
            is_asked_for=self.keeper.is_on_duty,
        )

    async def watch_keys(self) -> None:
        """Read the file of keys whenever somebody has changed it, until cancelled."""
        while True:
            await anyio.sleep(_LOOK_AT_KEYS_S)
            if self.keeper.is_on_duty and await asyncio.to_thread(self._keys.has_changed):
                await asyncio.to_thread(self._keys.load)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.log is not None:
            with anyio.CancelScope(shield=True):  # bounded by the disk
                await self.log.aclose()
        if self._file is not None:
            self._file.close()
