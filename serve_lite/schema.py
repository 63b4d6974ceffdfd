"""The shapes that status answers and configuration documents have.

First half: what `serve.status()`, the command line and REST report, with Ray Serve's names.
Second half: the documents that REST and `serve deploy` accept, and `parse_deploy_document`, which
checks one whole before anything changes. What each option of a deployment may be is known by
`config.py`; merging a document with what the code says is `apply_overrides` there.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec


class ApplicationStatus(enum.StrEnum):
    """Where one application stands. Members compare equal to their names as strings."""

    NOT_STARTED = "NOT_STARTED"  #: no such application
    DEPLOYING = "DEPLOYING"  #: being built, or replicas still starting or being replaced
    DEPLOY_FAILED = "DEPLOY_FAILED"  #: given up until the next deploy; what ran before still runs
    RUNNING = "RUNNING"  #: every deployment is healthy
    UNHEALTHY = "UNHEALTHY"  #: was running; a deployment is not healthy any more
    DELETING = "DELETING"  #: its replicas are being stopped


class DeploymentStatus(enum.StrEnum):
    """Where one deployment stands."""

    UPDATING = "UPDATING"  #: new code or options are being rolled out
    HEALTHY = "HEALTHY"  #: as many ready replicas of the right version as wanted
    UNHEALTHY = "UNHEALTHY"  #: replicas died or failed their health checks
    DEPLOY_FAILED = "DEPLOY_FAILED"  #: new replicas kept failing to start
    UPSCALING = "UPSCALING"  #: more replicas are being started
    DOWNSCALING = "DOWNSCALING"  #: surplus replicas are being drained


class DeploymentStatusTrigger(enum.StrEnum):
    """Why a deployment has the status it has."""

    UNSPECIFIED = "UNSPECIFIED"
    CONFIG_UPDATE_STARTED = "CONFIG_UPDATE_STARTED"
    CONFIG_UPDATE_COMPLETED = "CONFIG_UPDATE_COMPLETED"
    UPSCALE_COMPLETED = "UPSCALE_COMPLETED"
    DOWNSCALE_COMPLETED = "DOWNSCALE_COMPLETED"
    AUTOSCALING = "AUTOSCALING"
    REPLICA_STARTUP_FAILED = "REPLICA_STARTUP_FAILED"
    DEPLOYMENT_ACTOR_FAILED = "DEPLOYMENT_ACTOR_FAILED"  #: Ray only; never reported here
    HEALTH_CHECK_FAILED = "HEALTH_CHECK_FAILED"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    DELETING = "DELETING"


class ReplicaState(enum.StrEnum):
    """Where one replica stands, as users are told."""

    STARTING = "STARTING"
    UPDATING = "UPDATING"
    RECOVERING = "RECOVERING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    PENDING_MIGRATION = "PENDING_MIGRATION"  #: Ray only; never reported here


class ProxyStatus(enum.StrEnum):
    """Where a proxy stands."""

    STARTING = "STARTING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    DRAINING = "DRAINING"
    DRAINED = "DRAINED"


class DeploymentStatusOverview(msgspec.Struct, frozen=True):
    """One deployment in an answer of `serve.status()`."""

    status: DeploymentStatus
    status_trigger: DeploymentStatusTrigger = DeploymentStatusTrigger.UNSPECIFIED
    replica_states: dict[str, int] = {}  #: count of each state that occurs
    message: str = ""


class ApplicationStatusOverview(msgspec.Struct, frozen=True):
    """One application in an answer of `serve.status()`."""

    status: ApplicationStatus
    message: str = ""
    last_deployed_time_s: float = 0.0  #: seconds since the Unix epoch
    deployments: dict[str, DeploymentStatusOverview] = {}


class ServeStatus(msgspec.Struct, frozen=True):
    """What `serve.status()` returns; empty when nothing runs."""

    proxies: dict[str, ProxyStatus] = {}
    applications: dict[str, ApplicationStatusOverview] = {}
    target_capacity: float | None = None
