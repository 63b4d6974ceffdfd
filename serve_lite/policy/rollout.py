"""Rolling updates: which replicas of a deployment to start, stop and reconfigure next, and in what order.

Pure. Called by `reconcile` once for each deployment on each pass; `controller/fleet.py` carries the moves out.

New before old: `surge` replicas more than wanted may run while a version changes (1 unless `max_surge_percent`
says otherwise), and an old one stops only when a new one is available for it (`available.py`). With
`max_surge_percent=0` Ray Serve's order: a fraction of the old ones stops first, and new ones take their place.

A replica that has served long enough (`worn`) is replaced in the same way.

A version that keeps failing is not pushed on (`StartGate`): nothing more is started, and what runs goes on running.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from serve_lite.policy.actions import Action, ReconfigureReplica, StartReplica, StopReplica
from serve_lite.policy.available import is_available
from serve_lite.policy.restart import StartGate
from serve_lite.schema import ReplicaState
from serve_lite.state.goal import DeploymentGoal
from serve_lite.state.ids import ReplicaId
from serve_lite.state.observed import ReplicaView

NO_LOAD: Mapping[ReplicaId, int] = MappingProxyType({})
_REPLACED = "a replica of the wanted version took its place"
_STARTING = ReplicaState.STARTING
_RECOVERING = ReplicaState.RECOVERING


def plan_rollout(
    goal: DeploymentGoal,
    replicas: Sequence[ReplicaView],
    gate: StartGate,
    load: Mapping[ReplicaId, int] = NO_LOAD,
    now: float = math.inf,
) -> tuple[Action, ...]:
    """Return the next moves that bring `replicas` towards `goal`; empty once there, or while waiting.

    Args:
        replicas: those of the deployment that are alive, oldest first.
        gate: whether new ones may be started.
        load: requests that each has, as far as known: of those that are too many the least loaded stop.
        now: seconds on the monotonic clock; infinity counts every ready replica as available.
    """
    if goal.target == 0:
        return tuple(_stop(r, "no replica is wanted") for r in replicas)
    new = [r for r in replicas if is_usable(goal, r)]
    old = [r for r in replicas if not is_usable(goal, r)]
    plan_stops = _stops_first if stops_first(goal) else _stops_last
    stops = plan_stops(goal, new, old, gate, load, now)
    leaving = {stop.replica for stop in stops}
    staying = [r for r in replicas if r.id not in leaving]
    starts = _starts(goal, staying, gate)
    return (*stops, *starts, *_reconfigures(goal, staying, gate))


def is_usable(goal: DeploymentGoal, replica: ReplicaView) -> bool:
    """Whether the replica's process can become what the goal wants, or already is, and may go on.

    One whose `reconfigure` raised may have taken half of what it was told: it is replaced, whatever is wanted by then.
    """
    return replica.version == goal.version and not replica.refused and not replica.worn


def is_current(goal: DeploymentGoal, replica: ReplicaView) -> bool:
    """Whether the replica is what the goal wants, however long it has served."""
    is_right = replica.version == goal.version and replica.settings == goal.settings
    return is_right and not replica.refused


def stops_first(goal: DeploymentGoal) -> bool:
    return goal.config.max_surge_percent == 0


def surge(goal: DeploymentGoal) -> int:
    """Return how many replicas may run above the target while versions change."""
    percent = goal.config.max_surge_percent
    return 1 if percent is None else math.ceil(percent * goal.target / 100)


def places_at_once(goal: DeploymentGoal) -> int:
    """Return how many replicas of a new version are started at a time while old ones serve."""
    return batch_size(goal) if stops_first(goal) else surge(goal)


def batch_size(goal: DeploymentGoal) -> int:
    """Return how many replicas may be out of service at once: those being reconfigured, or replaced stop-first."""
    return max(1, int(goal.config.rolling_update_percentage * goal.target))


def _stops_last(
    goal: DeploymentGoal,
    new: Sequence[ReplicaView],
    old: Sequence[ReplicaView],
    gate: StartGate,
    load: Mapping[ReplicaId, int],
    now: float,
) -> list[StopReplica]:
    """Stop what is not needed to keep `target` replicas ready."""
    stops = [_stop(r, "its version was replaced before it was ready") for r in old if r.state is _STARTING]
    unready_surplus, surplus = _surplus(goal, new, load)
    stops += [_stop(r, f"only {goal.target} replicas are wanted") for r in unready_surplus]

    ready_old = [r for r in old if r.is_running]
    enough = f"only {goal.target} replicas are wanted"
    if gate.has_given_up:
        failing = "its version keeps failing, and enough others serve"
        candidates = [(r, failing) for r in _newest_first(r for r in new if r.is_running)]
        candidates += [(r, enough) for r in _newest_first(ready_old)]
    elif new:
        candidates = [
            (r, f"another one took its place: {r.worn}" if r.worn else _REPLACED) for r in ready_old
        ]
        candidates += [(r, enough) for r in surplus]
    else:
        candidates = [(r, enough) for r in _newest_first(ready_old)]
    serving = sum(r.is_serving for r in [*new, *old]) - goal.target
    available = sum(r.is_serving and is_available(goal, r, now) for r in [*new, *old]) - goal.target
    for replica, reason in candidates:
        counts = replica.is_serving and is_available(goal, replica, now)
        if serving > 0 and (available > 0 or not counts):
            stops.append(_stop(replica, reason))
            serving -= 1
            available -= counts
    return stops


def _stops_first(
    goal: DeploymentGoal,
    new: Sequence[ReplicaView],
    old: Sequence[ReplicaView],
    gate: StartGate,
    load: Mapping[ReplicaId, int],
    now: float,
) -> list[StopReplica]:
    """Stop the next fraction of old replicas as soon as the last fraction is replaced."""
    stops = [_stop(r, "its version was replaced before it was ready") for r in old if r.state is _STARTING]
    unready_surplus, surplus = _surplus(goal, new, load)
    stops += [_stop(r, f"only {goal.target} replicas are wanted") for r in [*unready_surplus, *surplus]]
    staying = len(new) + len(old) - len(stops)
    too_many = max(0, staying - goal.target)

    ready_old = _newest_first(r for r in old if r.is_running)
    ready_new = sum(is_available(goal, r, now) for r in new if r not in surplus)
    pending = goal.target - ready_new - max(0, len(ready_old) - too_many)
    next_batch = 0 if gate.has_given_up or gate.held_by else max(0, batch_size(goal) - max(0, pending))
    spare = max(0, ready_new + len(ready_old) - max(0, goal.target - batch_size(goal)))
    reason = "it makes room for the wanted version"
    return stops + [_stop(r, r.worn or reason) for r in ready_old[: min(too_many + next_batch, spare)]]


def _surplus(
    goal: DeploymentGoal, new: Sequence[ReplicaView], load: Mapping[ReplicaId, int]
) -> tuple[list[ReplicaView], list[ReplicaView]]:
    """Return the replicas above the target: those that do not serve yet, newest first, and the idlest that do."""
    count = max(0, len(new) - goal.target)
    unready = _newest_first(r for r in new if r.state is _STARTING)[:count]
    idlest_first = sorted(_newest_first(r for r in new if r.is_running), key=lambda r: load.get(r.id, 0))
    running = idlest_first[: count - len(unready)]
    return unready, running


def _starts(goal: DeploymentGoal, staying: Sequence[ReplicaView], gate: StartGate) -> list[StartReplica]:
    if not gate.is_open:
        return []
    missing = goal.target - sum(is_usable(goal, r) for r in staying)
    room = goal.target + (0 if stops_first(goal) else surge(goal)) - len(staying)
    count = max(0, min(missing, room))
    reason = "more replicas are wanted"
    if len(staying) >= goal.target:
        is_worn = any(r.worn for r in staying)
        reason = f"it will replace one {'that has served long enough' if is_worn else 'of another version'}"
    return [
        StartReplica(deployment=goal.id, rank=rank, reason=reason)
        for rank in free_ranks({r.rank for r in staying}, count)
    ]


def _reconfigures(
    goal: DeploymentGoal, staying: Sequence[ReplicaView], gate: StartGate
) -> list[ReconfigureReplica]:
    if not gate.is_open:
        return []
    new = [r for r in staying if is_usable(goal, r)]
    stale = [r for r in new if r.is_running and r.settings != goal.settings]
    updating = sum(r.state is ReplicaState.UPDATING for r in new)
    has_proof = any(r.is_running and is_current(goal, r) for r in new)
    was_refused = any(r.refused == goal.settings for r in staying)
    # One tries the settings before the others follow; if it did not take them, a new process tries next.
    allowed = batch_size(goal) if has_proof else 0 if was_refused else 1
    return [
        ReconfigureReplica(replica=r.id, reason="its settings changed")
        for r in stale[: max(0, allowed - updating)]
    ]


def _stop(replica: ReplicaView, reason: str) -> StopReplica:
    # One that was found after a restart may have requests, so it is asked; one that starts has none.
    return StopReplica(replica=replica.id, is_graceful=replica.state is not _STARTING, reason=reason)


def _newest_first(replicas: Iterable[ReplicaView]) -> list[ReplicaView]:
    return sorted(replicas, key=lambda r: r.begun_at, reverse=True)


def free_ranks(taken: set[int], count: int) -> list[int]:
    """Return the lowest ranks that nobody has."""
    ranks: list[int] = []
    rank = 0
    while len(ranks) < count:
        if rank not in taken:
            ranks.append(rank)
        rank += 1
    return ranks
