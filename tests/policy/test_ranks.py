"""Ranks: given from the lowest, closed up with few moves, and only while nothing else changes."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.policy.ranks import plan_ranks
from serve_lite.schema import ReplicaState
from serve_lite.state.goal import DeploymentGoal
from serve_lite.state.observed import ReplicaView
from tests.policy.cases import replicas as running
from tests.policy.cases import wanted


def views(goal: DeploymentGoal, ranks: list[int], world_size: int) -> list[ReplicaView]:
    return [
        msgspec.structs.replace(replica, rank=rank, world_size=world_size)
        for replica, rank in zip(running(goal.version, len(ranks)), ranks, strict=True)
    ]


@given(st.lists(st.integers(0, 8), min_size=1, max_size=6), st.integers(0, 8))
def test_ranks_have_no_gaps_afterwards_and_few_move(ranks: list[int], world_size: int) -> None:
    goal = wanted(target=len(ranks))
    replicas = views(goal, ranks, world_size)
    moves = {m.replica: m for m in plan_ranks(goal, replicas)}
    after = {r.id: moves[r.id].rank if r.id in moves else r.rank for r in replicas}
    assert sorted(after.values()) == list(range(len(ranks)))
    assert all(m.world_size == len(ranks) for m in moves.values())
    moved = sum(after[r.id] != r.rank for r in replicas)
    assert moved == len(ranks) - len({rank for rank in ranks if rank < len(ranks)})
    settled = [msgspec.structs.replace(r, rank=after[r.id], world_size=len(ranks)) for r in replicas]
    assert plan_ranks(goal, settled) == []


def test_nothing_moves_while_the_deployment_is_not_what_it_should_be() -> None:
    goal = wanted(target=3)
    assert plan_ranks(goal, views(goal, [0, 2], 3)) == []  # one is missing
    replicas = views(goal, [0, 2, 5], 3)
    starting = msgspec.structs.replace(replicas[2], state=ReplicaState.STARTING)
    assert plan_ranks(goal, [*replicas[:2], starting]) == []
    stale = msgspec.structs.replace(replicas[2], version="other")
    assert plan_ranks(goal, [*replicas[:2], stale]) == []
