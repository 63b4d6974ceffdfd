"""Time calls through a handle, one after another, from a program outside the application.

Prints one JSON object: calls per second, p50 and p99 in milliseconds.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time

WARM_UP, CALLS = 200, 1000


def main() -> None:
    if os.environ["BENCHMARK_SERVE"] == "ray":
        import ray
        from ray import serve

        ray.init(address="auto", log_to_driver=False)
    else:
        import serve_lite as serve

    handle = serve.get_app_handle("default")
    seconds: list[float] = []
    for number in range(WARM_UP + CALLS):
        word = f"call {number}"
        started = time.perf_counter()
        answer = handle.echo.remote(word).result()
        taken = time.perf_counter() - started
        if answer != word:
            sys.exit(f"wrong answer: {answer!r} instead of {word!r}")
        if number >= WARM_UP:
            seconds.append(taken)

    percentiles = statistics.quantiles(seconds, n=100)
    result = {
        "calls_per_s": len(seconds) / sum(seconds),
        "p50_ms": percentiles[49] * 1000,
        "p99_ms": percentiles[98] * 1000,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
