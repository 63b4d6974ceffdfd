"""Custom autoscaling policies, run in an adviser: how many replicas should there be?"""

from __future__ import annotations

import asyncio
import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

from serve_lite.config import AutoscalingConfig
from serve_lite.context import ReplicaID
from serve_lite.scaling import AutoscalingContext
from serve_lite.state.ids import DeploymentId, suffix_of
from serve_lite.wire.messages import DecideReply, DecideRequest


class Policies:
    """The policies of an application's deployments; classes are made once, and keep what they hold."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[object, Callable[[AutoscalingContext], Any]]] = {}

    async def decide(self, request: DecideRequest) -> DecideReply:
        """Ask the policy, in a thread: it may take its time, and other advice must not wait for it.

        Raises:
            ImportError, AttributeError, TypeError: there is no such policy, or its answer is no answer.
            Exception: whatever the policy raises.
        """
        policy = self._policy(request)
        answer = await asyncio.to_thread(policy, _context(request))
        return _checked(answer, request.policy)

    def _policy(self, request: DecideRequest) -> Callable[[AutoscalingContext], Any]:
        key = (request.app, request.deployment)
        wanted = (request.policy, request.kwargs)
        known = self._known.get(key)
        if known is None or known[0] != wanted:
            known = self._known[key] = (wanted, load_policy(request.policy, request.kwargs))
        return known[1]


def load_policy(path: str, kwargs: Mapping[str, Any]) -> Callable[[AutoscalingContext], Any]:
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


def _context(request: DecideRequest) -> AutoscalingContext:
    target = DeploymentId(name=request.deployment, app_name=request.app)
    fields = dict(request.context)
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
        policy_state=request.state,
        **fields,
    )


def _checked(answer: Any, path: str) -> DecideReply:
    try:
        target, state = answer
    except (TypeError, ValueError):
        target, state = None, None
    if isinstance(target, bool) or not isinstance(target, int | float) or not math.isfinite(target):
        raise TypeError(
            f"The autoscaling policy {path!r} must return (number of replicas, state), but returned {answer!r}."
        )
    if state is not None and not isinstance(state, dict):
        raise TypeError(f"The autoscaling policy {path!r} must return its state as a dict, not {state!r}.")
    return DecideReply(float(target), state or {})
