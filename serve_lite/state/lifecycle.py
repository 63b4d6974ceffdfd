"""The lives of replicas and deployments: two transition tables, and the only way to move in them.

What makes a replica move is an event (state/events.py) that `state/observed.py` folds in. What makes a
deployment move is what the fold and `policy/reconcile.py` find. A replica's illegal move raises; a
deployment's unlisted one leaves it where it is, as in Ray Serve.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from serve_lite.schema import DeploymentStatus, DeploymentStatusTrigger, ReplicaState


class ReplicaMove(enum.Enum):
    """What can happen to a replica."""

    READY = "ready"  #: its constructor is done, or it was adopted
    FAILED = "failed"  #: it will never be ready
    RECONFIGURE = "reconfigure"  #: it was told to take other settings
    RECONFIGURED = "reconfigured"  #: it has taken them
    REFUSED = "refused"  #: it has not; it serves until another takes its place
    STOP = "stop"  #: it was told to stop
    EXITED = "exited"  #: its process is gone


_STARTING = ReplicaState.STARTING
_UPDATING = ReplicaState.UPDATING
_RUNNING = ReplicaState.RUNNING
_RECOVERING = ReplicaState.RECOVERING
_STOPPING = ReplicaState.STOPPING
_STOPPED = ReplicaState.STOPPED
_M = ReplicaMove

REPLICA_MOVES: Mapping[ReplicaState, Mapping[ReplicaMove, ReplicaState]] = MappingProxyType(
    {
        # Its process is planned or exists; the user's object is being built.
        _STARTING: {
            _M.READY: _RUNNING,
            _M.FAILED: _STOPPING,
            _M.STOP: _STOPPING,
            _M.EXITED: _STOPPED,
        },
        # Routers may send it calls.
        _RUNNING: {_M.RECONFIGURE: _UPDATING, _M.STOP: _STOPPING, _M.EXITED: _STOPPED},
        # It takes other settings; it finishes what it has and gets nothing new meanwhile.
        _UPDATING: {
            _M.RECONFIGURED: _RUNNING,
            _M.REFUSED: _RUNNING,
            _M.STOP: _STOPPING,
            _M.EXITED: _STOPPED,
        },
        # It was running when the daemon started; it has not told its state yet.
        _RECOVERING: {
            _M.READY: _RUNNING,
            _M.FAILED: _STOPPING,
            _M.STOP: _STOPPING,
            _M.EXITED: _STOPPED,
        },
        # It finishes what it has; routers send it nothing. News that was under way when it was told changes nothing.
        _STOPPING: {
            _M.READY: _STOPPING,
            _M.FAILED: _STOPPING,
            _M.RECONFIGURED: _STOPPING,
            _M.REFUSED: _STOPPING,
            _M.STOP: _STOPPING,
            _M.EXITED: _STOPPED,
        },
        # Its process is reaped and its socket removed.
        _STOPPED: {},
    }
)


class IllegalMoveError(Exception):
    """A replica was to make a move that its state does not allow: a fault of ours."""

    def __init__(self, state: ReplicaState, move: ReplicaMove) -> None:
        super().__init__(f"a replica that is {state} cannot be {move.value}")
        self.state, self.move = state, move


def next_replica_state(state: ReplicaState, move: ReplicaMove) -> ReplicaState:
    """Return the state after `move`; raise `IllegalMoveError` if the table has none."""
    try:
        return REPLICA_MOVES[state][move]
    except KeyError:
        raise IllegalMoveError(state, move) from None


class DeploymentMove(enum.Enum):
    """What can happen to a deployment."""

    REACHED = "reached"  #: as many ready replicas of the right version as wanted, and no others
    CONFIGURED = "configured"  #: a deploy changed more than its number of replicas
    SCALED_UP = "scaled up"  #: a deploy changed its number of replicas only
    SCALED_DOWN = "scaled down"
    AUTOSCALED_UP = "autoscaled up"
    AUTOSCALED_DOWN = "autoscaled down"
    HEALTH_FAILED = "health failed"  #: a replica that was running is not any more
    START_FAILED = "start failed"  #: starting replicas was given up
    DELETED = "deleted"
    INTERNAL_ERROR = "internal error"


_D = DeploymentMove
_S = DeploymentStatus
_T = DeploymentStatusTrigger
Phase = tuple[DeploymentStatus, DeploymentStatusTrigger]

_UPDATED: Phase = (_S.UPDATING, _T.CONFIG_UPDATE_STARTED)
_UP: Phase = (_S.UPSCALING, _T.CONFIG_UPDATE_STARTED)
_DOWN: Phase = (_S.DOWNSCALING, _T.CONFIG_UPDATE_STARTED)
_AUTO_UP: Phase = (_S.UPSCALING, _T.AUTOSCALING)
_AUTO_DOWN: Phase = (_S.DOWNSCALING, _T.AUTOSCALING)
_SICK: Phase = (_S.UNHEALTHY, _T.HEALTH_CHECK_FAILED)
_SICK_START: Phase = (_S.UNHEALTHY, _T.REPLICA_STARTUP_FAILED)
_FAILED: Phase = (_S.DEPLOY_FAILED, _T.REPLICA_STARTUP_FAILED)
_FAILED_HEALTH: Phase = (_S.DEPLOY_FAILED, _T.HEALTH_CHECK_FAILED)

#: Unlisted pairs leave the deployment as it is.
DEPLOYMENT_MOVES: Mapping[DeploymentStatus, Mapping[DeploymentMove, Phase]] = MappingProxyType(
    {
        _S.UPDATING: {
            _D.REACHED: (_S.HEALTHY, _T.CONFIG_UPDATE_COMPLETED),
            _D.CONFIGURED: _UPDATED,
            _D.AUTOSCALED_UP: _AUTO_UP,
            _D.AUTOSCALED_DOWN: _AUTO_DOWN,
            _D.START_FAILED: _FAILED,
        },
        _S.UPSCALING: {
            _D.REACHED: (_S.HEALTHY, _T.UPSCALE_COMPLETED),
            _D.CONFIGURED: _UPDATED,
            _D.SCALED_UP: _UP,
            _D.SCALED_DOWN: _DOWN,
            _D.AUTOSCALED_DOWN: _AUTO_DOWN,
            _D.HEALTH_FAILED: _SICK,
            _D.START_FAILED: _SICK_START,
        },
        _S.DOWNSCALING: {
            _D.REACHED: (_S.HEALTHY, _T.DOWNSCALE_COMPLETED),
            _D.CONFIGURED: _UPDATED,
            _D.SCALED_UP: _UP,
            _D.SCALED_DOWN: _DOWN,
            _D.AUTOSCALED_UP: _AUTO_UP,
            _D.HEALTH_FAILED: _SICK,
            _D.START_FAILED: _SICK_START,
        },
        _S.HEALTHY: {
            _D.CONFIGURED: _UPDATED,
            _D.SCALED_UP: _UP,
            _D.SCALED_DOWN: _DOWN,
            _D.AUTOSCALED_UP: _AUTO_UP,
            _D.AUTOSCALED_DOWN: _AUTO_DOWN,
            _D.HEALTH_FAILED: _SICK,
        },
        _S.UNHEALTHY: {
            _D.REACHED: (_S.HEALTHY, _T.UNSPECIFIED),
            _D.CONFIGURED: _UPDATED,
            _D.HEALTH_FAILED: _SICK,
            _D.START_FAILED: _SICK_START,
        },
        _S.DEPLOY_FAILED: {
            _D.REACHED: (_S.HEALTHY, _T.UNSPECIFIED),
            _D.CONFIGURED: _UPDATED,
            _D.HEALTH_FAILED: _FAILED_HEALTH,
            _D.START_FAILED: _FAILED,
        },
    }
)


def next_deployment_phase(phase: Phase, move: DeploymentMove) -> Phase | None:
    """Return status and trigger after `move`, as Ray Serve 2.60 defines them; None if it changes nothing.

    One difference: a running replica's death while UPDATING does not fail the deploy here; it is
    replaced, and the deploy fails when its budget of failures is used up.
    """
    status, trigger = phase
    if move is _D.DELETED:
        return _S.UPDATING, _T.DELETING
    if move is _D.INTERNAL_ERROR:
        return _S.UNHEALTHY, _T.INTERNAL_ERROR
    is_users_scaling = trigger is _T.CONFIG_UPDATE_STARTED and status in (_S.UPSCALING, _S.DOWNSCALING)
    if is_users_scaling and move in (_D.AUTOSCALED_UP, _D.AUTOSCALED_DOWN):
        return None  # what the user asked for is not talked over
    return DEPLOYMENT_MOVES[status].get(move)


def replica_diagram() -> str:
    """Return the replica table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {_STARTING}", f"    [*] --> {_RECOVERING}"]
    for state, moves in REPLICA_MOVES.items():
        lines += [
            f"    {state} --> {after}: {move.value}" for move, after in moves.items() if after is not state
        ]
    return "\n".join([*lines, f"    {_STOPPED} --> [*]"])
