"""Which of the starts that a deployment wants may happen now, and what to do about the others.

Pure. Called by `reconcile` between what `rollout` wants and what is done. A start that does not fit is left out
with a reason, and wanted again on the next pass, which anything that frees something brings about.

New before old needs room for both. Where there is none and old replicas hold what a new one needs, one after the
other of them stops first: with an update that never ends nobody is served.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from serve_lite.policy.actions import Action, StartReplica, StopReplica
from serve_lite.policy.devices import Pool
from serve_lite.policy.rollout import is_usable
from serve_lite.schema import ReplicaState
from serve_lite.state.goal import DeploymentGoal
from serve_lite.state.observed import ReplicaView
from serve_lite.state.resources import NO_ALLOTMENT, Allotment, Needs, needs_of

_MAKES_ROOM = (
    "There is no room beside those that they replace, so one of these is stopped for each that is started."
)


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Starts that do not fit."""

    count: int
    reason: str  #: "needs 1 GPU, and 0 of 2 are free"
    remedy: str = ""  #: a sentence on what is done about it
    ends_retired: bool = False  #: what the newest version of the application left out has to make room


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What may happen now."""

    actions: tuple[Action, ...]
    hold: Hold | None = None


def admit(
    goal: DeploymentGoal,
    moves: Sequence[Action],
    replicas: Sequence[ReplicaView],
    pool: Pool,
    *,
    leaving: Sequence[Allotment] = (),
    retired: Sequence[Allotment] = (),
) -> Admission:
    """Return the moves with what each start is given, without those that do not fit.

    Args:
        moves: what the deployment wants to happen.
        replicas: those of the deployment that are well or stopping, oldest first.
        pool: what is free; booked for those that may start, and reserved for the first that may not.
        leaving: what replicas of any deployment have that are stopping.
        retired: what those of deployments have that the newest version of the application has left out.
    """
    needs = needs_of(goal.config.ray_actor_options)
    if needs.is_nothing:
        return Admission(actions=tuple(moves))
    allowed: list[Action] = []
    held = 0
    for move in moves:
        if not isinstance(move, StartReplica):
            allowed.append(move)
        elif held == 0 and (allotment := pool.take(needs)) is not None:
            allowed.append(msgspec.structs.replace(move, allotment=allotment))
        else:  # one does not overtake its own brothers
            held += 1
    if not held:
        return Admission(actions=tuple(allowed))
    reason = pool.explain(needs)
    alive = [r for r in replicas if r.is_alive]
    stops = {move.replica for move in moves if isinstance(move, StopReplica)}
    room = [r for r in alive if r.id not in stops and not is_usable(goal, r)]
    freed = (*leaving, *(r.allotment for r in alive if r.id in stops))
    victims = [] if _is_under_way(goal, alive, allowed) else _in_the_way(needs, room, freed, pool)
    of_old = (*freed, *(r.allotment for r in room))
    is_enough = pool.would_fit(needs, of_old)
    remedy = _MAKES_ROOM if is_enough and any(not is_usable(goal, r) for r in replicas) else ""
    ends_retired = not is_enough and bool(retired) and pool.would_fit(needs, (*of_old, *retired))
    pool.reserve(needs)
    return Admission(
        actions=(*(_stop(victim) for victim in victims), *allowed),
        hold=Hold(count=held, reason=reason, remedy=remedy, ends_retired=ends_retired),
    )


def _is_under_way(goal: DeploymentGoal, replicas: Sequence[ReplicaView], allowed: Sequence[Action]) -> bool:
    """Whether a new replica is being started: it has to be ready before the next old one goes."""
    is_starting = any(r.state is ReplicaState.STARTING and is_usable(goal, r) for r in replicas)
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
