"""What is told of a deploy: where each application, deployment and replica stands, and how long it took to get there.

Pure: from the answer of `GET /api/serve/applications/` to values. `progress.py` asks and tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

#: Shorter phases are not worth a word.
SHOWN_S = 0.05

SETTLED = {"RUNNING", "HEALTHY", "DEPLOY_FAILED", "UNHEALTHY"}
FAILED = ("DEPLOY_FAILED", "UNHEALTHY")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Where an application, a deployment or a replica stands."""

    level: int  #: 0 for an application, 1 for a deployment, 2 for a replica
    name: str  #: its own
    now: str  #: status or phase
    note: str = ""  #: more about it
    finished: tuple[tuple[str, float], ...] = ()  #: phases that have ended, and their seconds
    since: float | None = None  #: in this phase, seconds since the Unix epoch; None if nobody waits for it
    took_s: float | None = None  #: from the deploy, or its own start, to where it is now; None if not known
    is_settled: bool = False
    has_failed: bool = False

    @property
    def is_telling(self) -> bool:
        """Whether it says more than what its parts say."""
        return self.level == 2 or bool(self.note) or self.now not in ("DEPLOYING", "UPDATING")

    def __str__(self) -> str:
        told = [f"{phase} {seconds:.1f} s" for phase, seconds in self.finished if seconds >= SHOWN_S]
        return ", ".join([*told, self.now]) + (f": {self.note}" if self.note else "")


def steps_of(apps: Mapping[str, Any]) -> dict[str, Step]:
    """Return every step by what it is called: `app`, `app/Deployment`, `app/Deployment replica`."""
    found = {}
    for name, app in apps.items():
        found[name] = _of_application(name, app)
        if app.get("phase"):
            continue  # it is being built: what runs of it is what was there before
        for deployment, details in app["deployments"].items():
            who = f"{name}/{deployment}"
            found[who] = _of_deployment(deployment, details)
            for replica in (*reversed(details["recent_dead_replicas"]), *details["replicas"]):
                step = _of_replica(replica, app)
                if not step.has_failed or _is_of_this_deploy(replica, app):
                    found[f"{who} {step.name}"] = step
    return found


def seconds_of(apps: Mapping[str, Any]) -> dict[str, Any]:
    """Return the seconds of each finished phase, of the builds and of the replicas, for programs."""
    return {
        "builds": {name: app.get("phases", {}) for name, app in apps.items()},
        "replicas": {
            name: {
                deployment: {
                    replica["replica_id"]: replica.get("phases", {}) for replica in details["replicas"]
                }
                for deployment, details in app["deployments"].items()
            }
            for name, app in apps.items()
        },
    }


def _of_application(name: str, app: Mapping[str, Any]) -> Step:
    phase, status = app.get("phase"), app["status"]
    is_waited_for = status in ("DEPLOYING", "DELETING")
    return Step(
        level=0,
        name=name,
        now=phase or status,
        since=(app.get("phase_started_s") or app["last_deployed_time_s"]) if is_waited_for else None,
        finished=tuple(app.get("phases", {}).items()) if status == "DEPLOYING" and not phase else (),
        took_s=_took_s(app) if status == "RUNNING" else None,
        is_settled=status in SETTLED,
        has_failed=status in FAILED,
    )


def _took_s(app: Mapping[str, Any]) -> float | None:
    """Return the seconds from the deploy to the last replica that became ready for it; None if it started none."""
    ready_at = [
        replica["phase_started_s"]
        for details in app["deployments"].values()
        for replica in details["replicas"]
        if replica["state"] == "RUNNING"
        and replica.get("phase_started_s")
        and _is_of_this_deploy(replica, app)
    ]
    return max(0.0, max(ready_at) - app["last_deployed_time_s"]) if ready_at else None


def _of_deployment(name: str, details: Mapping[str, Any]) -> Step:
    status = details["status"]
    said = details["message"].strip().splitlines() if status != "HEALTHY" else []
    return Step(
        level=1,
        name=name,
        now=status,
        note=said[0].removesuffix(" Error:") if said else "",
        is_settled=status in SETTLED,
        has_failed=status in FAILED,
    )


def _of_replica(replica: Mapping[str, Any], app: Mapping[str, Any]) -> Step:
    state = replica["state"]
    now = (
        (replica.get("phase") or state.lower())
        if state in ("STARTING", "UPDATING", "STOPPING")
        else state.lower()
    )
    error = replica.get("last_error", "").strip().splitlines()
    has_failed = bool(replica.get("failed_in")) or (state == "STOPPED" and bool(error))
    note = replica.get("phase_note", "")
    finished = replica.get("phases", {}) if _is_of_this_deploy(replica, app) else {}
    return Step(
        level=2,
        name=replica["replica_id"],
        now="failed" if has_failed else now,
        note=_telling(error) if has_failed and error else note,
        finished=tuple(finished.items()),
        took_s=sum(finished.values()) if finished else None,
        since=replica.get("phase_started_s") if state != "RUNNING" and not has_failed else None,
        is_settled=has_failed or state == "RUNNING",
        has_failed=has_failed,
    )


def _is_of_this_deploy(replica: Mapping[str, Any], app: Mapping[str, Any]) -> bool:
    """Whether the replica was started after the application was deployed the last time."""
    return bool((replica.get("start_time_s") or 0.0) >= app["last_deployed_time_s"])


def _telling(error: list[str]) -> str:
    """Return the line of an error that says most: an exception is the last one, how a process ended the first."""
    return (
        error[0].removesuffix(" Its last output:")
        if error[0].startswith("The replica's process")
        else error[-1]
    )
