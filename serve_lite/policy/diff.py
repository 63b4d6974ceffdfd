"""What a deploy would do, deployment by deployment: the step from one goal to the next in words for its user.

Pure. `controller/desk.py` makes the next goal as a deploy would, and does not believe it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from serve_lite.options import config_to_dict
from serve_lite.policy.update import Change, change
from serve_lite.state.goal import AppGoal, DeploymentGoal, Goal

#: What each change is called; `update` has no replica noticing it.
ACTIONS: Mapping[Change, str] = {
    Change.NOTHING: "nothing",
    Change.OUTER: "update",
    Change.SCALE: "scale",
    Change.RECONFIGURE: "reconfigure",
    Change.RESTART: "restart",
    Change.CREATE: "create",
}


class DeploymentPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen to one deployment."""

    action: str  #: nothing, update, scale, reconfigure, restart, create or remove
    changed: list[str] = []  #: options that differ; also "code", "runtime_env" and "route_prefix"
    replicas_before: int = 0
    replicas_after: int = 0


class AppPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen to one application."""

    action: str  #: nothing, update, create or remove; "fail" if it could not be built
    deployments: dict[str, DeploymentPlan] = {}
    error: str = ""  #: why it could not be built; what runs would go on


def compare(old: Goal, new: Goal) -> dict[str, AppPlan]:
    """Return what the step from `old` to `new` does to each application that either of them wants."""
    before = {name: app for name, app in old.apps.items() if not app.is_deleting}
    after = {name: app for name, app in new.apps.items() if not app.is_deleting}
    return {name: _compare_apps(before.get(name), after.get(name)) for name in {**before, **after}}


def _compare_apps(old: AppGoal | None, new: AppGoal | None) -> AppPlan:
    before = {d.id.name: d for d in old.deployments} if old is not None else {}
    if new is None:
        return AppPlan(action="remove", deployments={name: _removed(d) for name, d in before.items()})
    if new.build_error:
        return AppPlan(action="fail", error=new.build_error)
    after = {d.id.name: d for d in new.deployments}
    is_new_code = old is not None and old.code_version != new.code_version
    plans = {name: _compare(before.get(name), d, is_new_code) for name, d in after.items()}
    plans |= {name: _removed(d) for name, d in before.items() if name not in after}
    if old is None:
        return AppPlan(action="create", deployments=plans)
    is_same = (
        all(plan.action == "nothing" for plan in plans.values()) and old.route_prefix == new.route_prefix
    )
    return AppPlan(action="nothing" if is_same else "update", deployments=plans)


def _compare(old: DeploymentGoal | None, new: DeploymentGoal, is_new_code: bool) -> DeploymentPlan:
    return DeploymentPlan(
        action=ACTIONS[change(old, new)],
        changed=_changed(old, new, is_new_code) if old is not None else [],
        replicas_before=old.target if old is not None else 0,
        replicas_after=new.target,
    )


def _changed(old: DeploymentGoal, new: DeploymentGoal, is_new_code: bool) -> list[str]:
    """Return what differs; the code only where it counts, which the version of its content may prevent."""
    was, will_be = config_to_dict(old.config), config_to_dict(new.config)
    names = [name for name in {**was, **will_be} if was.get(name) != will_be.get(name)]
    parts = {
        "code": _is_other_code(old, new, is_new_code),
        "runtime_env": old.environment != new.environment,
    }
    if old.version != new.version:
        names = [part for part, differs in parts.items() if differs] + names
    if old.route_prefix != new.route_prefix:
        names.append("route_prefix")
    return [name for name in names if name != "max_concurrent_queries"]  # the older name of another one


def _is_other_code(old: DeploymentGoal, new: DeploymentGoal, is_new_code: bool) -> bool:
    if old.spec.version and new.spec.version:
        return is_new_code or old.spec.version != new.spec.version
    return is_new_code or (old.spec.code, old.spec.init) != (new.spec.code, new.spec.init)


def _removed(old: DeploymentGoal) -> DeploymentPlan:
    return DeploymentPlan(action="remove", replicas_before=old.target)
