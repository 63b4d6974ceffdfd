"""`hello`, and the model of `batch.py`, as services of BentoML."""

from __future__ import annotations

import asyncio

import bentoml  # not installed where types are checked

MODEL_S, BATCH, LATENCY_MS = 0.005, 16, 1000


@bentoml.service(workers=1)
class Hello:
    @bentoml.api  # type: ignore[untyped-decorator]
    async def hello(self) -> str:
        return "hello"


@bentoml.service(workers=1, traffic={"timeout": 60})
class Model:
    def __init__(self) -> None:
        self._device = asyncio.Lock()  # a device does one thing at a time

    @bentoml.api  # type: ignore[untyped-decorator]
    async def single(self) -> str:
        async with self._device:
            await asyncio.sleep(MODEL_S)
        return "done"

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=LATENCY_MS)  # type: ignore[untyped-decorator]
    async def batched(self, words: list[str]) -> list[str]:
        async with self._device:
            await asyncio.sleep(MODEL_S)
        return ["done"] * len(words)
