"""What code says, what `serve build` writes and what `serve config` gives back are the same goal: nothing restarts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_lite.options import OPTIONS
from serve_lite.state.status import REDACTED
from tests.cli.commands import Cli, Finished

WHOLE = """
import serve_lite as serve
from serve_lite.request_router import RequestRouter


class First(RequestRouter):
    async def choose_replicas(self, candidate_replicas, pending_request=None):
        return [candidate_replicas]


OPTIONS = dict(
    num_replicas=2,
    max_ongoing_requests=7,
    max_queued_requests=9,
    user_config={"who": ["you", {"and": None}], "level": 0.5},
    graceful_shutdown_wait_loop_s=1,
    graceful_shutdown_timeout_s=3,
    health_check_period_s=4,
    health_check_timeout_s=5,
    ray_actor_options={"num_cpus": 0.5, "num_gpus": 0, "runtime_env": {"env_vars": {"LEVEL": "3"}}},
    max_constructor_retry_count=4,
    rolling_update_percentage=0.5,
    max_surge_percent=50,
    backpressure_config={"status_code": 429, "retry_after_s": 2},
    logging_config={"log_level": "DEBUG", "encoding": "JSON"},
    request_router_config=ROUTER,
    serialize_sync=True,
    sync_threads=2,
    max_replica_age_s=3600,
    max_replica_requests=100_000,
    max_replica_memory_bytes=2_000_000_000,
    cpu_affinity=[0],
    alive_timeout_s=6,
    deadlock_timeout_s=None,
    progress_timeout_s=8,
    outlier_ejection={"consecutive_errors": 3, "base_ejection_s": 2},
    min_ready_s=0.25,
    placement_group_bundles=[{"CPU": 1}, {"CPU": 1}],
    placement_group_strategy="SPREAD",
    placement_group_bundle_label_selector=[{"zone": "a"}],
)


@serve.deployment(**OPTIONS)
class Inner:
    def reconfigure(self, config):
        self.config = config

    def __call__(self):
        return self.config


@serve.deployment(
    autoscaling_config={
        "min_replicas": 1, "initial_replicas": 2, "max_replicas": 3, "target_ongoing_requests": 4,
        "look_back_period_s": 20, "upscaling_factor": 0.5, "downscaling_factor": 0.25, "upscale_delay_s": 500,
        "downscale_delay_s": 500, "downscale_to_zero_delay_s": 500, "aggregation_function": "max",
    },
    max_replicas_per_node=4,
)
class Outer:
    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, request):
        return await self.inner.remote()


app = Outer.bind(Inner.bind())
"""
ROUTER = '{"request_router_class": "whole:First", "initial_backoff_s": 0.05}'

FAST = """
import serve_lite as serve
from fastapi import FastAPI

web = FastAPI()


@serve.deployment(num_replicas=2, max_ongoing_requests=20)
@serve.ingress(web)
class Door:
    @web.get("/add/{a}/{b}")
    def add(self, a: int, b: int) -> int:
        return a + b


app = Door.bind()
"""


async def applications(cli: Cli, rest: str) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=30) as client:
        found: dict[str, Any] = (await client.get(f"{rest}/api/serve/applications/")).json()["applications"]
        return found


def options_in(app: dict[str, Any]) -> dict[str, Any]:
    """Return the effective options of each deployment."""
    return {name: deployment["deployment_config"] for name, deployment in app["deployments"].items()}


def replicas_in(app: dict[str, Any]) -> set[str]:
    return {r["replica_id"] for d in app["deployments"].values() for r in d["replicas"]}


def given_back(shown: Finished) -> str:
    """Return a file with the application that `serve config` shows, values of variables filled in again."""
    text = shown.out.replace(REDACTED, "'3'")
    lines = [f"{'- ' if i == 0 else '  '}{line}\n" for i, line in enumerate(text.splitlines())]
    return "applications:\n" + "".join(lines)


async def assert_is_the_same(cli: Cli, rest: str, name: str, file: str) -> None:
    """Assert that deploying the file changes nothing: neither is it said, nor does it happen."""
    before = (await applications(cli, rest))[name]
    done = await cli("diff", file, "--json")
    assert done.code == 0, done
    plan = json.loads(done.out)[name]
    found = {d: (p["action"], p["changed"]) for d, p in plan["deployments"].items()}
    assert found == dict.fromkeys(found, ("nothing", []))
    assert (await cli("deploy", file, "--wait")).code == 0
    after = (await applications(cli, rest))[name]
    assert replicas_in(after) == replicas_in(before)
    assert options_in(after) == options_in(before)


@pytest.mark.parametrize("module", ["text_ml", "whole", "fast"])
async def test_what_is_run_built_and_deployed_is_the_same(cli: Cli, module: str) -> None:
    shutil.copy(Path(__file__).parents[2] / "examples" / "text_ml.py", cli.folder)
    cli.write("whole.py", WHOLE.replace("=ROUTER", "=None"))
    cli.write("fast.py", FAST)
    rest = await cli.start()
    target = f"{module}:app"
    assert (await cli("run", target, "--non-blocking", "--name", "app1")).code == 0
    run = (await applications(cli, rest))["app1"]
    assert (await cli("delete", "app1", "-y")).code == 0

    code = f"applications:\n- {{name: app1, import_path: {target}}}\n"
    assert (await cli("deploy", cli.write("code.yaml", code), "--wait")).code == 0
    assert options_in((await applications(cli, rest))["app1"]) == options_in(run)

    assert (await cli("build", target, "-o", "built.yaml")).code == 0
    await assert_is_the_same(cli, rest, "app1", "built.yaml")
    await assert_is_the_same(cli, rest, "app1", cli.write("config.yaml", given_back(await cli("config"))))
    await assert_is_the_same(cli, rest, "app1", "code.yaml")


async def test_a_router_of_ones_own_is_built_and_deployed_again(cli: Cli) -> None:
    """In a file it counts as code, as in Ray Serve; once it is there nothing restarts any more."""
    cli.write("whole.py", WHOLE.replace("=ROUTER", f"={ROUTER}"))
    rest = await cli.start()
    for file in ("one.yaml", "two.yaml"):
        assert (await cli("build", "whole:app", "-o", file)).code == 0
    assert (await cli("deploy", "one.yaml", "--wait")).code == 0
    await assert_is_the_same(cli, rest, "app1", "two.yaml")
    config = (await applications(cli, rest))["app1"]["deployments"]["Inner"]["deployment_config"]
    assert config["request_router_config"]["request_router_class"] == "whole:First"


async def test_a_builder_with_arguments_is_deployed_again_from_what_serve_config_gives_back(cli: Cli) -> None:
    rest = await cli.start()
    text = "applications:\n- name: built\n  import_path: shop:build\n  args: {who: you}\n"
    assert (await cli("deploy", cli.write("first.yaml", text), "--wait")).code == 0
    await assert_is_the_same(cli, rest, "built", cli.write("again.yaml", given_back(await cli("config"))))


async def test_an_override_that_is_taken_out_gives_the_codes_value_back(cli: Cli) -> None:
    cli.write("fast.py", FAST)
    rest = await cli.start()
    code = "applications:\n- {name: app1, import_path: 'fast:app'}\n"
    assert (await cli("deploy", cli.write("code.yaml", code), "--wait")).code == 0
    before = (await applications(cli, rest))["app1"]
    other = "applications:\n- name: app1\n  import_path: fast:app\n  deployments:\n"
    other += "  - {name: Door, num_replicas: 1, max_ongoing_requests: 3, health_check_period_s: 2}\n"
    assert (await cli("deploy", cli.write("other.yaml", other), "--wait")).code == 0
    between = options_in((await applications(cli, rest))["app1"])["Door"]
    assert (between["num_replicas"], between["max_ongoing_requests"]) == (1, 3)
    assert (await cli("deploy", "code.yaml", "--wait")).code == 0
    after = (await applications(cli, rest))["app1"]
    assert options_in(after) == options_in(before)
    assert len(replicas_in(after)) == 2
    assert replicas_in(after) & replicas_in(before), "no restart was needed"


def test_the_application_with_every_option_has_every_option() -> None:
    #: Given another way, only null, of 2.7, or what makes another one impossible.
    others = {"autoscaling_config", "max_replicas_per_node"}
    left_out = {"gang_scheduling_config", "deployment_actors", "route_prefix", "is_driver_deployment"}
    given = {
        line.strip().split("=")[0] for line in WHOLE.splitlines() if line.startswith("    ") and "=" in line
    }
    assert set(OPTIONS) - left_out <= given | others
