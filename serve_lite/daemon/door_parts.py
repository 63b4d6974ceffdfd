"""What both doors of a daemon share: who is let in, and the access log."""

from __future__ import annotations

import asyncio
import os
from types import TracebackType
from typing import Final, Literal, Self

import anyio

from serve_lite.config import EncodingType
from serve_lite.daemon.log_files import LogFile, write_out
from serve_lite.daemon.options import InstanceOptions
from serve_lite.instruments import Family
from serve_lite.proxy.access_log import AccessLog
from serve_lite.proxy.accounts import Accounts
from serve_lite.proxy.guard import Doorkeeper
from serve_lite.proxy.key_file import FILE_NAME, KeyFile
from serve_lite.proxy.metrics import door_metrics
from serve_lite.routing.metrics import router_metrics
from serve_lite.routing.router import Routers
from serve_lite.wire.messages import ReloadKeysReply

STDOUT: Final = "stdout"
ADDRESS: Final = "127.0.0.1"  #: of this machine, as metrics and REST tell it

#: How soon a file of keys that was changed by hand counts; `serve keys` and SIGHUP need not wait for it.
_LOOK_AT_KEYS_S = 2.0


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

    def families(self, node_id: str, routers: Routers) -> list[Family]:
        """Return what the doors and routers of this process have counted."""
        doors = [
            family
            for door, accounts in self.accounts.items()
            for family in door_metrics(door, accounts, (node_id, ADDRESS))
        ]
        return [family for family in (*doors, *router_metrics(routers, "PROXY")) if family.series]

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
