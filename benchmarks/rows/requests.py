"""Small requests over HTTP: how many, how fast, at how many connections, and what each costs the processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from benchmarks.figures import Figure, Goal, microseconds, milliseconds, per_s, times
from benchmarks.rows.base import Measured, Plot, Row
from benchmarks.server import Server

GROUP = "Requests"


def load_figures(
    key: str,
    title: str,
    connections: Sequence[int],
    *,
    target: Mapping[str, Goal] | None = None,
    aim: Mapping[str, Goal] | None = None,
) -> tuple[Figure, ...]:
    """Return throughput, p50 and p99 at each number of connections. Goals are by key."""
    figures: list[Figure] = []
    targets, aims = target or {}, aim or {}
    for n in connections:
        level = f"{title}, {n} connection" + ("s" if n > 1 else "")
        for what, text, write, more in (
            ("per_s", "requests/s", per_s, True),
            ("p50_ms", "p50", milliseconds, False),
            ("p99_ms", "p99", milliseconds, False),
        ):
            name = f"{key}_{what}_at_{n}"
            figures.append(
                Figure(
                    name,
                    f"{level}: {text}",
                    write,
                    more_is_better=more,
                    target=targets.get(name),
                    aim=aims.get(name),
                )
            )
    return tuple(figures)


class Loaded(Row):
    """A row that loads one of the questions at several numbers of connections."""

    key: ClassVar[str]  #: begins the keys of the figures
    ask: ClassVar[str]
    connections: ClassVar[Sequence[int]]

    def measure(self, server: Server) -> Measured:
        for n in self.connections:
            load = server.load(self.ask, connections=n)
            yield f"{self.key}_per_s_at_{n}", load.requests_per_s
            yield f"{self.key}_p50_ms_at_{n}", load.p50_ms
            yield f"{self.key}_p99_ms_at_{n}", load.p99_ms


class Noop(Loaded):
    name = "noop"
    group = GROUP
    about = "An async handler that answers `hello`; keep-alive connections that ask again as soon as they are answered."
    key, ask, connections = "noop", "noop", (1, 16, 64, 256)
    figures = load_figures(
        "noop",
        "no-op",
        connections,
        target={
            "noop_per_s_at_64": Goal(25_000, ("nginx", 0.4)),
            "noop_p50_ms_at_1": Goal(0.3),
        },
        aim={
            "noop_per_s_at_64": Goal(45_000, ("nginx", 0.7)),
            "noop_p50_ms_at_1": Goal(0.15),
        },
    )
    plots = (Plot("requests", "No-op, 64 connections", ("noop_per_s_at_64",), "requests/s"),)


class Sync(Loaded):
    name = "sync"
    group = GROUP
    about = "The same with a handler that is a plain function: it runs in a thread."
    app = "sync"
    key, ask, connections = "sync", "noop", (1, 64)
    figures = load_figures("sync", "sync handler", connections)


class FastAPI(Loaded):
    name = "fastapi"
    group = GROUP
    about = "A small JSON object from a FastAPI application as ingress."
    app = "fastapi"
    key, ask, connections = "fastapi", "fastapi", (1, 64)
    figures = load_figures(
        "fastapi",
        "FastAPI ingress",
        connections,
        target={"fastapi_per_s_at_64": Goal(7_000, ("uvicorn", 0.8))},
        aim={"fastapi_per_s_at_64": Goal(9_500, ("uvicorn", 1.0))},
    )
    plots = (Plot("fastapi", "FastAPI ingress, 64 connections", ("fastapi_per_s_at_64",), "requests/s"),)


class Starlette(Loaded):
    name = "starlette"
    group = GROUP
    about = "`hello` from a Starlette application as ingress."
    app = "web"
    key, ask, connections = "starlette", "starlette", (1, 64)
    figures = load_figures(
        "starlette",
        "Starlette ingress",
        connections,
        target={"starlette_per_s_at_64": Goal(18_000)},
        aim={"starlette_per_s_at_64": Goal(30_000)},
    )


class Curve(Row):
    name = "curve"
    group = "Queueing"
    once = True
    about = (
        "The no-op from 1 to 512 connections. Connections that ask again at once are a closed queue: once the "
        "processor is busy, throughput stays and the mean latency is connections ÷ throughput (Little's law). The last "
        "line is p50 ÷ that mean: near 1, waiting in line explains the latency, and nothing grows with the number of "
        "connections."
    )
    LEVELS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    figures = (
        *(Figure(f"curve_per_s_at_{n}", f"{n}: requests/s", per_s, more_is_better=True) for n in LEVELS),
        *(Figure(f"curve_p50_ms_at_{n}", f"{n}: p50", milliseconds) for n in LEVELS),
        *(Figure(f"curve_p99_ms_at_{n}", f"{n}: p99", milliseconds) for n in LEVELS),
        Figure("curve_little_at_512", "512: p50 ÷ (connections ÷ throughput)", times),
    )
    plots = (
        Plot(
            "curve-throughput",
            "No-op: throughput",
            tuple(f"curve_per_s_at_{n}" for n in LEVELS),
            "requests/s",
            xs=LEVELS,
            x_title="connections",
        ),
        Plot(
            "curve-latency",
            "No-op: median latency",
            tuple(f"curve_p50_ms_at_{n}" for n in LEVELS),
            "ms (p50)",
            xs=LEVELS,
            x_title="connections",
        ),
    )

    def measure(self, server: Server) -> Measured:
        for n in self.LEVELS:
            load = server.load("noop", connections=n)
            yield f"curve_per_s_at_{n}", load.requests_per_s
            yield f"curve_p50_ms_at_{n}", load.p50_ms
            yield f"curve_p99_ms_at_{n}", load.p99_ms
            yield f"curve_little_at_{n}", load.p50_ms / (n / load.requests_per_s * 1000)


class Cost(Row):
    name = "cost"
    group = GROUP
    about = (
        "Processor time of the server's processes during a load, divided by its requests. The rest are processes "
        "that only watch. What it adds up to bounds the requests per second of a core."
    )
    CONNECTIONS = 64
    figures = (
        Figure("cost_front_us", "processor time a request: the front", microseconds),
        Figure("cost_replica_us", "processor time a request: the replica", microseconds),
        Figure("cost_all_us", "processor time a request: everything", microseconds),
    )

    def measure(self, server: Server) -> Measured:
        server.load("noop", connections=self.CONNECTIONS)  # warm
        warmed = server.cpu_s()
        load = server.load_unchecked("noop", connections=self.CONNECTIONS)
        used = {role: seconds - warmed[role] for role, seconds in server.cpu_s().items()}
        each_us = {role: seconds / load.requests * 1e6 for role, seconds in used.items()}
        if warmed["front"]:
            yield "cost_front_us", each_us["front"]
        yield "cost_replica_us", each_us["replica"]
        yield "cost_all_us", sum(each_us.values())
