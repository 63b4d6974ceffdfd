"""Bring an application of one deployment to N replicas, in steps: `... N [N ...]`; prints the seconds of the last.

Each step is a `serve.run` of the same deployment with another number, which returns when all replicas run.
"""

from __future__ import annotations

import json
import sys
import time

from benchmarks.apps.serve import Noop
from benchmarks.drivers.connection import connect, wait_until_running

LIMIT_S = 170.0


def main() -> None:
    serve = connect()
    seconds, count = 0.0, 0
    for count in map(int, sys.argv[1:]):
        app = Noop.options(num_replicas=count).bind()
        started = time.perf_counter()
        serve.run(app, name="scaled", route_prefix="/scaled")
        seconds = time.perf_counter() - started
        wait_until_running(serve, "scaled", "Noop", count, limit_s=LIMIT_S)
    print(json.dumps({"seconds": seconds, "replicas": count}))


if __name__ == "__main__":
    main()
