"""A deployment of known capacity: two replicas, four requests each at once, 20 ms a request: 400 requests/s."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.apps.capacity import AT_ONCE, QUEUED, REPLICAS, WORK_S
from benchmarks.apps.flavour import RESOURCES, serve


@serve.deployment(
    num_replicas=REPLICAS, max_ongoing_requests=AT_ONCE, max_queued_requests=QUEUED, **RESOURCES
)
class Busy:
    async def __call__(self, request: Any) -> str:
        await asyncio.sleep(WORK_S)
        return "done"


app = Busy.bind()
