"""A connection to the instance's control socket that is made again whenever it is lost.

What is asked over it, as streams that must be opened anew each time, is up to whoever listens:
`membership.RemoteMembership`, `routes.RemoteRoutes` and others.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from serve_lite.wire.connection import Connection, ConnectionLostError, connect

_RETRY_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  #: waits between attempts to reach a daemon, last one repeated


class DaemonLink:
    """Keeps connected to whichever daemon has the instance.

    Lifetime: `run` is a task of the process's runtime and ends when cancelled.
    """

    def __init__(self, control_path: str) -> None:
        self.connection: Connection | None = None  #: None while there is none
        self.caller = ""  #: names this process to the daemon, for the life of one connection
        self.is_gone = False  #: at the last attempt there was no instance
        self.on_connected: list[Callable[[Connection], None]] = []
        self.on_lost: list[Callable[[], None]] = []  #: the connection has ended
        self.on_gone: list[Callable[[], None]] = []  #: told again at each attempt
        self._path = control_path

    async def run(self) -> None:
        """Keep connected until cancelled."""
        failures = 0
        while True:
            try:
                connection = await connect(self._path)
            except (FileNotFoundError, ConnectionRefusedError):
                self.is_gone = True
                for tell in self.on_gone:
                    tell()
            except (OSError, ConnectionLostError):
                self.is_gone = False  # the daemon is being restarted
            else:
                failures, self.is_gone = 0, False
                await self._serve(connection)
            await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])
            failures += 1

    async def _serve(self, connection: Connection) -> None:
        self.connection, self.caller = connection, os.urandom(8).hex()
        try:
            for tell_connected in self.on_connected:
                tell_connected(connection)
            await connection.wait_closed()
        finally:
            self.connection = None
            for tell in self.on_lost:
                tell()
            connection.close()
