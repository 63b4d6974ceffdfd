"""Who comes first when resources do not suffice for all.

Pure. Each deployment has a claim, a number that it gets when it asks for resources for the first time or for more
replicas than before: lower ones are served first. A replacement for a replica that died, and the replicas of a
new version, come under the claim that the deployment has, so what it had is not taken by others in between.
"""

from __future__ import annotations

import msgspec

from serve_lite.state.goal import AppGoal, DeploymentGoal, Goal
from serve_lite.state.ids import DeploymentId
from serve_lite.state.resources import needs_of


def with_claims(old: Goal, new: Goal) -> Goal:
    """Return `new` with the claim of every deployment; what need not change is the same object."""
    had = {d.id: d for app in old.apps.values() for d in app.deployments if not app.is_deleting}
    following = 1 + max((d.claim for app in old.apps.values() for d in app.deployments), default=0)
    apps: dict[str, AppGoal] = {}
    for name, app in new.apps.items():
        claimed: list[DeploymentGoal] = []
        for deployment in app.deployments:
            claim = _claim(had, deployment, following)
            following = max(following, claim + 1)
            if claim != deployment.claim:
                deployment = msgspec.structs.replace(deployment, claim=claim)
            claimed.append(deployment)
        is_same = all(a is b for a, b in zip(claimed, app.deployments, strict=True))
        apps[name] = app if is_same else msgspec.structs.replace(app, deployments=tuple(claimed))
    is_same = all(apps[name] is new.apps[name] for name in apps)
    return new if is_same else msgspec.structs.replace(new, apps=apps)


def _claim(had: dict[DeploymentId, DeploymentGoal], deployment: DeploymentGoal, following: int) -> int:
    if needs_of(deployment.config.ray_actor_options, deployment.config.cpu_affinity).is_nothing:
        return 0
    before = had.get(deployment.id)
    had_needs = (
        before is not None
        and not needs_of(before.config.ray_actor_options, before.config.cpu_affinity).is_nothing
    )
    return (
        before.claim if had_needs and before is not None and deployment.target <= before.target else following
    )
