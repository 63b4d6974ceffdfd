"""Flags of `serve start`, `serve run` and `serve build` that choose where is listened and where code is found."""

from __future__ import annotations

import json
import re
import signal
import socket

import pytest

from tests.cli.commands import Cli, text_of
from tests.cli.test_deploy_named import ENVIRONMENTAL
from tests.cli.test_grpc import SERVICES

PORTS = ("--port", "0")


async def told(cli: Cli, *words: str, **variables: str) -> dict[str, str | None]:
    """Start an instance; return where it says that it is."""
    done = await cli("start", *words, "--json", **variables)
    assert done.code == 0, done
    places: dict[str, str | None] = json.loads(done.out)
    return places


async def test_start_listens_on_the_host_it_is_given(cli: Cli) -> None:
    places = await told(cli, "--http-host", "127.0.0.2", "--http-port", "0")
    assert str(places["http"]).startswith("http://127.0.0.2:")
    assert (await cli("deploy", "shop:app", "--wait")).code == 0
    assert await text_of(str(places["http"])) == "hello world"


async def test_the_flag_for_the_admin_port_wins_over_the_environment(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = await cli("start", "--http-port", "0", "--admin-port", port)
        assert (refused.code, "--admin-port" in refused.err) == (1, True), refused
        places = await told(cli, "--http-port", "0", "--admin-port", "0", SERVE_LITE_ADMIN_PORT=port)
    assert not str(places["rest"]).endswith(f":{port}")


@pytest.mark.parametrize(
    ("flag", "is_on"), [("--grpc-disable-reflection", False), ("--grpc-enable-reflection", True)]
)
async def test_reflection_is_what_the_flag_says(cli: Cli, flag: str, is_on: bool) -> None:
    cli.write("services.py", SERVICES)
    words = ("--http-port", "0", "--grpc-port", "0", "--grpc-servicer-functions", "services:add_to_server")
    assert (await told(cli, *words, flag))["grpc"] is not None
    options = json.loads((await cli("status", "--json")).out)["grpc_options"]
    assert options["enable_reflection"] is is_on


async def test_build_writes_what_the_flag_for_reflection_says(cli: Cli) -> None:
    for flag, is_on in (("--grpc-disable-reflection", False), ("--grpc-enable-reflection", True)):
        document = json.loads((await cli("build", "shop:app", flag, "--json")).out)
        assert document["grpc_options"]["enable_reflection"] is is_on


@pytest.mark.parametrize("flag", ["--host", "-h", "--http-host"])
async def test_run_listens_on_the_host_it_is_given(cli: Cli, flag: str) -> None:
    async with await cli.begin("run", "shop:app", flag, "127.0.0.3", *PORTS) as running:
        url = await running.ready_url()
        assert url.startswith("http://127.0.0.3:")
        assert await text_of(url) == "hello world"
        running.send(signal.SIGINT)
        assert await running.ended() == 0


@pytest.mark.parametrize("flag", ["--port", "-p", "--http-port"])
async def test_runs_port_wins_over_the_one_of_the_file(cli: Cli, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        name = cli.write(
            "serve.yaml", f"http_options: {{port: {port}}}\napplications: [{{import_path: shop:app}}]\n"
        )
        async with await cli.begin("run", name, flag, "0") as running:
            assert await text_of(await running.ready_url()) == "hello world"
            running.send(signal.SIGINT)
            assert await running.ended() == 0


@pytest.mark.parametrize("flag", ["--app-dir", "-d"])
async def test_run_looks_for_the_module_in_the_app_dir_and_stays_where_it_is(cli: Cli, flag: str) -> None:
    (cli.folder / "code").mkdir()
    cli.write("code/environmental.py", ENVIRONMENTAL)
    async with await cli.begin("run", "environmental:app", flag, "code", *PORTS) as running:
        assert await text_of(await running.ready_url()) == f"{cli.folder.name} -"
        running.send(signal.SIGINT)
        assert await running.ended() == 0


async def test_run_takes_its_runtime_env_from_a_file_or_the_command_line(cli: Cli) -> None:
    (cli.folder / "work").mkdir()
    cli.write("environmental.py", ENVIRONMENTAL)
    env = cli.write("env.yaml", "working_dir: /\nenv_vars: {WHO: file}\n")
    await cli.start()
    text = '{"env_vars": {"WHO": "line"}}'
    given = {
        ("--runtime-env", env): " file",
        ("--runtime-env", env, "--working-dir", "work"): "work file",
        ("--runtime-env-json", text): f"{cli.folder.name} line",
    }
    for words, answer in given.items():
        ran = await cli("run", "environmental:app", "--non-blocking", *words)
        assert ran.code == 0, ran
        assert await text_of(re.search(r"ready at (\S+)", ran.out)[1]) == answer  # type: ignore[index]


async def test_run_blocks_if_told_so(cli: Cli) -> None:
    async with await cli.begin("run", "shop:app", "--blocking", *PORTS) as running:
        assert await text_of(await running.ready_url()) == "hello world"
        running.send(signal.SIGINT)
        assert await running.ended() == 0


async def test_gradio_says_what_to_do_instead(cli: Cli) -> None:
    done = await cli("run", "shop:app", "--gradio")
    assert done.code == 2
    assert "DAGDriver" in done.err
    assert "gradio" in done.err
