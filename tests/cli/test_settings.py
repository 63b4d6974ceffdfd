"""The options of an instance end to end: said in every place, told by the running instance, kept, and not changed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from serve_lite.engines.local import find_instance
from serve_lite.wire.messages import InstanceInfo
from tests.cli.commands import Cli, text_of
from tests.instances import DEADLINE_S

APPS = "applications:\n- {name: one, route_prefix: /one, import_path: 'shop:app'}\n"


async def effective(cli: Cli) -> dict[str, tuple[Any, str]]:
    """Return the options that the instance tells of: value and origin by name."""
    done = await cli("config", "--effective", "--json")
    assert done.code == 0, done
    return {row["name"]: (row["value"], row["origin"]) for row in json.loads(done.out)["options"]}


async def info_of(cli: Cli) -> InstanceInfo:
    info = await asyncio.to_thread(find_instance, cli.home)
    assert info is not None
    return info


def write_settings(cli: Cli, text: str) -> str:
    """Write the settings file of the state directory; return its path."""
    home = Path(cli.home)
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "settings.yaml").write_text(text)
    return str(home / "settings.yaml")


async def test_every_option_is_told_with_where_it_comes_from(cli: Cli) -> None:
    path = write_settings(
        cli, "# ours\norphan_grace_s: 30\nhttp_options:\n  root_path: /outer\n  port: 1\nbacklog: 5\n"
    )
    done = await cli(
        "start",
        "--http-port",
        "0",
        SERVE_LITE_BACKLOG="77",
        SERVE_LITE_HTTP_SSL_KEYFILE_PASSWORD="hunter2",
        RAY_SERVE_REQUEST_PROCESSING_TIMEOUT_S="20",
    )
    assert done.code == 0, done
    told = await effective(cli)
    info = await info_of(cli)
    assert told["home"] == (cli.home, "environment SERVE_LITE_HOME")
    assert told["settings_file"] == (path, "found in the state directory")
    assert told["http_options.port"] == (info.http_port, "flag --http-port; 0: the kernel chooses")
    assert told["admin_port"] == (
        info.admin_port,
        "environment SERVE_LITE_ADMIN_PORT; 0: the kernel chooses",
    )
    assert told["backlog"] == (77, "environment SERVE_LITE_BACKLOG")
    assert told["http_options.request_timeout_s"] == (
        20.0,
        "environment RAY_SERVE_REQUEST_PROCESSING_TIMEOUT_S",
    )
    assert told["http_options.root_path"] == ("/outer", f"file {path}:4")
    assert told["orphan_grace_s"] == (30.0, f"file {path}:2")
    assert told["log_level"] == ("INFO", "default")
    assert told["http_options.ssl_keyfile_password"][0] == "********"

    shown = await cli("config", "--effective")
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines] == ["OPTION", *told]
    column = lines[0].index("FROM")
    assert {line[column - 1] for line in lines} == {" "}  # columns begin below each other
    assert "hunter2" not in shown.out + (await cli("config", "--effective", "--json")).out


async def test_options_and_their_origins_outlive_the_daemon(cli: Cli) -> None:
    write_settings(cli, "orphan_grace_s: 30\n")
    await cli.start()
    before = await effective(cli)
    first = await info_of(cli)
    write_settings(
        cli, "orphan_grace_s: 31\n"
    )  # for the next start of the instance, not for that of a daemon
    os.kill(first.pid, signal.SIGKILL)
    with anyio.fail_after(DEADLINE_S):
        while (now := await info_of(cli)).pid == first.pid:
            await anyio.sleep(0.01)
    assert now.epoch == first.epoch + 1
    assert await effective(cli) == before


async def test_a_settings_file_chooses_the_front_and_how_replicas_log(cli: Cli) -> None:
    (cli.folder / "talker.py").write_text(
        "import logging\nimport serve_lite as serve\n\n"
        "@serve.deployment\nclass Talker:\n    def __call__(self, request):\n"
        "        logging.getLogger('ray.serve').info('asked')\n        return 'yes'\n\napp = Talker.bind()\n"
    )
    named = cli.write(
        "my.yaml", "http_options: {server: hypercorn, port: 0}\nlogging_config: {encoding: JSON}\n"
    )
    done = await cli("start", "--settings", named)
    assert done.code == 0, done
    assert (await effective(cli))["settings_file"] == (str(cli.folder / "my.yaml"), "flag --settings")
    url = re.search(r"HTTP +(http\S+)", done.out)[1]  # type: ignore[index]
    app = cli.write("serve.yaml", "applications:\n- {name: default, import_path: 'talker:app'}\n")
    assert (await cli("deploy", app, "--wait")).code == 0
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        answer = await client.get(url)
    # hypercorn's status line has no words after the number; ours says OK
    assert (answer.text, answer.extensions["reason_phrase"]) == ("yes", b"")
    with anyio.fail_after(DEADLINE_S):
        while not (said := [li for li in (await cli("logs")).out.splitlines() if '"asked"' in li]):
            await anyio.sleep(0.05)
    assert json.loads(said[0][said[0].index("{") :])["message"] == "asked"


async def test_starting_again_names_what_is_not_applied_and_applies_nothing(cli: Cli) -> None:
    await cli.start()
    before = await effective(cli)
    port = before["http_options.port"][0]
    path = write_settings(cli, "\nhttp_options:\n  server: hypercorn\n")
    again = await cli("start", "--http-port", "9999", "--grpc-port", "9001", SERVE_LITE_LOG_LEVEL="debug")
    assert again.code == 0
    assert again.err.splitlines() == [
        f"Warning: http_options.port stays {port}; 9999 (flag --http-port) is not applied.",
        f"Warning: http_options.server stays native; hypercorn (file {path}:3) is not applied.",
        "Warning: grpc_options.port stays 9000; 9001 (flag --grpc-port) is not applied.",
        "Warning: log_level stays INFO; DEBUG (environment SERVE_LITE_LOG_LEVEL) is not applied.",
    ]
    assert await effective(cli) == before


DIFFERENT = (
    "proxy_location: Disabled\nhttp_options: {port: 9999, keep_alive_timeout_s: 3, ssl_keyfile_password: hunter2}\n"
    "grpc_options: {grpc_servicer_functions: ['a:add']}\n" + APPS
)


async def test_a_document_is_deployed_and_its_other_options_are_named(cli: Cli) -> None:
    url = await cli.start()
    before = await effective(cli)
    port = before["http_options.port"][0]
    name = cli.write("serve.yaml", DIFFERENT)
    sentences = [
        f"http_options.port stays {port} (flag --http-port; 0: the kernel chooses); 9999 is not applied.",
        "http_options.keep_alive_timeout_s stays 90.0 (default); 3 is not applied.",
        'grpc_options.grpc_servicer_functions stays [] (default); ["a:add"] is not applied.',
        'proxy_location stays "EveryNode" (default); "Disabled" is not applied.',
    ]
    done = await cli("deploy", name)
    assert done.code == 0
    assert done.err.splitlines() == [f"Warning: {sentence}" for sentence in sentences]
    assert await cli.until_settled("one") == "RUNNING"
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        document = {"applications": [{"name": "one", "route_prefix": "/one", "import_path": "shop:app"}]}
        other = {"http_options": {"root_path": "/x", "port": 0, "location": "HeadOnly"}}
        answer = await client.put(f"{url}/api/serve/applications/", json=document | other)
        assert (answer.status_code, answer.content) == (200, b"")
        said = json.loads(answer.headers["serve-lite-not-applied"])
        assert said == ['http_options.root_path stays "" (default); "/x" is not applied.']
        same = {"http_options": {"port": port, "keep_alive_timeout_s": 90}, "proxy_location": "HeadOnly"}
        answer = await client.put(f"{url}/api/serve/applications/", json=document | same)
        assert (answer.status_code, "serve-lite-not-applied" in answer.headers) == (200, False)
    log = (Path(cli.home) / "logs" / "daemon.log").read_text()
    assert sentences[0] in log
    assert "hunter2" not in log
    assert await effective(cli) == before


async def test_serve_run_joins_an_instance_and_names_what_it_cannot_have(cli: Cli) -> None:
    await cli.start()
    port = (await effective(cli))["http_options.port"][0]
    name = cli.write("serve.yaml", "http_options: {port: 9999, root_path: /x}\n" + APPS)
    done = await cli("run", name, "--non-blocking", "--host", "127.0.0.9")
    assert done.code == 0, done
    said = [line for line in done.err.splitlines() if line.startswith("Warning: ")]
    assert said == [
        "Warning: http_options.host stays 127.0.0.1; 127.0.0.9 (flag --host) is not applied.",
        f"Warning: http_options.port stays {port}; 9999 (file serve.yaml, http_options.port) is not applied.",
        'Warning: http_options.root_path stays ""; /x (file serve.yaml, http_options.root_path) is not applied.',
    ]
    assert await text_of(f"http://127.0.0.1:{port}/one") == "hello world"


async def test_serve_run_takes_options_of_its_file_below_those_of_the_environment(cli: Cli) -> None:
    name = cli.write("serve.yaml", "http_options: {port: 1, server: hypercorn}\n" + APPS)
    done = await cli("run", name, "--non-blocking", SERVE_LITE_HTTP_PORT="0")
    assert done.code == 0, done
    told = await effective(cli)
    assert told["http_options.port"][1] == "environment SERVE_LITE_HTTP_PORT; 0: the kernel chooses"
    assert told["http_options.server"] == ("hypercorn", "file serve.yaml, http_options.server")


REFUSED = {
    "a variable": ({"SERVE_LITE_BACKLOG": "many"}, "", "SERVE_LITE_BACKLOG is 'many'"),
    "the file": ({}, "http_options: {sever: native}\n", "settings.yaml:1:16: http_options.sever"),
    "a file that is not there": ({"SERVE_LITE_SETTINGS": "none.yaml"}, "", "There is no settings file"),
    "half of TLS": ({"SERVE_LITE_HTTP_SSL_KEYFILE": "/dev/null"}, "", "must be given together"),
}


@pytest.mark.parametrize("command", [("start",), ("run", "shop:app")], ids=["start", "run"])
@pytest.mark.parametrize(("variables", "settings", "said"), REFUSED.values(), ids=REFUSED)
async def test_a_wrong_setting_is_one_clear_error_and_nothing_is_started(
    cli: Cli, command: tuple[str, ...], variables: dict[str, str], settings: str, said: str
) -> None:
    if settings:
        write_settings(cli, settings)
    done = await cli(*command, **variables)
    assert done.code == 1
    errors = [line for line in done.err.splitlines() if line]
    assert len(errors) == 1, done.err
    assert errors[0].startswith("Error: ")
    assert said in errors[0]
    assert await asyncio.to_thread(find_instance, cli.home) is None


async def test_user_code_does_not_inherit_the_password_of_the_key(cli: Cli) -> None:
    (cli.folder / "nosy.py").write_text(
        "import os\nimport serve_lite as serve\n\n@serve.deployment\nclass Nosy:\n"
        "    def __call__(self, request):\n        return '\\n'.join(os.environ.values())\n\napp = Nosy.bind()\n"
    )
    done = await cli("start", "--http-port", "0", SERVE_LITE_HTTP_SSL_KEYFILE_PASSWORD="hunter2")
    url = re.search(r"HTTP +(http\S+)", done.out)[1]  # type: ignore[index]
    app = cli.write("serve.yaml", "applications:\n- {name: default, import_path: 'nosy:app'}\n")
    assert (await cli("deploy", app, "--wait")).code == 0
    told = await text_of(url)
    assert cli.home in told  # SERVE_LITE_HOME is there, so it is the right environment
    assert "hunter2" not in told


async def test_effective_is_not_about_one_application(cli: Cli) -> None:
    done = await cli("config", "--effective", "--name", "one")
    assert done.code == 2
    assert "--effective" in done.err


EMBEDS = """
import json, logging, subprocess, sys
import serve_lite as serve

logging.basicConfig()
serve.start(http_options={"port": 0, "server": "hypercorn"}, logging_config={"encoding": "JSON"})
command = [sys.executable, "-P", "-m", "serve_lite_cli.main", "config", "--effective", "--json"]
print(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
serve.start(http_options={"root_path": "/x", "port": 0}, grpc_options={"request_timeout_s": 3})
"""


async def test_a_program_that_embeds_an_instance_is_named_too(cli: Cli) -> None:
    cli.write("embeds.py", EMBEDS)
    with anyio.fail_after(DEADLINE_S):
        done = await anyio.run_process(
            [sys.executable, "embeds.py"],
            cwd=cli.folder,
            env={**cli.environment, "SERVE_LITE_HTTP_KEEP_ALIVE_TIMEOUT_S": "7"},
        )
    told = {row["name"]: (row["value"], row["origin"]) for row in json.loads(done.stdout)["options"]}
    assert told["http_options.server"] == ("hypercorn", "argument http_options.server of serve.start")
    assert told["logging_config.encoding"] == ("JSON", "argument logging_config.encoding of serve.start")
    assert told["http_options.keep_alive_timeout_s"] == (
        7.0,
        "environment SERVE_LITE_HTTP_KEEP_ALIVE_TIMEOUT_S",
    )
    warned = done.stderr.decode()
    assert 'http_options.root_path stays ""; /x (argument http_options.root_path of serve.start)' in warned
    assert "grpc_options.request_timeout_s stays null; 3.0 (argument" in warned
    assert "http_options.port" not in warned


@pytest.mark.parametrize("content", [b"", b"not a database" * 500], ids=["emptied", "overwritten"])
async def test_an_instance_does_not_start_empty_on_a_damaged_state_file(cli: Cli, content: bytes) -> None:
    await cli.start()
    await cli("deploy", cli.write("serve.yaml", APPS), "--wait")
    await cli("shutdown", "-y")
    state = Path(cli.home, "state.db")
    state.write_bytes(content)
    done = await cli("start", "--http-port", "0")
    assert done.code == 1
    assert "state.db' is damaged" in done.err
    assert "move it away" in done.err
    assert state.read_bytes() == content
    state.unlink()
    assert (await cli("start", "--http-port", "0")).code == 0
