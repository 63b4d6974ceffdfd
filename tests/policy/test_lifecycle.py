from __future__ import annotations

import pytest

from serve_lite.schema import (
    ApplicationStatus,
    DeploymentStatus,
    DeploymentStatusTrigger,
    ReplicaState,
)
from serve_lite.state.applications import app_status
from serve_lite.state.ids import DeploymentId
from serve_lite.state.lifecycle import (
    REPLICA_MOVES,
    DeploymentMove,
    IllegalMoveError,
    ReplicaMove,
    next_deployment_phase,
    next_replica_state,
    replica_diagram,
)
from serve_lite.state.observed import DeploymentView, Observed
from tests.policy.cases import application, wanted


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


#: Ray Serve 2.60's table: a row for each status (and trigger, where it counts), a column for each move. "=": it stays.
COLUMNS = "REACHED CONFIGURED SCALED_UP SCALED_DOWN AUTOSCALED_UP AUTOSCALED_DOWN HEALTH_FAILED START_FAILED".split()
UPDATING, UP, DOWN = ("UPDATING/config", "UPSCALING/config", "DOWNSCALING/config")
AUTO_UP, AUTO_DOWN = ("UPSCALING/auto", "DOWNSCALING/auto")
SICK, SICK_START = ("UNHEALTHY/health", "UNHEALTHY/startup")
FAILED, FAILED_HEALTH = ("DEPLOY_FAILED/startup", "DEPLOY_FAILED/health")
ROWS = {
    # One difference: there a failed health check fails the deploy; here its budget of failures decides.
    UPDATING: ["HEALTHY/config done", UPDATING, "=", "=", AUTO_UP, AUTO_DOWN, "=", FAILED],
    UP: ["HEALTHY/up done", UPDATING, UP, DOWN, "=", "=", SICK, SICK_START],
    AUTO_UP: ["HEALTHY/up done", UPDATING, UP, DOWN, "=", AUTO_DOWN, SICK, SICK_START],
    DOWN: ["HEALTHY/down done", UPDATING, UP, DOWN, "=", "=", SICK, SICK_START],
    AUTO_DOWN: ["HEALTHY/down done", UPDATING, UP, DOWN, AUTO_UP, "=", SICK, SICK_START],
    "HEALTHY/config done": ["=", UPDATING, UP, DOWN, AUTO_UP, AUTO_DOWN, SICK, "="],
    SICK: ["HEALTHY/", UPDATING, "=", "=", "=", "=", SICK, SICK_START],
    FAILED: ["HEALTHY/", UPDATING, "=", "=", "=", "=", FAILED_HEALTH, FAILED],
}
TRIGGERS = {
    "": T.UNSPECIFIED,
    "config": T.CONFIG_UPDATE_STARTED,
    "config done": T.CONFIG_UPDATE_COMPLETED,
    "up done": T.UPSCALE_COMPLETED,
    "down done": T.DOWNSCALE_COMPLETED,
    "auto": T.AUTOSCALING,
    "startup": T.REPLICA_STARTUP_FAILED,
    "health": T.HEALTH_CHECK_FAILED,
}


def phase_of(text: str) -> tuple[S, T]:
    status, trigger = text.split("/")
    return S(status), TRIGGERS[trigger]


@pytest.mark.parametrize("move", COLUMNS)
@pytest.mark.parametrize("row", ROWS)
def test_every_cell_of_the_table_is_ray_serves(row: str, move: str) -> None:
    before = phase_of(row)
    cell = ROWS[row][COLUMNS.index(move)]
    after = next_deployment_phase(before, M[move]) or before
    assert after == (before if cell == "=" else phase_of(cell))


@pytest.mark.parametrize("trigger", T)
@pytest.mark.parametrize("status", S)
def test_from_everywhere_it_can_be_deleted_and_break(status: S, trigger: T) -> None:
    assert next_deployment_phase((status, trigger), M.DELETED) == (S.UPDATING, T.DELETING)
    assert next_deployment_phase((status, trigger), M.INTERNAL_ERROR) == (S.UNHEALTHY, T.INTERNAL_ERROR)


def test_every_status_and_move_is_in_the_table() -> None:
    assert {phase_of(row)[0] for row in ROWS} == set(S)
    assert {M[name] for name in COLUMNS} | {M.DELETED, M.INTERNAL_ERROR} == set(M)


R, RM = ReplicaState, ReplicaMove
REPLICA_COLUMNS = "READY FAILED RECONFIGURE RECONFIGURED REFUSED STOP EXITED".split()
REPLICA_ROWS = {
    "STARTING": ["RUNNING", "STOPPING", "", "", "", "STOPPING", "STOPPED"],
    "RECOVERING": ["RUNNING", "STOPPING", "", "", "", "STOPPING", "STOPPED"],
    "RUNNING": ["", "", "UPDATING", "", "", "STOPPING", "STOPPED"],
    "UPDATING": ["", "", "", "RUNNING", "RUNNING", "STOPPING", "STOPPED"],
    "STOPPING": ["STOPPING", "STOPPING", "", "STOPPING", "STOPPING", "STOPPING", "STOPPED"],
    "STOPPED": ["", "", "", "", "", "", ""],
}


@pytest.mark.parametrize("move", REPLICA_COLUMNS)
@pytest.mark.parametrize("state", REPLICA_ROWS)
def test_every_move_of_a_replica_is_in_its_table_or_raises(state: str, move: str) -> None:
    after = REPLICA_ROWS[state][REPLICA_COLUMNS.index(move)]
    if after:
        assert next_replica_state(R[state], RM[move]) is R[after]
    else:
        with pytest.raises(IllegalMoveError):
            next_replica_state(R[state], RM[move])


def test_every_state_and_move_of_a_replica_is_in_the_table() -> None:
    assert {R[name] for name in REPLICA_ROWS} == set(REPLICA_MOVES)
    assert {RM[name] for name in REPLICA_COLUMNS} == set(RM)


A = ApplicationStatus


@pytest.mark.parametrize(
    ("phases", "expected", "words"),
    [
        (["HEALTHY/config done", "HEALTHY/"], A.RUNNING, ""),
        (["HEALTHY/config done", AUTO_UP], A.RUNNING, ""),
        ([AUTO_DOWN, AUTO_UP], A.RUNNING, ""),
        (["HEALTHY/", UPDATING], A.DEPLOYING, ""),
        (["HEALTHY/", UP], A.DEPLOYING, ""),
        ([DOWN, AUTO_UP], A.DEPLOYING, ""),
        ([UPDATING, SICK], A.UNHEALTHY, "The deployments ['D1'] are UNHEALTHY."),
        (["HEALTHY/", SICK_START], A.UNHEALTHY, "The deployments ['D1'] are UNHEALTHY."),
        ([SICK, FAILED], A.DEPLOY_FAILED, "Failed to update the deployments ['D1']."),
        ([FAILED, FAILED_HEALTH], A.DEPLOY_FAILED, "Failed to update the deployments ['D0', 'D1']."),
    ],
)
def test_an_application_is_as_well_as_its_worst_deployment(
    phases: list[str], expected: A, words: str
) -> None:
    goals = [wanted(deployment=DeploymentId(f"D{i}", "shop")) for i in range(len(phases))]
    views = {}
    for goal, text in zip(goals, phases, strict=True):
        status, trigger = phase_of(text)
        views[goal.id] = DeploymentView(version="v", settings="s", status=status, trigger=trigger)
    observed = Observed(deployments=views)
    assert app_status(application(*goals), observed) == (expected, words)
    building = application(*goals, is_building=True)
    assert app_status(building, observed) == (A.DEPLOYING, "")
    failed = application(*goals, build_error="ImportError: no")
    assert app_status(failed, observed) == (A.DEPLOY_FAILED, "ImportError: no")
    assert app_status(application(*goals, is_deleting=True), observed) == (A.DELETING, "")
    assert app_status(application(*goals), Observed())[0] is A.DEPLOYING  # not looked at yet
