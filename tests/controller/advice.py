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
