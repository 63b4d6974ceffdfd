"""`serve deploy module:app`, the real program with a real instance."""

from __future__ import annotations

import json
import re

import pytest

from tests.cli.commands import Cli, text_of
from tests.cli.test_instance_commands import ONE_APP, TWO_APPS

ENVIRONMENTAL = """
import os
from pathlib import Path

import serve_lite as serve


@serve.deployment
class Where:
    async def __call__(self, request):
        return f"{Path.cwd().name} {os.environ.get('WHO', '-')}"


app = Where.bind()
"""


async def started(cli: Cli) -> tuple[str, str]:
    """Start an instance; return the URLs of its control plane and of its applications."""
    done = await cli("start", "--http-port", "0", "--json")
    places = json.loads(done.out)
    return places["rest"], places["http"]


async def test_an_import_path_becomes_one_application_that_serves_and_is_given_back(cli: Cli) -> None:
    _, url = await started(cli)
    done = await cli("deploy", "shop:app")
    assert done.code == 0, done
    assert done.out == (
        "Deploying from import path: 'shop:app'.\n"
        "\nSent deploy request successfully.\n"
        " * Use `serve status` to check applications' statuses.\n"
        " * Use `serve config` to see the current application config(s).\n"
    )
    assert await cli.until_settled("default") == "RUNNING"
    assert await text_of(url) == "hello world"
    config = (await cli("config")).out
    assert config == f"import_path: shop:app\nruntime_env:\n  working_dir: {cli.folder}\n"

    # What is given back deploys the same.
    again = cli.write("again.yaml", f"applications:\n- {config.replace(chr(10), chr(10) + '  ').rstrip()}\n")
    diff = await cli("diff", again, "--json")
    assert json.loads(diff.out)["default"]["action"] == "nothing"


async def test_arguments_name_and_prefix_are_those_of_the_command_line(cli: Cli) -> None:
    _, url = await started(cli)
    words = ("shop:build", "who=you=me", "--name", "greeter", "--route-prefix", "/greet", "--wait")
    done = await cli("deploy", *words)
    assert done.code == 0, done
    assert await text_of(f"{url}/greet") == "hello you=me"
    assert list((await cli.status())["applications"]) == ["greeter"]


async def test_other_declared_applications_are_replaced_unless_merged(cli: Cli) -> None:
    await cli.start()
    await cli("deploy", cli.write("serve.yaml", TWO_APPS), "--wait")
    merged = ("deploy", "shop:app", "--name", "three", "--route-prefix", "/three", "--merge", "--wait")
    assert (await cli(*merged)).code == 0
    assert list((await cli.status())["applications"]) == ["one", "two", "three"]

    assert (await cli("deploy", "shop:app", "--wait")).code == 0
    while len(apps := (await cli.status())["applications"]) > 1:
        pass
    assert list(apps) == ["default"]


@pytest.mark.parametrize("flag", ["--app-dir", "-d", "--working-dir"])
async def test_the_module_is_looked_for_in_the_directory_that_is_named(cli: Cli, flag: str) -> None:
    (cli.folder / "code").mkdir()
    cli.write("code/environmental.py", ENVIRONMENTAL)
    _, url = await started(cli)
    missing = await cli("deploy", "environmental:app", "--wait")
    assert (missing.code, "'environmental'" in missing.err) == (1, True), missing
    done = await cli("deploy", "environmental:app", flag, "code", "--wait")
    assert done.code == 0, done
    assert await text_of(url) == "code -"


async def test_the_runtime_env_is_read_from_a_file_or_from_the_command_line(cli: Cli) -> None:
    cli.write("environmental.py", ENVIRONMENTAL)
    _, url = await started(cli)
    env = cli.write("env.yaml", "env_vars:\n  WHO: file\n")
    assert (await cli("deploy", "environmental:app", "--runtime-env", env, "--wait")).code == 0
    assert (await text_of(url)).endswith(" file")
    text = '{"env_vars": {"WHO": "line"}}'
    assert (await cli("deploy", "environmental:app", "--runtime-env-json", text, "--wait")).code == 0
    assert (await text_of(url)).endswith(" line")


async def test_the_working_dir_option_wins_over_the_one_of_the_runtime_env(cli: Cli) -> None:
    for folder in ("one", "two"):
        (cli.folder / folder).mkdir()
        cli.write(f"{folder}/environmental.py", ENVIRONMENTAL)
    _, url = await started(cli)
    env = cli.write("env.yaml", "working_dir: one\n")
    assert (await cli("deploy", "environmental:app", "--runtime-env", env, "--wait")).code == 0
    assert await text_of(url) == "one -"
    words = ("--runtime-env", env, "--working-dir", "two", "--wait")
    assert (await cli("deploy", "environmental:app", *words)).code == 0
    assert await text_of(url) == "two -"


async def test_through_a_url_paths_are_those_of_the_sender(cli: Cli) -> None:
    rest, url = await started(cli)
    done = await cli(
        "deploy", "shop:app", "-a", rest, "--wait", SERVE_LITE_HOME=str(cli.folder / "elsewhere")
    )
    assert done.code == 0, done
    assert await text_of(url) == "hello world"


async def test_with_a_file_arguments_are_refused_and_nothing_is_deployed(cli: Cli) -> None:
    await cli.start()
    done = await cli("deploy", cli.write("app.yaml", ONE_APP), "who=you")
    assert (done.code, done.out) == (1, "")
    assert done.err == "Error: Application arguments cannot be specified for a config file.\n"
    assert (await cli.status())["applications"] == {}


async def test_with_a_file_the_options_of_import_paths_are_passed_over_with_a_warning(cli: Cli) -> None:
    await cli.start()
    env = cli.write("env.yaml", "env_vars: {A: b}\n")
    words = ("--name", "x", "--runtime-env", env, "--working-dir", "/nowhere", "--app-dir", "/nowhere")
    done = await cli("deploy", cli.write("app.yaml", ONE_APP), *words, "--route-prefix", "/x")
    assert done.code == 0, done
    warned = re.findall(r"^Warning: (\S+) is ignored with a config file\.$", done.err, re.MULTILINE)
    assert warned == ["--runtime-env", "--working-dir", "--name", "--route-prefix", "--app-dir"]
    assert await cli.until_settled("default") == "RUNNING"
    assert (await cli("config")).out == ONE_APP


WRONG = {
    "a malformed argument": (("shop:build", "who"), ("'who'", "<key>=<val>")),
    "no import path": (("shop",), ("'shop'", "module:app")),
    "a file that is not there": (("serve.yaml",), ("'serve.yaml'",)),
    "a prefix without a slash": (("shop:app", "--route-prefix", "x"), ("'x'", "'/'")),
    "two runtime_envs": (
        ("shop:app", "--runtime-env", "a.yaml", "--runtime-env-json", "{}"),
        ("--runtime-env and --runtime-env-json",),
    ),
    "an unknown key": (("shop:app", "--runtime-env-json", '{"env_var": {}}'), ("'env_var'", "'env_vars'")),
    "an app-dir that is not there": (("shop:app", "--app-dir", "gone"), ("--app-dir", "'gone'")),
    "two directories": (("shop:app", "--app-dir", ".", "--working-dir", "/"), ("--app-dir", "working_dir")),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_is_wrong_is_told_before_anything_is_sent(cli: Cli, case: str) -> None:
    words, said = WRONG[case]
    done = await cli("deploy", *words)  # no instance needed to hear of it
    assert done.code == 1
    assert done.err.startswith("Error: ") and done.err.count("Error: ") == 1
    assert all(word in done.err for word in said), done.err
    assert "applications[0]" not in done.err


async def test_what_the_instance_refuses_is_told_in_the_words_of_the_command_line(cli: Cli) -> None:
    await cli.start()
    assert (await cli("run", "shop:app", "--non-blocking")).code == 0
    done = await cli("deploy", "shop:app", "--name", "other")
    assert (done.code, "Prefix / is being used" in done.err) == (1, True), done
    assert list((await cli.status())["applications"]) == ["default"]


@pytest.mark.parametrize(
    ("target", "raised"),
    [("shop:broken", "ValueError: there is no model here"), ("shop:raising", "LookupError: nothing for []")],
)
async def test_errors_of_user_code_end_with_the_exception_and_its_place(
    cli: Cli, target: str, raised: str
) -> None:
    await cli.start()
    last = rf"{re.escape(raised)} \(at {re.escape(str(cli.folder))}/shop\.py:\d+\)$"
    done = await cli("deploy", target, "--wait")
    assert done.code == 1
    assert re.search(last, done.err.rstrip()), done.err
    assert re.search(last, (await cli.status("-n", "default"))["message"])
    (first, *_) = (await cli("status", "--table")).out.splitlines()[1:]
    assert re.search(last, first)
