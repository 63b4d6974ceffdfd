"""Deploying again after the code's files have changed: what differs is replaced, the rest is left alone."""

from __future__ import annotations

import json

import pytest

from tests.cli.commands import Cli, text_of

PRICE = """
import serve_lite as serve


@serve.deployment
class Price:
    async def __call__(self):
        return {price!r}
"""

DOOR = """
import serve_lite as serve
from price import Price


@serve.deployment
class Door:
    def __init__(self, price):
        self.price = price

    async def __call__(self, request):
        return f"{greeting} {{await self.price.remote()}}"


app = Door.bind(Price.bind())
"""

FILE = "applications:\n- import_path: store:app\n"
SINGLE = "import_path: store:app\n"


def write(cli: Cli, price: str = "one", greeting: str = "costs") -> None:
    # Texts of another length: Python takes an old .pyc for a file of the same size and second.
    cli.write("price.py", PRICE.format(price=price))
    cli.write("store.py", DOOR.format(greeting=greeting))


async def started(cli: Cli) -> str:
    done = await cli("start", "--http-port", "0", "--json")
    url: str = json.loads(done.out)["http"]
    return url


async def replicas(cli: Cli) -> dict[str, str]:
    """Return the one running replica of each deployment."""
    app = json.loads((await cli("status", "--json")).out)["applications"]["default"]
    return {
        name: replica["replica_id"]
        for name, deployment in app["deployments"].items()
        for replica in deployment["replicas"]
        if replica["state"] == "RUNNING"
    }


async def test_an_edited_module_takes_effect_when_its_import_path_is_deployed_again(cli: Cli) -> None:
    write(cli)
    url = await started(cli)
    assert (await cli("deploy", "store:app", "--wait")).code == 0
    first = await replicas(cli)

    assert (await cli("deploy", "store:app", "--wait")).code == 0
    assert await replicas(cli) == first, "nothing has changed"

    write(cli, greeting="now costs")
    assert (await cli("deploy", "store:app", "--wait")).code == 0
    assert await text_of(url) == "now costs one"
    second = await replicas(cli)
    assert second["Price"] == first["Price"] and second["Door"] != first["Door"]


@pytest.mark.parametrize("text", [FILE, SINGLE])
async def test_a_file_looks_into_the_code_when_it_is_told_to(cli: Cli, text: str) -> None:
    write(cli)
    url = await started(cli)
    config = cli.write("serve.yaml", text)
    assert (await cli("deploy", config, "--wait")).code == 0
    first = await replicas(cli)

    write(cli, price="seven")
    assert (await cli("deploy", config, "--wait")).code == 0
    assert (await replicas(cli), await text_of(url)) == (first, "costs one")
    assert json.loads((await cli("diff", config, "--json")).out)["default"]["action"] == "nothing"

    plan = json.loads((await cli("diff", config, "--by-content", "--json")).out)["default"]["deployments"]
    assert {name: (step["action"], step["changed"]) for name, step in plan.items()} == {
        "Price": ("restart", ["code"]),
        "Door": ("restart", ["code"]),  # its module imports the other one
    }
    assert await replicas(cli) == first, "a diff changes nothing"

    assert (await cli("deploy", config, "--by-content", "--wait")).code == 0
    assert await text_of(url) == "costs seven"
    second = await replicas(cli)
    assert (await cli("deploy", config, "--wait")).code == 0
    assert (await cli("deploy", config, "--by-content", "--wait")).code == 0
    assert await replicas(cli) == second, "nothing has changed since"


async def test_code_that_cannot_be_imported_any_more_leaves_what_runs(cli: Cli) -> None:
    write(cli)
    url = await started(cli)
    assert (await cli("deploy", "store:app", "--wait")).code == 0
    first = await replicas(cli)
    cli.write("store.py", "1 / 0\n")
    done = await cli("deploy", "store:app", "--wait")
    assert done.code == 1
    assert done.err.rstrip().endswith(f"ZeroDivisionError: division by zero (at {cli.folder}/store.py:1)")
    assert (await replicas(cli), await text_of(url)) == (first, "costs one")
