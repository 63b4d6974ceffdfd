"""What a replica, or the build of an application, is busy with, since when, and how long what went before took.

To be shown, and nothing else: no decision is made from a phase. Where a replica stands is its state
(`lifecycle.py`); while it starts or stops, phases tell where in that it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from types import MappingProxyType

import msgspec

from serve_lite.schema import Phase, ReplicaState

#: Phases that replicas tell of themselves, by the state in which they may: what comes late changes nothing.
TOLD: Mapping[ReplicaState, Set[Phase]] = MappingProxyType(
    {
        ReplicaState.STARTING: frozenset(
            {
                Phase.PREPARING_ENVIRONMENT,
                Phase.STARTING_PROCESS,
                Phase.IMPORTING,
                Phase.CONSTRUCTOR,
                Phase.APPLICATION_STARTUP,
                Phase.RECONFIGURE,
                Phase.FIRST_HEALTH_CHECK,
            }
        ),
        ReplicaState.STOPPING: frozenset({Phase.DRAINING, Phase.STOPPING}),
    }
)

#: The phase that a move to a state begins.
_AT_FIRST: Mapping[ReplicaState, Phase] = MappingProxyType(
    {
        ReplicaState.STARTING: Phase.STARTING_PROCESS,
        ReplicaState.RECOVERING: Phase.RECOVERING,
        ReplicaState.RUNNING: Phase.READY,
        ReplicaState.UPDATING: Phase.RECONFIGURE,
        ReplicaState.STOPPING: Phase.STOPPING,
        ReplicaState.STOPPED: Phase.STOPPED,
    }
)


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where something is on its way."""

    phase: Phase = Phase.READY
    since: float = 0.0  #: in this phase, on the monotonic clock
    note: str = ""  #: more about the phase
    finished: dict[str, float] = {}  #: seconds that phases of its start took, in order
    is_started: bool = False  #: what comes now is no part of the start any more
    failed_in: Phase | None = None  #: where the start failed

    def enter(self, phase: Phase, at: float, note: str = "") -> Progress:
        """Return the progress after another phase began; the same phase with another note goes on."""
        if phase is self.phase:
            return msgspec.structs.replace(self, note=note)
        finished = self.finished
        if not self.is_started and self.phase is not Phase.RECOVERING:
            took_s = max(
                0.0, at - self.since
            )  # the clocks of two processes are read at slightly different times
            finished = {**finished, self.phase: round(finished.get(self.phase, 0.0) + took_s, 6)}
        return msgspec.structs.replace(
            self,
            phase=phase,
            since=at,
            note=note,
            finished=finished,
            is_started=self.is_started or phase in (Phase.READY, Phase.STOPPING, Phase.STOPPED),
        )

    def move(self, state: ReplicaState, at: float, *, has_failed: bool) -> Progress:
        """Return the progress after the replica came to another state."""
        progress = self.enter(_AT_FIRST[state], at)
        return progress.fail(self.phase) if has_failed else progress

    def fail(self, phase: Phase) -> Progress:
        """Return the same with the phase in which the start failed."""
        return msgspec.structs.replace(self, failed_in=phase)

    def told_at(self, now: float) -> str:
        """Return the phase and how long it has lasted, for a sentence."""
        return f"{self.phase} since {max(0.0, now - self.since):.1f} s"


class BuildView(msgspec.Struct, frozen=True, kw_only=True):
    """How the build of one revision of an application goes, or went."""

    revision: int
    progress: Progress


def is_told(state: ReplicaState, phase: Phase) -> bool:
    """Whether news of this phase is of any use in this state."""
    return phase in TOLD.get(state, frozenset())
