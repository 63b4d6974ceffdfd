"""Weighing the processes of an instance that should not grow: memory, descriptors, threads."""

from __future__ import annotations

import os
import time

import psutil

from tests.instances import Instance, until

_MB = 2**20

#: Worker threads come when needed: as many as asyncio's pool has at most, and a few of anyio's and the store's.
MOST_THREADS = (os.cpu_count() or 1) + 4 + 6


class Weights:
    """The keeper and the daemon, weighed as often as asked while the instance is idle."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._began = time.monotonic()
        self._processes: dict[str, psutil.Process] = {}
        self._rows: dict[str, list[tuple[float, float]]] = {}  #: seconds, megabytes
        self._first: dict[str, int] = {}  #: descriptors

    @property
    def taken(self) -> int:
        return len(self._rows.get("daemon", ()))

    async def take(self) -> None:
        """Weigh; fail the test if there are more descriptors than the first time, or more threads than there may be."""
        if not self._processes:
            self._processes = {
                "keeper": psutil.Process(self._instance.keeper_pid),
                "daemon": psutil.Process(await self._instance.daemon_pid()),
            }
        for name, process in self._processes.items():
            assert process.is_running(), f"the {name} has ended"
            first = self._first.setdefault(name, process.num_fds())
            await until(
                lambda process=process, first=first: process.num_fds() <= first,
                f"the {name} has no more than {first} descriptors",
            )
            assert process.num_threads() <= MOST_THREADS
            row = (time.monotonic() - self._began, process.memory_info().rss / _MB)
            self._rows.setdefault(name, []).append(row)

    def growth_mb(self) -> float:
        """Return by how much the process that has grown most is larger than it was."""
        return max(rows[-1][1] - rows[0][1] for rows in self._rows.values())

    def table(self) -> str:
        lines = []
        for name, rows in self._rows.items():
            (t0, first), (t1, last) = rows[0], rows[-1]
            per_hour = (last - first) / (t1 - t0) * 3600 if t1 > t0 else 0.0
            fds, threads = self._first[name], self._processes[name].num_threads()
            lines.append(
                f"{name}: {first:.1f} MB, {last:.1f} MB after {t1 - t0:.0f} s ({per_hour:+.1f} MB an hour); "
                f"{fds} descriptors, {threads} threads"
            )
        return "\n".join(lines)
