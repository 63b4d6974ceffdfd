"""What a server costs before anybody asks it anything: time to start, memory, processor, import."""

from __future__ import annotations

import subprocess
import time

from benchmarks import processes
from benchmarks.contenders.base import Contender
from benchmarks.figures import Figure, Goal, count, megabytes, milliseconds, percent, seconds
from benchmarks.rows.base import HandleRow, Measured, Plot, Row
from benchmarks.server import Server

GROUP = "Start and weight"


class Start(Row):
    name = "start"
    group = GROUP
    about = "From the command that starts everything to the first right answer over HTTP."
    figures = (Figure("start_s", "start command to first answer", seconds, target=Goal(0.8), aim=Goal(0.3)),)
    plots = (Plot("start", "Start command to first answer", ("start_s",), "s"),)

    def measure(self, server: Server) -> Measured:
        yield "start_s", server.start_s


class Idle(Row):
    name = "idle"
    group = GROUP
    about = "All processes of the server together, some seconds after the first answer. PSS counts shared pages once."
    figures = (
        Figure("idle_pss_mb", "idle memory (PSS), 1 replica", megabytes, target=Goal(90), aim=Goal(60)),
        Figure("idle_processes", "processes", count),
        Figure("idle_cpu_percent", "idle processor, of one core", percent, target=Goal(1.0), aim=Goal(0.2)),
    )
    plots = (Plot("idle", "Idle memory, one replica", ("idle_pss_mb",), "MB (PSS)"),)

    def measure(self, server: Server) -> Measured:
        time.sleep(server.settings.settle_s)
        weight = processes.weigh(over_s=server.settings.idle_s)
        yield "idle_pss_mb", weight.pss_mb
        yield "idle_processes", weight.processes
        yield "idle_cpu_percent", weight.cpu_percent


class Import(Row):
    name = "import"
    group = GROUP
    about = "`import` of the library in a new interpreter, without the interpreter's own start; the fastest of five."
    app = "nothing"
    figures = (Figure("import_ms", "import of the library", milliseconds, target=Goal(150), aim=Goal(100)),)

    def lacks(self, contender: Contender) -> str | None:
        return None if contender.module else "there is nothing to import"

    def measure(self, server: Server) -> Measured:
        bare = self._fastest_s(server, "pass")
        yield "import_ms", (self._fastest_s(server, f"import {server.contender.module}") - bare) * 1000

    def _fastest_s(self, server: Server, code: str) -> float:
        command = server.contender.driver("", server.place)
        taken: list[float] = []
        for _ in range(5):
            began = time.perf_counter()
            process = type(command)([command.argv[0], "-c", code], command.env)
            child = process.popen(server.place.directory / "import.log")
            if child.wait(timeout=server.settings.start_limit_s):
                raise subprocess.SubprocessError(f"`{code}` failed")
            taken.append(time.perf_counter() - began)
        return min(taken)


class Memory(HandleRow):
    name = "memory"
    app = "replicas"
    group = GROUP
    about = "PSS of everything with so many idle replicas of the no-op deployment, which share what they can."
    once = True
    COUNTS = (1, 10, 50)
    figures = (
        *(
            Figure(f"pss_mb_of_{n}", f"memory (PSS), {n} replica{'s' if n > 1 else ''}", megabytes)
            for n in COUNTS
        ),
        Figure("pss_mb_each", "each further replica (PSS)", megabytes, target=Goal(8), aim=Goal(4)),
    )
    plots = (
        Plot(
            "memory",
            "Memory of idle replicas",
            tuple(f"pss_mb_of_{n}" for n in COUNTS),
            "MB (PSS)",
            xs=COUNTS,
            x_title="replicas",
        ),
    )

    def measure(self, server: Server) -> Measured:
        seen: dict[int, float] = {}
        for replicas in self.COUNTS:
            if replicas > 1:  # one is there already: that of the application that was started
                server.driver("scale", str(replicas - 1))
            seen[replicas] = self._pss_mb(server)
            yield f"pss_mb_of_{replicas}", seen[replicas]
        few, many = self.COUNTS[1:]
        yield "pss_mb_each", (seen[many] - seen[few]) / (many - few)

    def _pss_mb(self, server: Server) -> float:
        time.sleep(server.settings.settle_s)
        return processes.weigh(over_s=0.1).pss_mb
