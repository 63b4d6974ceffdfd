"""Time calls through a handle, one after another, from a program outside the application: `... SECONDS`."""

from __future__ import annotations

import json
import sys
import time

from benchmarks.drivers.connection import connect
from benchmarks.spread import percentile

WARM_UP = 100


def main() -> None:
    seconds = float(sys.argv[1])
    handle = connect().get_app_handle("default")
    taken: list[float] = []
    number, until = 0, 0.0
    while number <= WARM_UP or time.perf_counter() < until:
        word = f"call {number}"
        started = time.perf_counter()
        answer = handle.echo.remote(word).result()
        taken.append(time.perf_counter() - started)
        if answer != word:
            sys.exit(f"wrong answer: {answer!r} instead of {word!r}")
        if number == WARM_UP:
            taken.clear()
            until = time.perf_counter() + seconds
        number += 1
    result = {
        "calls_per_s": len(taken) / sum(taken),
        "p50_ms": percentile(taken, 50) * 1000,
        "p99_ms": percentile(taken, 99) * 1000,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
