"""`serve config --document`: a file from what is deployed, which deploys the same."""

from __future__ import annotations

import json

import pytest

from tests.cli.commands import Cli
from tests.cli.test_instance_commands import TWO_APPS

LOGGED = TWO_APPS + "logging_config:\n  log_level: DEBUG\ntarget_capacity: 100\n"
SINGLE = "import_path: shop:app\ndeployments:\n- name: Hello\n  num_replicas: 2\n"


@pytest.mark.parametrize("target", [LOGGED, SINGLE, "shop:app"], ids=["several", "single", "import path"])
async def test_what_is_deployed_is_given_back_as_a_file_that_changes_nothing(cli: Cli, target: str) -> None:
    await cli.start()
    given = target if target == "shop:app" else cli.write("serve.yaml", target)
    assert (await cli("deploy", given, "--wait")).code == 0
    again = cli.write("again.yaml", (await cli("config", "--document")).out)
    diff = await cli("diff", again, "--json")
    assert diff.code == 0, diff
    assert {app["action"] for app in json.loads(diff.out).values()} == {"nothing"}
    assert (await cli("deploy", again, "--wait")).code == 0


async def test_it_has_the_applications_that_there_are(cli: Cli) -> None:
    await cli.start()
    assert (await cli("config", "--document")).out == "No configuration was found.\n"
    assert json.loads((await cli("config", "--document", "--json")).out) is None
    assert (await cli("deploy", cli.write("serve.yaml", TWO_APPS), "--wait")).code == 0
    assert (await cli("delete", "one", "-y")).code == 0
    more = ("--name", "three", "--route-prefix", "/three", "--merge", "--wait")
    assert (await cli("deploy", "shop:app", *more)).code == 0
    document = json.loads((await cli("config", "--document", "--json")).out)
    assert [app["name"] for app in document["applications"]] == ["two", "three"]


@pytest.mark.parametrize("other", [("--effective",), ("--name", "one")])
async def test_it_is_all_or_nothing(cli: Cli, other: tuple[str, ...]) -> None:
    done = await cli("config", "--document", *other)
    assert (done.code, "--document" in done.err) == (2, True), done
