"""What a deployment tells while some of its replicas wait for resources.

Pure. Which wait, and for what, is decided in `admission`; here it is put into the deployment's message, beside what
else there is to tell of it.
"""

from __future__ import annotations

from serve_lite.policy.admission import Hold
from serve_lite.policy.restart import StartGate
from serve_lite.schema import DeploymentStatus
from serve_lite.state.events import DeploymentHeld, Event
from serve_lite.state.goal import DeploymentGoal
from serve_lite.state.observed import HEALTH_MESSAGE, DeploymentView

#: A start that takes longer is mentioned in the status. Ray Serve: RAY_SERVE_SLOW_STARTUP_WARNING_S.
SLOW_START_S = 30.0


def find_hold(
    goal: DeploymentGoal, view: DeploymentView, gate: StartGate, hold: Hold | None, now: float
) -> tuple[Event | None, float | None]:
    """Return what is new about replicas that wait for resources, and when there is more to tell."""
    is_unhealthy = view.status is DeploymentStatus.UNHEALTHY
    if hold is None:
        if view.held_since is None:
            return None, None
        message = HEALTH_MESSAGE if is_unhealthy else ""
        return DeploymentHeld(deployment=goal.id, since=None, message=message, at=now), None
    # Later than now: the machine was restarted.
    since = view.held_since if view.held_since is not None and view.held_since <= now else now
    message = _message(goal, hold, is_slow=since + SLOW_START_S <= now)
    if view.starts.failures:
        message = f"{failing_message(view, gate)}\n{message}"
    elif is_unhealthy:
        message = f"{HEALTH_MESSAGE} {message}"
    tell_at = since + SLOW_START_S if since + SLOW_START_S > now else None
    if (since, message) == (view.held_since, view.message):
        return None, tell_at
    return DeploymentHeld(deployment=goal.id, since=since, message=message, at=now), tell_at


def failing_message(view: DeploymentView, gate: StartGate) -> str:
    """Return what there is to tell of starts that failed and are tried again."""
    retrying = f"Retrying {gate.tries_left} more time(s)" if gate.tries_left else "It will be retried"
    return f"A replica failed to start with exception. {retrying}. Error:\n{view.starts.error}"


def _message(goal: DeploymentGoal, hold: Hold, *, is_slow: bool) -> str:
    if is_slow:  # in Ray Serve's words
        who = f"{hold.count} replicas that have taken more than {SLOW_START_S:.0f}s"
    else:
        who = "1 replica that waits" if hold.count == 1 else f"{hold.count} replicas that wait"
    subject = f"Deployment '{goal.id.name}' in application '{goal.id.app_name}' has {who} to be scheduled"
    return f"{subject}: each {hold.reason}. {hold.remedy}".rstrip()
