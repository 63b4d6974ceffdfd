"""`serve controller-health` and `GET /api/serve/controller_health`, of a real instance."""

from __future__ import annotations

import json
import time

import httpx

from serve_lite.admin.health import PATH
from tests.cli.commands import Cli
from tests.cli.test_instance_commands import TWO_APPS
from tests.instances import DEADLINE_S


async def test_yaml_and_json_tell_the_same_fields_and_believable_values(cli: Cli) -> None:
    before = time.time()
    rest = await cli.start()
    await cli("deploy", cli.write("serve.yaml", TWO_APPS), "--wait")
    told = json.loads((await cli("controller-health", "--json")).out)
    after = time.time()

    shown = await cli("controller-health", "-a", rest)
    fields = [line.split(":")[0] for line in shown.out.splitlines() if not line.startswith(" ")]
    assert fields == list(told)
    assert (
        before
        <= told["controller_start_time"]
        <= told["last_control_loop_time"]
        <= told["timestamp"]
        <= after
    )
    assert 0 < told["uptime_s"] <= after - before
    assert told["num_control_loops"] > 0
    lengths = told["loop_duration_s"]
    assert 0 < lengths["min"] <= lengths["mean"] <= lengths["max"] < told["uptime_s"]
    assert lengths["std"] >= 0
    assert told["loops_per_second"] > 0
    assert told["num_asyncio_tasks"] > 1
    assert told["event_loop_delay_s"] >= 0
    assert 5 < told["process_memory_mb"] < 5000


async def test_loops_are_counted_on(cli: Cli) -> None:
    rest = await cli.start()
    async with httpx.AsyncClient(base_url=rest, timeout=DEADLINE_S) as client:
        first = (await client.get(PATH)).json()
        await cli("deploy", cli.write("serve.yaml", TWO_APPS), "--wait")
        second = (await client.get(f"{PATH}/")).json()
        assert (await client.put(PATH, json={})).status_code == 405
    assert second["num_control_loops"] > first["num_control_loops"]
    assert second["uptime_s"] > first["uptime_s"]
    assert abs(second["controller_start_time"] - first["controller_start_time"]) < 1.0  # told by two clocks


async def test_without_an_instance_it_is_one_error(cli: Cli) -> None:
    done = await cli("controller-health")
    assert (done.code, done.out) == (1, "")
    assert "serve start" in done.err
