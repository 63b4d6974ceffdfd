"""Who has told what load of which deployment, as far back as autoscaling looks."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from serve_lite.config import AutoscalingConfig
from serve_lite.policy.autoscaling import Series, stale_after_s
from serve_lite.state.ids import DeploymentId, ReplicaId
from serve_lite.wire.messages import DeploymentLoad

_LATE_S = 1.0  #: a report may be late by this on a busy machine


class _Told:
    """What one caller told of one deployment."""

    def __init__(self) -> None:
        self.queued: deque[tuple[float, float]] = deque()
        self.running: deque[tuple[float, float]] = deque()
        self.last = DeploymentLoad(app="", deployment="")

    def take(self, load: DeploymentLoad, now: float) -> None:
        self.last = load
        self.queued.append((now, load.queued))
        self.running.append((now, sum(load.running.values())))

    def trim(self, before: float) -> None:
        """Drop what was told before; the last word stays, for it still holds."""
        for samples in (self.queued, self.running):
            while len(samples) > 1 and samples[0][0] < before:
                samples.popleft()

    @property
    def at(self) -> float:
        """When it told something last."""
        return self.queued[-1][0]

    @property
    def is_idle(self) -> bool:
        """Whether all that is remembered is that there were no calls."""
        return not any(value for samples in (self.queued, self.running) for _, value in samples)


class LoadBoard:
    """Samples of all callers, by deployment. Written by reports, read by `scaling.py`."""

    def __init__(self) -> None:
        self._told: dict[DeploymentId, dict[str, _Told]] = {}

    def take(self, deployment: DeploymentId, load: DeploymentLoad, now: float) -> None:
        """A caller tells its load."""
        self._told.setdefault(deployment, {}).setdefault(load.caller, _Told()).take(load, now)

    def forget_caller(self, deployment: DeploymentId, caller: str) -> None:
        """A caller has gone, and its calls with it."""
        callers = self._told.get(deployment, {})
        callers.pop(caller, None)
        if not callers:
            self._told.pop(deployment, None)

    def keep_only(self, deployments: Collection[DeploymentId]) -> None:
        """Forget all others: nobody wants to know of them any more."""
        for deployment in self._told.keys() - set(deployments):
            del self._told[deployment]

    def series(
        self, deployment: DeploymentId, config: AutoscalingConfig, now: float
    ) -> tuple[list[Series], list[Series]]:
        """Return the calls that waited and those that ran, a step function for each caller that had any."""
        callers = self._told.get(deployment, {})
        for caller, told in list(callers.items()):
            told.trim(now - config.look_back_period_s)
            is_old = told.at < now - config.look_back_period_s
            is_silent = not told.last.is_none and told.at < now - stale_after_s(config)
            if (told.is_idle and is_old) or is_silent:
                del callers[caller]
        return (
            [list(told.queued) for told in callers.values()],
            [list(told.running) for told in callers.values()],
        )

    def health(self, deployment: DeploymentId, every_s: float, now: float) -> str:
        """Return "healthy", "delayed" if a caller with calls is silent, "unavailable" if all of them are.

        Args:
            every_s: how often callers tell their load.
        """
        busy = [told for told in self._told.get(deployment, {}).values() if not told.last.is_none]
        silent = [told for told in busy if told.at < now - 2 * every_s - _LATE_S]
        if not silent:
            return "healthy"
        return "delayed" if len(silent) < len(busy) else "unavailable"

    def by_replica(self) -> dict[ReplicaId, int]:
        """Return how many calls each replica has, as callers told last."""
        counts: dict[ReplicaId, int] = {}
        for callers in self._told.values():
            for told in callers.values():
                for replica, count in told.last.running.items():
                    counts[replica] = counts.get(replica, 0) + count
        return counts
