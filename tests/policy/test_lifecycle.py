from __future__ import annotations

import pytest

from serve_lite.schema import DeploymentStatus, DeploymentStatusTrigger, ReplicaState
from serve_lite.state.lifecycle import (
    REPLICA_MOVES,
    DeploymentMove,
    IllegalMoveError,
    ReplicaMove,
    next_deployment_phase,
    next_replica_state,
    replica_diagram,
)


def test_every_state_but_stopped_can_end() -> None:
    for state, moves in REPLICA_MOVES.items():
        assert (ReplicaMove.EXITED in moves) == (state is not ReplicaState.STOPPED)


def test_a_stopping_replica_never_serves_again() -> None:
    after = {next_replica_state(ReplicaState.STOPPING, move) for move in REPLICA_MOVES[ReplicaState.STOPPING]}
    assert after == {ReplicaState.STOPPING, ReplicaState.STOPPED}


def test_a_move_that_the_table_does_not_have_raises() -> None:
    with pytest.raises(IllegalMoveError, match="STOPPED cannot be ready"):
        next_replica_state(ReplicaState.STOPPED, ReplicaMove.READY)


def test_the_diagram_shows_every_move_that_changes_a_state() -> None:
    assert "STARTING --> RUNNING: ready" in replica_diagram()
    assert "STOPPING --> STOPPING" not in replica_diagram()


S, T, M = DeploymentStatus, DeploymentStatusTrigger, DeploymentMove


@pytest.mark.parametrize(
    ("status", "trigger", "move", "expected"),
    [
        (S.UPDATING, T.CONFIG_UPDATE_STARTED, M.REACHED, (S.HEALTHY, T.CONFIG_UPDATE_COMPLETED)),
        (S.UPDATING, T.CONFIG_UPDATE_STARTED, M.START_FAILED, (S.DEPLOY_FAILED, T.REPLICA_STARTUP_FAILED)),
        (S.UPDATING, T.CONFIG_UPDATE_STARTED, M.SCALED_UP, None),
        (S.UPSCALING, T.CONFIG_UPDATE_STARTED, M.REACHED, (S.HEALTHY, T.UPSCALE_COMPLETED)),
        (S.UPSCALING, T.CONFIG_UPDATE_STARTED, M.AUTOSCALED_DOWN, None),
        (S.UPSCALING, T.AUTOSCALING, M.AUTOSCALED_DOWN, (S.DOWNSCALING, T.AUTOSCALING)),
        (S.DOWNSCALING, T.CONFIG_UPDATE_STARTED, M.REACHED, (S.HEALTHY, T.DOWNSCALE_COMPLETED)),
        (S.HEALTHY, T.CONFIG_UPDATE_COMPLETED, M.SCALED_DOWN, (S.DOWNSCALING, T.CONFIG_UPDATE_STARTED)),
        (S.HEALTHY, T.CONFIG_UPDATE_COMPLETED, M.HEALTH_FAILED, (S.UNHEALTHY, T.HEALTH_CHECK_FAILED)),
        (S.HEALTHY, T.CONFIG_UPDATE_COMPLETED, M.START_FAILED, None),
        (S.UNHEALTHY, T.HEALTH_CHECK_FAILED, M.REACHED, (S.HEALTHY, T.UNSPECIFIED)),
        (S.UNHEALTHY, T.HEALTH_CHECK_FAILED, M.SCALED_UP, None),
        (S.DEPLOY_FAILED, T.REPLICA_STARTUP_FAILED, M.CONFIGURED, (S.UPDATING, T.CONFIG_UPDATE_STARTED)),
        (S.HEALTHY, T.UNSPECIFIED, M.INTERNAL_ERROR, (S.UNHEALTHY, T.INTERNAL_ERROR)),
        (S.HEALTHY, T.UNSPECIFIED, M.DELETED, (S.UPDATING, T.DELETING)),
    ],
)
def test_a_deployments_status_moves_as_ray_serve_documents(
    status: S, trigger: T, move: M, expected: tuple[S, T] | None
) -> None:
    assert next_deployment_phase((status, trigger), move) == expected
