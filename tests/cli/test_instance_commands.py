"""`serve start`, `deploy`, `status`, `config`, `delete` and `shutdown`, the real program with a real instance."""

from __future__ import annotations

import re

import pytest

from serve_lite_cli.program import COMMANDS
from tests.cli.commands import Cli, is_refused, text_of

TWO_APPS = """\
applications:
- name: one
  route_prefix: /one
  import_path: shop:app
- name: two
  route_prefix: /two
  import_path: shop:build
  args:
    who: you
  deployments:
  - name: Hello
    num_replicas: 2
"""
ONE_APP = "import_path: shop:app\n"


async def test_start_tells_where_the_instance_is_and_starting_again_does_no_harm(cli: Cli) -> None:
    first = await cli("start", "--http-port", "0")
    again = await cli("start", "--http-port", "1")
    assert (first.code, again.code) == (0, 0)
    places = re.findall(r"http://\S+|/\S+home0", first.out)
    assert len(places) == 3
    assert re.findall(r"http://\S+|/\S+home0", again.out) == places
    assert "already running" in again.out
    port = places[0].rpartition(":")[2].rstrip("/")
    assert again.err == (f"Warning: http_options.port stays {port}; 1 (flag --http-port) is not applied.\n")


async def test_start_takes_the_options_of_both_generations(cli: Cli) -> None:
    done = await cli("start", "--http-location", "NoServer", "--grpc-port", "0", "--grpc-disable-reflection")
    assert done.code == 0
    assert "--proxy-location" in done.err
    assert re.search(r"HTTP +off", done.out)


async def test_a_deployed_file_is_answered_shown_and_given_back(cli: Cli) -> None:
    await cli.start()
    done = await cli("deploy", cli.write("serve.yaml", TWO_APPS))
    assert done.code == 0, done
    assert done.out == (
        "Deploying from config file: 'serve.yaml'.\n"
        "\nSent deploy request successfully.\n"
        " * Use `serve status` to check applications' statuses.\n"
        " * Use `serve config` to see the current application config(s).\n"
    )
    assert [await cli.until_settled(name) for name in ("one", "two")] == ["RUNNING", "RUNNING"]

    url = re.search(r"HTTP +(http\S+)", (await cli("start")).out)[1]  # type: ignore[index]
    assert await text_of(f"{url}/one") == "hello world"
    assert await text_of(f"{url}/two") == "hello you"

    status = await cli.status()
    assert list(status) == ["proxies", "applications", "target_capacity"]
    assert list(status["proxies"].values()) == ["HEALTHY"]
    two = status["applications"]["two"]
    assert list(two) == ["status", "message", "last_deployed_time_s", "deployments"]
    assert two["deployments"]["Hello"] == {
        "status": "HEALTHY",
        "status_trigger": "CONFIG_UPDATE_COMPLETED",
        "replica_states": {"RUNNING": 2},
        "message": "",
    }
    assert await cli.status("-n", "two") == two

    first, second = TWO_APPS.removeprefix("applications:\n").split("- name: two")
    given = [text.replace("\n  ", "\n") for text in (first.replace("- name", "name"), "name: two" + second)]
    assert (await cli("config")).out == "\n---\n\n".join(given)
    assert (await cli("config", "--name", "one")).out == given[0]


async def test_an_application_that_a_later_file_leaves_out_is_removed(cli: Cli) -> None:
    await cli.start()
    await cli("deploy", cli.write("serve.yaml", TWO_APPS))
    await cli("deploy", cli.write("serve.yaml", TWO_APPS[: TWO_APPS.index("- name: two")]))
    while "two" in (await cli.status())["applications"]:
        pass
    assert await cli.until_settled("one") == "RUNNING"


async def test_a_file_with_a_single_application_is_deployed_as_default(cli: Cli) -> None:
    await cli.start()
    assert (await cli("deploy", cli.write("app.yaml", ONE_APP))).code == 0
    assert await cli.until_settled("default") == "RUNNING"
    assert (await cli("config")).out == ONE_APP


async def test_a_working_dir_is_meant_relative_to_the_file(cli: Cli) -> None:
    (cli.folder / "code").mkdir()
    (cli.folder / "shop.py").rename(cli.folder / "code" / "shop.py")
    (cli.folder / "conf").mkdir()
    await cli.start()
    name = cli.write("conf/app.yaml", "import_path: shop:app\nruntime_env:\n  working_dir: ../code\n")
    assert (await cli("deploy", name)).code == 0
    assert await cli.until_settled("default") == "RUNNING"
    assert f"working_dir: {cli.folder}/code" in (await cli("config")).out


WRONG_FILES = {
    "a misspelt key": (
        "applications:\n- import_path: shop:app\n  route_prfix: /x\n",
        "serve.yaml:3:3: ",
        ("'route_prfix'", "'route_prefix'"),
    ),
    "a misspelt key at the top": (
        "aplications: []\n",
        "serve.yaml:1:1: ",
        ("'aplications'", "'applications'"),
    ),
    "a prefix without a slash": (
        "applications:\n- import_path: shop:app\n  route_prefix: x\n",
        "serve.yaml:3:3: ",
        ("'x'", "'/'"),
    ),
    "two applications on one prefix": (
        "applications:\n- {name: a, import_path: 'shop:app'}\n- {name: b, import_path: 'shop:app'}\n",
        "serve.yaml:",
        ("'/'",),
    ),
    "a wrong value": (
        "import_path: shop:app\ndeployments:\n- name: Hello\n  num_replicas: many\n",
        "serve.yaml:4:3: ",
        ("'many'", "num_replicas"),
    ),
    "a directory that is not there": (
        "import_path: shop:app\nruntime_env:\n  working_dir: nowhere\n",
        "serve.yaml:3:3: ",
        ("nowhere", "does not exist"),
    ),
    "no YAML": ("applications: [", "serve.yaml:1:", ("not valid YAML",)),
}


@pytest.mark.parametrize("case", WRONG_FILES)
async def test_a_wrong_file_is_one_clear_error_with_its_place_and_changes_nothing(
    cli: Cli, case: str
) -> None:
    text, place, words = WRONG_FILES[case]
    done = await cli("deploy", cli.write("serve.yaml", text))  # no instance needed to hear of it
    assert done.code == 1
    assert f"Error: {place}" in done.err
    assert all(word in done.err for word in words), done.err
    assert "Sent" not in done.out


async def test_what_only_the_instance_knows_is_refused_there_and_changes_nothing(cli: Cli) -> None:
    await cli.start()
    assert (await cli("run", "shop:app", "--non-blocking")).code == 0
    text = "applications:\n- {name: other, import_path: 'shop:app'}\n"
    done = await cli("deploy", cli.write("serve.yaml", text))
    assert (done.code, "Prefix / is being used" in done.err) == (1, True), done
    assert list((await cli.status())["applications"]) == ["default"]


async def test_an_application_that_fails_tells_why_in_the_status(cli: Cli) -> None:
    await cli.start()
    await cli("deploy", cli.write("app.yaml", "import_path: shop:broken\n"))
    assert await cli.until_settled("default") == "DEPLOY_FAILED"
    app = await cli.status("--name", "default")
    assert "ValueError: there is no model here" in app["message"] + app["deployments"]["Broken"]["message"]


async def test_asking_for_what_does_not_exist(cli: Cli) -> None:
    await cli.start()
    status = await cli("status", "-n", "x")
    assert (status.code, status.err) == (1, 'Error: Application "x" does not exist.\n')
    assert (await cli("config")).out == "No configuration was found.\n"
    assert (await cli("config", "-n", "x")).out == 'No config has been deployed for application "x".\n'
    assert (await cli("delete", "-y", "x")).code == 1


async def test_one_application_can_be_deleted(cli: Cli) -> None:
    await cli.start()
    await cli("run", "shop:app", "--non-blocking")
    assert (await cli("delete", "default", typed="n\n")).code == 1
    assert (await cli("delete", "default", typed="y\n")).code == 0
    assert (await cli.status())["applications"] == {}


async def test_shutdown_asks_and_returns_when_the_instance_has_ended(cli: Cli) -> None:
    rest = await cli.start()
    refused = await cli("shutdown", typed="n\n")
    assert refused.code == 1
    assert "delete all applications there. Do you want to continue?" in refused.out
    assert not await is_refused(f"{rest}/-/healthz")

    done = await cli("shutdown", typed="y\n")
    assert done.code == 0
    assert "Sent shutdown request; applications will be deleted asynchronously." in done.out
    assert await is_refused(f"{rest}/-/healthz")


async def test_shutdown_without_an_instance_is_no_failure(cli: Cli) -> None:
    done = await cli("shutdown", "-y")
    assert done.code == 0
    assert "No Serve instance found" in done.err


@pytest.mark.parametrize("variable", ["SERVE_LITE_ADDRESS", "RAY_AGENT_ADDRESS", "RAY_DASHBOARD_ADDRESS", ""])
async def test_an_instance_is_found_by_the_url_of_its_control_plane(cli: Cli, variable: str) -> None:
    rest = await cli.start()
    elsewhere = {"SERVE_LITE_HOME": str(cli.folder / "elsewhere")}
    if variable:
        elsewhere[variable] = rest
    option = [] if variable else ["-a", rest]

    name = cli.write("app.yaml", ONE_APP)
    assert (await cli("deploy", name, *option, **elsewhere)).code == 0
    assert (await cli("config", *option, **elsewhere)).out == ONE_APP
    assert "default" in (await cli("status", *option, **elsewhere)).out
    assert (await cli("shutdown", "-y", *option, **elsewhere)).code == 0
    assert (await cli.status())["applications"] == {}  # through a URL the instance stays


async def test_an_instance_is_found_by_its_state_directory(cli: Cli) -> None:
    await cli.start()
    done = await cli("status", "--address", cli.home, SERVE_LITE_HOME=str(cli.folder / "elsewhere"))
    assert done.code == 0


@pytest.mark.parametrize("command", ["status", "config", "shutdown", "deploy"])
async def test_an_address_where_nobody_answers_is_one_clear_error(cli: Cli, command: str) -> None:
    words = {"shutdown": ["-y"], "deploy": [cli.write("app.yaml", ONE_APP)]}.get(command, [])
    done = await cli(command, *words, "-a", "http://127.0.0.1:1")
    assert done.code == 1
    assert "Error: Failed to connect" in done.err
    assert "http://127.0.0.1:1" in done.err


@pytest.mark.parametrize("address", ["localhost:52365", "ftp://localhost", "nonsense"])
async def test_an_address_that_is_none_is_one_clear_error(cli: Cli, address: str) -> None:
    done = await cli("status", "-a", address)
    assert done.code == 1
    assert f"Error: The address '{address}'" in done.err


async def test_without_an_instance_commands_say_how_to_start_one(cli: Cli) -> None:
    for command in ("status", "config"):
        done = await cli(command)
        assert done.code == 1
        assert "serve start" in done.err


@pytest.mark.parametrize("command", ["", *COMMANDS])
async def test_every_command_has_help(cli: Cli, command: str) -> None:
    words = [command] if command else []
    done = await cli(*words, "--help")
    assert done.code == 0
    assert "Usage: serve" in done.out
    if command != "run":  # there -h is --host, as in Ray
        assert (await cli(*words, "-h")).out == done.out


async def test_the_version_is_told(cli: Cli) -> None:
    done = await cli("--version")
    assert re.fullmatch(r"serve-lite, version \d+\.\d+\.\d+\S*\n", done.out)
