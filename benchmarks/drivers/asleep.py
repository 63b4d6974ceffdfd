"""Wait until a deployment has no replica any more: `... APP DEPLOYMENT`."""

from __future__ import annotations

import sys

from benchmarks.drivers.connection import connect, wait_until_running

LIMIT_S = 120.0


def main() -> None:
    app, deployment = sys.argv[1:]
    wait_until_running(connect(), app, deployment, 0, limit_s=LIMIT_S)
    print("{}")


if __name__ == "__main__":
    main()
