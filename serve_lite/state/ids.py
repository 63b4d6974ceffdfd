"""Names of deployments and replicas."""

from __future__ import annotations

import msgspec

#: `app#Deployment#suffix`; the suffix is 8 characters of a-z and 0-9. Unique for the life of a state directory.
ReplicaId = str


class DeploymentId(msgspec.Struct, frozen=True, order=True):
    """One deployment of one application."""

    name: str
    app_name: str = "default"

    def __str__(self) -> str:
        return f"Deployment(name='{self.name}', app='{self.app_name}')"


def subject_of(deployment: DeploymentId) -> str:
    """Return how events name a deployment: `app#Deployment`, as the ids of its replicas begin."""
    return f"{deployment.app_name}#{deployment.name}"


def replica_id(deployment: DeploymentId, suffix: str) -> ReplicaId:
    """Return the full id of a replica."""
    return f"{subject_of(deployment)}#{suffix}"


def suffix_of(replica: ReplicaId) -> str:
    """Return the short unique part of a replica's id."""
    return replica.rsplit("#", 1)[1]
