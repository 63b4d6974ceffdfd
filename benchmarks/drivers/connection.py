"""How a driver reaches the instance that the harness has started."""

from __future__ import annotations

import os
import time
from typing import Any


def connect() -> Any:
    """Return the module with Ray Serve's API, connected to the running instance."""
    if os.environ["BENCHMARK_SERVE"] == "ray":
        import ray
        from ray import serve

        ray.init(address="auto", log_to_driver=False)
        return serve
    import serve_lite

    return serve_lite


def running(serve: Any, app: str, deployment: str) -> int | None:
    """Return how many replicas run; None if the deployment is not settled or others start or stop."""
    overview = serve.status().applications.get(app)
    found = overview.deployments.get(deployment) if overview else None
    if found is None or _word(found.status) != "HEALTHY":
        return None
    states = {_word(state): count for state, count in found.replica_states.items() if count}
    return states.get("RUNNING", 0) if set(states) <= {"RUNNING"} else None


def wait_until_running(serve: Any, app: str, deployment: str, count: int, *, limit_s: float) -> None:
    """Return once exactly `count` replicas run; raises TimeoutError."""
    deadline = time.monotonic() + limit_s
    while (seen := running(serve, app, deployment)) != count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{seen} instead of {count} replicas of {deployment} after {limit_s:g} s")
        time.sleep(0.02)


def _word(value: Any) -> str:
    """Return a state as text, whether it is an enumeration's member or a text already."""
    return str(getattr(value, "value", value))
