"""Autoscaling: gathers what is known of the load, asks the policy, and says which targets are to change.

What a load asks for is decided in `policy/autoscaling.py`; here are the timers and the history between two decisions.
Custom policies are asked by `custom_policies.py`. `controller.py` calls `plan` in each pass and stores the targets that
come of it.

It wakes when a report comes, when a delay is over, when a schedule's window begins or ends, and every so often while
the load of the look-back period is not zero, because then a mean changes though nothing happens. An idle deployment
with the built-in policy and without a schedule costs nothing.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec

from serve_lite.config import DEFAULT_POLICY, AutoscalingConfig
from serve_lite.controller.custom_policies import CustomPolicy, Look, Policy, Record, metrics_of
from serve_lite.controller.load import LoadBoard
from serve_lite.controller.scaling_state import ScalingState
from serve_lite.instruments import Counter, Family, Histogram, Series
from serve_lite.options import scaling_advice
from serve_lite.policy.autoscaling import (
    Bounds,
    decide,
    is_cold_start,
    load_of,
    plan_pace_s,
    report_every_s,
)
from serve_lite.policy.capacity import scaling_bounds
from serve_lite.policy.schedules import NO_WINDOW, Window
from serve_lite.schema import AutoscalingDecision, AutoscalingDetail
from serve_lite.state.goal import AppGoal, DeploymentGoal, Goal
from serve_lite.state.ids import DeploymentId, ReplicaId, subject_of
from serve_lite.state.observed import Observed
from serve_lite.wire.messages import DeploymentLoad

logger = logging.getLogger(__name__)

_OWN = ("deployment", "application")
_DECISIONS = Counter(
    "serve_autoscaling_decisions",
    "Changes of the number of replicas that autoscaling has made.",
    (*_OWN, "direction"),
)
_HANDLE_DELAY = Histogram(
    "serve_autoscaling_handle_metrics_delay_ms",
    "From when a caller had a load to when it was known here.",
    _OWN,
)
_REPLICA_DELAY = Histogram(
    "serve_autoscaling_replica_metrics_delay_ms",
    "From when a replica's record_autoscaling_stats returned to when that was known here.",
    _OWN,
)
_HELP = {
    "target_replicas": "The number of replicas that autoscaling has chosen.",
    "desired_replicas": "What the policy asks for, before delays and bounds.",
    "total_requests": "Requests that run or wait, over the look-back period.",
    "target_ongoing_requests": "Requests that each replica should have.",
}
_RECONNECT_S = 1.0  #: by then callers have found a daemon that took the place of another
_SHOWN_DECISIONS = 10  #: of each deployment
_AFTER_FAULT_S = 1.0  #: wait after a decision that could not be stored


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment is to have another number of replicas."""

    deployment: DeploymentId
    target: int
    was: int
    bounds: Bounds
    window: Window = NO_WINDOW  #: of schedules, which made the bounds
    reason: str


class Scaler:
    """Decides for all deployments of the instance. Everything is called on the controller's loop.

    Args:
        wake: has the controller look again soon.
        spawn: runs a question to a policy; owns the task.
        wall: the time of day, for schedules and to show.
        record: writes a line of the instance's history.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        wake: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        wall: Callable[[], float] = time.time,
        record: Record = lambda subject, text, level: logger.log(level, "%s: %s", subject, text),
    ) -> None:
        self._clock, self._wake, self._spawn, self._wall, self._record = clock, wake, spawn, wall, record
        #: returns who asks the custom policy of a deployment; None: nobody can yet
        self.policy_of: Callable[[DeploymentId], Policy | None] = lambda _: None
        self._board = LoadBoard()
        self._states: dict[DeploymentId, ScalingState] = {}
        self._app_policies: dict[str, tuple[object, CustomPolicy]] = {}  #: by application: what for, and it
        self._stats: dict[ReplicaId, list[tuple[float, dict[str, float]]]] = {}
        self._advised: dict[DeploymentId, int] = {}  #: in which revision it was told of unwise options
        self._decided: dict[DeploymentId, deque[AutoscalingDecision]] = {}

    # --- what is told ---

    def take_load(self, load: DeploymentLoad) -> None:
        """A caller tells the load it makes."""
        now = self._clock()
        self._board.take(DeploymentId(load.deployment, load.app), load, now)
        if load.at:
            _HANDLE_DELAY.labels(load.deployment, load.app).observe(max(0.0, now - load.at) * 1000)
        self._wake()

    def forget_caller(self, deployment: DeploymentId, caller: str) -> None:
        """A caller has gone."""
        self._board.forget_caller(deployment, caller)
        if deployment in self._states:
            self._wake()

    def take_stats(
        self, replica: ReplicaId, deployment: DeploymentId, stats: dict[str, float], at: float
    ) -> None:
        """A replica tells what its `record_autoscaling_stats` returned, and when; 0: some time ago."""
        now = self._clock()
        self._stats.setdefault(replica, []).append((now, stats))
        if at:
            _REPLICA_DELAY.labels(deployment.name, deployment.app_name).observe(max(0.0, now - at) * 1000)

    def load_by_replica(self) -> Mapping[ReplicaId, int]:
        """Return the requests that each replica has, as far as callers told."""
        return self._board.by_replica()

    def families(self, goal: Goal) -> list[Family]:
        """Return what the last decisions were made of, as gauges."""
        rows: list[tuple[list[str], dict[str, float]]] = [
            ([d.id.name, d.id.app_name], self._states[d.id].numbers(d.target, config))
            for app in goal.apps.values()
            for d in app.deployments
            if (config := d.config.autoscaling_config) is not None and d.id in self._states
        ]
        return [
            Family(
                name=f"serve_autoscaling_{name}",
                kind="gauge",
                help=help,
                label_names=["deployment", "application"],
                series=[Series(labels, [numbers[name]]) for labels, numbers in rows],
            )
            for name, help in _HELP.items()
            if rows
        ] + self._policy_times()

    def _policy_times(self) -> list[Family]:
        policies = [
            *(state.custom for state in self._states.values() if state.custom is not None),
            *(policy for _, policy in self._app_policies.values()),
        ]
        series = [Series(p.labels, [p.took_ms]) for p in policies if p.took_ms is not None]
        family = Family(
            name="serve_autoscaling_policy_execution_time_ms",
            kind="gauge",
            help="How long a custom autoscaling policy took to decide, the last time.",
            label_names=[*_OWN, "policy_scope"],
            series=series,
        )
        return [family] if series else []

    def details(self, goal: Goal) -> dict[DeploymentId, AutoscalingDetail]:
        """Return what REST shows of the deployments that scale by themselves; the direction is not known here."""
        now = self._clock()
        return {
            d.id: AutoscalingDetail(
                scaling_status="STABLE",
                decisions=list(self._decided.get(d.id, ())),
                metrics=state.numbers(d.target, config),
                metrics_health="delayed"
                if now < state.knows_at
                else self._board.health(d.id, report_every_s(config), now),
                errors=sorted(self._errors_of(d.id, state)),
            )
            for app in goal.apps.values()
            for d in app.deployments
            if (config := d.config.autoscaling_config) is not None
            and (state := self._states.get(d.id)) is not None
        }

    def _errors_of(self, deployment: DeploymentId, state: ScalingState) -> list[str]:
        _, app_policy = self._app_policies.get(deployment.app_name, (None, None))
        policy = app_policy or state.custom
        return list(policy.errors.values()) if policy is not None else []

    # --- deciding ---

    def plan(self, goal: Goal, observed: Observed, now: float) -> tuple[list[Scaling], float | None]:
        """Return the targets that are to change, and when to look again if nothing happens.

        Each is proposed once; `done` says that it was stored, or not.
        """
        self._stats = {r: told for r, told in self._stats.items() if r in observed.replicas}
        scaled = {
            app.name: [(d, config) for d in app.deployments if (config := d.config.autoscaling_config)]
            for app in goal.apps.values()
            if not app.is_deleting and not goal.is_shutting_down
        }
        self._keep_only({d.id for found in scaled.values() for d, _ in found})
        scalings: list[Scaling] = []
        times: list[float] = []
        for name, found in scaled.items():
            if not found:
                continue
            app = goal.apps[name]
            looks = [self._look(goal, app, deployment, config, observed, now) for deployment, config in found]
            app_policy = self._app_policy(app, looks, now)
            for look in looks:
                scaling, wake_at = self._plan_one(look, app_policy, now)
                if scaling is not None:
                    scalings.append(scaling)
                if wake_at is not None:
                    times.append(wake_at)
        return scalings, min(times, default=None)

    def done(self, scaling: Scaling, *, is_stored: bool) -> None:
        """A target was stored and counts, or could not be."""
        state, now = self._states.get(scaling.deployment), self._clock()
        if state is None:
            return
        state.is_changing = False
        if not is_stored:
            state.rests_until = now + _AFTER_FAULT_S
            return self._wake()
        self._decided.setdefault(scaling.deployment, deque(maxlen=_SHOWN_DECISIONS)).append(
            AutoscalingDecision(
                timestamp_s=self._wall(),
                reason=scaling.reason,
                prev_num_replicas=scaling.was,
                curr_num_replicas=scaling.target,
                policy=state.policy_name,
            )
        )
        target, is_up = scaling.deployment, scaling.target > scaling.was
        _DECISIONS.labels(target.name, target.app_name, "up" if is_up else "down").value += 1
        if is_up:
            state.last_up = now
        else:
            state.last_down = now
        self._wake()

    def _keep_only(self, scaled: set[DeploymentId]) -> None:
        """Forget deployments that are not scaled any more."""
        for gone in self._states.keys() - scaled:
            self._states.pop(gone).close()
            self._decided.pop(gone, None)
            self._advised.pop(gone, None)
        for name in self._app_policies.keys() - {target.app_name for target in scaled}:
            self._app_policies.pop(name)[1].close()
        self._board.keep_only(scaled)

    def _look(
        self,
        goal: Goal,
        app: AppGoal,
        deployment: DeploymentGoal,
        config: AutoscalingConfig,
        observed: Observed,
        now: float,
    ) -> Look:
        """Return what is known of a deployment now."""
        state = self._state(app, deployment, config, now)
        state.follow_schedules(
            config, self._wall(), lambda text: self._record(subject_of(deployment.id), text, logging.INFO)
        )
        state.bounds = scaling_bounds(config, *goal.capacity_of(app.submission.source), state.window)
        queued, sent = self._board.series(deployment.id, config, now)
        state.is_moving = any(value for one in (*queued, *sent) for _, value in one)
        state.load = load_of(queued, sent, config, now)
        return Look(
            goal=deployment,
            config=config,
            bounds=state.bounds,
            running=[r.id for r in observed.replicas_of(deployment.id) if r.is_running],
            load=state.load,
            last_up=state.last_up,
            last_down=state.last_down,
        )

    def _plan_one(
        self, look: Look, app_policy: CustomPolicy | None, now: float
    ) -> tuple[Scaling | None, float | None]:
        goal, config, bounds, load = look.goal, look.config, look.bounds, look.load
        state = self._states[goal.id]
        if state.is_changing:
            return None, None  # `done` wakes
        if now < state.rests_until:
            return None, state.rests_until
        policy = app_policy or state.custom
        state.policy_name = DEFAULT_POLICY if policy is None else policy.name
        again_at = now + plan_pace_s(config) if state.is_moving or policy is not None else None
        again_at = _first(again_at, state.schedule_wake(self._wall(), now))
        wish: float | None = None
        if policy is not None and not is_cold_start(load, len(look.running)):
            if policy is not app_policy:
                self._ask_if_due(policy, [look], now)
            wish = policy.wishes.get(goal.id)
            if wish is None:
                return self._scaling(
                    look, bounds.clip(goal.target), f"the bounds changed{bounds.why}"
                ), again_at
        decision = decide(
            config,
            bounds,
            load,
            running=len(look.running),
            target=goal.target,
            timer=state.timer,
            now=now,
            wish=wish,
            policy_name=state.policy_name,
        )
        state.desired = decision.wish
        if decision.target < goal.target <= bounds.highest and now < state.knows_at:
            return None, state.knows_at  # callers may not have told yet what they have
        state.timer = decision.timer
        return self._scaling(look, decision.target, decision.reason), _first(decision.due, again_at)

    def _scaling(self, look: Look, target: int, reason: str) -> Scaling | None:
        if target == look.goal.target:
            return None
        state = self._states[look.goal.id]
        state.is_changing = True
        return Scaling(
            deployment=look.goal.id,
            target=target,
            was=look.goal.target,
            bounds=look.bounds,
            window=state.window,
            reason=reason,
        )

    def _state(
        self, app: AppGoal, goal: DeploymentGoal, config: AutoscalingConfig, now: float
    ) -> ScalingState:
        """Return what is remembered of a deployment; each deploy begins anew."""
        key = (app.revision, goal.version, goal.settings, config)
        state = self._states.get(goal.id)
        if state is None or state.key != key:
            window = NO_WINDOW
            if state is not None:
                state.close()
                window = state.window
            state = self._states[goal.id] = ScalingState(key, now + report_every_s(config) + _RECONNECT_S)
            state.window = window if config.schedules else NO_WINDOW
            advice = scaling_advice(goal.config)
            if advice and not app.is_building and self._advised.get(goal.id) != app.revision:
                self._advised[goal.id] = app.revision
                self._record(str(goal.id), advice, logging.WARNING)
            if config.policy.policy_function != DEFAULT_POLICY and app.autoscaling_policy is None:
                state.custom = CustomPolicy(config.policy, "deployment", goal.id, self._record)
        return state

    # --- custom policies ---

    def _app_policy(self, app: AppGoal, looks: list[Look], now: float) -> CustomPolicy | None:
        """Return the policy that decides for all deployments of an application, asked if it is due; None: none does."""
        wanted = app.autoscaling_policy
        key = (app.revision, app.is_building, wanted)
        known, policy = self._app_policies.get(app.name, (None, None))
        if policy is not None and known != key:
            policy.close()
            del self._app_policies[app.name]
        if wanted is None:
            return None
        if policy is None or known != key:
            policy = CustomPolicy(wanted, "application", app.name, self._record)
            self._app_policies[app.name] = (key, policy)
            if not app.is_building:
                self._tell_overridden(policy, looks)
        self._ask_if_due(policy, looks, now)
        return policy

    def _tell_overridden(self, policy: CustomPolicy, looks: list[Look]) -> None:
        for look in looks:
            own = look.config.policy.policy_function
            if own != DEFAULT_POLICY:
                text = (
                    f"its autoscaling policy {own!r} is not asked, because {policy.name!r} decides for the whole "
                    "application"
                )
                self._record(subject_of(look.goal.id), text, logging.WARNING)

    def _ask_if_due(self, policy: CustomPolicy, looks: list[Look], now: float) -> None:
        question = policy.question(
            looks,
            lambda look: self._metrics(look, now),
            open_one=lambda: self.policy_of(looks[0].goal.id),
            then=self._wake,
            now=now,
        )
        if question is not None:
            self._spawn(question)

    def _metrics(self, look: Look, now: float) -> dict[str, Any]:
        for replica in look.running:
            told = self._stats.get(replica, [])
            while len(told) > 1 and told[0][0] < now - look.config.look_back_period_s:
                told.pop(0)
        return metrics_of(look, self._stats, now)


def _first(*times: float | None) -> float | None:
    return min((t for t in times if t is not None), default=None)
