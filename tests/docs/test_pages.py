"""The pages that are made from code say what the code says, all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from serve_lite.admin.app import ENDPOINTS
from serve_lite.admin.openapi import describe
from serve_lite_cli.program import COMMANDS
from tests.docs import cli_page, rest_page
from tests.docs.render import PAGES


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_what_the_code_says_now(path: Path) -> None:
    assert path.read_text() == PAGES[path](), f"{path.name} is stale; run `make docs`."


# --- the command line ----------------------------------------------------------------------------


def test_every_command_with_every_option_is_on_the_page() -> None:
    page = cli_page.page()
    there = dict(cli_page.commands_there())
    assert set(there) == set(COMMANDS)
    for name, command in there.items():
        section = page.partition(f"\n## serve {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for word in cli_page.words_of(command):
            assert word.help, f"{name} {word.names} has no help"
            for written in (*word.names, *word.opposites):
                assert f"`{written}`" in section, (name, written)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_knows_the_options_that_the_program_takes(name: str) -> None:
    """Compared with what `--help` prints, which is made by somebody else."""
    done = subprocess.run(
        [sys.executable, "-m", "serve_lite_cli.main", name, "--help"],
        capture_output=True, text=True, check=True, timeout=60,
        env={"COLUMNS": "200", "PYTHONPATH": ":".join(sys.path), "TERM": "dumb"},
    )  # fmt: skip
    printed = {
        word.strip(",")
        for line in done.stdout.splitlines()
        if line.startswith("  -")
        for word in line.split("  ")[1].replace("/", " ").replace(",", " ").split()
        if word.startswith("-")
    }
    words = cli_page.words_of(dict(cli_page.commands_there())[name])
    known = {written for word in words for written in (*word.names, *word.opposites) if word.is_option}
    assert printed - {"--help", "-h"} == known - {"--help", "-h"}


def test_an_option_is_told_with_all_there_is_to_it() -> None:
    def command(
        where: Annotated[str, typer.Argument(metavar="PLACE", help="Where.")],
        rest: Annotated[list[int] | None, typer.Argument(help="More.")] = None,
        port: Annotated[int, typer.Option("--port", "-p", min=0, max=9, help="A | port.")] = 8,
        loud: Annotated[bool, typer.Option("--loud/--quiet", help="Aloud.")] = True,
        is_dry: Annotated[bool, typer.Option(help="Dry.")] = False,
        tags: Annotated[list[str] | None, typer.Option("--tag", help="Tags.")] = None,
        secret: Annotated[str, typer.Option("--secret", hidden=True)] = "",
    ) -> None:
        """Do it."""

    words = {word.names[0]: word for word in cli_page.words_of(command)}
    assert list(words) == ["PLACE", "REST", "--port", "--loud", "--is-dry", "--tag"]
    assert (words["PLACE"].is_required, words["REST"].is_required, words["REST"].is_many) == (
        True,
        False,
        True,
    )
    assert words["--port"].names == ("--port", "-p")
    assert (words["--port"].takes, words["--port"].default) == ("whole number from 0 to 9", "`8`")
    assert (words["--loud"].opposites, words["--loud"].default) == (("--quiet",), "`on`")
    assert (words["--is-dry"].takes, words["--is-dry"].default) == ("", "")
    assert words["--tag"].is_many
    section = cli_page._section("it", command)
    assert "serve it [OPTIONS] PLACE [REST...]" in section
    assert "A \\| port." in section
    assert "text, repeatable" in section


# --- REST ----------------------------------------------------------------------------------------


def test_every_endpoint_with_every_parameter_and_answer_is_on_the_page() -> None:
    page = rest_page.page()
    for path, method, operation in rest_page._operations(describe(ENDPOINTS)):
        section = page.partition(f"\n## {method.upper()} `{path}`\n")[2].partition("\n## ")[0]
        assert operation["summary"] in section
        for parameter in operation.get("parameters", ()):
            assert f"`{parameter['name']}`" in section
        for status, response in operation["responses"].items():
            told = f"`{status}`" in section or response["description"] in page
            assert told, (method, path, status)


def test_most_fields_are_told_in_words() -> None:
    """Those that are not are few and speak for themselves; a renamed class must not silence all of its fields."""
    page = rest_page.page()
    for name in ("Config", "ApplicationConfig", "DeploymentConfig", "ServeInstanceDetails", "ReplicaDetails"):
        section = page.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        silent = [row for row in rows if row.endswith("|  |")]
        assert rows and len(silent) <= len(rows) // 4, silent


def test_every_link_on_the_page_leads_to_a_title() -> None:
    from tests.docs.markdown import anchor

    for page in (rest_page.page(), cli_page.page()):
        titles = {
            anchor(line.lstrip("# ").replace("`", "")) for line in page.splitlines() if line.startswith("#")
        }
        links = {part.partition(")")[0] for part in page.split("](#")[1:]}
        assert links <= titles


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1}, "whole number from 1"),
        ({"type": ["number", "null"], "exclusiveMinimum": 0}, "number above 0 or null"),
        ({"type": "array", "items": {"type": "string"}}, "list of text"),
        ({"type": "array"}, "list"),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, "object of true or false"),
        ({"type": "object", "additionalProperties": False}, "object"),
        ({"enum": ["a", None]}, '`"a"`, `null`'),
        ({"anyOf": [{"type": "null"}, {"$ref": "#/components/schemas/Config"}]}, "null or [Config](#config)"),
        ({}, "anything"),
    ],
)  # fmt: skip
def test_a_schema_is_told_in_words(schema: dict[str, Any], words: str) -> None:
    assert rest_page.kind(schema) == words
