"""`serve deploy --wait`, `--merge` and `--json`, the real program with a real instance."""

from __future__ import annotations

import json
import re

from tests.cli.commands import Cli
from tests.cli.test_instance_commands import ONE_APP, TWO_APPS


async def test_waiting_shows_each_phase_once_and_ends_when_all_is_running(cli: Cli) -> None:
    await cli.start()
    done = await cli("deploy", cli.write("serve.yaml", TWO_APPS), "--wait")
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert lines[0] == "Deploying from config file: 'serve.yaml'."
    for last in ("one: RUNNING", "two: RUNNING", "two/Hello: HEALTHY"):
        assert lines.count(last) == 1
    assert len(set(re.findall(r"^two/Hello (\w+): RUNNING$", done.out, re.MULTILINE))) == 2
    assert len(lines) == len(set(lines))


async def test_waiting_for_what_fails_ends_with_one_and_why(cli: Cli) -> None:
    await cli.start()
    done = await cli("deploy", cli.write("app.yaml", "import_path: shop:broken\n"), "--wait")
    assert done.code == 1
    assert "default: DEPLOY_FAILED" in done.out
    assert "Error: Application 'default' is DEPLOY_FAILED" in done.err
    assert "ValueError: there is no model here" in done.err


async def test_waiting_has_an_end(cli: Cli) -> None:
    cli.write(
        "slow.py",
        "from shop import *\nfrom pathlib import Path\nwhile not Path('go').exists(): time.sleep(0.01)\n",
    )
    await cli.start()
    name = cli.write("app.yaml", "import_path: slow:app\n")
    done = await cli("deploy", name, "--wait", "--timeout-s", "0.3")
    assert done.code == 1
    assert "Not ready after 0.3 s: default. The deploy goes on." in done.err
    cli.write("go", "")
    assert await cli.until_settled("default") == "RUNNING"


async def test_programs_get_json_and_nothing_else(cli: Cli) -> None:
    await cli.start()
    sent = await cli("deploy", cli.write("serve.yaml", TWO_APPS), "--json")
    assert json.loads(sent.out) == {"applications": {"one": "DEPLOYING", "two": "DEPLOYING"}}
    waited = await cli("deploy", "serve.yaml", "--wait", "--json")
    assert json.loads(waited.out) == {"applications": {"one": "RUNNING", "two": "RUNNING"}}

    status = json.loads((await cli("status", "--json")).out)
    assert status["applications"]["two"]["deployments"]["Hello"]["target_num_replicas"] == 2
    assert json.loads((await cli("status", "--json", "-n", "two")).out) == status["applications"]["two"]
    configs = json.loads((await cli("config", "--json")).out)
    assert configs["one"] == {"name": "one", "route_prefix": "/one", "import_path": "shop:app"}
    assert json.loads((await cli("config", "--json", "-n", "one")).out) == {"one": configs["one"]}


async def test_a_merged_file_leaves_other_applications_alone(cli: Cli) -> None:
    await cli.start()
    head, two = TWO_APPS.split("- name: two")
    await cli("deploy", cli.write("one.yaml", head), "--wait")
    assert (
        await cli("deploy", cli.write("two.yaml", f"applications:\n- name: two{two}"), "--merge", "--wait")
    ).code == 0
    assert list((await cli.status())["applications"]) == ["one", "two"]
    refused = await cli("deploy", cli.write("app.yaml", ONE_APP), "--merge")
    assert (refused.code, "--merge needs a file" in refused.err) == (1, True)
