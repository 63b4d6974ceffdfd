"""The library under test: Ray Serve's or ours, as the environment says. Imported by the deployments of this folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

RESOURCES: dict[str, Any] = {}
if not TYPE_CHECKING and os.environ["BENCHMARK_SERVE"] == "ray":
    from ray import serve

    RESOURCES["ray_actor_options"] = {"num_cpus": 0}  # two cores would not be enough for Ray's bookkeeping
else:
    import serve_lite as serve

__all__ = ["OPTIONS", "RESOURCES", "serve"]

OPTIONS: dict[str, Any] = {"max_ongoing_requests": 100, **RESOURCES}
