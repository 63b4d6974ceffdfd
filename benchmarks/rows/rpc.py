"""gRPC from outside."""

from __future__ import annotations

import sys

from benchmarks.contenders.base import Command
from benchmarks.figures import Figure, Goal, milliseconds, per_s
from benchmarks.rows.base import Measured, Row
from benchmarks.server import Server


class Grpc(Row):
    name = "grpc"
    group = "gRPC"
    about = (
        "Unary calls of a short string over one channel; the client is grpcio's asyncio client for everybody."
    )
    app = "grpc"
    figures = (
        Figure(
            "grpc_per_s_at_64",
            "gRPC unary, 64 in flight: calls/s",
            per_s,
            more_is_better=True,
            target=Goal(2_500, ("grpclib", 0.5)),
            aim=Goal(3_500, ("grpclib", 0.7)),
        ),
        Figure("grpc_p50_ms_at_64", "gRPC unary, 64 in flight: p50", milliseconds),
        Figure("grpc_p50_ms_at_1", "gRPC unary, one at a time: p50", milliseconds),
    )

    def measure(self, server: Server) -> Measured:
        many = self._calls(server, 64)
        yield "grpc_per_s_at_64", many["calls_per_s"]
        yield "grpc_p50_ms_at_64", many["p50_ms"]
        yield "grpc_p50_ms_at_1", self._calls(server, 1)["p50_ms"]

    def _calls(self, server: Server, in_flight: int) -> dict[str, float]:
        argv = [sys.executable, "-m", "benchmarks.drivers.grpc_calls", str(server.place.grpc_port)]
        return server.drive(Command([*argv, str(in_flight), str(server.settings.seconds)]))
