"""What autoscaling remembers of one deployment between two decisions. `scaling.py` reads and writes it."""

from __future__ import annotations

from collections.abc import Callable

from serve_lite.config import DEFAULT_POLICY, AutoscalingConfig
from serve_lite.controller.custom_policies import CustomPolicy
from serve_lite.policy.autoscaling import Bounds, Load, Timer
from serve_lite.policy.schedules import NO_WINDOW, window_at

_CLOCK_CHECK_S = 60.0  #: a schedule is late by this at most after somebody has set the wall clock
_LEAST_WAIT_S = 0.01


class ScalingState:
    """What is remembered of one deployment between two decisions."""

    def __init__(self, key: tuple[object, ...], knows_at: float) -> None:
        self.key = key
        self.knows_at = knows_at  #: by then every caller has told its load at least once
        self.timer = Timer()
        self.is_changing = False  #: another target is being stored
        self.rests_until = 0.0
        self.load = Load()  #: of the last decision
        self.desired = 0  #: what it asked for, before delays and bounds
        self.last_up: float | None = None
        self.last_down: float | None = None
        self.policy_name = DEFAULT_POLICY  #: who decided last
        self.custom: CustomPolicy | None = None  #: of its own
        self.bounds = Bounds(0, 0)
        self.is_moving = False  #: the load changes though nothing happens
        self.window = NO_WINDOW  #: of schedules
        self._window_from: float | None = None  #: wall clock

    def follow_schedules(self, config: AutoscalingConfig, wall: float, tell: Callable[[str], None]) -> None:
        """Keep `window` what the schedules say at this time of day."""
        since, until = self._window_from, self.window.until
        if not config.schedules or (since is not None and since <= wall and (until is None or wall < until)):
            return
        before, self.window = self.window, window_at(config.schedules, wall)
        for text in self.window.holds:
            if text not in before.holds:
                tell(f"schedule {text} {'is in force' if since is None else 'begins'}")
        for text in before.holds:
            if text not in self.window.holds:
                tell(f"schedule {text} is over")
        self._window_from = wall

    def schedule_wake(self, wall: float, now: float) -> float | None:
        """Return when to look at the schedules again, on the clock of `now`."""
        if self.window.until is None:
            return None
        # The wall clock may be set meanwhile, which nothing tells.
        return now + min(max(self.window.until - wall, _LEAST_WAIT_S), _CLOCK_CHECK_S)

    def numbers(self, target: int, config: AutoscalingConfig) -> dict[str, float]:
        """Return what is shown of the last decision; those that are metrics by the names in `_HELP`."""
        return {
            "target_replicas": float(target),
            "desired_replicas": float(self.desired),
            "total_requests": self.load.total,
            "queued_requests": self.load.queued,
            "target_ongoing_requests": config.target_ongoing_requests,
            "min_replicas": float(self.bounds.lowest),
            "max_replicas": float(self.bounds.highest),
        }

    def close(self) -> None:
        """Let go of a policy's process."""
        if self.custom is not None:
            self.custom.close()
