"""When a replica has served long enough: it is too old, has answered enough requests, or has grown too large.

For code that leaks, or holds what goes stale. The replica judges itself, since it knows all three; the controller
then starts another one before it stops this one (`policy/rollout.py`).
"""

from __future__ import annotations

import os

from serve_lite.config import DeploymentConfig
from serve_lite.processes import resident_bytes

#: A replica that is too large from its start would be replaced for ever, so it is at least this old.
LEAST_AGE_S = 10.0

_Limits = tuple[float | None, int | None, int | None]


def has_limits(config: DeploymentConfig) -> bool:
    """Whether replicas of this deployment are to be replaced some time."""
    return _limits(config) != (None, None, None)


class Wear:
    """Judges one replica. Once it is worn it stays so, as long as its limits are the same.

    Args:
        began_at: start of the process.
    """

    def __init__(self, began_at: float) -> None:
        self._began_at = began_at
        self._limits: _Limits = (None, None, None)
        self._worn = ""

    def judge(self, config: DeploymentConfig, *, now: float, requests: int) -> str:
        """Return why the replica should be replaced, "" if it should not.

        Args:
            now: on the clock of `began_at`.
            requests: that it has answered.
        """
        limits = _limits(config)
        if limits != self._limits:
            self._limits, self._worn = limits, ""
        self._worn = self._worn or self._judge(*limits, age_s=now - self._began_at, requests=requests)
        return self._worn

    def _judge(
        self, oldest_s: float | None, most: int | None, largest: int | None, *, age_s: float, requests: int
    ) -> str:
        if oldest_s is not None and age_s > oldest_s:
            return f"it is older than {oldest_s:g} s (max_replica_age_s)"
        if most is not None and requests >= most:
            return f"it has answered {requests} requests (max_replica_requests is {most})"
        if largest is not None and age_s > LEAST_AGE_S and (used := resident_bytes(os.getpid())) > largest:
            return f"it occupies {used} bytes (max_replica_memory_bytes is {largest})"
        return ""


def _limits(config: DeploymentConfig) -> _Limits:
    return config.max_replica_age_s, config.max_replica_requests, config.max_replica_memory_bytes
