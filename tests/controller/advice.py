"""Autoscaling policies as users write them."""

from __future__ import annotations

import os
from typing import Any

from serve_lite.config import AutoscalingContext


def by_queue(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Wants a replica for each two waiting calls, and counts how often it was asked."""
    asked = context.policy_state.get("asked", 0) + 1
    names = sorted(replica.unique_id for replica in context.running_replicas)
    state = {"asked": asked, "pid": os.getpid(), "names": names, "of": context.deployment_name}
    return context.total_queued_requests / 2, state


class Bounded:
    """A policy with parameters, made once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.calls = 0

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        self.calls += 1
        assert context.config is not None
        return min(self.most, context.config.max_replicas), {"calls": self.calls}


def wrong(context: AutoscalingContext) -> Any:
    return "many"


def fails(context: AutoscalingContext) -> Any:
    raise ValueError("no idea")


def for_all(contexts: dict[Any, AutoscalingContext]) -> Any:
    """Wants as many replicas of each deployment as another one has calls; leaves out those called Quiet."""
    total = sum(context.total_num_requests for context in contexts.values())
    targets = {id: total - c.total_num_requests for id, c in contexts.items() if id.name != "Quiet"}
    states = {id: {"asked": c.policy_state.get("asked", 0) + 1} for id, c in contexts.items()}
    return targets, states


def for_all_without_state(contexts: dict[Any, AutoscalingContext]) -> Any:
    return dict.fromkeys(contexts, 2), None


class ForAll:
    """A policy for all deployments, with a parameter."""

    def __init__(self, each: int) -> None:
        self.each = each

    def __call__(self, contexts: dict[Any, AutoscalingContext]) -> Any:
        return dict.fromkeys(contexts, self.each), {}


def names_a_stranger(contexts: dict[Any, AutoscalingContext]) -> Any:
    return {"Stranger": 2}, {}


def wrong_number(contexts: dict[Any, AutoscalingContext]) -> Any:
    return dict.fromkeys(contexts, "many"), {}


def wrong_state(contexts: dict[Any, AutoscalingContext]) -> Any:
    return {}, dict.fromkeys(contexts, 5)


def only_numbers(contexts: dict[Any, AutoscalingContext]) -> Any:
    return dict.fromkeys(contexts, 2)
