"""When a replica has served long enough."""

from __future__ import annotations

from serve_lite.config import DeploymentConfig
from serve_lite.replica.wear import LEAST_AGE_S, Wear, has_limits

LIMITS = DeploymentConfig(max_replica_age_s=60, max_replica_requests=10)
SMALL = DeploymentConfig(max_replica_memory_bytes=1)


def test_without_limits_it_serves_for_ever() -> None:
    assert not has_limits(DeploymentConfig()) and has_limits(LIMITS) and has_limits(SMALL)
    assert Wear(0).judge(DeploymentConfig(), now=1e9, requests=10**9) == ""


def test_each_limit_is_told_by_its_name() -> None:
    assert Wear(100).judge(LIMITS, now=160, requests=9) == ""
    assert Wear(100).judge(LIMITS, now=161, requests=9) == "it is older than 60 s (max_replica_age_s)"
    said = Wear(100).judge(LIMITS, now=101, requests=11)
    assert said == "it has answered 11 requests (max_replica_requests is 10)"
    assert "max_replica_memory_bytes is 1" in Wear(0).judge(SMALL, now=LEAST_AGE_S + 1, requests=0)


def test_one_that_is_large_from_its_start_is_not_replaced_at_once() -> None:
    assert Wear(0).judge(SMALL, now=LEAST_AGE_S, requests=0) == ""


def test_one_that_fits_is_not_replaced() -> None:
    assert Wear(0).judge(DeploymentConfig(max_replica_memory_bytes=2**40), now=1e6, requests=0) == ""


def test_once_worn_it_stays_so_until_its_limits_change() -> None:
    wear = Wear(0)
    said = wear.judge(LIMITS, now=61, requests=0)
    assert said and wear.judge(LIMITS, now=100, requests=100) == said
    assert wear.judge(DeploymentConfig(max_replica_age_s=3600), now=101, requests=100) == ""
