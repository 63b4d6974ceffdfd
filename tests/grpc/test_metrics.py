"""What the gRPC door counts and logs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from tests.grpc.test_calls import WAIT, failed
from tests.instances import Instance, Instances
from tests.metrics.test_metrics_of_an_instance import scrape

SAY, FAIL = "/serve_lite.echo.Echo/Say", "/serve_lite.echo.Behave/Fail"


async def test_calls_are_counted_and_logged_by_method_and_status(
    instances: Instances, given: Callable[..., Any], deploy: Any, client: Any, pb: Any, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    door: Instance = await instances.start(given(access_log=str(log)))
    await deploy(door)
    stubs = client(door)
    for _ in range(2):
        await stubs.echo.Say(pb.Said(text="hello"), metadata=(("request_id", "mine"),), **WAIT)
    error = await failed(stubs.behave.Fail(pb.Said(), **WAIT))
    assert error.code() == grpc.StatusCode.INTERNAL
    page = await scrape(door)
    labels = ("route", "method", "application", "status_code")
    counted = {("default", SAY, "default", "OK"): 2, ("default", FAIL, "default", "INTERNAL"): 1}
    assert page.rows("serve_num_grpc_requests_total", *labels) == counted
    assert page.rows("serve_grpc_request_latency_ms_count", *labels) == counted
    errors = ("deployment", "error_code", "method", "route", "application")
    (deployment,) = page.rows("serve_deployment_replica_healthy", "deployment")
    assert page.rows("serve_num_deployment_grpc_error_requests_total", *errors) == {
        (deployment, "INTERNAL", FAIL, "default", "default"): 1
    }
    assert page.total("serve_num_grpc_error_requests_total") == 1
    assert page.total("serve_num_ongoing_grpc_requests") == 0
    await instances.stop(door)
    words = [line.split() for line in log.read_text().splitlines()]
    assert [(w[2], w[3], w[4], w[6]) for w in words[:2]] == [("mine", "default", SAY, "OK")] * 2
    assert [(w[4], w[6]) for w in words[2:]] == [(FAIL, "INTERNAL")]
    assert all(int(w[8]) > 0 for w in words[:2])
