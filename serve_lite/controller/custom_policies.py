"""Custom autoscaling policies: who is asked, how often, with what, and what was answered last.

A policy decides for one deployment, or for all deployments of an application that scale by themselves. It is user
code, so it runs in another process (`advisers.py`), and is asked now while its answer counts in a later pass. While it
fails or cannot be asked it says nothing, and numbers of replicas stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from serve_lite.config import AutoscalingConfig, AutoscalingPolicy
from serve_lite.exceptions import ServeLiteError
from serve_lite.instruments import Counter
from serve_lite.policy.autoscaling import Bounds, Load, aggregate, plan_pace_s
from serve_lite.state.goal import DeploymentGoal
from serve_lite.state.ids import DeploymentId, ReplicaId, subject_of
from serve_lite.wire.connection import RemoteControlError
from serve_lite.wire.messages import DecideAppReply, DecideAppRequest, DecideReply, DecideRequest

#: Writes a line of the instance's history: about what, the text, and its level in the log.
Record = Callable[[str, str, int], None]

_START_S = 5.0  #: a policy's process may take so long to come up before that is worth a line in the log
_FAILURES = Counter(
    "serve_autoscaling_policy_failures",
    "Questions to a custom autoscaling policy that it did not answer rightly.",
    ("deployment", "application", "policy_scope", "exception"),
)


class Policy(Protocol):
    """Asks custom policies, in another process."""

    @property
    def is_up(self) -> bool: ...
    @property
    def is_over(self) -> bool: ...
    async def decide(self, request: DecideRequest, /) -> DecideReply: ...
    async def decide_app(self, request: DecideAppRequest, /) -> DecideAppReply: ...
    def close(self) -> None: ...


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one deployment in one pass."""

    goal: DeploymentGoal
    config: AutoscalingConfig
    bounds: Bounds
    running: list[ReplicaId]
    load: Load
    last_up: float | None = None
    last_down: float | None = None

    def context(self, metrics: Mapping[str, Any], now: float) -> dict[str, Any]:
        """Return the fields of the `AutoscalingContext` that a policy gets."""
        return {
            "current_num_replicas": len(self.running),
            "target_num_replicas": self.goal.target,
            "running_replicas": self.running,
            "total_num_requests": self.load.total,
            "total_queued_requests": self.load.queued,
            **metrics,
            "capacity_adjusted_min_replicas": self.bounds.lowest,
            "capacity_adjusted_max_replicas": self.bounds.highest,
            "last_scale_up_time": self.last_up,
            "last_scale_down_time": self.last_down,
            "current_time": now,
            "config": self.config.to_dict(),
        }


class CustomPolicy:
    """A custom policy and what it said last.

    Lifetime: keeps a process to ask from the first question to `close`.

    Args:
        subject: the deployment or the application, to name it.
        record: writes a line of the instance's history.
    """

    def __init__(
        self,
        policy: AutoscalingPolicy,
        scope: Literal["deployment", "application"],
        subject: DeploymentId | str,
        record: Record,
    ) -> None:
        self.name: str = policy.policy_function
        self.wishes: Mapping[DeploymentId, float] = {}  #: who is not in it keeps its number
        self.errors: dict[str, str] = {}  #: what it fails with since it last answered, by kind of exception
        self.took_ms: float | None = None  #: the last answer
        self._kwargs, self._scope, self._subject, self._record = policy.policy_kwargs, scope, subject, record
        self._states: Mapping[DeploymentId, dict[str, Any]] = {}
        self._process: Policy | None = None
        self._opened_at = 0.0
        self._ask_at = 0.0
        self._is_asked = False
        self._is_closed = False

    @property
    def labels(self) -> list[str]:
        """Deployment ("" where it decides for all), application and scope, as metrics name them."""
        if isinstance(self._subject, DeploymentId):
            return [self._subject.name, self._subject.app_name, self._scope]
        return ["", self._subject, self._scope]

    def question(
        self,
        looks: Sequence[Look],
        metrics: Callable[[Look], Mapping[str, Any]],
        *,
        open_one: Callable[[], Policy | None],
        then: Callable[[], None],
        now: float,
    ) -> Coroutine[Any, Any, None] | None:
        """Return what asks the policy, to be run by the caller; None if it is not to be asked now.

        Args:
            looks: the one deployment it decides for, or all of its application.
            metrics: returns what a deployment's replicas told of themselves.
            open_one: returns who asks; None: nobody can yet.
            then: called when an answer or a failure is there.
        """
        if self._is_asked or now < self._ask_at:
            return None
        if self._process is None or self._process.is_over:
            if self._process is not None:
                self._process.close()
            self._process, self._opened_at = open_one(), now
        process = self._process
        if process is None or (not process.is_up and now < self._opened_at + _START_S):
            return None
        self._is_asked, self._ask_at = True, now + min(plan_pace_s(look.config) for look in looks)
        contexts = {look.goal.id: look.context(metrics(look), now) for look in looks}
        return self._ask(process, contexts, then)

    def close(self) -> None:
        """Give the process back."""
        self._is_closed = True
        if self._process is not None:
            self._process.close()
            self._process = None

    async def _ask(
        self, process: Policy, contexts: Mapping[DeploymentId, dict[str, Any]], then: Callable[[], None]
    ) -> None:
        try:
            if isinstance(self._subject, DeploymentId):
                await self._ask_for_one(process, self._subject, contexts[self._subject])
            else:
                await self._ask_for_all(process, self._subject, contexts)
        except (ServeLiteError, TimeoutError) as error:
            self.wishes = {}
            self._complain(error)
        else:
            if self.errors:
                self._say(f"the autoscaling policy {self.name!r} answers again", logging.INFO)
            self.errors = {}
        finally:
            self._is_asked = False
        then()

    async def _ask_for_one(self, process: Policy, target: DeploymentId, context: dict[str, Any]) -> None:
        reply = await process.decide(
            DecideRequest(
                app=target.app_name,
                deployment=target.name,
                policy=self.name,
                kwargs=self._kwargs,
                context=context,
                state=self._states.get(target, {}),
            )
        )
        self.wishes, self._states = {target: reply.target}, {target: reply.state}
        self.took_ms = reply.took_ms

    async def _ask_for_all(
        self, process: Policy, app: str, contexts: Mapping[DeploymentId, dict[str, Any]]
    ) -> None:
        reply = await process.decide_app(
            DecideAppRequest(
                app=app,
                policy=self.name,
                kwargs=self._kwargs,
                contexts={target.name: context for target, context in contexts.items()},
                states={target.name: self._states.get(target, {}) for target in contexts},
            )
        )
        self.wishes = {DeploymentId(name, app): wish for name, wish in reply.targets.items()}
        self._states = {DeploymentId(name, app): state for name, state in reply.states.items()}
        self.took_ms = reply.took_ms

    def _complain(self, error: Exception) -> None:
        """Tell of a failure, once for each kind until it answers again."""
        if self._is_closed:
            return
        kind = error.type_name if isinstance(error, RemoteControlError) else type(error).__name__
        _FAILURES.labels(*self.labels, kind).value += 1
        text = f"{kind}: {str(error) or 'it did not answer in time'}"
        is_known = kind in self.errors
        self.errors[kind] = text
        if not is_known:
            what = "its number" if self._scope == "deployment" else "its numbers"
            self._say(
                f"keeps {what} of replicas, because its autoscaling policy {self.name!r} failed: {text}",
                logging.ERROR,
            )

    def _say(self, text: str, level: int) -> None:
        subject = self._subject
        self._record(subject_of(subject) if isinstance(subject, DeploymentId) else subject, text, level)


def metrics_of(
    look: Look, told: Mapping[ReplicaId, Sequence[tuple[float, Mapping[str, float]]]], now: float
) -> dict[str, Any]:
    """Return what replicas told of themselves, by metric and replica: as it came, and as one number.

    Args:
        told: by replica: when, on the clock of `now`, and what; oldest first.
    """
    raw: dict[str, dict[ReplicaId, list[tuple[float, float]]]] = {}
    for replica in look.running:
        for at, stats in told.get(replica, ()):
            for metric, value in stats.items():
                raw.setdefault(metric, {}).setdefault(replica, []).append((at, value))
    return {
        "raw_metrics": raw,
        "aggregated_metrics": {
            metric: {
                replica: aggregate([series], look.config.aggregation_function, now)
                for replica, series in by_replica.items()
            }
            for metric, by_replica in raw.items()
        },
    }
