"""How long changes take: a deploy, more replicas, the first replica after none."""

from __future__ import annotations

import json
import time

from benchmarks.asks import Ask
from benchmarks.figures import Figure, Goal, seconds
from benchmarks.rows.base import HandleRow, Measured
from benchmarks.server import BenchmarkError, Server, request

GROUP = "Deploying and scaling"


class Deploy(HandleRow):
    name = "deploy"
    app = "replicas"
    group = GROUP
    about = "From `serve.run` of a second application, in a program that is connected already, to its first answer."
    figures = (Figure("deploy_s", "deploy to first answer", seconds),)

    def measure(self, server: Server) -> Measured:
        yield "deploy_s", server.driver("deploy", str(server.place.port))["answered_s"]


class Scale(HandleRow):
    name = "scale"
    app = "replicas"
    group = GROUP
    about = "`serve.run` of the same deployment with four replicas instead of one, until it returns."
    figures = (Figure("scale_s", "scale 1 → 4 replicas", seconds, target=Goal(0.5), aim=Goal(0.05)),)

    def measure(self, server: Server) -> Measured:
        yield "scale_s", server.driver("scale", "1", "4")["seconds"]


class Wake(HandleRow):
    name = "wake"
    group = GROUP
    about = (
        "A request for a deployment that has scaled to zero. Its import and its constructor take 0.1 and 0.2 s, which "
        "are subtracted: what is left is the server's own."
    )
    app = "sleeper"
    TIMES = 3
    figures = (
        Figure(
            "wake_s",
            "wake from zero, without import and constructor",
            seconds,
            target=Goal(0.2),
            aim=Goal(0.05),
        ),
    )

    def measure(self, server: Server) -> Measured:
        taken = sorted(self._wake_s(server) for _ in range(self.TIMES))
        yield "wake_s", taken[self.TIMES // 2]

    def _wake_s(self, server: Server) -> float:
        server.driver("asleep", "default", "Sleeper")
        began = time.perf_counter()
        status, body = request(server.place.port, Ask(answer=""), timeout_s=server.settings.start_limit_s)
        took = time.perf_counter() - began
        if status != 200:
            raise BenchmarkError(f"The request that should wake it: status {status}: {body[:200]!r}.")
        told = json.loads(body)
        return float(took - told["import_s"] - told["constructor_s"])
