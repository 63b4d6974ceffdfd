"""Watches that replicas stay within the `memory` that they were given, where the kernel does not hold them to it.

That it does where cgroups can be made (`cgroups.py`). Elsewhere, what replicas occupy is looked at every few seconds,
all in one place, and only while there are replicas that were given a part. What is done about one that has more is
decided in `policy/reconcile.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import msgspec

from serve_lite.policy.devices import in_bytes
from serve_lite.processes import resident_bytes
from serve_lite.state.events import ReplicaOverused
from serve_lite.state.ids import ReplicaId
from serve_lite.state.observed import Observed

LOOK_EVERY_S = 2.0


class _Limited(msgspec.Struct, frozen=True):
    """A process and what it may occupy."""

    pid: int
    limit_bytes: float


class MemoryWatch:
    """Looks at replicas that were given a part of the memory.

    Args:
        tell: takes the event that one has more than that; told once for each.
        clock: time of events.
        spawn: starts the task that looks, which ends when there is nobody to look at.
        is_held: whether the kernel holds a replica to its part.
    """

    def __init__(
        self,
        *,
        tell: Callable[[ReplicaOverused], None],
        clock: Callable[[], float],
        spawn: Callable[[Callable[[], Coroutine[Any, Any, None]]], object],
        is_held: Callable[[ReplicaId], bool] = lambda _: False,
    ) -> None:
        self._is_held = is_held
        self._tell, self._clock, self._spawn = tell, clock, spawn
        self._limited: dict[ReplicaId, _Limited] = {}
        self._is_looking = False

    def follow(self, observed: Observed) -> None:
        """Look at these replicas from now on."""
        self._limited = {
            r.id: _Limited(r.pid, r.allotment.needs.memory_bytes)
            for r in observed.replicas.values()
            if r.allotment.needs.memory_bytes and r.pid is not None and r.is_alive and not r.overuse
            if not self._is_held(r.id)
        }
        if self._limited and not self._is_looking:
            self._is_looking = True
            self._spawn(self._look)

    async def _look(self) -> None:
        try:
            while self._limited:  # ends with the last of them
                for replica, limited in list(self._limited.items()):
                    used = resident_bytes(limited.pid)
                    if used > limited.limit_bytes:
                        del self._limited[replica]
                        self._tell(
                            ReplicaOverused(replica=replica, reason=_told(used, limited), at=self._clock())
                        )
                await anyio.sleep(LOOK_EVERY_S)
        finally:
            self._is_looking = False


def _told(used: float, limited: _Limited) -> str:
    return (
        f"it used {in_bytes(used)} of memory, more than the {in_bytes(limited.limit_bytes)} that `memory` in its "
        "ray_actor_options gives it"
    )
