"""What to do next, all in all: compares the goal with what is observed.

Composes the other rooms of `policy/`: `restart` says whether replicas may be started, `rollout` which to start and
stop, `admission` whether there is room for them, `health` whom to ask. After the plan's actions have been begun and
its findings folded, a second pass at the same time plans nothing: that is what keeps the loop still.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from serve_lite.policy.actions import (
    Action,
    CancelBuild,
    CheckHealth,
    ForgetApp,
    MarkProven,
    Plan,
    ReconfigureReplica,
    RollBack,
    StartBuild,
    StartReplica,
    StopReplica,
)
from serve_lite.policy.admission import Room
from serve_lite.policy.available import is_available, next_available_at
from serve_lite.policy.callers import updated_before, waits_for
from serve_lite.policy.health import Illness, diagnose, next_check_at
from serve_lite.policy.holds import failing_message, find_hold
from serve_lite.policy.outliers import plan_ejections
from serve_lite.policy.ranks import plan_ranks
from serve_lite.policy.restart import StartGate, budget, plan_start
from serve_lite.policy.rollout import NO_LOAD, is_current, places_at_once, plan_rollout
from serve_lite.policy.slow import describe_slow_starts
from serve_lite.policy.standby import describe_fall_back, standby_gate, standby_of
from serve_lite.schema import DeploymentStatus, DeploymentStatusTrigger, ReplicaState
from serve_lite.state import rollback
from serve_lite.state.events import (
    DeploymentForgotten,
    DeploymentMoved,
    DeploymentNoted,
    Event,
)
from serve_lite.state.goal import AppGoal, DeploymentGoal, Goal
from serve_lite.state.ids import DeploymentId, ReplicaId
from serve_lite.state.lifecycle import DeploymentMove
from serve_lite.state.observed import HEALTH_MESSAGE, DeploymentView, Observed, ReplicaView
from serve_lite.state.resources import UNLIMITED, Machine


def reconcile(
    goal: Goal,
    observed: Observed,
    now: float,
    load: Mapping[ReplicaId, int] = NO_LOAD,
    machine: Machine = UNLIMITED,
) -> Plan:
    """Return what brings `observed` towards `goal`, what was found out, and when to look again.

    Args:
        load: requests that each replica has, as far as known.
        machine: what replicas may be given of it.
    """
    by_deployment = _group(observed)
    plans = [_plan_builds(goal, observed)]
    known: set[DeploymentId] = set()
    room = Room(machine, observed, now)
    live = [app for app in goal.apps.values() if not app.is_deleting and not goal.is_shutting_down]
    held = {d: text for app in live for d, text in _held(app, observed, by_deployment, now).items()}
    by_claim = sorted(
        ((d.claim, app, d) for app in live for d in app.deployments), key=lambda entry: entry[0]
    )
    for _, app, deployment in by_claim:
        known.add(deployment.id)
        view = observed.deployments.get(deployment.id)
        if view is not None:  # else its first event is still to be folded
            replicas = by_deployment.get(deployment.id, ())
            retired = [r for d in app.retired for r in by_deployment.get(d.id, ())]
            held_by = held.get(deployment.id, "")
            plans.append(_plan_deployment(deployment, view, replicas, now, load, room, retired, held_by))
    for app in live:
        if not is_in_place(app, observed) and app.name not in room.crowded:
            # Callers of the version before may still need them.
            for deployment in app.retired:
                known.add(deployment.id)
                view = observed.deployments.get(deployment.id)
                if view is not None and view.starts.has_started:
                    replicas = by_deployment.get(deployment.id, ())
                    plans.append(_plan_deployment(deployment, view, replicas, now, load, room, (), ""))
    plans += [_plan_removal(d, by_deployment.get(d, ()), observed, now) for d in _unknown(observed, known)]
    plans.append(_plan_forgetting(goal, observed))
    if not goal.is_shutting_down:
        plans += [_plan_rollback(app, observed) for app in goal.apps.values()]
    return _together(plans)


def _start_gate(
    goal: DeploymentGoal, view: DeploymentView, replicas: Iterable[ReplicaView], now: float
) -> StartGate:
    """Return whether replicas of what is wanted of this deployment may be started now."""
    if view.has_fallen_back:
        return StartGate(is_open=False, has_given_up=True)
    has_older = any(r.is_running and not is_current(goal, r) for r in replicas)
    tries = budget(
        goal.target, goal.config.max_constructor_retry_count, places_at_once(goal) if has_older else None
    )
    return plan_start(view.starts, tries, has_older=has_older, now=now)


def _plan_deployment(
    goal: DeploymentGoal,
    view: DeploymentView,
    replicas: Sequence[ReplicaView],
    now: float,
    load: Mapping[ReplicaId, int],
    room: Room,
    retired: Sequence[ReplicaView],
    held_by: str,
) -> Plan:
    standby = standby_of(goal) if view.has_fallen_back or held_by else None
    aim = standby or goal  # what replicas are to be now
    alive = [r for r in replicas if r.is_alive]
    sick = {r.id: Illness(reason=r.overuse) for r in alive if r.overuse}
    sick |= {r.id: illness for r in alive if (illness := diagnose(r, aim.config)) is not None}
    well = [r for r in alive if r.id not in sick]
    ejections = plan_ejections(aim.config.outlier_ejection, [r for r in well if r.is_running], now)
    sick |= {
        r.id: Illness(reason=f"it was ejected {r.calls.ejections} times, and fails again")
        for r in ejections.incurable
    }
    well = [r for r in well if r.id not in sick]
    gate = StartGate(is_open=False, held_by=held_by) if held_by else _start_gate(goal, view, well, now)
    removals = tuple(
        StopReplica(replica=replica, is_failure=True, reason=illness.reason, can_obey=illness.can_obey)
        for replica, illness in sick.items()
    )
    aim_gate = gate if standby is None else standby_gate(view, now)
    wanted = (*removals, *plan_rollout(aim, well, aim_gate, load, now))
    moves, hold = room.admit(aim, wanted, replicas, retired)
    if standby is not None:
        moves = tuple(_of_standby(move) for move in moves)
    leaving = {a.replica for a in moves if isinstance(a, StopReplica)}
    places = plan_ranks(aim, alive) if not moves else []
    checks, check_at = _plan_checks(aim, [r for r in well if r.is_running and r.id not in leaving], now)
    # Else the hold is what there is to tell.
    is_told = hold is None or view.status is DeploymentStatus.HEALTHY
    finding, note_at = _find(goal, view, replicas, gate, now) if is_told else (None, None)
    held, tell_hold_at = find_hold(goal, view, gate, hold, now)
    wants_start = sum(r.version == aim.version for r in well) < aim.target or bool(_stale(aim, well))
    return Plan(
        actions=(*moves, *places, *checks),
        findings=(*ejections.findings, *(f for f in (held, finding) if f is not None)),
        wake_at=_earliest(
            check_at,
            note_at,
            tell_hold_at,
            ejections.wake_at,
            next_available_at(aim, well, now),
            aim_gate.opens_at if wants_start else None,
        ),
    )


def _of_standby(move: Action) -> Action:
    if isinstance(move, StartReplica | ReconfigureReplica):
        return msgspec.structs.replace(move, is_standby=True)
    return move


def _held(
    app: AppGoal,
    observed: Observed,
    replicas: Mapping[DeploymentId, Sequence[ReplicaView]],
    now: float,
) -> dict[DeploymentId, str]:
    """Return the deployments that are not updated yet, and why."""
    before = updated_before(app)
    fallen_back = {d for d, view in observed.deployments.items() if view.has_fallen_back}
    held = {}
    for deployment in app.deployments:
        view = observed.deployments.get(deployment.id)
        first = (
            waits_for(deployment, view, before[deployment.id], replicas, now, fallen_back)
            if view is not None
            else None
        )
        if first is not None:
            held[deployment.id] = _describe_hold(app, first, observed)
    return held


def _describe_hold(app: AppGoal, first: DeploymentGoal, observed: Observed) -> str:
    """Return why a deployment is not updated yet; or not at all, if what comes first is not."""
    view = observed.deployments.get(first.id)
    name = repr(first.id.name)
    if view is not None and view.trigger is DeploymentStatusTrigger.REPLICA_STARTUP_FAILED:
        return f"It stays as it was: what is wanted of {name}, which is updated before it, was given up."
    order = "an earlier revision reaches callers" if app.is_going_back else "a new version reaches callees"
    return f"It is updated after {name}: {order} first."


def _stale(goal: DeploymentGoal, replicas: Sequence[ReplicaView]) -> list[ReplicaView]:
    return [r for r in replicas if not is_current(goal, r) or r.worn]


def _plan_checks(
    goal: DeploymentGoal, running: Sequence[ReplicaView], now: float
) -> tuple[tuple[CheckHealth, ...], float | None]:
    """Return the health checks that are due, and when the next one is."""
    due: list[CheckHealth] = []
    later: list[float] = []
    for replica in running:
        at = next_check_at(replica, goal.config)
        if at is None:
            continue
        if at <= now:
            timeout_s = goal.config.health_check_timeout_s
            due.append(CheckHealth(replica=replica.id, timeout_s=timeout_s, reason="its period has passed"))
        else:
            later.append(at)
    return tuple(due), min(later, default=None)


def _find(
    goal: DeploymentGoal, view: DeploymentView, replicas: Sequence[ReplicaView], gate: StartGate, now: float
) -> tuple[Event | None, float | None]:
    """Return what is new about the deployment's status, and when there may be more."""
    if is_reached(goal, replicas, now):
        if view.status is not DeploymentStatus.HEALTHY or view.is_recycling:
            return DeploymentMoved(deployment=goal.id, move=DeploymentMove.REACHED, at=now), None
        return None, None
    present = sum(r.is_alive and r.version == goal.version for r in replicas)
    if view.status is DeploymentStatus.HEALTHY and present < goal.target and not view.is_recycling:
        # Nobody saw them end: they died with the last daemon, or while it was away.
        message = f"{HEALTH_MESSAGE} Of {goal.target} replicas {present} were left when the daemon started."
        return DeploymentMoved(
            deployment=goal.id, move=DeploymentMove.HEALTH_FAILED, message=message, at=now
        ), None
    if gate.has_given_up:
        older = [r for r in replicas if r.is_running and not is_current(goal, r)]
        falls_back = view.has_fallen_back or (goal.before is not None and bool(older))
        message = _given_up_message(goal, view, older if falls_back else None)
        move = DeploymentMoved(
            deployment=goal.id,
            move=DeploymentMove.START_FAILED,
            message=message,
            falls_back=falls_back,
            at=now,
        )
        has_told = view.trigger is DeploymentStatusTrigger.REPLICA_STARTUP_FAILED and view.message == message
        # A healthy deployment is not failed by it, in Ray Serve's table and here.
        return None if has_told or view.status is DeploymentStatus.HEALTHY else move, None
    if view.status is DeploymentStatus.UNHEALTHY and not view.starts.failures:
        return None, None
    message, note_at = _progress_message(goal, view, replicas, gate, now)
    if message and message != view.message:
        return DeploymentNoted(deployment=goal.id, message=message, at=now), note_at
    return None, note_at


def is_reached(goal: DeploymentGoal, replicas: Sequence[ReplicaView], now: float) -> bool:
    """Whether exactly the wanted replicas are available, and no others exist."""
    return len(replicas) == goal.target and all(
        is_current(goal, r) and is_available(goal, r, now) and not r.pulse.is_suspended and not r.worn
        for r in replicas
    )


def _given_up_message(goal: DeploymentGoal, view: DeploymentView, older: Sequence[ReplicaView] | None) -> str:
    """Return why what is wanted was given up, and how what serves instead (`older`) fares."""
    standby = standby_of(goal) if older is not None else None
    instead = ""
    if standby is not None and older is not None:
        running = sum(is_current(standby, r) for r in older)
        instead = describe_fall_back(standby, view, running)
    return (f"{instead}\n" if instead else "") + (
        f"The deployment failed to start {view.starts.failures} times in a row. This may be due to a problem "
        "with its constructor or initial health check failing. See controller logs for details. Error:\n"
        f"{view.starts.error}"
    )


def _progress_message(
    goal: DeploymentGoal, view: DeploymentView, replicas: Sequence[ReplicaView], gate: StartGate, now: float
) -> tuple[str, float | None]:
    """Return what there is to tell while the goal is not reached, and when there may be more."""
    if gate.held_by:
        return gate.held_by, None
    if view.starts.failures:
        return failing_message(view, gate), None
    is_waiting = next_available_at(goal, replicas, now) is not None
    if is_waiting and view.status is not DeploymentStatus.HEALTHY:
        wait_s = goal.config.min_ready_s
        return (
            f"New replicas are ready; each counts when it has stayed so for {wait_s:g} s (min_ready_s).",
            None,
        )
    starting = [r for r in replicas if r.state is ReplicaState.STARTING]
    return describe_slow_starts(goal.id, starting, now)


def _plan_builds(goal: Goal, observed: Observed) -> Plan:
    """Start what is to be built and is not; cancel what nobody waits for."""
    actions: list[Action] = []
    wanted = {
        app.name: app.revision
        for app in goal.apps.values()
        if app.is_building and not app.is_deleting and not goal.is_shutting_down
    }
    for name, revision in observed.builds.items():
        if wanted.get(name) != revision:
            actions.append(CancelBuild(app=name, revision=revision, reason="it is not wanted any more"))
    for name, revision in wanted.items():
        if observed.builds.get(name) != revision:
            actions.append(StartBuild(app=name, revision=revision, reason="the application was submitted"))
    return Plan(actions=tuple(actions))


def is_in_place(app: AppGoal, observed: Observed) -> bool:
    """Whether every deployment of the application runs as it should."""
    views = [observed.deployments.get(d.id) for d in app.deployments]
    return all(v is not None and v.status is DeploymentStatus.HEALTHY for v in views)


def _unknown(observed: Observed, known: set[DeploymentId]) -> list[DeploymentId]:
    """Return the deployments that exist and are not wanted, in a stable order."""
    existing = dict.fromkeys([*observed.deployments, *(r.deployment for r in observed.replicas.values())])
    return [d for d in existing if d not in known]


def _plan_removal(
    deployment: DeploymentId, replicas: Sequence[ReplicaView], observed: Observed, now: float
) -> Plan:
    view = observed.deployments.get(deployment)
    if not replicas:
        return Plan(findings=(DeploymentForgotten(deployment=deployment, at=now),) if view else ())
    findings: tuple[Event, ...] = ()
    if view is not None and view.trigger is not DeploymentStatusTrigger.DELETING:
        findings = (DeploymentMoved(deployment=deployment, move=DeploymentMove.DELETED, at=now),)
    actions = tuple(
        StopReplica(
            replica=r.id,
            is_graceful=r.state is not ReplicaState.STARTING,
            reason="its deployment is not wanted any more",
        )
        for r in replicas
        if r.is_alive
    )
    return Plan(actions=actions, findings=findings)


def _plan_forgetting(goal: Goal, observed: Observed) -> Plan:
    """Forget the deleted applications of which nothing is left."""
    remaining = {d.app_name for d in observed.deployments}
    remaining |= {r.deployment.app_name for r in observed.replicas.values()} | set(observed.builds)
    return Plan(
        actions=tuple(
            ForgetApp(app=app.name, reason="nothing of it is left")
            for app in goal.apps.values()
            if (app.is_deleting or goal.is_shutting_down) and app.name not in remaining
        )
    )


def _plan_rollback(app: AppGoal, observed: Observed) -> Plan:
    """Write down a revision that works, and take back one that was given up if it is to be."""
    working = rollback.working(app, observed)
    is_whole = len(working) == len(app.deployments) > 0
    news = [d for d in working if not d.is_proven or d.before is not None]
    if news or (is_whole and app.proven != app.revision):
        reason = "all its deployments run as they should" if is_whole else "some of its deployments do"
        proven = MarkProven(
            app=app.name,
            revision=app.revision,
            deployments=tuple(d.id.name for d in news),
            is_whole=is_whole,
            reason=reason,
        )
        return Plan(actions=(proven,))
    if rollback.is_due(app, observed):
        reason = rollback.why_given_up(app, observed)
        return Plan(actions=(RollBack(app=app.name, revision=app.revision, reason=reason),))
    return Plan()


def _group(observed: Observed) -> dict[DeploymentId, list[ReplicaView]]:
    groups: dict[DeploymentId, list[ReplicaView]] = {}
    for replica in observed.replicas.values():
        groups.setdefault(replica.deployment, []).append(replica)
    return groups


def _together(plans: Sequence[Plan]) -> Plan:
    return Plan(
        actions=tuple(a for p in plans for a in p.actions),
        findings=tuple(f for p in plans for f in p.findings),
        wake_at=_earliest(*(p.wake_at for p in plans)),
    )


def _earliest(*times: float | None) -> float | None:
    return min((t for t in times if t is not None), default=None)
