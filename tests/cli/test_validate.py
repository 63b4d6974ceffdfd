"""`serve validate` and `serve schema`, the real program."""

from __future__ import annotations

import json
import os

import pytest
from jsonschema import Draft202012Validator

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
