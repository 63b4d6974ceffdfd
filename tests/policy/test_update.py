from __future__ import annotations

from typing import Any

import msgspec
import pytest

from serve_lite.config import DeploymentConfig
from serve_lite.policy.update import (
    OUTER_OPTIONS,
    RECONFIGURE_OPTIONS,
    RESTART_OPTIONS,
    SCALE_OPTIONS,
    Change,
    change,
    settings_of,
    status_move,
    version_of,
)
from serve_lite.state.goal import CodeEnvironment, DeploymentGoal, DeploymentSpec
from serve_lite.state.lifecycle import DeploymentMove
from tests.policy.cases import MODEL


def goal(
    code_version: str = "c1", content: str = "", env: dict[str, str] | None = None, **options: Any
) -> DeploymentGoal:
    config = DeploymentConfig(**options)
    spec = DeploymentSpec(name="Model", config=config, code=b"code", init=b"", version=content)
    environment = CodeEnvironment(env_vars=env or {})
    return DeploymentGoal(
        id=MODEL,
        spec=spec,
        config=config,
        version=version_of(code_version, spec, config, environment),
        settings=settings_of(config, "/"),
        target=config.num_replicas,
        environment=environment,
    )


def test_every_option_has_exactly_one_effect() -> None:
    tables = [RESTART_OPTIONS, RECONFIGURE_OPTIONS, SCALE_OPTIONS, OUTER_OPTIONS]
    named = [name for table in tables for name in table]
    assert sorted(named) == sorted(f.name for f in msgspec.structs.fields(DeploymentConfig))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Change.NOTHING),
        ({"num_replicas": 2}, Change.SCALE),
        ({"user_config": {"a": 1}}, Change.RECONFIGURE),
        ({"max_ongoing_requests": 5}, Change.RECONFIGURE),
        ({"ray_actor_options": {"num_cpus": 2}}, Change.RESTART),
        ({"max_queued_requests": 7}, Change.OUTER),
        ({"health_check_period_s": 1.0}, Change.OUTER),
        ({"graceful_shutdown_timeout_s": 1.0}, Change.OUTER),
        ({"num_replicas": 2, "user_config": 1}, Change.RECONFIGURE),
        ({"user_config": 1, "ray_actor_options": {"num_gpus": 1}}, Change.RESTART),
    ],
)
def test_an_option_causes_what_ray_serve_documents(options: dict[str, Any], expected: Change) -> None:
    assert change(goal(), goal(**options)) is expected


def test_other_code_or_environment_causes_a_restart() -> None:
    assert change(goal("c1"), goal("c2")) is Change.RESTART
    assert change(goal(), goal(env={"A": "1"})) is Change.RESTART


def test_what_is_in_the_files_counts_beside_the_code_version() -> None:
    assert change(goal("c1", "one"), goal("c1", "one")) is Change.NOTHING
    assert change(goal("c1", "one"), goal("c1", "two")) is Change.RESTART
    assert change(goal("c1", "one"), goal("c2", "one")) is Change.RESTART


def test_only_a_change_of_the_number_alone_is_told_as_scaling() -> None:
    assert status_move(goal(), goal(num_replicas=2)) is DeploymentMove.SCALED_UP
    assert status_move(goal(num_replicas=2), goal()) is DeploymentMove.SCALED_DOWN
    assert status_move(goal(), goal(num_replicas=2, user_config=1)) is DeploymentMove.CONFIGURED
    assert status_move(goal(), goal()) is None
    assert status_move(None, goal()) is DeploymentMove.CONFIGURED


def test_a_version_is_the_same_as_before_there_was_cpu_affinity() -> None:
    """An upgrade would replace all replicas otherwise."""
    assert goal(ray_actor_options={"num_cpus": 2}).version == "8ea5d47e9b7b"
    assert goal(cpu_affinity=[0]).version != goal().version
