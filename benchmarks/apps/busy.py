"""A deployment of known capacity: two replicas, four requests each at once, 20 ms a request: 400 requests/s."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

OPTIONS: dict[str, Any] = {"num_replicas": 2, "max_ongoing_requests": 4, "max_queued_requests": 16}
if not TYPE_CHECKING and os.environ["BENCHMARK_SERVE"] == "ray":
    from ray import serve

    OPTIONS["ray_actor_options"] = {"num_cpus": 0}
else:
    import serve_lite as serve

WORK_S = 0.02


@serve.deployment(**OPTIONS)
class Busy:
    async def __call__(self, request: Any) -> str:
        await asyncio.sleep(WORK_S)
        return "done"


app = Busy.bind()
