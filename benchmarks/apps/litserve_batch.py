"""The model of `batch.py` in LitServe, alone and in batches: `python -m benchmarks.apps.litserve_batch PORT`."""

from __future__ import annotations

import sys
import time
from typing import Any

import litserve

MODEL_S, BATCH, BATCH_WAIT_S = 0.005, 16, 0.005


class Single(litserve.LitAPI):  # type: ignore[misc]  # LitServe is not where this is checked
    def setup(self, device: str) -> None:
        """There is no model."""

    def predict(self, x: Any) -> str:
        time.sleep(MODEL_S)
        return "done"


class Batched(Single):
    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, x: Any) -> Any:
        time.sleep(MODEL_S)
        return ["done"] * len(x)

    def unbatch(self, output: list[str]) -> list[str]:
        return output


if __name__ == "__main__":
    single = Single(api_path="/single")
    batched = Batched(api_path="/batched", max_batch_size=BATCH, batch_timeout=BATCH_WAIT_S)
    server = litserve.LitServer([single, batched], accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
