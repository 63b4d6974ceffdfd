"""How long and how often is measured. Kept with the results."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """All durations in seconds."""

    rounds: int = 3
    seconds: float = 3.0  #: of each load
    warm_up_s: float = 1.0  #: before each load
    settle_s: float = 3.0  #: from the first answer to the weighing
    idle_s: float = 10.0  #: for which the idle processor use is watched
    start_limit_s: float = 90.0
    stop_limit_s: float = 10.0
    wait_limit_s: float = 180.0  #: for replicas to be there, a driver to end, all to be well again
    check_requests: int = 20  #: answers that must be right before a load
    well_s: float = 5.0  #: without a failure, and all has recovered from a kill


QUICK = Settings(rounds=1, seconds=1.0, warm_up_s=0.3, settle_s=0.5, idle_s=1.0, check_requests=3, well_s=2.0)
