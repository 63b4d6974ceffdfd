"""Calls from Python: from a program, and between the deployments of an application."""

from __future__ import annotations

from benchmarks.figures import Figure, Goal, milliseconds, per_s
from benchmarks.rows.base import HandleRow, Measured, Plot
from benchmarks.server import Server

GROUP = "Handles"


class Sequential(HandleRow):
    name = "handle"
    group = GROUP
    about = "`handle.remote(...).result()` from a program outside the application, one call after another."
    figures = (
        Figure(
            "handle_p50_ms", "handle call, sequential: p50", milliseconds, target=Goal(0.25), aim=Goal(0.12)
        ),
        Figure("handle_p99_ms", "handle call, sequential: p99", milliseconds),
        Figure("handle_per_s", "handle call, sequential: calls/s", per_s, more_is_better=True),
    )

    def measure(self, server: Server) -> Measured:
        seen = server.driver("handle_calls", str(server.settings.seconds))
        yield "handle_p50_ms", seen["p50_ms"]
        yield "handle_p99_ms", seen["p99_ms"]
        yield "handle_per_s", seen["calls_per_s"]


class Inside(HandleRow):
    """A row that the application measures from inside one of its replicas."""

    app = "composed"
    group = GROUP

    def ask_inside(self, server: Server, what: str) -> dict[str, float]:
        """Return what the caller in `apps/composed.py` has measured."""
        seconds = server.settings.seconds
        limit_s = server.settings.wait_limit_s
        return server.read_json(f"/?what={what}&seconds={seconds}", timeout_s=limit_s)


class Calls(Inside):
    name = "calls"
    about = "Calls from one deployment to another, 100 in flight in one replica."
    figures = (
        Figure(
            "calls_per_s",
            "handle calls inside an application, 100 in flight: calls/s",
            per_s,
            more_is_better=True,
            target=Goal(15_000),
            aim=Goal(50_000),
        ),
    )
    plots = (Plot("calls", "Handle calls inside an application, 100 in flight", ("calls_per_s",), "calls/s"),)

    def measure(self, server: Server) -> Measured:
        yield from self.ask_inside(server, "calls").items()


class Items(Inside):
    name = "items"
    about = "Streams of 250 items from a generator in another deployment, 16 read at a time in one replica."
    figures = (
        Figure(
            "items_per_s",
            "handle stream, 16 consumers: items/s",
            per_s,
            more_is_better=True,
            target=Goal(40_000),
            aim=Goal(150_000),
        ),
    )

    def measure(self, server: Server) -> Measured:
        yield from self.ask_inside(server, "items").items()


class Arrays(Inside):
    name = "arrays"
    about = "An array of float64 is handed to another deployment, which reads each page of it and answers a number."
    figures = (
        Figure("array_1_mb_ms", "1 MB array: p50", milliseconds, target=Goal(0.8), aim=Goal(0.4)),
        Figure("array_10_mb_ms", "10 MB array: p50", milliseconds, target=Goal(4), aim=Goal(1.6)),
        Figure("array_100_mb_ms", "100 MB array: p50", milliseconds),
    )

    def measure(self, server: Server) -> Measured:
        for size in (1, 10, 100):
            yield f"array_{size}_mb_ms", self.ask_inside(server, f"array&megabytes={size}")["p50_ms"]


class Composition(HandleRow):
    name = "composition"
    group = GROUP
    about = (
        "HTTP requests that pass three deployments one after another, and requests that call another deployment ten "
        "times at once; 16 connections."
    )
    app = "composed"
    CONNECTIONS = 16
    figures = (
        Figure("chain_per_s", "chain of 3 deployments: requests/s", per_s, more_is_better=True),
        Figure("chain_p50_ms", "chain of 3 deployments: p50", milliseconds),
        Figure("fan_out_per_s", "10 calls at once: requests/s", per_s, more_is_better=True),
        Figure("fan_out_p50_ms", "10 calls at once: p50", milliseconds),
    )

    def measure(self, server: Server) -> Measured:
        for name, key in (("chain", "chain"), ("fan-out", "fan_out")):
            load = server.load(name, connections=self.CONNECTIONS)
            yield f"{key}_per_s", load.requests_per_s
            yield f"{key}_p50_ms", load.p50_ms
