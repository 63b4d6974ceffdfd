"""Which of the starts that a deployment wants may happen now, and what to do about the others.

Pure. Called by `reconcile` between what `rollout` wants and what is done. A start that does not fit is left out
with a reason, and wanted again on the next pass, which anything that frees something brings about.

New before old needs room for both. Where there is none and old replicas hold what a new one needs, one after the
other of them stops first: with an update that never ends nobody is served.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from serve_lite.policy.actions import Action, StartReplica, StopReplica
from serve_lite.policy.available import is_available
from serve_lite.policy.devices import Pool
from serve_lite.policy.rollout import is_usable
from serve_lite.schema import ReplicaState
from serve_lite.state.goal import DeploymentGoal
from serve_lite.state.observed import Observed, ReplicaView
from serve_lite.state.resources import NO_ALLOTMENT, Allotment, Machine, Needs, needs_of

_MAKES_ROOM = (
    "There is no room beside those that they replace, so one of these is stopped for each that is started."
)


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Starts that do not fit."""

    count: int
    reason: str  #: "needs 1 GPU, and 0 of 2 are free"
    what: str  #: the same in a word or two: "a GPU"
    remedy: str = ""  #: a sentence on what is done about it


class Room:
    """What replicas may still be given on one pass. Lives within it.

    Args:
        machine: what there is.
        observed: whose replicas have some of it.
        now: seconds on the monotonic clock; infinity counts every ready replica as available.
    """

    def __init__(self, machine: Machine, observed: Observed, now: float = math.inf) -> None:
        self._now = now
        self._pool = Pool(machine, (r.allotment for r in observed.replicas.values()))
        self._leaving = tuple(r.allotment for r in observed.replicas.values() if not r.is_alive)
        #: applications in which what the newest version has left out has to make room for it
        self.crowded: set[str] = set()

    def admit(
        self,
        goal: DeploymentGoal,
        wanted: Sequence[Action],
        replicas: Sequence[ReplicaView],
        retired: Sequence[ReplicaView] = (),
    ) -> tuple[tuple[Action, ...], Hold | None]:
        """Return the wanted moves with what each start is given, without those that do not fit; and why these wait.

        To be called in the order of claims: what the first that waits needs is reserved for it.

        Args:
            replicas: of the deployment, oldest first.
            retired: those of what the newest version of the application has left out.
        """
        needs = needs_of(goal.config.ray_actor_options, goal.config.cpu_affinity)
        if needs.is_nothing:
            return tuple(wanted), None
        allowed, held = self._allow(needs, wanted)
        if not held:
            return allowed, None
        reason, what = self._pool.explain(needs), self._pool.missing(needs)
        stops = {move.replica for move in wanted if isinstance(move, StopReplica)}
        alive = [r for r in replicas if r.is_alive]
        old = [r for r in alive if r.id not in stops and not is_usable(goal, r)]
        freed = (*self._leaving, *(r.allotment for r in alive if r.id in stops))
        victims = (
            []
            if _is_under_way(goal, alive, allowed, self._now)
            else _in_the_way(needs, old, freed, self._pool)
        )
        of_old = (*freed, *(r.allotment for r in old))
        is_enough = self._pool.would_fit(needs, of_old)
        remedy = _MAKES_ROOM if is_enough and any(not is_usable(goal, r) for r in replicas) else ""
        of_retired = [r.allotment for r in retired if r.is_alive]
        if not is_enough and of_retired and self._pool.would_fit(needs, (*of_old, *of_retired)):
            self.crowded.add(goal.id.app_name)
        self._pool.reserve(needs)
        return (*(_stop(victim) for victim in victims), *allowed), Hold(
            count=held, reason=reason, what=what, remedy=remedy
        )

    def _allow(self, needs: Needs, wanted: Sequence[Action]) -> tuple[tuple[Action, ...], int]:
        """Return the moves that may be made, and how many starts are left out."""
        allowed: list[Action] = []
        held = 0
        for move in wanted:
            if not isinstance(move, StartReplica):
                allowed.append(move)
            elif not held and (allotment := self._pool.take(needs)) is not None:
                allowed.append(msgspec.structs.replace(move, allotment=allotment))
            else:  # one does not overtake its own brothers
                held += 1
        return tuple(allowed), held


def _is_under_way(
    goal: DeploymentGoal, replicas: Sequence[ReplicaView], allowed: Sequence[Action], now: float
) -> bool:
    """Whether a new replica is being started: it has to be available before the next old one goes."""
    is_starting = any(
        (r.state is ReplicaState.STARTING or (r.is_running and not is_available(goal, r, now)))
        and is_usable(goal, r)
        for r in replicas
    )
    return is_starting or any(isinstance(move, StartReplica) for move in allowed)


def _in_the_way(
    needs: Needs, old: Sequence[ReplicaView], freed: Sequence[Allotment], pool: Pool
) -> list[ReplicaView]:
    """Return the fewest old replicas whose place one new one can take, newest first; none if waiting is enough."""
    candidates = [r for r in reversed(old) if r.is_running and r.allotment != NO_ALLOTMENT]
    if pool.would_fit(needs, freed):
        return []
    for one in candidates:
        if pool.would_fit(needs, (*freed, one.allotment)):
            return [one]
    for count in range(2, len(candidates) + 1):
        if pool.would_fit(needs, (*freed, *(r.allotment for r in candidates[:count]))):
            return candidates[:count]
    return []


def _stop(replica: ReplicaView) -> StopReplica:
    reason = "there is no room for both it and the one that replaces it"
    return StopReplica(replica=replica.id, reason=f"{replica.worn}, and {reason}" if replica.worn else reason)
