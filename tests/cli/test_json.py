"""`--json`: one document on stdout and nothing else, with the shapes that the commands' help tells."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.cli.commands import Cli, Finished
from tests.cli.test_instance_commands import TWO_APPS


def read(done: Finished) -> Any:
    assert done.code == 0, done
    return json.loads(done.out)


async def test_start_tells_where_the_instance_is(cli: Cli) -> None:
    first = read(await cli("start", "--http-port", "0", "--json"))
    assert first["started"] is True
    assert first["home"] == cli.home
    assert (first["http"][:17], first["rest"][:17], first["grpc"]) == ("http://127.0.0.1:",) * 2 + (None,)
    again = read(await cli("start", "--json"))
    assert again == {**first, "started": False}


async def test_start_without_http_has_none(cli: Cli) -> None:
    assert read(await cli("start", "--proxy-location", "Disabled", "--json"))["http"] is None


async def test_scale_rollback_delete_and_shutdown_tell_what_they_did(cli: Cli) -> None:
    await cli.start()
    await cli("deploy", cli.write("serve.yaml", TWO_APPS), "--wait")
    await cli("deploy", cli.write("next.yaml", TWO_APPS.replace("you", "me")), "--wait")
    assert read(await cli("scale", "one", "Hello", "2", "--json")) == {
        "application": "one", "deployment": "Hello", "target_num_replicas": 2,
    }  # fmt: skip
    back = read(await cli("rollback", "two", "--json", "--wait"))
    assert (back["application"], back["status"]) == ("two", "RUNNING")
    assert back["revision"] == read(await cli("history", "two", "--json"))[0]["revision"]
    assert read(await cli("rollback", "two", "--json"))["status"] == "DEPLOYING"

    for words in (("delete", "one"), ("shutdown",)):
        refused = await cli(*words, "--json", typed="y\n")  # whoever reads JSON cannot be asked
        assert (refused.code, refused.out, "--json needs --yes" in refused.err) == (2, "", True)
    assert read(await cli("delete", "one", "two", "-y", "--json")) == {"deleted": ["one", "two"]}

    assert read(await cli("shutdown", "-y", "--json")) == {
        "address": cli.home, "was_running": True, "instance_ended": True,
    }  # fmt: skip
    assert read(await cli("shutdown", "-y", "--json")) == {
        "address": cli.home, "was_running": False, "instance_ended": False,
    }  # fmt: skip


async def test_shutdown_through_a_url_leaves_the_instance(cli: Cli) -> None:
    rest = await cli.start()
    assert read(await cli("shutdown", "-y", "--json", "-a", rest)) == {
        "address": rest, "was_running": True, "instance_ended": False,
    }  # fmt: skip
    assert (await cli("status")).code == 0


async def test_validate_and_build_tell_what_is_in_a_file(cli: Cli) -> None:
    name = cli.write("serve.yaml", TWO_APPS)
    assert read(await cli("validate", name, "--json")) == {"valid": True, "applications": ["one", "two"]}
    document = read(await cli("build", "shop:app", "--json"))
    assert document["applications"][0]["import_path"] == "shop:app"

    assert (await cli("build", "shop:app", "--json", "-o", "built.json")).out == ""
    assert json.loads((cli.folder / "built.json").read_text()) == document
    assert read(await cli("validate", "built.json", "--json"))["applications"] == ["app1"]


async def test_logs_are_an_object_on_each_line(cli: Cli) -> None:
    cli.write(
        "timed.py",
        "from shop import *\n\n@serve.deployment\nclass Timed:\n    def __init__(self):\n"
        "        print('INFO 2026-01-02 03:04:05,678 timed')\n"
        "        print('not timed')\n\napp = Timed.bind()\n",
    )
    await cli.start()
    assert (await cli("deploy", "timed:app", "--wait")).code == 0
    rows = [json.loads(line) for line in (await cli("logs", "--json")).out.splitlines()]
    assert [(row["time"], row["line"]) for row in rows] == [
        ("2026-01-02T03:04:05", "INFO 2026-01-02 03:04:05,678 timed"),
        (None, "not timed"),
    ]
    (mark,) = {(row["app"], row["deployment"], row["replica"]) for row in rows}
    assert mark[:2] == ("default", "Timed")
    assert re.fullmatch(r"\w+", mark[2])


async def test_a_failure_prints_no_document(cli: Cli) -> None:
    await cli.start()
    failed = await cli("deploy", "shop:broken", "--wait", "--json")
    assert (failed.code, failed.out) == (1, "")
    for words in (["status", "-n", "x"], ["history", "x"], ["rollback", "x"], ["scale", "x", "y", "1"]):
        done = await cli(*words, "--json")
        assert (done.code, done.out, done.err.count("Error: ")) == (1, "", 1), words
