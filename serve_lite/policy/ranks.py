"""Which place among its peers each replica has: ranks 0 to n-1 without gaps, and how many there are.

A rank is given at the start, the lowest free one. When replicas have come and gone and the deployment is what
it should be, gaps are closed with as few moves as possible. The rule is Ray Serve's (2.60).
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_lite.policy.actions import PlaceReplica
from serve_lite.policy.rollout import free_ranks, is_current
from serve_lite.state.goal import DeploymentGoal
from serve_lite.state.observed import ReplicaView


def plan_ranks(goal: DeploymentGoal, replicas: Sequence[ReplicaView]) -> list[PlaceReplica]:
    """Return the replicas that must hear of another rank or number of peers; none while anything else changes.

    Args:
        replicas: those of the deployment that are alive, oldest first.
    """
    if len(replicas) != goal.target or not all(r.is_running and is_current(goal, r) for r in replicas):
        return []
    taken: set[int] = set()
    movers: list[ReplicaView] = []
    for replica in replicas:
        if replica.rank < goal.target and replica.rank not in taken:
            taken.add(replica.rank)
        else:
            movers.append(replica)
    ranks = dict(zip((r.id for r in movers), free_ranks(taken, len(movers)), strict=True))
    return [
        PlaceReplica(
            replica=r.id,
            rank=ranks.get(r.id, r.rank),
            world_size=goal.target,
            reason="ranks are closed up" if r.id in ranks else "the number of replicas changed",
        )
        for r in replicas
        if r.id in ranks or r.world_size != goal.target
    ]
