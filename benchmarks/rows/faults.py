"""What clients see when something goes wrong: a kill -9 under load, and five times as much work as there is capacity.

Counted from the kill until all has been well for some seconds: requests that were not answered with 200, connections
that were refused, and the longest time in which nobody got an answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time

import psutil
import uvloop

from benchmarks import processes
from benchmarks.apps.capacity import RUNNING, RUNNING_AND_WAITING, TIMES
from benchmarks.contenders.base import Contender
from benchmarks.figures import Figure, Goal, count, milliseconds, per_s, percent, seconds
from benchmarks.loads import crowd, steady
from benchmarks.rows.base import HandleRow, Measured, Plot
from benchmarks.server import BenchmarkError, Server
from benchmarks.settings import Settings
from benchmarks.spread import percentile

GROUP = "When something goes wrong"
CLIENTS = 4  #: of each kind
BEFORE_S = 2.0  #: of load before a kill


class Recovery(HandleRow):
    name = "recovery"
    group = GROUP
    about = (
        "kill -9 of the process that takes requests (with serve-lite the daemon, which is controller as well) and of "
        "one of two replicas; eight clients, four of which make a connection for each request. What a "
        "process had accepted is lost with it."
    )
    app = "pair"
    figures = (
        Figure(
            "kill_proxy_refused",
            "kill -9 of the proxy: connections refused",
            count,
            target=Goal(0),
            aim=Goal(0),
        ),
        Figure("kill_proxy_failed", "kill -9 of the proxy: requests without an answer", count),
        Figure(
            "kill_proxy_gap_s",
            "kill -9 of the proxy: longest time without an answer",
            seconds,
            target=Goal(2.0),
            aim=Goal(0.5),
        ),
        Figure("kill_replica_failed", "kill -9 of a replica: requests without an answer", count),
        Figure("kill_replica_gap_s", "kill -9 of a replica: longest time without an answer", seconds),
    )
    plots = (
        Plot(
            "kill-proxy", "kill -9 of the proxy: longest time without an answer", ("kill_proxy_gap_s",), "s"
        ),
    )

    def lacks(self, contender: Contender) -> str | None:
        if contender.victims is None:
            return "nobody would start a process again"
        return super().lacks(contender)

    def measure(self, server: Server) -> Measured:
        victims = server.contender.victims
        assert victims is not None, "checked by lacks()"
        for victim, title in victims.items():
            seen = uvloop.run(kill_under_load(server.place.port, title, server.settings))
            causes = seen.causes()
            if causes:
                told = ", ".join(f"{number} {cause}" for cause, number in causes.most_common())
                server.notes.append(f"kill -9 of the {victim}: {told}")
            yield f"kill_{victim}_refused", causes["refused"]
            yield f"kill_{victim}_failed", len(seen.failed_at)
            yield f"kill_{victim}_gap_s", seen.longest_gap_s()


async def kill_under_load(port: int, victim: str, settings: Settings) -> steady.Seen:
    """Kill one process whose command line fits `victim`; return what was seen from then until all was well."""
    clients = steady.Clients(port)
    tasks = [asyncio.create_task(clients.ask(keeps=i % 2 == 0)) for i in range(2 * CLIENTS)]
    try:
        await asyncio.sleep(BEFORE_S)
        if clients.seen.failed_at or not clients.seen.answered_at:
            raise BenchmarkError(f"Requests failed before the kill: {clients.seen.causes()}.")
        pid = _find(victim)
        killed_at = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        give_up_s = steady.GIVE_UP_S + settings.well_s
        while not _is_well(clients.seen, killed_at, settings.well_s):
            if time.perf_counter() - killed_at > give_up_s:
                raise BenchmarkError(f"{give_up_s:.0f} s after the kill of {victim!r} not all is well again.")
            await asyncio.sleep(0.05)
        return clients.seen.after(killed_at)
    finally:
        clients.stop()
        await asyncio.wait(tasks, timeout=steady.GIVE_UP_S)


def _is_well(seen: steady.Seen, killed_at: float, well_s: float) -> bool:
    """Whether answers came, and only answers, in the last seconds."""
    now = time.perf_counter()
    last_failure = max((at for at, _ in seen.failed_at), default=killed_at)
    is_answered = bool(seen.answered_at) and now - seen.answered_at[-1] < 1.0
    first_after = next((at for at in reversed(seen.answered_at) if at < now - well_s), 0.0)
    return is_answered and now - last_failure > well_s and first_after > killed_at


def _find(victim: str) -> int:
    """Return the youngest of the processes that fit: an older one may be the parent that watches it."""
    found: list[psutil.Process] = []
    for process in processes.descendants():
        try:
            command = " ".join(process.cmdline())
            name = process.name()
        except psutil.NoSuchProcess:
            continue
        if command.startswith(victim) or name == victim:
            found.append(process)
    if not found:
        raise BenchmarkError(f"There is no process {victim!r}.")
    return max(found, key=lambda process: process.create_time()).pid


class Overload(HandleRow):
    name = "overload"
    group = GROUP
    about = (
        "An application that can do 400 requests/s, with a limit on its queue, is asked five times as often by an open "
        "loop: the clients do not slow down because they are refused. Goodput is what it answers, of its capacity."
    )
    app = "busy"
    figures = (
        Figure("capacity_per_s", "capacity", per_s, more_is_better=True),
        Figure(
            "goodput_percent",
            "goodput at 5 times capacity",
            percent,
            more_is_better=True,
            target=Goal(90),
            aim=Goal(98),
        ),
        Figure("refusal_p50_ms", "a refusal: p50", milliseconds),
        Figure("refusal_p99_ms", "a refusal: p99", milliseconds),
        Figure("flooded_p50_ms", "an answer meanwhile: p50", milliseconds),
        Figure("recovered_percent", "answered afterwards, at half of capacity", percent, more_is_better=True),
    )

    def measure(self, server: Server) -> Measured:
        full, flooded, after = uvloop.run(_phases(server.place.port, server.settings.seconds))
        if flooded.broken:
            server.notes.append(f"overload: {flooded.broken} connections were cut")
        yield "capacity_per_s", full.goodput
        yield "goodput_percent", 100 * flooded.goodput / full.goodput
        if flooded.refused_ms:
            yield "refusal_p50_ms", percentile(flooded.refused_ms, 50)
            yield "refusal_p99_ms", percentile(flooded.refused_ms, 99)
        if flooded.done_ms:
            yield "flooded_p50_ms", percentile(flooded.done_ms, 50)
        yield "recovered_percent", 100 * after.statuses[200] / max(1, after.statuses.total())


async def _phases(port: int, seconds: float) -> tuple[crowd.Seen, crowd.Seen, crowd.Seen]:
    """Return what was seen at capacity, at five times it, and at half of it afterwards.

    Capacity is the better of two closed loops: as many clients as may run, and as many as may run or wait. The first
    leaves a server idle that is slow to hand on the next request, the second floods one that refuses too early.
    """
    clients = crowd.Crowd(port)
    try:
        await clients.closed_loop(RUNNING_AND_WAITING, 1.0)  # warm
        loops = [await clients.closed_loop(count, seconds) for count in (RUNNING, RUNNING_AND_WAITING)]
        full = max(loops, key=lambda seen: seen.goodput)
        if not full.goodput:
            raise BenchmarkError("Nothing was answered at capacity.")
        flooded = await clients.open_loop(TIMES * full.goodput, seconds)
        after = await clients.open_loop(full.goodput / 2, seconds / 2)
        return full, flooded, after
    finally:
        clients.close()
