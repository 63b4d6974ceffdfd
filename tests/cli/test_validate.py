"""`serve validate` and `serve schema`, the real program."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from serve_lite_cli.submission import read_submission
from tests.cli.commands import Cli
from tests.cli.test_instance_commands import ONE_APP, TWO_APPS, WRONG_FILES


@pytest.mark.parametrize(("text", "said"), [(TWO_APPS, "2 applications"), (ONE_APP, "1 application")])
async def test_a_right_file_is_said_to_be_right_and_starts_nothing(cli: Cli, text: str, said: str) -> None:
    done = await cli("validate", cli.write("serve.yaml", text))
    assert (done.code, done.out, done.err) == (0, f"serve.yaml is valid: {said}.\n", "")
    assert not os.path.exists(os.path.join(cli.home, "state.db"))


@pytest.mark.parametrize("case", WRONG_FILES)
async def test_a_wrong_file_is_one_error_with_its_place(cli: Cli, case: str) -> None:
    text, place, words = WRONG_FILES[case]
    done = await cli("validate", cli.write("serve.yaml", text))
    assert (done.code, done.out) == (1, "")
    assert f"Error: {place}" in done.err
    assert all(word in done.err for word in words), done.err


async def test_what_only_an_instance_checks_is_checked_too(cli: Cli) -> None:
    text = (
        "applications:\n- import_path: shop:app\n  route_prefix: /a\n- import_path: shop:app\n  name: 'x/y'\n"
    )
    done = await cli("validate", cli.write("serve.yaml", text))
    assert done.code == 1
    assert "Error: serve.yaml:5:3: 'x/y' cannot be the name of an application" in done.err


async def test_a_file_that_is_not_there_is_one_error(cli: Cli) -> None:
    done = await cli("validate", "nowhere.yaml")
    assert (done.code, done.err) == (
        1,
        "Error: Cannot read the config file 'nowhere.yaml': No such file or directory.\n",
    )


async def test_the_schema_is_printed_as_json(cli: Cli) -> None:
    done = await cli("schema")
    Draft202012Validator.check_schema(json.loads(done.out))


NEEDLESS = """\
applications:
- import_path: shop:app
  deployments:
  - name: Hello
    max_replicas_per_node: 3
    placement_group_strategy: null
    ray_actor_options:
      label_selector: {zone: a}
"""


@pytest.mark.parametrize("command", ["validate", "diff", "deploy", "run --non-blocking"])
async def test_what_only_a_cluster_needs_is_told_in_one_line(cli: Cli, command: str) -> None:
    if not command.startswith("validate"):
        await cli.start()
    done = await cli(*command.split(), cli.write("serve.yaml", NEEDLESS))
    assert done.code == 0, done
    said = done.err.removesuffix("An instance is already running, and is used.\n")  # by `serve run`
    assert said == (
        "Accepted, and without effect on one machine: max_replicas_per_node (applications[0].deployments[0]), "
        "label_selector (applications[0].deployments[0].ray_actor_options).\n"
    )


GOOD_YAML = {
    "anchors and merges": (
        "x-model: &model {num_replicas: 2, max_ongoing_requests: 5}\n"
        "applications:\n- import_path: shop:app\n  deployments:\n"
        "  - {name: A, <<: *model}\n  - {name: B, <<: *model, num_replicas: 3}\n",
        {"A": (2, 5), "B": (3, 5)},
    ),
    "a mark in front": (
        "\ufeffapplications:\n- import_path: shop:app\n  deployments:\n"
        "  - {name: A, num_replicas: 2, max_ongoing_requests: 5}\n",
        {"A": (2, 5)},
    ),
    "JSON": (
        '{"applications": [{"import_path": "shop:app", "deployments": '
        '[{"name": "A", "num_replicas": 2, "max_ongoing_requests": 5}]}]}',
        {"A": (2, 5)},
    ),
    "numbers of YAML 1.1": (
        "applications:\n- import_path: shop:app\n  deployments:\n"
        "  - {name: A, num_replicas: 0x2, max_ongoing_requests: 1_0}\n",
        {"A": (2, 10)},
    ),
}


@pytest.mark.parametrize("case", GOOD_YAML)
def test_what_yaml_allows_works(case: str, tmp_path: Path) -> None:
    text, numbers = GOOD_YAML[case]
    path = tmp_path / "serve.yaml"
    path.write_text(text, encoding="utf-8")
    (app,) = read_submission(str(path)).request.apps
    found = {o["name"]: (o["num_replicas"], o["max_ongoing_requests"]) for o in app.overrides}
    assert found == numbers


def test_variables_of_the_shell_are_not_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL", "large")
    path = tmp_path / "serve.yaml"
    path.write_text(
        "import_path: shop:app\nargs: {model: '${MODEL}', other: $MODEL}\nruntime_env: {env_vars: {A: '${MODEL}'}}\n"
    )
    (app,) = read_submission(str(path)).request.apps
    assert app.build is not None
    assert app.build.args == {"model": "${MODEL}", "other": "$MODEL"}
    assert app.environment.env_vars == {"A": "${MODEL}"}
