"""Where an application stands: one table, as for replicas and deployments (lifecycle.py).

An application has no will of its own: what is true of its submission and of its deployments is its *condition*, the
gravest first, and each condition means one status. The table says which conditions may follow on a status; the
controller follows it event by event and writes down each move.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from serve_lite.schema import ApplicationStatus, DeploymentStatus, DeploymentStatusTrigger
from serve_lite.state import rollback
from serve_lite.state.goal import AppGoal
from serve_lite.state.observed import DeploymentView, Observed


class Condition(enum.Enum):
    """What is true of an application. Of several, the first in this order counts."""

    DELETED = "deleted"
    BUILDING = "being built"
    MAKING_WAY = "given up; the revision before is about to come back"
    BUILD_FAILED = "could not be built"
    GIVEN_UP = "a deployment was given up"
    SICK = "a deployment is unhealthy"
    UPDATING = "a deployment is being updated, or scaled by the user"
    FELL_BACK = "all deployments run, of the revision before the one that was given up"
    WELL = "all deployments run"


_C = Condition
_A = ApplicationStatus

STATUS_OF: Mapping[Condition, ApplicationStatus] = MappingProxyType(
    {
        _C.DELETED: _A.DELETING,
        _C.BUILDING: _A.DEPLOYING,
        _C.MAKING_WAY: _A.DEPLOYING,
        _C.BUILD_FAILED: _A.DEPLOY_FAILED,
        _C.GIVEN_UP: _A.DEPLOY_FAILED,
        _C.SICK: _A.UNHEALTHY,
        _C.UPDATING: _A.DEPLOYING,
        _C.FELL_BACK: _A.DEPLOY_FAILED,
        _C.WELL: _A.RUNNING,
    }
)

#: What may become true of an application in one step, by where it stands.
APPLICATION_MOVES: Mapping[ApplicationStatus, frozenset[Condition]] = MappingProxyType(
    {
        # Nothing is known of it: it is new, or the daemon is.
        _A.NOT_STARTED: frozenset(_C),
        # Something of what was asked for is still to come.
        _A.DEPLOYING: frozenset(_C),
        # All of it serves. What a deploy or a build makes of it is seen as DEPLOYING first.
        _A.RUNNING: frozenset({_C.WELL, _C.BUILDING, _C.UPDATING, _C.SICK, _C.DELETED}),
        # It ran, and something of it does not any more.
        _A.UNHEALTHY: frozenset(_C) - {_C.BUILD_FAILED},
        # What was asked for will not come; what ran before it may serve.
        _A.DEPLOY_FAILED: frozenset(_C),
        # It serves nothing more, and is forgotten when its last replica has ended; unless it is deployed again.
        _A.DELETING: frozenset({_C.DELETED, _C.BUILDING, _C.UPDATING}),
    }
)


class IllegalStatusError(Exception):
    """What became true of an application cannot follow on where it stood: a fault of ours."""

    def __init__(self, app: str, status: ApplicationStatus, condition: Condition) -> None:
        super().__init__(f"application {app!r} is {status} and now: {condition.value}")
        self.status, self.condition = status, condition


def next_application_status(app: str, status: ApplicationStatus, condition: Condition) -> ApplicationStatus:
    """Return the status that a condition means; raise `IllegalStatusError` if it cannot follow on `status`."""
    if condition not in APPLICATION_MOVES[status]:
        raise IllegalStatusError(app, status, condition)
    return STATUS_OF[condition]


def condition_of(app: AppGoal, observed: Observed) -> tuple[Condition, str]:
    """Return what is true of an application, and the message that goes with it."""
    condition, message = _condition(app, observed)
    if condition in (_C.BUILD_FAILED, _C.GIVEN_UP) and rollback.is_due(app, observed):
        return _C.MAKING_WAY, message
    if not app.fallback or condition is _C.DELETED:
        return condition, message
    # What the user deployed has failed, however well the earlier revision serves: who waits for the deploy must
    # not take it for done, and the next deploy clears it.
    text = "\n".join(part for part in (message, app.fallback) if part)
    return (_C.FELL_BACK if condition is _C.WELL else condition), text


def app_status(app: AppGoal, observed: Observed) -> tuple[ApplicationStatus, str]:
    """Return an application's status and message."""
    condition, message = condition_of(app, observed)
    return STATUS_OF[condition], message


def is_settled(app: AppGoal, observed: Observed) -> bool:
    """Whether the application is neither being deployed nor being deleted."""
    status, _ = app_status(app, observed)
    return status not in (_A.DEPLOYING, _A.DELETING)


def _condition(app: AppGoal, observed: Observed) -> tuple[Condition, str]:
    if app.is_deleting:
        return _C.DELETED, ""
    if app.is_building:
        return _C.BUILDING, ""
    if app.build_error:
        return _C.BUILD_FAILED, app.build_error
    views = {d.id.name: observed.deployments.get(d.id) for d in app.deployments}
    failed = [n for n, v in views.items() if v is not None and v.status is DeploymentStatus.DEPLOY_FAILED]
    if failed:
        text = f"Failed to update the deployments {failed}."
        return _C.GIVEN_UP, "\n".join([text, *_reasons(views, failed)])
    sick = [n for n, v in views.items() if v is not None and v.status is DeploymentStatus.UNHEALTHY]
    if sick:
        text = f"The deployments {sick} are UNHEALTHY."
        return _C.SICK, "\n".join([text, *_reasons(views, sick)])
    if any(v is None or _is_deploying(v) for v in views.values()):
        return _C.UPDATING, ""
    return _C.WELL, ""


def _is_deploying(view: DeploymentView) -> bool:
    if view.status is DeploymentStatus.UPDATING:
        return True
    is_scaling = view.status in (DeploymentStatus.UPSCALING, DeploymentStatus.DOWNSCALING)
    return is_scaling and view.trigger is DeploymentStatusTrigger.CONFIG_UPDATE_STARTED


def _reasons(views: Mapping[str, DeploymentView | None], names: Sequence[str]) -> list[str]:
    """Return what the deployments say, so that the message ends with the user's own exception."""
    return [f"{name}: {view.message}" for name in names if (view := views[name]) is not None and view.message]
