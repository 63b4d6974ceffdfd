"""Applications that measure, for the tests of a real instance."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from starlette.requests import Request

import serve_lite as serve
from serve_lite import instruments
from serve_lite.metrics import Counter, Gauge, Histogram

calls = Counter("calls", 'Calls, with "quotes" and a \\ in the help.', tag_keys=("route", "kind"))
loads = instruments.Counter("serve_test_loads", "Loads.", ["model_id"])
latency = instruments.Histogram("serve_test_latency_ms", "Latency.", ["model_id"])


@serve.deployment
class Inner:
    """Counts by the route of the request that it is called for."""

    def __init__(self) -> None:
        self._calls = Counter("inner_calls", tag_keys=("route",))

    async def __call__(self) -> None:
        self._calls.inc()


@serve.deployment(graceful_shutdown_timeout_s=60)
class Counted:
    """Counts, observes and sets what it is asked to; says which replica it is."""

    def __init__(self, inner: Any = None) -> None:
        self._inner = inner
        self._level = Gauge("level", "How high.")
        self._sizes = Histogram("sizes", boundaries=[1, 10], tag_keys=("kind",)).set_default_tags(
            {"kind": "x"}
        )
        self._ends = Counter("ends")

    def __call__(self, request: Request) -> dict[str, object]:
        asked = request.query_params
        if "count" in asked:
            calls.inc(float(asked["count"]), {"kind": "plain"})
        if "size" in asked:
            self._sizes.observe(float(asked["size"]))
        if "level" in asked:
            self._level.set(float(asked["level"]))
        if self._inner is not None:
            self._inner.remote().result(timeout_s=30)
        return {"pid": os.getpid(), "replica": serve.get_replica_context().replica_tag}

    def __del__(self) -> None:
        self._ends.inc()


@serve.deployment
class Blocking:
    """Blocks its own loop when it is asked to; says which process it is."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._calls = Counter("blocking_calls")

    async def __call__(self, request: Request) -> int:
        self._calls.inc()
        if "block" in request.query_params:
            (self._folder / f"blocked-{os.getpid()}").touch()
            while not (self._folder / "gate").exists():
                time.sleep(0.01)
        return os.getpid()


@serve.deployment
class Instrumented:
    """Measures as our own parts do."""

    async def __call__(self, request: Request) -> dict[str, str]:
        loads.labels("m1").value += 2
        latency.labels("m1").observe(7)
        return {}


@serve.deployment
class Batched:
    """Is measured by `@serve.batch`."""

    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.001)
    async def double(self, values: list[int]) -> list[int]:
        return [2 * value for value in values]

    async def __call__(self, request: Request) -> int:
        return await self.double(int(request.query_params["value"]))


def counted(args: dict[str, str]) -> serve.Application:
    return Counted.options(num_replicas=int(args.get("n", 2))).bind()


def blocking(args: dict[str, str]) -> serve.Application:
    return Blocking.options(num_replicas=2).bind(args["folder"])


batched = Batched.bind()
instrumented = Instrumented.bind()
composed = Counted.bind(Inner.bind())


@serve.deployment(max_ongoing_requests=1)
class Gated:
    """Says that it was entered, and answers when the gate is open."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    async def __call__(self, request: Request) -> str:
        (self._folder / "entered").touch()
        while not (self._folder / "gate").exists():
            await asyncio.sleep(0.01)
        return "out"


def gated(args: dict[str, str]) -> serve.Application:
    return Gated.bind(args["folder"])
