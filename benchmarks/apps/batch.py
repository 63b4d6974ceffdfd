"""A model that takes 5 ms, for one input or for sixteen: alone behind a lock, and with batching."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.apps.flavour import OPTIONS, serve

MODEL_S = 0.005
BATCH = 16
BATCH_WAIT_S = 0.005


@serve.deployment(**OPTIONS)
class Model:
    def __init__(self) -> None:
        self._device = asyncio.Lock()  # a device does one thing at a time

    async def __call__(self, request: Any) -> str:
        if request.url.path == "/batched":
            return str(await self._together(1))
        async with self._device:
            await asyncio.sleep(MODEL_S)
        return "done"

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _together(self, inputs: list[int]) -> list[str]:
        async with self._device:
            await asyncio.sleep(MODEL_S)
        return ["done"] * len(inputs)


app = Model.bind()
