"""Clients on as many connections as are needed, in a closed loop or an open one.

In a closed loop each asks again as soon as it is answered. In an open loop requests come at a rate, whatever becomes
of them, as they do from many people who do not know of each other.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

import httptools

TICK_S = 0.002  #: requests of an open loop are sent in bunches so far apart


@dataclass
class Seen:
    """What became of the requests of one phase."""

    asked: int = 0
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    done_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    broken: int = 0

    @property
    def goodput(self) -> float:
        return self.statuses[200] / self.seconds

    def note(self, status: int, took_ms: float) -> None:
        self.statuses[status] += 1
        (self.done_ms if status == 200 else self.refused_ms).append(took_ms)


class Connection(asyncio.Protocol):
    """One keep-alive connection that carries one request at a time."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._asked_at = 0.0
        self._is_busy = False

    def ask(self) -> None:
        assert self._transport is not None
        self._is_busy = True
        self._asked_at = time.perf_counter()
        self._transport.write(self._crowd.request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's classes do not derive from it

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._is_busy = False
        took_ms = (time.perf_counter() - self._asked_at) * 1000
        self._crowd.answered(self, self._parser.get_status_code(), took_ms)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_busy:
            self._crowd.seen.broken += 1

    def close(self) -> None:
        self._is_busy = False
        if self._transport is not None:
            self._transport.abort()


class Crowd:
    """Clients on as many connections as are needed."""

    def __init__(self, port: int) -> None:
        self.request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        self.seen = Seen()
        self._port = port
        self._idle: list[Connection] = []
        self._all: list[Connection] = []
        self._asks_again = False

    async def closed_loop(self, clients: int, seconds: float) -> Seen:
        """Have so many clients ask, each again as soon as it is answered."""
        await self._connect(clients)
        self.seen, self._asks_again = Seen(), True
        started = time.perf_counter()
        for connection in [self._idle.pop() for _ in range(clients)]:
            self._ask(connection)
        await asyncio.sleep(seconds)
        self._asks_again = False
        self.seen.seconds = time.perf_counter() - started
        return await self._finished()

    async def open_loop(self, rate: float, seconds: float) -> Seen:
        """Ask `rate` times a second, whatever becomes of it."""
        self.seen = Seen()
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            missing = int(rate * elapsed) - self.seen.asked
            if missing > len(self._idle):
                await self._connect(missing - len(self._idle))
            for _ in range(missing):
                self._ask(self._idle.pop())
            await asyncio.sleep(TICK_S)
        self.seen.seconds = time.perf_counter() - started
        return await self._finished()

    def answered(self, connection: Connection, status: int, took_ms: float) -> None:
        if not self.seen.seconds:  # what comes after the end is not counted
            self.seen.note(status, took_ms)
        if self._asks_again:
            self._ask(connection)
        else:
            self._idle.append(connection)

    def close(self) -> None:
        for connection in self._all:
            connection.close()

    def _ask(self, connection: Connection) -> None:
        self.seen.asked += 1
        connection.ask()

    async def _connect(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
            self._all.append(connection)
            self._idle.append(connection)

    async def _finished(self) -> Seen:
        """Return what was seen, once nothing of it is under way that the next phase would meet."""
        give_up_at = time.perf_counter() + 30
        while len(self._idle) < len(self._all) - self.seen.broken and time.perf_counter() < give_up_at:
            await asyncio.sleep(0.01)
        return self.seen
