"""Autoscaling: gathers what is known of the load, asks the policy, and says which targets are to change.

What a load asks for is decided in `policy/autoscaling.py`; here are the timers, the custom policies' answers and the
history between two decisions. `controller.py` calls `plan` in each pass and stores the targets that come of it.

It wakes when a report comes, when a delay is over, and every so often while the load of the look-back period is
not zero, because then a mean changes though nothing happens. An idle deployment with the built-in policy costs nothing.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import msgspec

from serve_lite.config import DEFAULT_POLICY, AutoscalingConfig
from serve_lite.controller.load import LoadBoard
from serve_lite.exceptions import ServeLiteError
from serve_lite.instruments import Family, Series
from serve_lite.policy.autoscaling import (
    Bounds,
    Decision,
    Load,
    Timer,
    aggregate,
    decide,
    is_cold_start,
    load_of,
    plan_pace_s,
    report_every_s,
)
from serve_lite.policy.capacity import scaling_bounds
from serve_lite.schema import AutoscalingDecision, AutoscalingDetail
from serve_lite.state.goal import AppGoal, DeploymentGoal, Goal
from serve_lite.state.ids import DeploymentId, ReplicaId
from serve_lite.state.observed import Observed
from serve_lite.wire.connection import RemoteControlError
from serve_lite.wire.messages import DecideReply, DecideRequest, DeploymentLoad

logger = logging.getLogger(__name__)

_HELP = {
    "target_replicas": "The number of replicas that autoscaling has chosen.",
    "desired_replicas": "What the policy asks for, before delays and bounds.",
    "total_requests": "Requests that run or wait, over the look-back period.",
    "target_ongoing_requests": "Requests that each replica should have.",
}
_START_S = 5.0  #: a policy's process may take so long to come up before that is worth a line in the log
_RECONNECT_S = 1.0  #: by then callers have found a daemon that took the place of another
_SHOWN_DECISIONS = 10  #: of each deployment
_AFTER_FAULT_S = 1.0  #: wait after a decision that could not be stored


class Policy(Protocol):
    """Asks a custom policy, in another process."""

    @property
    def is_up(self) -> bool: ...
    @property
    def is_over(self) -> bool: ...
    async def decide(self, request: DecideRequest, /) -> DecideReply: ...
    def close(self) -> None: ...


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment is to have another number of replicas."""

    deployment: DeploymentId
    target: int
    was: int
    bounds: Bounds
    reason: str


class Scaler:
    """Decides for all deployments of the instance. Everything is called on the controller's loop.

    Args:
        wake: has the controller look again soon.
        spawn: runs a question to a policy; owns the task.
        wall: the time of day, to show.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        wake: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock, self._wake, self._spawn, self._wall = clock, wake, spawn, wall
        #: returns who asks the custom policy of a deployment; None: nobody can yet
        self.policy_of: Callable[[DeploymentId], Policy | None] = lambda _: None
        self._board = LoadBoard()
        self._states: dict[DeploymentId, _State] = {}
        self._stats: dict[ReplicaId, list[tuple[float, dict[str, float]]]] = {}
        self._decided: dict[DeploymentId, deque[AutoscalingDecision]] = {}

    # --- what is told ---

    def take_load(self, load: DeploymentLoad) -> None:
        """A caller tells the load it makes."""
        self._board.take(DeploymentId(load.deployment, load.app), load, self._clock())
        self._wake()

    def forget_caller(self, deployment: DeploymentId, caller: str) -> None:
        """A caller has gone."""
        self._board.forget_caller(deployment, caller)
        if deployment in self._states:
            self._wake()

    def take_stats(self, replica: ReplicaId, stats: dict[str, float]) -> None:
        """A replica tells what its `record_autoscaling_stats` returned."""
        self._stats.setdefault(replica, []).append((self._clock(), stats))

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
        ]

    def details(self, goal: Goal) -> dict[DeploymentId, AutoscalingDetail]:
        """Return what REST shows of the deployments that scale by themselves; the direction is not known here."""
        now = self._clock()
        return {
            d.id: AutoscalingDetail(
                scaling_status="STABLE",
                decisions=list(self._decided.get(d.id, ())),
                metrics=state.numbers(d.target, config),
                metrics_health="delayed" if now < state.knows_at else "healthy",
                errors=sorted(state.complaints),
            )
            for app in goal.apps.values()
            for d in app.deployments
            if (config := d.config.autoscaling_config) is not None
            and (state := self._states.get(d.id)) is not None
        }

    # --- deciding ---

    def plan(self, goal: Goal, observed: Observed, now: float) -> tuple[list[Scaling], float | None]:
        """Return the targets that are to change, and when to look again if nothing happens.

        Each is proposed once; `done` says that it was stored, or not.
        """
        self._stats = {r: told for r, told in self._stats.items() if r in observed.replicas}
        scaled = {
            d.id: (app, d, d.config.autoscaling_config)
            for app in goal.apps.values()
            for d in app.deployments
            if d.config.autoscaling_config is not None and not app.is_deleting and not goal.is_shutting_down
        }
        for gone in self._states.keys() - scaled.keys():
            self._states.pop(gone).close()
            self._decided.pop(gone, None)
        self._board.keep_only(scaled.keys())
        scalings: list[Scaling] = []
        times: list[float] = []
        for app, deployment, config in scaled.values():
            assert config is not None
            bounds = scaling_bounds(config, *goal.capacity_of(app.submission.source))
            scaling, wake_at = self._plan_one(app, deployment, config, bounds, observed, now)
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
        if scaling.target > scaling.was:
            state.last_up = now
        else:
            state.last_down = now
        self._wake()

    def _plan_one(
        self,
        app: AppGoal,
        goal: DeploymentGoal,
        config: AutoscalingConfig,
        bounds: Bounds,
        observed: Observed,
        now: float,
    ) -> tuple[Scaling | None, float | None]:
        state = self._state(app, goal, config, now)
        if state.is_changing:
            return None, None  # `done` wakes
        if now < state.rests_until:
            return None, state.rests_until
        running = [r.id for r in observed.replicas_of(goal.id) if r.is_running]
        queued, sent = self._board.series(goal.id, config, now)
        load = load_of(queued, sent, config, now)
        is_moving = any(value for one in (*queued, *sent) for _, value in one)
        again_at = now + plan_pace_s(config) if is_moving or state.is_custom else None
        if state.is_custom and not is_cold_start(load, len(running)):
            self._ask_if_due(state, goal, config, bounds, running, load, now)
            if state.wish is None:
                return self._scaling(goal, bounds, bounds.clip(goal.target), "the bounds changed"), again_at
        decision = decide(
            config,
            bounds,
            load,
            running=len(running),
            target=goal.target,
            timer=state.timer,
            now=now,
            wish=state.wish,
        )
        state.load, state.desired = load, decision.wish
        if decision.target < goal.target <= bounds.highest and now < state.knows_at:
            return None, state.knows_at  # callers may not have told yet what they have
        state.timer = decision.timer
        scaling = self._scaling(goal, bounds, decision.target, decision.reason)
        return scaling, _earliest(decision, again_at)

    def _scaling(self, goal: DeploymentGoal, bounds: Bounds, target: int, reason: str) -> Scaling | None:
        if target == goal.target:
            return None
        self._states[goal.id].is_changing = True
        return Scaling(deployment=goal.id, target=target, was=goal.target, bounds=bounds, reason=reason)

    def _state(self, app: AppGoal, goal: DeploymentGoal, config: AutoscalingConfig, now: float) -> _State:
        """Return what is remembered of a deployment; each deploy begins anew."""
        key = (app.revision, goal.version, goal.settings, config)
        state = self._states.get(goal.id)
        if state is None or state.key != key:
            if state is not None:
                state.close()
            state = self._states[goal.id] = _State(key, now + report_every_s(config) + _RECONNECT_S)
            state.policy_name = config.policy.policy_function
            state.is_custom = state.policy_name != DEFAULT_POLICY
        return state

    # --- custom policies ---

    def _ask_if_due(
        self,
        state: _State,
        goal: DeploymentGoal,
        config: AutoscalingConfig,
        bounds: Bounds,
        running: list[ReplicaId],
        load: Load,
        now: float,
    ) -> None:
        if state.is_asked or now < state.ask_at:
            return
        if state.policy is None or state.policy.is_over:
            if state.policy is not None:
                state.policy.close()
            state.policy, state.opened_at = self.policy_of(goal.id), now
        policy = state.policy
        if policy is None or (not policy.is_up and now < state.opened_at + _START_S):
            return
        state.is_asked, state.ask_at = True, now + plan_pace_s(config)
        request = DecideRequest(
            app=goal.id.app_name,
            deployment=goal.id.name,
            policy=config.policy.policy_function,
            kwargs=config.policy.policy_kwargs,
            state=state.policy_state,
            context={
                "current_num_replicas": len(running),
                "target_num_replicas": goal.target,
                "running_replicas": running,
                "total_num_requests": load.total,
                "total_queued_requests": load.queued,
                **self._metrics(running, config, now),
                "capacity_adjusted_min_replicas": bounds.lowest,
                "capacity_adjusted_max_replicas": bounds.highest,
                "last_scale_up_time": state.last_up,
                "last_scale_down_time": state.last_down,
                "current_time": now,
                "config": config.to_dict(),
            },
        )
        self._spawn(self._ask(goal.id, state, policy, request))

    async def _ask(
        self, deployment: DeploymentId, state: _State, policy: Policy, request: DecideRequest
    ) -> None:
        try:
            reply = await policy.decide(request)
        except (ServeLiteError, TimeoutError) as error:
            state.wish = None
            kind = error.type_name if isinstance(error, RemoteControlError) else type(error).__name__
            if kind not in state.complaints:
                state.complaints.add(kind)
                logger.error(
                    "%s keeps its number of replicas, because its autoscaling policy %r failed: %s: %s",
                    deployment,
                    request.policy,
                    kind,
                    str(error) or "it did not answer in time",
                )
        else:
            state.complaints.clear()
            state.wish, state.policy_state = reply.target, reply.state
        finally:
            state.is_asked = False
        self._wake()

    def _metrics(self, running: list[ReplicaId], config: AutoscalingConfig, now: float) -> dict[str, Any]:
        """Return what replicas told of themselves, by metric and replica: as it came, and as one number."""
        raw: dict[str, dict[ReplicaId, list[tuple[float, float]]]] = {}
        for replica in running:
            told = self._stats.get(replica, [])
            while len(told) > 1 and told[0][0] < now - config.look_back_period_s:
                told.pop(0)
            for at, stats in told:
                for metric, value in stats.items():
                    raw.setdefault(metric, {}).setdefault(replica, []).append((at, value))
        return {
            "raw_metrics": raw,
            "aggregated_metrics": {
                metric: {
                    replica: aggregate([series], config.aggregation_function, now)
                    for replica, series in by_replica.items()
                }
                for metric, by_replica in raw.items()
            },
        }


class _State:
    """What is remembered of one deployment between two decisions."""

    def __init__(self, key: tuple[object, ...], knows_at: float) -> None:
        self.key = key
        self.knows_at = knows_at  #: by then every caller has told its load at least once
        self.timer = Timer()
        self.is_changing = False  #: another target is being stored
        self.rests_until = 0.0
        self.load = Load()  #: of the last decision
        self.desired = 0  #: what it asked for, before delays and bounds
        self.last_up: float | None = None
        self.last_down: float | None = None
        self.is_custom = False
        self.policy_name = DEFAULT_POLICY
        self.wish: float | None = None  #: what a custom policy said last; None: nothing, or it failed
        self.policy: Policy | None = None
        self.policy_state: dict[str, Any] = {}
        self.opened_at = 0.0
        self.ask_at = 0.0
        self.is_asked = False
        self.complaints: set[str] = set()  #: kinds of failures that are in the log

    def numbers(self, target: int, config: AutoscalingConfig) -> dict[str, float]:
        """Return what is shown of the last decision, by the names in `_HELP`."""
        return {
            "target_replicas": float(target),
            "desired_replicas": float(self.desired),
            "total_requests": self.load.total,
            "target_ongoing_requests": config.target_ongoing_requests,
        }

    def close(self) -> None:
        if self.policy is not None:
            self.policy.close()


def _earliest(decision: Decision, again_at: float | None) -> float | None:
    return min((t for t in (decision.due, again_at) if t is not None), default=None)
