"""Custom autoscaling policies, run in an adviser: how many replicas should there be?"""

from __future__ import annotations

import asyncio
import importlib
import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from serve_lite.config import AutoscalingConfig
from serve_lite.context import ReplicaID
from serve_lite.scaling import AutoscalingContext
from serve_lite.state.ids import DeploymentId, suffix_of
from serve_lite.wire.messages import DecideAppReply, DecideAppRequest, DecideReply, DecideRequest

_WHOLE_APP = ""  #: stands for the deployment where a policy decides for all of them


class Policies:
    """The policies of an application and its deployments; classes are made once, and keep what they hold."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[object, Callable[[Any], Any]]] = {}

    async def decide(self, request: DecideRequest) -> DecideReply:
        """Ask a deployment's policy, in a thread: it may take its time, and other advice must not wait for it.

        Raises:
            ImportError, AttributeError, TypeError: there is no such policy, or its answer is no answer.
            Exception: whatever the policy raises.
        """
        policy = self._policy(request.app, request.deployment, request.policy, request.kwargs)
        target = DeploymentId(name=request.deployment, app_name=request.app)
        context = _context(target, request.context, request.state)
        answer, took_ms = await asyncio.to_thread(_timed, policy, context)
        wish, state = _checked(answer, request.policy)
        return DecideReply(wish, state, took_ms)

    async def decide_app(self, request: DecideAppRequest) -> DecideAppReply:
        """Ask an application's policy, in a thread too.

        Raises:
            ImportError, AttributeError, TypeError, ValueError: there is no such policy, or its answer is no answer.
            Exception: whatever the policy raises.
        """
        policy = self._policy(request.app, _WHOLE_APP, request.policy, request.kwargs)
        contexts = {
            (target := DeploymentId(name=name, app_name=request.app)): _context(
                target, fields, request.states.get(name, {})
            )
            for name, fields in request.contexts.items()
        }
        answer, took_ms = await asyncio.to_thread(_timed, policy, contexts)
        targets, states = _checked_app(answer, request.policy, contexts)
        return DecideAppReply(targets, states, took_ms)

    def _policy(
        self, app: str, deployment: str, path: str, kwargs: Mapping[str, Any]
    ) -> Callable[[Any], Any]:
        key, wanted = (app, deployment), (path, dict(kwargs))
        known = self._known.get(key)
        if known is None or known[0] != wanted:
            known = self._known[key] = (wanted, load_policy(path, kwargs))
        return known[1]


def _timed(policy: Callable[[Any], Any], asked: object) -> tuple[Any, float]:
    """Return what a policy answers, and how many milliseconds it took."""
    began = time.perf_counter()
    answer = policy(asked)
    return answer, (time.perf_counter() - began) * 1000


def load_policy(path: str, kwargs: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Return the function at an import path, or what calling the class there with `kwargs` makes.

    Raises:
        ImportError, AttributeError: nothing is there.
        TypeError: it cannot be called.
    """
    module, _, name = path.replace(":", ".").rpartition(".")
    found = getattr(importlib.import_module(module), name)
    policy = found(**kwargs) if isinstance(found, type) else found
    if not callable(policy):
        raise TypeError(f"The autoscaling policy {path!r} is {policy!r}, which cannot be called.")
    return policy  # type: ignore[no-any-return]  # the user's; its answer is checked


def _context(target: DeploymentId, told: Mapping[str, Any], state: dict[str, Any]) -> AutoscalingContext:
    fields = dict(told)
    config = fields.pop("config", None)
    names = fields.pop("running_replicas", ())
    for metrics in ("aggregated_metrics", "raw_metrics"):
        if metrics in fields:
            fields[metrics] = {
                metric: {ReplicaID(suffix_of(name), target): told for name, told in by_replica.items()}
                for metric, by_replica in fields[metrics].items()
            }
    return AutoscalingContext(
        deployment_id=target,
        deployment_name=target.name,
        app_name=target.app_name,
        running_replicas=[ReplicaID(suffix_of(name), target) for name in names],
        config=None
        if config is None
        else AutoscalingConfig.from_value(config, "autoscaling_config", lax=False),
        policy_state=state,
        **fields,
    )


def _checked(answer: Any, path: str) -> tuple[float, dict[str, Any]]:
    target, state = _pair(answer)
    if not _is_number(target):
        raise TypeError(
            f"The autoscaling policy {path!r} must return (number of replicas, state), but returned {answer!r}."
        )
    if state is not None and not isinstance(state, dict):
        raise TypeError(f"The autoscaling policy {path!r} must return its state as a dict, not {state!r}.")
    return float(target), state or {}


def _checked_app(
    answer: Any, path: str, asked: Collection[DeploymentId]
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    targets, states = _pair(answer)
    if not isinstance(targets, Mapping) or not (states is None or isinstance(states, Mapping)):
        raise TypeError(
            f"The autoscaling policy {path!r} of an application must return ({{deployment id: number of replicas}}, "
            f"{{deployment id: state}} or None), but returned {answer!r}."
        )
    for what in (targets, states or {}):
        for target in what:
            if target not in asked:
                known = ", ".join(map(repr, asked))
                raise ValueError(
                    f"The autoscaling policy {path!r} answered for {target!r}, which it was not asked about. "
                    f"Use the keys of the contexts: {known}."
                )
    for target, number in targets.items():
        if not _is_number(number):
            raise TypeError(
                f"The autoscaling policy {path!r} must return numbers of replicas, not {number!r} for {target!r}."
            )
    for target, state in (states or {}).items():
        if not isinstance(state, dict):
            raise TypeError(
                f"The autoscaling policy {path!r} must return each state as a dict, not {state!r} for {target!r}."
            )
    return (
        {target.name: float(number) for target, number in targets.items()},
        {target.name: state for target, state in (states or {}).items()},
    )


def _pair(answer: Any) -> tuple[Any, Any]:
    """Return both parts of an answer; twice None if it has not two."""
    try:
        first, second = answer
    except (TypeError, ValueError):
        return None, None
    return first, second


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
