"""What batching gains for a model that takes as long for sixteen inputs as for one."""

from __future__ import annotations

from benchmarks.figures import Figure, per_s, times
from benchmarks.rows.base import Measured, Row
from benchmarks.server import Server


class Batching(Row):
    name = "batching"
    group = "Batching"
    about = (
        "A model that takes 5 ms, one call at a time: at best 200 requests/s alone, and 3,200 in batches of up to 16. "
        "64 connections."
    )
    app = "batch"
    CONNECTIONS = 64
    figures = (
        Figure("single_per_s", "one by one: requests/s", per_s, more_is_better=True),
        Figure("batched_per_s", "in batches: requests/s", per_s, more_is_better=True),
        Figure("batching_gain", "gain", times, more_is_better=True),
    )

    def measure(self, server: Server) -> Measured:
        single = server.load("single", connections=self.CONNECTIONS).requests_per_s
        yield "single_per_s", single
        batched = server.load("batched", connections=self.CONNECTIONS).requests_per_s
        yield "batched_per_s", batched
        yield "batching_gain", batched / single
