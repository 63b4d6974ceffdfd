"""The document in force: what a deploy makes of it, and the capacity that it asks for. Used by `goals.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from serve_lite.state.goal import CapacityDirection, Goal
from serve_lite.wire.messages import DeployRequest


def with_capacity(goal: Goal, request: DeployRequest) -> Goal:
    """Return the goal with the document's `target_capacity`, and in which direction that changes it."""
    if not (request.replace_declarative or request.merge) or request.document is None:
        return goal
    if request.merge and "target_capacity" not in request.document:
        return goal
    given = request.document.get("target_capacity")
    capacity = None if given is None else float(given)
    direction = _direction(goal, document_after(goal, request) or {}, capacity)
    return msgspec.structs.replace(goal, target_capacity=capacity, capacity_direction=direction)


def _direction(goal: Goal, document: Mapping[str, Any], capacity: float | None) -> CapacityDirection:
    """Return where the capacity goes, by Ray Serve's rules: None is as much as 100, and other apps begin at 0."""
    if capacity is None:
        return None
    if goal.document is None or _names(goal.document) != _names(document):
        return "UP"
    before = goal.target_capacity
    if before is None or capacity < before:
        return "DOWN"
    return "UP" if capacity > before else goal.capacity_direction


def _names(document: Mapping[str, Any]) -> set[str]:
    return {str(app.get("name", "default")) for app in document.get("applications", [document])}


def document_after(goal: Goal, request: DeployRequest) -> dict[str, Any] | None:
    """Return the document in force after the request."""
    if request.merge and request.document is not None:
        return merged(goal.document, request.document)
    return request.document if request.replace_declarative else goal.document


def merged(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document with what `new` gives, and the applications of `old` that it does not name."""
    if old is None:
        return dict(new)
    if "applications" not in old:  # a single application, of the older kind
        old = {"applications": [{k: v for k, v in old.items() if k not in ("host", "port")}]}
    apps = {app.get("name", "default"): app for app in (*old["applications"], *new["applications"])}
    return {**old, **new, "applications": list(apps.values())}
