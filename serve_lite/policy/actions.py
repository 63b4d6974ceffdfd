"""What the loop can be asked to do. Each action carries the reason that is logged when it is carried out.

Actions are made by `policy/reconcile.py` and what it composes; `controller/orders.py` obeys.
"""

from __future__ import annotations

import msgspec

from serve_lite.state.events import Event
from serve_lite.state.ids import DeploymentId, ReplicaId
from serve_lite.state.resources import NO_ALLOTMENT, Allotment


class _Action(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    reason: str


class StartReplica(_Action, frozen=True, kw_only=True):
    """Start one more replica of the deployment, as the goal has it."""

    deployment: DeploymentId
    rank: int = 0
    allotment: Allotment = NO_ALLOTMENT  #: what it is given of the machine
    is_standby: bool = False  #: of the version that stands by (standby.py)


class StopReplica(_Action, frozen=True, kw_only=True):
    """Take one replica out of service and end it."""

    replica: ReplicaId
    is_graceful: bool = True  #: let it finish what it has; else it has nothing to finish
    is_failure: bool = False  #: it is stopped for what it did
    can_obey: bool = True  #: False: it does not hear, so its process is killed


class ReconfigureReplica(_Action, frozen=True, kw_only=True):
    """Have one replica take the goal's settings in place."""

    replica: ReplicaId
    is_standby: bool = False  #: those of the version that stands by


class PlaceReplica(_Action, frozen=True, kw_only=True):
    """Tell one replica its rank and how many there are."""

    replica: ReplicaId
    rank: int
    world_size: int


class CheckHealth(_Action, frozen=True, kw_only=True):
    """Ask one replica whether it is well."""

    replica: ReplicaId
    timeout_s: float


class StartBuild(_Action, frozen=True, kw_only=True):
    """Have an importer build the application's newest submission."""

    app: str
    revision: int


class CancelBuild(_Action, frozen=True, kw_only=True):
    """End the importer that works on a submission nobody wants any more."""

    app: str
    revision: int


class ForgetApp(_Action, frozen=True, kw_only=True):
    """The application was deleted and nothing of it is left: take it out of the goal."""

    app: str


class MarkProven(_Action, frozen=True, kw_only=True):
    """Write down what works of this revision of the application: a later one that fails may make way for it."""

    app: str
    revision: int
    deployments: tuple[str, ...] = ()  #: that run as they should
    is_whole: bool = True  #: these are all


class RollBack(_Action, frozen=True, kw_only=True):
    """Make the revision that proved itself the application's goal again; `reason` is why this one was given up."""

    app: str
    revision: int  #: that was given up


Action = (
    StartReplica
    | StopReplica
    | ReconfigureReplica
    | PlaceReplica
    | CheckHealth
    | StartBuild
    | CancelBuild
    | ForgetApp
    | MarkProven
    | RollBack
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now, what was found out, and when to look again if nothing happens."""

    actions: tuple[Action, ...] = ()
    findings: tuple[Event, ...] = ()  #: to be folded into the view
    wake_at: float | None = None  #: seconds on the monotonic clock
