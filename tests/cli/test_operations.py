"""`serve scale`, `history`, `rollback`, `events` and `logs`, the real program with a real instance."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import anyio
import httpx

from serve_lite_cli.logs import Source, merged
from tests.cli.commands import Cli, text_of
from tests.cli.test_instance_commands import TWO_APPS
from tests.instances import DEADLINE_S


async def deployed(cli: Cli, text: str = TWO_APPS) -> None:
    done = await cli("deploy", cli.write("serve.yaml", text), "--wait")
    assert done.code == 0, done


async def details(cli: Cli, app: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await cli("status", "--json", "-n", app)).out)
    return found


async def until_running(cli: Cli, app: str, count: int) -> set[str]:
    """Return the replicas of `Hello` once so many run and no others are left."""
    with anyio.fail_after(DEADLINE_S):
        while True:
            replicas = (await details(cli, app))["deployments"]["Hello"]["replicas"]
            if len(replicas) == count and all(r["state"] == "RUNNING" for r in replicas):
                return {replica["replica_id"] for replica in replicas}


async def address_of(cli: Cli) -> str:
    return re.search(r"HTTP +(http\S+)", (await cli("start")).out)[1]  # type: ignore[index]


async def test_a_deployment_is_scaled_up_and_down_without_a_restart(cli: Cli) -> None:
    await cli.start()
    await deployed(cli)
    two = await until_running(cli, "two", 2)
    done = await cli("scale", "two", "Hello", "3")
    assert (done.code, done.out) == (0, "Scaling two/Hello to 3 replicas.\n"), done
    three = await until_running(cli, "two", 3)
    assert three > two
    assert (await cli("scale", "two", "Hello", "1")).code == 0
    assert await until_running(cli, "two", 1) < three
    assert (await cli("scale", "two", "Hello", "0")).code == 0
    assert await until_running(cli, "two", 0) == set()
    assert await cli.until_settled("two") == "RUNNING"


async def test_what_cannot_be_scaled_is_one_clear_error(cli: Cli) -> None:
    await cli.start()
    scaling = "    autoscaling_config: {max_replicas: 2}\n"
    await deployed(cli, TWO_APPS.replace("    num_replicas: 2\n", scaling))
    for words, said in {
        ("none", "Hello", "1"): "Application or Deployment not found",
        ("one", "None", "1"): "Application or Deployment not found",
        ("two", "Hello", "1"): "has an autoscaling_config",
    }.items():
        done = await cli("scale", *words)
        assert (done.code, said in done.err) == (1, True), done


async def test_scalers_are_answered_as_ray_answers_them(cli: Cli) -> None:
    rest = await cli.start()
    await deployed(cli, TWO_APPS + "  external_scaler_enabled: true\n")
    path = f"{rest}/api/v1/applications/{{}}/deployments/Hello/scale"
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        accepted = await client.post(path.format("two"), json={"target_num_replicas": 1})
        assert (accepted.status_code, accepted.json()) == (
            200,
            {"message": "Scaling request received. Deployment will get scaled asynchronously."},
        )
        unknown = await client.post(path.format("none"), json={"target_num_replicas": 1})
        assert (unknown.status_code, unknown.json()) == (
            404,
            {"error": "Application or Deployment not found", "path": ""},
        )
        not_allowed = await client.post(path.format("one"), json={"target_num_replicas": 1})
        assert (not_allowed.status_code, list(not_allowed.json())) == (412, ["error", "path"])
        for body in ({}, {"target_num_replicas": -1}, {"target_num_replicas": "1"}, {"replicas": 1}, []):
            wrong = await client.post(path.format("two"), json=body)
            assert wrong.status_code == 400
            assert wrong.json()["error"].startswith("Invalid request body: ")
    await until_running(cli, "two", 1)


async def test_an_application_is_rolled_back_to_what_it_was(cli: Cli) -> None:
    await cli.start()
    url = await address_of(cli)
    await deployed(cli)
    await deployed(cli, TWO_APPS.replace("who: you", "who: me"))
    assert await text_of(f"{url}/two") == "hello me"
    newest, oldest = json.loads((await cli("history", "two", "--json")).out)
    assert (newest["is_current"], oldest["is_current"]) == (True, False)
    assert newest["revision"] > oldest["revision"]
    assert oldest["replicas"] == {"Hello": 2}
    shown = (await cli("history", "two")).out.splitlines()
    assert shown[0].split() == ["REVISION", "DEPLOYED", "SOURCE", "IMPORT", "PATH", "ROUTE", "REPLICAS"]
    assert re.match(rf"\*  {newest['revision']} .*  declarative  shop:build   /two   Hello x 2$", shown[1])

    done = await cli("rollback", "two", "--wait")
    assert done.code == 0, done
    assert await text_of(f"{url}/two") == "hello you"
    assert json.loads((await cli("config", "--json")).out)["two"]["args"] == {"who": "you"}
    # The same file once more changes nothing: what runs is what it says.
    assert re.search(
        r"^two +nothing$", (await cli("diff", cli.write("old.yaml", TWO_APPS))).out, re.MULTILINE
    )

    assert (await cli("rollback", "two", str(newest["revision"]), "--wait")).code == 0
    assert await text_of(f"{url}/two") == "hello me"


async def test_a_failing_version_is_rolled_back_too(cli: Cli) -> None:
    await cli.start()
    await deployed(cli)
    failing = TWO_APPS.replace("shop:build", "shop:raising")
    assert (await cli("deploy", cli.write("serve.yaml", failing), "--wait")).code == 1
    assert (await cli("rollback", "two", "--wait")).code == 0
    assert (await details(cli, "two"))["status"] == "RUNNING"


async def test_there_is_no_way_back_to_what_is_not_kept(cli: Cli) -> None:
    await cli.start()
    await deployed(cli)
    for words, said in {
        ("none",): "There is no application 'none'",
        ("two",): "No earlier revision of 'two' is kept; there are: 1.",
        ("two", "77"): "No revision 77 of 'two' is kept; there are: 1.",
    }.items():
        done = await cli("rollback", *words)
        assert (done.code, said in done.err) == (1, True), done
    assert (await cli("history", "none")).code == 1


async def test_events_tell_what_happened_and_why(cli: Cli) -> None:
    await cli.start()
    await deployed(cli)
    out = (await cli("events")).out
    assert re.search(r"  one +deployed as revision 1$", out, re.MULTILINE)
    assert re.search(r"  two/Hello \w+  start: ", out)
    only = json.loads((await cli("events", "--app", "two", "--json")).out)
    assert {(row["app"], row["deployment"], bool(row["replica"])) for row in only} == {
        ("two", "", False),
        ("two", "Hello", False),
        ("two", "Hello", True),
    }
    assert [row["at"] for row in only] == sorted(row["at"] for row in only)
    assert (await cli("events", "-n", "1")).out.splitlines()[1].split() == out.splitlines()[-1].split()


async def test_logs_of_all_replicas_or_of_those_asked_for(cli: Cli) -> None:
    await cli.start()
    await deployed(cli)
    out = (await cli("logs")).out
    assert len(re.findall(r"^\(two/Hello \w+\) constructing for you$", out, re.MULTILINE)) == 2
    assert len(re.findall(r"^\(one/Hello \w+\) constructing for world$", out, re.MULTILINE)) == 1
    one, *_ = await until_running(cli, "two", 2)
    lines = (await cli("logs", "--replica", one)).out.splitlines()
    assert lines and all(line.startswith(f"(two/Hello {one}) ") for line in lines)
    assert "(two/" not in (await cli("logs", "--app", "one")).out
    assert (await cli("logs", "--app", "one", "-n", "0")).out == ""
    for words in (["--app", "none"], ["--replica", "none"], ["--deployment", "none"]):
        assert (await cli("logs", *words)).code == 1


def test_lines_of_several_replicas_are_merged_by_their_times(tmp_path: Path) -> None:
    def source(name: str, *lines: str) -> Source:
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return Source(app="a", deployment="D", replica=name, path=str(path))

    one = source(
        "1", "starting", "INFO 2026-01-02 03:04:05,100 x", "  more", "INFO 2026-01-02 03:04:09,000 y"
    )
    two = source("2", '{"asctime": "2026-01-02T03:04:07.000Z"}', "plain", "2026-01-02 03:04:08 z")
    lines = [(label[-1], line[:5]) for label, line in merged([one, two], 100)]
    assert lines == [
        ("1", "start"), ("1", "INFO "), ("1", "  mor"), ("2", '{"asc'), ("2", "plain"), ("2", "2026-"), ("1", "INFO "),
    ]  # fmt: skip
    assert [line for _, line in merged([one, two], 1)] == [
        "2026-01-02 03:04:08 z",
        "INFO 2026-01-02 03:04:09,000 y",
    ]


async def test_logs_are_followed_until_interrupted(cli: Cli) -> None:
    await cli.start()
    await deployed(cli)
    url = await address_of(cli)
    async with await cli.begin("logs", "-f", "--app", "two") as running:
        await running.until(r"\(two/Hello \w+\) constructing for you")
        await text_of(f"{url}/one")
        await text_of(f"{url}/two")
        await running.until(r"\(two/Hello \w+\) asked")
        assert (await cli("scale", "two", "Hello", "3")).code == 0
        first = running.said.count("constructing")
        assert first == 2
        await running.until(r"asked[\s\S]*constructing for you")  # a replica that came later
        running.send(signal.SIGINT)
        assert await running.ended() == 0
        assert "(one/" not in running.said


async def test_the_history_outlives_the_daemon_and_ends_with_the_application(cli: Cli) -> None:
    await cli.start()
    await deployed(cli)
    before = (await cli("history", "two", "--json")).out
    controller = json.loads((await cli("status", "--json")).out)["controller_info"]
    os.kill(int(controller["actor_id"].split("-")[0]), signal.SIGKILL)
    assert (await cli("history", "two", "--json")).out == before

    assert (await cli("delete", "-y", "two")).code == 0
    assert (await cli("history", "two")).code == 1
    await deployed(cli)
    (only,) = json.loads((await cli("history", "two", "--json")).out)
    assert only["is_current"]


async def test_applications_that_come_later_are_followed_too(cli: Cli) -> None:
    await cli.start()
    await deployed(cli)
    async with await cli.begin("logs", "--follow", "--json", "--lines", "1") as running:
        await running.until(r'"app": "two"')
        words = ("shop:build", "who=late", "--name", "late_one", "--route-prefix", "/late")
        assert (await cli("deploy", *words, "--merge", "--wait")).code == 0
        line = (await running.until(r".*constructing for late.*"))[0]
        row = json.loads(line)
        assert (row["app"], row["deployment"], row["time"]) == ("late_one", "Hello", None)
        (late,) = (await details(cli, "late_one"))["deployments"]["Hello"]["replicas"]
        assert row["replica"] == late["replica_id"]
        running.send(signal.SIGINT)
        assert await running.ended() == 0


async def test_a_filter_holds_for_what_comes_later(cli: Cli) -> None:
    await cli.start()
    await deployed(cli)
    async with await cli.begin("logs", "-f", "--deployment", "Hello", "--app", "one") as running:
        await running.until("constructing for world")
        words = ("shop:build", "who=late", "--name", "one_more", "--route-prefix", "/late")
        assert (await cli("deploy", *words, "--merge", "--wait")).code == 0
        assert (await cli("scale", "one", "Hello", "2")).code == 0
        await running.until(r"constructing for world[\s\S]*constructing for world")
        running.send(signal.SIGINT)
        assert await running.ended() == 0
        assert "late" not in running.said


async def test_following_goes_on_with_the_next_daemon(cli: Cli) -> None:
    await cli.start()
    await deployed(cli)
    async with await cli.begin("logs", "-f") as running:
        await running.until(r"\(two/Hello \w+\) constructing")
        controller = json.loads((await cli("status", "--json")).out)["controller_info"]
        os.kill(int(controller["actor_id"].split("-")[0]), signal.SIGKILL)
        words = ("shop:build", "who=late", "--name", "late", "--route-prefix", "/late", "--merge", "--wait")
        assert (await cli("deploy", *words)).code == 0
        await running.until(r"\(late/Hello \w+\) constructing for late")
        running.send(signal.SIGINT)
        assert await running.ended() == 0
