"""Time from `serve.run` of a second application, on an instance that runs, to its first right answer: `... PORT`."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request

from benchmarks.apps.serve import noop
from benchmarks.drivers.connection import connect

LIMIT_S = 60.0


def main() -> None:
    port = int(sys.argv[1])
    serve = connect()
    serve.status()  # connected, so that only the deploy is timed
    started = time.perf_counter()
    serve.run(noop, name="second", route_prefix="/second")
    returned_s = time.perf_counter() - started
    answer = ""
    while answer != "hello":
        if time.perf_counter() - started > LIMIT_S:
            sys.exit(f"no right answer within {LIMIT_S:g} s; the last one: {answer!r}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/second", timeout=10) as response:
                answer = response.read().decode()
        except (urllib.error.URLError, ConnectionError) as error:
            answer = repr(error)
            time.sleep(0.005)
    answered_s = time.perf_counter() - started
    serve.delete("second")
    print(json.dumps({"returned_s": returned_s, "answered_s": answered_s}))


if __name__ == "__main__":
    main()
