"""Deployments that call each other. The ingress measures what its handles do, from inside a replica, and tells it.

`/?what=chain` and `/?what=fan-out` are to be loaded from outside; the others measure for `seconds` and answer JSON.
Every answer is compared with what it must be: a wrong one fails the request, and with it the row.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from benchmarks.apps.flavour import RESOURCES, serve

OPTIONS = {"max_ongoing_requests": 1000, **RESOURCES}

IN_FLIGHT = 100
CONSUMERS = 16
ITEMS = 250  #: of one stream
FAN_OUT = 10


class WrongAnswer(Exception):
    """A call came back with something else than it must."""


@serve.deployment(**OPTIONS)
class Callee:
    async def echo(self, value: int) -> int:
        return value

    async def count(self, items: int) -> AsyncIterator[int]:
        for number in range(items):
            yield number

    async def touch(self, array: Any) -> float:
        """Read each page of the array once."""
        return float(array[::512].sum())


@serve.deployment(**OPTIONS)
class Last:
    async def __call__(self, value: int) -> int:
        return value + 1


@serve.deployment(**OPTIONS)
class Middle:
    def __init__(self, last: Any) -> None:
        self._last = last

    async def __call__(self, value: int) -> int:
        return int(await self._last.remote(value)) + 1


@serve.deployment(**OPTIONS)
class Caller:
    def __init__(self, callee: Any, middle: Any) -> None:
        self._callee = callee
        self._middle = middle

    async def __call__(self, request: Any) -> Any:
        what = request.query_params.get("what", "hello")
        seconds = float(request.query_params.get("seconds", "1"))
        match what:
            case "hello":
                return "hello"
            case "chain":
                return str(await self._middle.remote(1))
            case "fan-out":
                return str(sum(await asyncio.gather(*(self._one(1) for _ in range(FAN_OUT)))))
            case "calls":
                return {"calls_per_s": await self._rate(self._calls, IN_FLIGHT, seconds)}
            case "items":
                return {"items_per_s": await self._rate(self._items, CONSUMERS, seconds)}
            case "array":
                return {"p50_ms": await self._array_ms(int(request.query_params["megabytes"]), seconds)}
        raise WrongAnswer(f"nobody knows how to measure {what!r}")

    async def _one(self, value: int) -> int:
        answer = await self._callee.echo.remote(value)
        if answer != value:
            raise WrongAnswer(f"{answer!r} instead of {value!r}")
        return value

    async def _rate(self, work: Worker, workers: int, seconds: float) -> float:
        """Return what `workers` got done per second, after a warm-up of a tenth of the time."""
        await self._together(work, workers, seconds / 10)
        started = time.perf_counter()
        done = await self._together(work, workers, seconds)
        return done / (time.perf_counter() - started)

    async def _together(self, work: Worker, workers: int, seconds: float) -> int:
        until = time.perf_counter() + seconds
        return sum(await asyncio.gather(*(work(until) for _ in range(workers))))

    async def _calls(self, until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            done += await self._one(1)
        return done

    async def _items(self, until: float) -> int:
        stream = self._callee.options(stream=True)
        done = 0
        while time.perf_counter() < until:
            expected = 0
            async for number in stream.count.remote(ITEMS):
                if number != expected:
                    raise WrongAnswer(f"item {number!r} instead of {expected}")
                expected += 1
            if expected != ITEMS:
                raise WrongAnswer(f"the stream ended after {expected} of {ITEMS} items")
            done += expected
        return done

    async def _array_ms(self, megabytes: int, seconds: float) -> float:
        """Return the median time of a call with an array of so many megabytes (2**20 bytes)."""
        import numpy

        array = numpy.ones(megabytes * 2**20 // 8)
        times: list[float] = []
        until = time.perf_counter() + seconds
        while len(times) < 4 or time.perf_counter() < until:
            started = time.perf_counter()
            total = await self._callee.touch.remote(array)
            times.append((time.perf_counter() - started) * 1000)
            if total != len(array) / 512:
                raise WrongAnswer(f"the sum of {megabytes} MB was {total}")
        return statistics.median(times[1:])  # the first one warms up


#: Works until a moment of `time.perf_counter` and returns how much it got done.
Worker = Callable[[float], Awaitable[int]]

app = Caller.bind(Callee.bind(), Middle.bind(Last.bind()))
