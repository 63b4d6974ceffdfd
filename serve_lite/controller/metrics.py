"""The metrics of the instance: what its replicas told, what lasts of those that are gone, and how everything stands.

Nothing is asked until somebody looks (`fleet.ask_metrics`). The daemon only carries what replicas tell; it is named
and written out in `admin/prometheus.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from serve_lite.instruments import Family, Series
from serve_lite.schema import ApplicationStatus, DeploymentStatus, ReplicaState, ServeStatus
from serve_lite.state.ids import DeploymentId, ReplicaId, suffix_of
from serve_lite.state.observed import ReplicaView

#: Gone replicas of one deployment whose counters are still shown, the newest; fewer if they had very many.
KEPT_GONE = 100
KEPT_GONE_BYTES = 1024 * 1024

#: Ray Serve's numbers (2.60; 2.7 has no such metrics).
DEPLOYMENT_NUMBERS = {
    DeploymentStatus.DEPLOY_FAILED: 1,
    DeploymentStatus.UNHEALTHY: 2,
    DeploymentStatus.UPDATING: 3,
    DeploymentStatus.UPSCALING: 4,
    DeploymentStatus.DOWNSCALING: 5,
    DeploymentStatus.HEALTHY: 6,
}
APPLICATION_NUMBERS = {
    ApplicationStatus.DEPLOY_FAILED: 1,
    ApplicationStatus.UNHEALTHY: 2,
    ApplicationStatus.NOT_STARTED: 3,
    ApplicationStatus.DELETING: 4,
    ApplicationStatus.DEPLOYING: 5,
    ApplicationStatus.RUNNING: 6,
}
_OWN = ["deployment", "replica", "application"]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Family]).decode


class Pictures:
    """The last picture of every replica's metrics.

    A replica that is gone leaves its counters and histograms, so that sums over a deployment do not fall when one
    of its replicas ends; gauges say how something is, and go with it.
    """

    def __init__(self) -> None:
        self._living: dict[ReplicaId, list[Family]] = {}
        self._gone: dict[DeploymentId, _Gone] = {}

    def begin(self, replica: ReplicaId, deployment: DeploymentId) -> None:
        """A replica is ready."""
        labels = [deployment.name, suffix_of(replica), deployment.app_name]
        self._living[replica] = [
            Family(
                name="serve_deployment_replica_starts",
                kind="counter",
                help="The number of times that this replica has been started.",
                label_names=_OWN,
                series=[Series(labels, [1.0])],
            )
        ]

    def take(self, replica: ReplicaId, families: list[Family]) -> None:
        """Have this newer picture of a replica that is ready."""
        begun = self._living.get(replica)
        if begun is not None:
            self._living[replica] = [begun[0], *families]

    def end(self, replica: ReplicaId, deployment: DeploymentId) -> None:
        """A replica is gone; keep what lasts."""
        lasting = [family for family in self._living.pop(replica, ()) if family.kind != "gauge"]
        if lasting:
            self._gone.setdefault(deployment, _Gone()).keep(_encode(lasting))

    def forget(self, deployment: DeploymentId) -> None:
        """A deployment is deleted."""
        self._gone.pop(deployment, None)

    def families(self) -> list[Family]:
        """Return everything, the oldest first. Families of the same name are not put together."""
        gone = [_decode(picture) for of_one in self._gone.values() for picture in of_one.pictures]
        return [family for families in (*gone, *self._living.values()) for family in families]


class _Gone:
    """The last pictures of one deployment's gone replicas, oldest first.

    Encoded, which takes less memory: nothing happens to them any more, and only a scrape looks at them.
    """

    def __init__(self) -> None:
        self.pictures: deque[bytes] = deque()
        self._bytes = 0

    def keep(self, picture: bytes) -> None:
        """Add the newest, and drop the oldest ones beyond what is kept. The newest stays, however large."""
        self.pictures.append(picture)
        self._bytes += len(picture)
        while len(self.pictures) > 1 and (len(self.pictures) > KEPT_GONE or self._bytes > KEPT_GONE_BYTES):
            self._bytes -= len(self.pictures.popleft())


def lifecycle(status: ServeStatus, replicas: Sequence[ReplicaView]) -> list[Family]:
    """Return how applications, deployments and replicas stand, as gauges."""
    return [
        _gauge(
            "serve_application_status",
            "1 DEPLOY_FAILED, 2 UNHEALTHY, 3 NOT_STARTED, 4 DELETING, 5 DEPLOYING, 6 RUNNING.",
            ["application"],
            [([name], APPLICATION_NUMBERS[app.status]) for name, app in status.applications.items()],
        ),
        _gauge(
            "serve_deployment_status",
            "1 DEPLOY_FAILED, 2 UNHEALTHY, 3 UPDATING, 4 UPSCALING, 5 DOWNSCALING, 6 HEALTHY.",
            ["deployment", "application"],
            [
                ([deployment, name], DEPLOYMENT_NUMBERS[overview.status])
                for name, app in status.applications.items()
                for deployment, overview in app.deployments.items()
            ],
        ),
        _gauge(
            "serve_deployment_replica_healthy",
            "1 if the replica serves and passed its last health check, else 0.",
            _OWN,
            [
                ([r.deployment.name, suffix_of(r.id), r.deployment.app_name], int(_is_healthy(r)))
                for r in replicas
            ],
        ),
    ]


def _is_healthy(replica: ReplicaView) -> bool:
    serves = replica.state in (ReplicaState.RUNNING, ReplicaState.UPDATING)
    return serves and replica.health.strikes == 0


def _gauge(name: str, help: str, label_names: list[str], rows: Sequence[tuple[list[str], int]]) -> Family:
    series = [Series(labels, [float(value)]) for labels, value in rows]
    return Family(name, "gauge", help, label_names, series)
