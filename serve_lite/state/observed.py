"""What exists: replicas, how their starts went, and where each deployment stands.

`fold` is the only way from one view to the next; it adds what happened and decides nothing. What to
do about it is decided in `policy/reconcile.py`; what users are told is derived in `state/status.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

import msgspec

from serve_lite.schema import DeploymentStatus, DeploymentStatusTrigger, Phase, ReplicaState
from serve_lite.state import events as ev
from serve_lite.state.ids import DeploymentId, ReplicaId
from serve_lite.state.lifecycle import (
    DeploymentMove,
    ReplicaMove,
    next_deployment_phase,
    next_replica_state,
)
from serve_lite.state.phases import BuildView, Progress, is_told
from serve_lite.state.pulse import Calls, Pulse
from serve_lite.state.resources import NO_ALLOTMENT, Allotment

#: A replica that served longer than this was a good one: its end is no reason to wait before the next start.
STABLE_S = 10.0
#: Dead replicas that are remembered for each deployment.
KEPT_DEAD = 10

HEALTH_MESSAGE = (
    "A replica's health check failed. This deployment will be UNHEALTHY until the replica recovers or a new "
    "deploy happens."
)


class Health(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The health checks of one replica."""

    asked_at: float | None = None  #: start of the last check
    is_asked: bool = False  #: a check is under way
    strikes: int = 0  #: failures in a row
    spread: float = 0.5  #: jitter of the next check
    error: str = ""  #: of the last failure
    failed_at: float | None = None  #: end of the last check that failed


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One replica as it is known."""

    id: ReplicaId
    deployment: DeploymentId
    version: str
    settings: str  #: that it works with now
    state: ReplicaState
    begun_at: float  #: planned or found
    since: float  #: in this state
    rank: int = 0
    world_size: int = 0  #: replicas that it was told there are; 0: not known
    pid: int | None = None
    ready_at: float | None = None
    next_settings: str = ""  #: being taken, while UPDATING
    refused: str = (
        ""  #: settings that it was told and did not take, or only half; it is not to be used for long
    )
    health: Health = Health()
    has_health_check: bool = True  #: the user's code has one
    pulse: Pulse = Pulse()
    calls: Calls = Calls()
    overuse: str = ""  #: what it took of the machine that it was not given
    worn: str = ""  #: why another one of the same kind should take its place
    docs_path: str | None = None
    reason: str = ""  #: why it stops or stopped
    error: str = ""  #: why it failed
    wall_time: float = 0.0  #: of its start, to show
    log_file: str = ""
    progress: Progress = Progress()
    allotment: Allotment = NO_ALLOTMENT  #: its own until its process is gone

    @property
    def is_alive(self) -> bool:
        """It serves, or will: neither stopping nor stopped."""
        return self.state not in (ReplicaState.STOPPING, ReplicaState.STOPPED)

    @property
    def is_running(self) -> bool:
        return self.state is ReplicaState.RUNNING

    @property
    def is_serving(self) -> bool:
        """It runs, and may be sent calls."""
        return self.is_running and not self.pulse.is_suspended and self.calls.ejected_until is None


class StartRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How starting the wanted version and settings of a deployment went so far."""

    failures: int = 0  #: starts that failed, and runs that ended soon, with no stable run since
    rounds: int = 0  #: the same, those of replicas that were started together counted once
    round_at: float | None = None  #: first failure of the last round: who was started by then belongs to it
    has_started: bool = (
        False  #: a replica of this version was ready at some time, and stayed so for `min_ready_s`
    )
    ready_at: float | None = None  #: last time one became ready
    failed_at: float | None = None
    spread: float = 0.0  #: jitter of the next start
    error: str = ""  #: last failure; ends with the user's exception


class Standby(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The version before the wanted one, as long as that has not proved itself."""

    version: str
    settings: str
    starts: StartRecord = StartRecord(has_started=True)


class DeploymentView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where one deployment stands. Kept in the store, so that a new daemon knows it too."""

    version: str  #: that the goal wants
    settings: str
    starts: StartRecord = StartRecord()
    status: DeploymentStatus = DeploymentStatus.UPDATING
    trigger: DeploymentStatusTrigger = DeploymentStatusTrigger.CONFIG_UPDATE_STARTED
    message: str = ""
    since: float = 0.0  #: in this status
    held_since: float | None = None  #: replicas of it wait for resources
    waits_for: str = ""  #: these, in a word or two
    is_recycling: bool = (
        False  #: one that had served long enough was stopped, and since then not all were there
    )
    dead: tuple[ReplicaView, ...] = ()  #: the last replicas that ended by themselves or failed, newest first
    min_ready_s: float = 0.0  #: a run that ends sooner was a failure
    standby: Standby | None = None
    has_fallen_back: bool = False  #: the wanted version was given up, and what stood by is kept instead


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known to exist."""

    replicas: dict[ReplicaId, ReplicaView] = {}
    deployments: dict[DeploymentId, DeploymentView] = {}
    builds: dict[str, int] = {}  #: revision that an importer works on, by application
    built: dict[str, BuildView] = {}  #: how the last build of each application goes or went

    def replicas_of(self, deployment: DeploymentId) -> tuple[ReplicaView, ...]:
        """Return the replicas of one deployment, oldest first."""
        return tuple(r for r in self.replicas.values() if r.deployment == deployment)


def fold(observed: Observed, events: Iterable[ev.Event]) -> Observed:
    """Return the view after `events`, in order.

    Raises `IllegalMoveError` for a move that a replica's state does not allow, and KeyError for news of
    a replica that was never planned or found.
    """
    events = tuple(events)
    if not events:
        return observed
    draft = _Draft(observed)
    for event in events:
        draft.add(event)
    return Observed(
        replicas=draft.replicas, deployments=draft.deployments, builds=draft.builds, built=draft.built
    )


class _Draft:
    """A view that is being changed. Lives within one `fold`."""

    def __init__(self, observed: Observed) -> None:
        self.replicas = dict(observed.replicas)
        self.deployments = dict(observed.deployments)
        self.builds = dict(observed.builds)
        self.built = dict(observed.built)

    def add(self, event: ev.Event) -> None:
        match event:
            case ev.ReplicaPlanned() | ev.ReplicaFound():
                self._begin(event)
            case ev.ReplicaSpawned():
                self._change(event.replica, pid=event.pid)
            case ev.ReplicaPhased():
                view = self.replicas[event.replica]
                if is_told(view.state, event.phase):
                    self._change(view.id, progress=view.progress.enter(event.phase, event.at, event.note))
            case ev.ReplicaReady():
                self._ready(event)
            case ev.ReplicaStartFailed():
                view = self._move(event, ReplicaMove.FAILED, error=event.error, reason="it failed to start")
                if event.is_counted and view.is_alive:
                    self._count_failure(view, event.at, event.error, event.spread)
            case ev.ReplicaReconfiguring():
                self._move(event, ReplicaMove.RECONFIGURE, next_settings=event.settings)
            case ev.ReplicaReconfigured():
                view = self._move(event, ReplicaMove.RECONFIGURED, next_settings="")
                self._change(event.replica, settings=view.next_settings)
                self._count_success(self.replicas[event.replica], event.at)
            case ev.ReplicaPlaced():
                self._change(event.replica, rank=event.rank, world_size=event.world_size)
            case ev.ReplicaRefused():
                view = self._move(event, ReplicaMove.REFUSED, next_settings="", error=event.error)
                self._change(event.replica, refused=view.next_settings)
                if view.is_alive:
                    asked = msgspec.structs.replace(view, settings=view.next_settings, ready_at=None)
                    self._count_failure(asked, event.at, event.error, event.spread)
            case ev.ReplicaHealthAsked():
                health = self.replicas[event.replica].health
                health = msgspec.structs.replace(health, asked_at=event.at, is_asked=True)
                self._change(event.replica, health=health)
            case ev.ReplicaHealthAnswered():
                self._health(event)
            case ev.ReplicaUnanswered():
                self._unanswered(event)
            case ev.ReplicaAnswered():
                pulse = Pulse(
                    blocked_s=event.blocked_s, stuck_s=event.stuck_s, doing=event.doing, where=event.where
                )
                self._change(event.replica, pulse=pulse)
            case ev.ReplicaCounted():
                self._change_calls(
                    event.replica, ended=event.ended, failures=event.failures, streak=event.streak
                )
            case ev.ReplicaEjected():
                self._change_calls(event.replica, ejected_until=event.until, ejections=event.ejections)
            case ev.ReplicaReturned():
                ended = self.replicas[event.replica].calls.ended
                self._change_calls(
                    event.replica, ejected_until=None, returned_at=event.at, ended_at_return=ended
                )
            case ev.ReplicaWorn():
                self._change(event.replica, worn=event.reason)
            case ev.ReplicaOverused():
                if event.replica in self.replicas:  # it may have ended while it was looked at
                    self._change(event.replica, overuse=event.reason)
            case ev.ReplicaStopping():
                self._stopping(event)
            case ev.ReplicaExited():
                self._exited(event)
            case ev.DeploymentConfigured():
                self._configured(event)
            case ev.DeploymentMoved():
                if event.falls_back:
                    self._change_deployment(event.deployment, has_fallen_back=True)
                self._deployment_moved(event.deployment, event.move, event.message, event.at)
            case ev.DeploymentNoted():
                self._change_deployment(event.deployment, message=event.message)
            case ev.DeploymentHeld():
                self._change_deployment(
                    event.deployment,
                    held_since=event.since,
                    waits_for=event.waits_for,
                    message=event.message,
                )
            case ev.DeploymentForgotten():
                self.deployments.pop(event.deployment, None)
            case ev.BuildStarted():
                self.builds[event.app] = event.revision
                progress = Progress(phase=Phase.IMPORTING, since=event.at)
                self.built[event.app] = BuildView(revision=event.revision, progress=progress)
            case ev.BuildPhased():
                self._build_enters(event, event.phase)
            case ev.BuildEnded():
                if self.builds.get(event.app) == event.revision:
                    del self.builds[event.app]
                self._build_enters(event, Phase.READY)
            case ev.AppForgotten():
                self.built.pop(event.app, None)
            case _:
                assert_never(event)

    # --- replicas ---

    def _begin(self, event: ev.ReplicaPlanned | ev.ReplicaFound) -> None:
        is_found = isinstance(event, ev.ReplicaFound)
        self.replicas[event.replica] = ReplicaView(
            id=event.replica,
            deployment=event.deployment,
            version=event.version,
            settings=event.settings,
            state=ReplicaState.RECOVERING if is_found else ReplicaState.STARTING,
            begun_at=event.at,
            since=event.at,
            rank=event.rank,
            world_size=0 if isinstance(event, ev.ReplicaFound) else event.world_size,
            pid=event.pid if isinstance(event, ev.ReplicaFound) else None,
            wall_time=event.wall_time,
            log_file=event.log_file,
            progress=Progress(phase=Phase.RECOVERING, since=event.at, finished=event.phases)
            if isinstance(event, ev.ReplicaFound)
            else Progress(phase=Phase.STARTING_PROCESS, since=event.at),
            allotment=event.allotment,
        )

    def _build_enters(self, event: ev.BuildPhased | ev.BuildEnded, phase: Phase) -> None:
        build = self.built.get(event.app)
        if build is not None and build.revision == event.revision:
            progress = build.progress.enter(phase, event.at)
            self.built[event.app] = BuildView(revision=event.revision, progress=progress)

    def _ready(self, event: ev.ReplicaReady) -> None:
        view = self._move(
            event,
            ReplicaMove.READY,
            docs_path=event.docs_path,
            has_health_check=event.has_health_check,
            ready_at=event.at,
        )
        if view.is_alive:
            self._count_success(view, event.at)

    def _health(self, event: ev.ReplicaHealthAnswered) -> None:
        health = self.replicas[event.replica].health
        strikes = health.strikes + 1 if event.error else 0
        self._change(
            event.replica,
            health=msgspec.structs.replace(
                health,
                is_asked=False,
                strikes=strikes,
                spread=event.spread,
                error=event.error,
                failed_at=event.at if event.error else health.failed_at,
            ),
        )

    def _unanswered(self, event: ev.ReplicaUnanswered) -> None:
        view = self.replicas[event.replica]
        pulse = Pulse(misses=view.pulse.misses + 1, silence=event.silence)
        self._change(view.id, pulse=pulse)
        if pulse.is_suspended and view.is_serving and self._is_wanted(view):
            message = f"{HEALTH_MESSAGE} Replica {view.id} is sent nothing more: {pulse}"
            self._deployment_moved(view.deployment, DeploymentMove.HEALTH_FAILED, message, event.at)

    def _stopping(self, event: ev.ReplicaStopping) -> None:
        view = self._move(event, ReplicaMove.STOP, reason=event.reason)
        if not event.is_failure:
            if view.worn and self._is_wanted(view):
                self._change_deployment(view.deployment, is_recycling=True)
            return
        self._change(event.replica, error=event.reason)
        self._count_failure(view, event.at, event.reason, event.spread)
        if self._is_wanted(view):
            message = f"{HEALTH_MESSAGE} {event.reason}"
            self._deployment_moved(view.deployment, DeploymentMove.HEALTH_FAILED, message, event.at)

    def _exited(self, event: ev.ReplicaExited) -> None:
        view = self._move(event, ReplicaMove.EXITED)
        gone = self.replicas.pop(event.replica)
        if view.state is ReplicaState.STARTING:
            gone = msgspec.structs.replace(gone, progress=gone.progress.fail(view.progress.phase))
            doing = view.progress.told_at(event.at)
            error = f"The replica's process ended while it was starting ({doing}): {event.detail}"
            self._count_failure(view, event.at, error, event.spread)
        elif view.state in (ReplicaState.RUNNING, ReplicaState.UPDATING):
            error = f"The replica's process ended: {event.detail}"
            self._count_failure(view, event.at, error, event.spread)
            if self._is_wanted(view):
                message = f"{HEALTH_MESSAGE} Replica {view.id}: {error}"
                self._deployment_moved(view.deployment, DeploymentMove.HEALTH_FAILED, message, event.at)
        else:
            error = view.error
        if error and view.deployment in self.deployments:
            gone = msgspec.structs.replace(gone, error=error, reason=gone.reason or event.detail)
            dead = (gone, *self.deployments[view.deployment].dead)[:KEPT_DEAD]
            self._change_deployment(view.deployment, dead=dead)

    def _move(self, event: ev.ReplicaNews, move: ReplicaMove, **changes: object) -> ReplicaView:
        """Move a replica and change it; return the view from before. Late news to one that stops changes nothing."""
        view = self.replicas[event.replica]
        state = next_replica_state(view.state, move)
        if state is not view.state:
            progress = view.progress.move(state, event.at, has_failed=move is ReplicaMove.FAILED)
            self._change(view.id, state=state, since=event.at, progress=progress, **changes)
        return view

    def _change_calls(self, replica: ReplicaId, **changes: object) -> None:
        calls = self.replicas[replica].calls
        self._change(replica, calls=msgspec.structs.replace(calls, **changes))

    def _change(self, replica: ReplicaId, **changes: object) -> None:
        self.replicas[replica] = msgspec.structs.replace(self.replicas[replica], **changes)

    # --- deployments ---

    def _is_wanted(self, view: ReplicaView) -> bool:
        deployment = self.deployments.get(view.deployment)
        return deployment is not None and (view.version, view.settings) == (
            deployment.version,
            deployment.settings,
        )

    def _record_of(self, view: ReplicaView) -> StartRecord | None:
        """Return how starting what this replica is went so far; None if that is of no interest any more."""
        if self._is_wanted(view):
            return self.deployments[view.deployment].starts
        deployment = self.deployments.get(view.deployment)
        standby = deployment.standby if deployment is not None else None
        is_standby = standby is not None and (view.version, view.settings) == (
            standby.version,
            standby.settings,
        )
        return standby.starts if standby is not None and is_standby else None

    def _put_record(self, view: ReplicaView, starts: StartRecord) -> None:
        if self._is_wanted(view):
            self._change_deployment(view.deployment, starts=starts)
        elif (standby := self.deployments[view.deployment].standby) is not None:
            standby = msgspec.structs.replace(standby, starts=starts)
            self._change_deployment(view.deployment, standby=standby)

    def _count_success(self, view: ReplicaView, at: float) -> None:
        starts = self._record_of(view)
        if starts is not None:
            has_started = starts.has_started or not self.deployments[view.deployment].min_ready_s
            self._put_record(view, msgspec.structs.replace(starts, has_started=has_started, ready_at=at))

    def _count_failure(self, view: ReplicaView, at: float, error: str, spread: float) -> None:
        """Count a failed start or a short run; forget the count after a stable run."""
        starts = self._record_of(view)
        if starts is None:
            return
        stable_s = max(STABLE_S, self.deployments[view.deployment].min_ready_s)
        ran_s = at - view.ready_at if view.ready_at is not None else 0.0
        was_calm = (
            starts.ready_at is not None
            and (starts.failed_at is None or starts.failed_at < starts.ready_at)
            and at - starts.ready_at > stable_s
        )
        if ran_s > stable_s or was_calm:
            has_started = starts.has_started or ran_s > stable_s
            starts = StartRecord(has_started=has_started, ready_at=starts.ready_at)
        if ran_s <= stable_s:
            round_at = starts.round_at if starts.round_at is not None else starts.failed_at
            is_new_round = round_at is None or view.begun_at >= round_at or round_at > at
            starts = msgspec.structs.replace(
                starts,
                failures=starts.failures + 1,
                rounds=starts.rounds + 1 if is_new_round else starts.rounds,
                round_at=at if is_new_round else round_at,
                failed_at=at,
                spread=spread,
            )
        self._put_record(view, msgspec.structs.replace(starts, error=error))

    def _configured(self, event: ev.DeploymentConfigured) -> None:
        old = self.deployments.get(event.deployment)
        standby = (
            Standby(version=event.standby_version, settings=event.standby_settings)
            if event.standby_version
            else None
        )
        is_same = old is not None and (old.version, old.settings) == (event.version, event.settings)
        if old is None:
            self.deployments[event.deployment] = DeploymentView(
                version=event.version,
                settings=event.settings,
                since=event.at,
                message=event.message,
                min_ready_s=event.min_ready_s,
                standby=standby,
            )
            return
        has_started = old.starts.has_started if is_same else self._runs(event)
        self._change_deployment(
            event.deployment,
            version=event.version,
            settings=event.settings,
            starts=StartRecord(has_started=has_started),
            min_ready_s=event.min_ready_s,
            standby=standby,
            has_fallen_back=False,
        )
        move = event.move
        if old.status is DeploymentStatus.DEPLOY_FAILED:
            move = DeploymentMove.CONFIGURED  # deploying it again, with whatever number, means: try again
        if move is not None:
            self._deployment_moved(event.deployment, move, event.message, event.at)

    def _runs(self, event: ev.DeploymentConfigured) -> bool:
        return any(
            r.is_running
            and not r.refused
            and (r.deployment, r.version, r.settings) == (event.deployment, event.version, event.settings)
            for r in self.replicas.values()
        )

    def _deployment_moved(
        self, deployment: DeploymentId, move: DeploymentMove, message: str, at: float
    ) -> None:
        view = self.deployments.get(deployment)
        if view is None:
            return
        if move is DeploymentMove.REACHED:
            self._change_deployment(deployment, is_recycling=False, standby=None, has_fallen_back=False)
        after = next_deployment_phase((view.status, view.trigger), move)
        if after is None:
            return
        since = view.since if after[0] is view.status else at
        if move is DeploymentMove.REACHED and any(
            r.deployment == deployment and r.is_running for r in self.replicas.values()
        ):
            self._change_deployment(deployment, starts=msgspec.structs.replace(view.starts, has_started=True))
        self._change_deployment(deployment, status=after[0], trigger=after[1], message=message, since=since)

    def _change_deployment(self, deployment: DeploymentId, **changes: object) -> None:
        view = self.deployments.get(deployment)
        if view is not None:
            self.deployments[deployment] = msgspec.structs.replace(view, **changes)
