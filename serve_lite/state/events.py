"""What happens: frozen values that `state/observed.py` folds into the view.

Each carries `at`, seconds on the monotonic clock. `spread` is a number drawn from [0, 1) where the
event was made, so that decisions can be jittered and stay pure.
"""

from __future__ import annotations

import msgspec

from serve_lite.schema import Phase
from serve_lite.state.ids import DeploymentId, ReplicaId
from serve_lite.state.lifecycle import DeploymentMove
from serve_lite.state.pulse import Doing, Silence
from serve_lite.state.resources import NO_ALLOTMENT, Allotment


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    at: float


class ReplicaNews(_Event, frozen=True, kw_only=True, omit_defaults=True):
    """What all events of one replica have."""

    replica: ReplicaId


# --- one replica --------------------------------------------------------------------------------


class ReplicaPlanned(ReplicaNews, frozen=True, kw_only=True, omit_defaults=True):
    """A process will be started for it."""

    deployment: DeploymentId
    version: str
    settings: str
    rank: int = 0
    world_size: int = 0
    wall_time: float = 0.0  #: to show
    log_file: str = ""
    allotment: Allotment = NO_ALLOTMENT


class ReplicaFound(ReplicaNews, frozen=True, kw_only=True, omit_defaults=True):
    """It was running when the daemon started."""

    deployment: DeploymentId
    version: str
    settings: str
    pid: int
    rank: int = 0
    wall_time: float = 0.0
    log_file: str = ""
    phases: dict[str, float] = {}  #: how long its start took, as far as the last daemon wrote it down
    allotment: Allotment = NO_ALLOTMENT


class ReplicaSpawned(ReplicaNews, frozen=True, kw_only=True):
    """Its process exists."""

    pid: int


class ReplicaPhased(ReplicaNews, frozen=True, kw_only=True, omit_defaults=True):
    """It has come to another phase of its start or its end. Nothing is decided by it."""

    phase: Phase
    note: str = ""


class ReplicaReady(ReplicaNews, frozen=True, kw_only=True, omit_defaults=True):
    """It can serve: constructor done, or adopted."""

    docs_path: str | None = None
    has_health_check: bool = True  #: the user's code has one


class ReplicaStartFailed(ReplicaNews, frozen=True, kw_only=True):
    """It will never be ready; its process is being ended."""

    error: str  #: ends with the user's exception
    spread: float = 0.0
    is_counted: bool = True  #: False: not the user's code's fault, and no reason to wait before the next try


class ReplicaReconfiguring(ReplicaNews, frozen=True, kw_only=True):
    """It was told to take other settings."""

    settings: str


class ReplicaReconfigured(ReplicaNews, frozen=True, kw_only=True):
    """It has taken the settings it was told."""


class ReplicaPlaced(ReplicaNews, frozen=True, kw_only=True):
    """It is told its rank and the number of its peers."""

    rank: int
    world_size: int


class ReplicaRefused(ReplicaNews, frozen=True, kw_only=True):
    """The user's `reconfigure` raised; it serves until another takes its place."""

    error: str
    spread: float = 0.0


class ReplicaHealthAsked(ReplicaNews, frozen=True, kw_only=True):
    """A health check was sent."""


class ReplicaHealthAnswered(ReplicaNews, frozen=True, kw_only=True):
    """A health check ended; `error` is empty if all is well."""

    error: str = ""
    spread: float = 0.0


class ReplicaUnanswered(ReplicaNews, frozen=True, kw_only=True):
    """Its process has left one more probe without an answer."""

    silence: Silence


class ReplicaAnswered(ReplicaNews, frozen=True, kw_only=True, omit_defaults=True):
    """Its process has answered, or is known to be alive; told if that is news, and while its loop is blocked."""

    blocked_s: float = 0.0  #: how long its loop has not turned; 0: it turns
    stuck_s: float = 0.0  #: how long that has looked like a deadlock
    doing: Doing = Doing.NOTHING
    where: str = ""


class ReplicaCounted(ReplicaNews, frozen=True, kw_only=True):
    """Its watchdog has told how its calls have ended; told only where outliers are ejected."""

    ended: int
    failures: int
    streak: int


class ReplicaEjected(ReplicaNews, frozen=True, kw_only=True):
    """It fails while others do not, so it is sent nothing for a while."""

    until: float
    ejections: int  #: that weigh on it now


class ReplicaReturned(ReplicaNews, frozen=True, kw_only=True):
    """Its ejection is over."""


class ReplicaWorn(ReplicaNews, frozen=True, kw_only=True):
    """It has served long enough, by what its deployment's options say; "" if these say so no more."""

    reason: str


class ReplicaOverused(ReplicaNews, frozen=True, kw_only=True):
    """It was seen with more memory than it was given."""

    reason: str


class ReplicaStopping(ReplicaNews, frozen=True, kw_only=True):
    """It was told to stop."""

    reason: str
    is_failure: bool = False  #: it is stopped for what it did, not for what the user asked
    spread: float = 0.0


class ReplicaExited(ReplicaNews, frozen=True, kw_only=True):
    """Its process is gone and its socket removed."""

    detail: str  #: for example "killed by SIGKILL", with the last lines it wrote if it failed
    spread: float = 0.0


# --- one deployment -----------------------------------------------------------------------------


class DeploymentConfigured(_Event, frozen=True, kw_only=True):
    """A deploy made this the goal. Forgets earlier failures if it changes anything or they were final."""

    deployment: DeploymentId
    version: str
    settings: str
    move: DeploymentMove | None  #: None: nothing about the deployment changed
    min_ready_s: float = 0.0  #: of the deployment's options
    message: str = ""
    standby_version: str = ""  #: of what serves if this fails; "": nothing does
    standby_settings: str = ""


class DeploymentMoved(_Event, frozen=True, kw_only=True):
    """A pass of the loop found out something about its status."""

    deployment: DeploymentId
    move: DeploymentMove
    message: str = ""
    falls_back: bool = False  #: what was wanted is given up, and what stands by is kept instead


class DeploymentNoted(_Event, frozen=True, kw_only=True):
    """There is something new to tell about it, though its status is the same."""

    deployment: DeploymentId
    message: str


class DeploymentHeld(_Event, frozen=True, kw_only=True):
    """Some of its replicas wait for resources, or none do any more."""

    deployment: DeploymentId
    since: float | None  #: None: all that are wanted could be started
    message: str
    waits_for: str  #: "a GPU"; "" for nothing


class DeploymentForgotten(_Event, frozen=True, kw_only=True):
    """It is no part of the goal and has no replicas."""

    deployment: DeploymentId


# --- one application ----------------------------------------------------------------------------


class BuildStarted(_Event, frozen=True, kw_only=True):
    """An importer works on this revision of the application."""

    app: str
    revision: int


class BuildPhased(_Event, frozen=True, kw_only=True):
    """Its build has come to another phase. Nothing is decided by it."""

    app: str
    revision: int
    phase: Phase


class BuildEnded(_Event, frozen=True, kw_only=True):
    """It is done with it, one way or the other; the goal says which."""

    app: str
    revision: int


class AppForgotten(_Event, frozen=True, kw_only=True):
    """It is no part of the goal any more."""

    app: str


Event = (
    ReplicaPlanned
    | ReplicaFound
    | ReplicaSpawned
    | ReplicaPhased
    | ReplicaReady
    | ReplicaStartFailed
    | ReplicaReconfiguring
    | ReplicaReconfigured
    | ReplicaPlaced
    | ReplicaRefused
    | ReplicaHealthAsked
    | ReplicaHealthAnswered
    | ReplicaUnanswered
    | ReplicaAnswered
    | ReplicaCounted
    | ReplicaEjected
    | ReplicaReturned
    | ReplicaOverused
    | ReplicaWorn
    | ReplicaStopping
    | ReplicaExited
    | DeploymentConfigured
    | DeploymentMoved
    | DeploymentNoted
    | DeploymentHeld
    | DeploymentForgotten
    | BuildStarted
    | BuildPhased
    | BuildEnded
    | AppForgotten
)
