"""Which revision of an application proved to work, and which was given up.

A revision has *proved* itself once all its deployments ran as they should (`AppGoal.proven`). One that is
*given up* was not built, or replicas of it failed to start so often that no more are started. What is done
about it is in `policy/reconcile.py`; there is no rollback of what a rollback brought (`AppGoal.fallback`).
"""

from __future__ import annotations

from serve_lite.schema import DeploymentStatus, DeploymentStatusTrigger
from serve_lite.state.goal import AppGoal, DeploymentGoal
from serve_lite.state.observed import DeploymentView, Observed

_GIVEN_UP = frozenset({DeploymentStatus.DEPLOY_FAILED, DeploymentStatus.UNHEALTHY})


def working(app: AppGoal, observed: Observed) -> list[DeploymentGoal]:
    """Return the deployments of the newest revision of the application that run as they should."""
    if app.is_building or app.build_error or app.is_deleting:
        return []
    views = ((d, observed.deployments.get(d.id)) for d in app.deployments)
    return [d for d, view in views if view is not None and view.status is DeploymentStatus.HEALTHY]


def why_given_up(app: AppGoal, observed: Observed) -> str:
    """Return why the newest revision of the application is not tried any more; "" if it is, or works."""
    if app.is_building or app.is_deleting:
        return ""
    if app.build_error:
        return app.build_error
    views = ((d.id.name, observed.deployments.get(d.id)) for d in app.deployments)
    failed = [f"{name}: {view.message}" for name, view in views if view is not None and _is_given_up(view)]
    return "\n".join(failed)


def is_due(app: AppGoal, observed: Observed) -> bool:
    """Whether the application is to go back to the revision that proved itself."""
    may_go_back = app.submission.rollback_on_failure and not app.fallback
    return may_go_back and 0 < app.proven < app.revision and bool(why_given_up(app, observed))


def _is_given_up(view: DeploymentView) -> bool:
    is_final = view.trigger is DeploymentStatusTrigger.REPLICA_STARTUP_FAILED
    return view.status in _GIVEN_UP and (is_final or view.status is DeploymentStatus.DEPLOY_FAILED)
