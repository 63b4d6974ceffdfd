"""`serve diff`: says what a deploy would do, and does nothing. Each plan is then held against the deploy itself."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.cli.commands import Cli, text_of
from tests.cli.test_instance_commands import ONE_APP, TWO_APPS


async def plans(cli: Cli, text: str) -> dict[str, Any]:
    done = await cli("diff", cli.write("next.yaml", text), "--json")
    assert done.code == 0, done
    found: dict[str, Any] = json.loads(done.out)
    return found


async def replicas(cli: Cli) -> dict[str, set[str]]:
    """Return the replicas that run, by application."""
    apps = json.loads((await cli("status", "--json")).out)["applications"]
    return {
        name: {replica["replica_id"] for d in app["deployments"].values() for replica in d["replicas"]}
        for name, app in apps.items()
    }


async def test_on_an_empty_instance_all_is_new_and_nothing_is_deployed(cli: Cli) -> None:
    await cli.start()
    found = await plans(cli, TWO_APPS)
    assert {name: app["action"] for name, app in found.items()} == {"one": "create", "two": "create"}
    assert found["two"]["deployments"]["Hello"] == {
        "action": "create", "changed": [], "replicas_before": 0, "replicas_after": 2,
    }  # fmt: skip
    assert (await cli.status())["applications"] == {}


CHANGES = {
    "nothing": (TWO_APPS, "nothing", []),
    "update": (TWO_APPS + "    max_queued_requests: 5\n", "update", ["max_queued_requests"]),
    "scale": (TWO_APPS.replace("num_replicas: 2", "num_replicas: 3"), "scale", ["num_replicas"]),
    "reconfigure": (TWO_APPS + "    max_ongoing_requests: 5\n", "reconfigure", ["max_ongoing_requests"]),
    "restart for an option": (
        TWO_APPS + "    ray_actor_options:\n      num_cpus: 0.5\n",
        "restart",
        ["ray_actor_options"],
    ),
    "restart for arguments": (TWO_APPS.replace("who: you", "who: me"), "restart", ["code"]),
    "restart for a variable": (
        TWO_APPS + "  runtime_env:\n    env_vars:\n      A: b\n",
        "restart",
        ["code", "runtime_env"],
    ),
}


@pytest.mark.parametrize("case", CHANGES)
async def test_a_change_is_told_before_it_is_made(cli: Cli, case: str) -> None:
    text, action, changed = CHANGES[case]
    await cli.start()
    await cli("deploy", cli.write("serve.yaml", TWO_APPS), "--wait")
    before = await replicas(cli)

    found = await plans(cli, text)
    assert found["one"]["action"] == "nothing"
    plan = found["two"]["deployments"]["Hello"]
    assert (plan["action"], plan["changed"]) == (action, changed)
    assert await replicas(cli) == before
    shown = (await cli("diff", "next.yaml")).out
    assert re.search(rf"^  Hello +{action}  ", shown, re.MULTILINE)

    assert (await cli("deploy", "next.yaml", "--wait")).code == 0
    after = await replicas(cli)
    assert after["one"] == before["one"]
    if action == "restart":
        assert not after["two"] & before["two"]
    else:
        assert after["two"] >= before["two"]
    assert len(after["two"]) == plan["replicas_after"]


async def test_what_a_file_leaves_out_is_told_as_removed(cli: Cli) -> None:
    await cli.start()
    await cli("deploy", cli.write("serve.yaml", TWO_APPS), "--wait")
    found = await plans(cli, TWO_APPS[: TWO_APPS.index("- name: two")])
    assert found["two"]["action"] == "remove"
    assert found["two"]["deployments"]["Hello"]["action"] == "remove"


async def test_other_code_is_told_by_its_deployments(cli: Cli) -> None:
    await cli.start()
    await cli("deploy", cli.write("app.yaml", ONE_APP), "--wait")
    found = await plans(cli, "import_path: shop:held\n")
    assert found["default"]["action"] == "update"
    assert {n: d["action"] for n, d in found["default"]["deployments"].items()} == {
        "Held": "create",
        "Hello": "remove",
    }


async def test_code_that_cannot_be_built_is_told_and_what_runs_goes_on(cli: Cli) -> None:
    await cli.start()
    await cli("deploy", cli.write("app.yaml", ONE_APP), "--wait")
    done = await cli("diff", cli.write("next.yaml", "import_path: shop:nope\n"))
    assert done.code == 1
    assert re.search("^default +fail$", done.out, re.MULTILINE)
    assert "There is no 'nope'" in done.err
    assert (await cli.status("-n", "default"))["status"] == "RUNNING"


async def test_a_file_that_would_be_refused_is_refused_with_its_place(cli: Cli) -> None:
    await cli.start()
    assert (await cli("run", "shop:app", "--non-blocking")).code == 0
    text = "applications:\n- name: other\n  import_path: shop:app\n  route_prefix: /\n"
    done = await cli("diff", cli.write("next.yaml", text))
    assert done.code == 1
    assert "Error: next.yaml:4:3: Prefix / is being used" in done.err


COUNTING = """
import os

import serve_lite as serve


@serve.deployment
class Counting:
    told = 0

    def reconfigure(self, config):
        self.told += 1

    def __call__(self):
        return {"pid": os.getpid(), "told": self.told}


app = Counting.bind()
"""
COUNTED = """\
applications:
- import_path: counting:app
  logging_config: {log_level: INFO}
  deployments:
  - name: Counting
    user_config: {a: 1}
    max_queued_requests: 7
"""

#: A change, the word for it, and whether the process stays and user code hears of it.
EFFECTS = {
    "an option of the callers": (COUNTED.replace("7", "8"), "update", True, 1),
    "a health check's period": (COUNTED + "    health_check_period_s: 5\n", "update", True, 1),
    "an option without effect": (COUNTED + "    max_replicas_per_node: 1\n", "update", True, 1),
    "a limit of the replica": (COUNTED + "    max_ongoing_requests: 5\n", "reconfigure", True, 1),
    "the level of the logs": (COUNTED.replace("INFO", "DEBUG"), "reconfigure", True, 1),
    "the prefix": (COUNTED.replace("  logging", "  route_prefix: /new\n  logging"), "reconfigure", True, 1),
    "the config of the user": (COUNTED.replace("a: 1", "a: 2"), "reconfigure", True, 2),
    "a router": (COUNTED + "    request_router_config: {initial_backoff_s: 1}\n", "restart", False, 1),
    "resources": (COUNTED + "    ray_actor_options: {num_cpus: 0.5}\n", "restart", False, 1),
}


@pytest.mark.parametrize("case", EFFECTS)
async def test_the_plan_is_what_then_happens_to_the_process(cli: Cli, case: str) -> None:
    text, action, stays, told = EFFECTS[case]
    cli.write("counting.py", COUNTING)
    await cli.start()
    url = re.search(r"HTTP +(http\S+)", (await cli("start")).out)[1]  # type: ignore[index]
    assert (await cli("deploy", cli.write("serve.yaml", COUNTED), "--wait")).code == 0
    before = json.loads(await text_of(url))
    assert (await plans(cli, text))["default"]["deployments"]["Counting"]["action"] == action
    assert (await cli("deploy", "next.yaml", "--wait")).code == 0
    after = json.loads(await text_of(url + ("/new" if "/new" in text else "")))
    assert after == {"pid": before["pid"] if stays else after["pid"], "told": told}
    assert (after["pid"] == before["pid"]) is stays
    again = (await plans(cli, text))["default"]["deployments"]["Counting"]
    assert (again["action"], again["changed"]) == ("nothing", [])
