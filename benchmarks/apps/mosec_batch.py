"""The model of `batch.py` as mosec workers: one route without batching, one with it."""

from __future__ import annotations

import time
from typing import Any

from mosec import Runtime, Server, Worker

MODEL_S, BATCH, BATCH_WAIT_MS = 0.005, 16, 5


class Single(Worker):  # type: ignore[misc]  # mosec has no types where this is checked
    def forward(self, data: Any) -> str:
        time.sleep(MODEL_S)
        return "done"


class Batched(Worker):  # type: ignore[misc]  # mosec has no types where this is checked
    def forward(self, data: list[Any]) -> list[str]:
        time.sleep(MODEL_S)
        return ["done"] * len(data)


if __name__ == "__main__":
    server = Server()
    batched = Runtime(Batched, num=1, max_batch_size=BATCH, max_wait_time=BATCH_WAIT_MS)
    server.register_runtime({"/single": [Runtime(Single, num=1)], "/batched": [batched]})
    server.run()
