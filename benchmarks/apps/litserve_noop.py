"""`hello` as a LitServe handler: `python -m benchmarks.apps.litserve_noop PORT`."""

from __future__ import annotations

import sys
from typing import Any

import litserve


class Hello(litserve.LitAPI):  # type: ignore[misc]  # LitServe is not where this is checked
    def setup(self, device: str) -> None:
        """There is no model."""

    def predict(self, x: Any) -> str:
        return "hello"


if __name__ == "__main__":
    server = litserve.LitServer(Hello(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
