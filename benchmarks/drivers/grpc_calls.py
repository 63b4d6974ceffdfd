"""Unary calls over one channel, so many at a time: `... PORT IN_FLIGHT SECONDS`. The same client for every server."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc
import uvloop
from google.protobuf.wrappers_pb2 import StringValue

from benchmarks.apps.grpc_echo import METHOD
from benchmarks.spread import percentile

CONNECT_S = 20.0


async def measure(port: int, in_flight: int, seconds: float) -> dict[str, float]:
    """Call for `seconds` after a warm-up of a fifth of it; raises on a wrong answer or a status that is not OK."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        say = channel.unary_unary(
            METHOD,
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        await say(StringValue(value="hello"), wait_for_ready=True, timeout=CONNECT_S)
        await asyncio.gather(*(_call(say, time.perf_counter() + seconds / 5, i) for i in range(in_flight)))
        started = time.perf_counter()
        each = await asyncio.gather(*(_call(say, started + seconds, i) for i in range(in_flight)))
        elapsed = time.perf_counter() - started
    taken = [took for one in each for took in one]
    return {
        "calls_per_s": len(taken) / elapsed,
        "p50_ms": percentile(taken, 50) * 1000,
        "p99_ms": percentile(taken, 99) * 1000,
    }


async def _call(say: Any, until: float, number: int) -> list[float]:
    word = f"word {number}"
    taken: list[float] = []
    while (started := time.perf_counter()) < until:
        answer = await say(StringValue(value=word))
        taken.append(time.perf_counter() - started)
        if answer.value != word:
            raise AssertionError(f"{answer.value!r} instead of {word!r}")
    return taken


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))))
