"""Goodput when five times as much is asked as there is capacity: `python -m benchmarks.overload [NAME ...]`.

An application of known capacity with a limit on its queue (`apps/busy.py`) is asked in three phases: by as many
clients as may run and wait, which shows its capacity; then at five times that rate, whatever becomes of the requests
(an open loop: refusals do not slow the clients down); then at half of it, which shows whether it has recovered.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httptools
import uvloop

from benchmarks import processes
from benchmarks.contenders.base import Ask, Contender, Place
from benchmarks.contenders.ray_serve import RayServe
from benchmarks.contenders.serve_lite import ServeLite
from benchmarks.run import free_port, wait_for_answer

CONFIG = """\
http_options: {{host: 127.0.0.1, port: {port}}}
applications:
  - name: default
    route_prefix: /
    import_path: benchmarks.apps.busy:app
"""
RUNNING_AND_WAITING = 2 * 4 + 16  #: requests that `apps/busy.py` has room for
TIMES = 5  #: of its capacity
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


async def phases(port: int, seconds: float) -> tuple[Seen, Seen, Seen]:
    """Return what was seen at capacity, at five times it, and at half of it afterwards."""
    crowd = Crowd(port)
    try:
        await crowd.closed_loop(RUNNING_AND_WAITING, 1.0)  # warm
        full = await crowd.closed_loop(RUNNING_AND_WAITING, seconds)
        flooded = await crowd.open_loop(TIMES * full.goodput, seconds)
        after = await crowd.open_loop(full.goodput / 2, seconds / 2)
        return full, flooded, after
    finally:
        crowd.close()


def measure(contender: Contender, seconds: float) -> str:
    """Start one contender, measure it, stop it; return its line of the table."""
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    place = Place(port=free_port(), directory=directory)
    config = directory / "serve.yaml"
    started: list[subprocess.Popen[bytes]] = []
    try:
        commands = contender.commands("noop", place)
        config.write_text(CONFIG.format(port=place.port))  # the same file, with the other application
        started += [command.popen(directory / "output.log") for command in commands]
        wait_for_answer(place.port, Ask(answer="done"), started, 90.0)
        full, flooded, after = uvloop.run(phases(place.port, seconds))
    finally:
        processes.stop(started, with_signal=contender.stop_signal, grace_s=30.0)
        shutil.rmtree(directory, ignore_errors=True)
    refused = flooded.asked - flooded.statuses[200] - flooded.broken
    cells = (
        contender.title,
        f"{full.goodput:.0f}/s",
        f"{flooded.asked / flooded.seconds:.0f}/s",
        f"{flooded.goodput:.0f}/s ({flooded.goodput / full.goodput:.0%})",
        f"{refused}",
        _percentiles(flooded.refused_ms),
        _percentiles(flooded.done_ms),
        f"{flooded.broken}",
        f"{after.statuses[200] / max(1, after.statuses.total()):.1%}",
    )
    return "| " + " | ".join(cells) + " |"


HEAD = "| | capacity | asked | goodput | refused | refusal p50/p99 ms | answer p50/p99 ms | broken | answered after |"


def _percentiles(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "-"
    cuts = statistics.quantiles(values, n=100)
    return f"{cuts[49]:.1f}/{cuts[98]:.1f}"


def main() -> None:
    """Measure those contenders that are installed, and print a table."""
    known: list[Contender] = [ServeLite(), RayServe()]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*[c.name for c in known], []], metavar="name")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each phase")
    arguments = parser.parse_args()
    processes.become_subreaper()
    print(HEAD + "\n" + "|---" * (HEAD.count("|") - 1) + "|", flush=True)
    for contender in known:
        if arguments.names and contender.name not in arguments.names:
            continue
        if reason := contender.missing():
            print(f"skipped: {contender.title}: {reason}")
            continue
        print(measure(contender, arguments.seconds), flush=True)


if __name__ == "__main__":
    main()
