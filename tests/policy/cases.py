"""Short ways to write down goals and replicas for policy tests."""

from __future__ import annotations

from typing import Any

from serve_lite.config import DeploymentConfig
from serve_lite.policy.restart import StartGate
from serve_lite.schema import ReplicaState
from serve_lite.state.goal import AppGoal, AppSubmission, DeploymentGoal, DeploymentSpec, Goal
from serve_lite.state.ids import DeploymentId
from serve_lite.state.observed import ReplicaView

MODEL = DeploymentId("Model", "shop")
OPEN = StartGate(is_open=True)
GIVEN_UP = StartGate(is_open=False, has_given_up=True)


def wanted(
    version: str = "v2",
    target: int = 1,
    settings: str = "s1",
    deployment: DeploymentId = MODEL,
    calls: tuple[str, ...] = (),
    **options: Any,
) -> DeploymentGoal:
    """Return the goal of one deployment."""
    config = DeploymentConfig(num_replicas=target, **options)
    spec = DeploymentSpec(name=deployment.name, config=config, code=b"", init=b"", calls=calls)
    return DeploymentGoal(
        id=deployment, spec=spec, config=config, version=version, settings=settings, target=target
    )


def application(*deployments: DeploymentGoal, name: str = "shop", **fields: Any) -> AppGoal:
    """Return an application of these deployments."""
    fields = {"revision": 1, "submission": AppSubmission(name=name), **fields}
    return AppGoal(name=name, deployed_at=0.0, deployments=deployments, **fields)


def goal_of(*apps: AppGoal) -> Goal:
    return Goal(apps={app.name: app for app in apps})


def replicas(
    version: str,
    count: int,
    state: ReplicaState = ReplicaState.RUNNING,
    *,
    settings: str = "s1",
    rank: int = 0,
    begun_at: float = 0.0,
    deployment: DeploymentId = MODEL,
    **fields: Any,
) -> list[ReplicaView]:
    """Return `count` replicas called `shop#Model#<version>-<state>-<number>`, oldest first."""
    return [
        ReplicaView(
            id=f"{deployment.app_name}#{deployment.name}#{version}-{state.lower()}-{i}",
            deployment=deployment,
            version=version,
            settings=settings,
            state=state,
            begun_at=begun_at + i,
            since=begun_at + i,
            rank=rank + i,
            **fields,
        )
        for i in range(count)
    ]
