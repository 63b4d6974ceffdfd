"""A deployment without replicas until somebody asks; it answers how long its import and its constructor took."""

from __future__ import annotations

import time
from typing import Any

_BEGAN = time.monotonic()
time.sleep(0.1)  # stands for the libraries that a real module imports
_IMPORT_S = time.monotonic() - _BEGAN

from benchmarks.apps.flavour import RESOURCES, serve  # noqa: E402  (after the clock has been read)

CONSTRUCTOR_S = 0.2


@serve.deployment(
    autoscaling_config={
        "min_replicas": 0,
        "max_replicas": 1,
        "look_back_period_s": 0.5,
        "downscale_delay_s": 0,
        "upscale_delay_s": 60,
    },
    **RESOURCES,
)
class Sleeper:
    def __init__(self) -> None:
        began = time.monotonic()
        time.sleep(CONSTRUCTOR_S)  # stands for a model that is loaded
        self.built_s = time.monotonic() - began

    def __call__(self, request: Any) -> dict[str, float]:
        return {"import_s": _IMPORT_S, "constructor_s": self.built_s}


app = Sleeper.bind()
