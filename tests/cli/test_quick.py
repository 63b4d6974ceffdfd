"""The short way for `serve run` understands exactly what typer would, or leaves it to typer."""

from __future__ import annotations

import inspect

import msgspec
import pytest

from serve_lite_cli import run
from serve_lite_cli.program import build_program
from serve_lite_cli.quick import RunOptions, field_of, read_command_line


def by_typer(words: list[str], monkeypatch: pytest.MonkeyPatch) -> RunOptions:
    """Return what the command is called with by typer."""
    seen: list[RunOptions] = []
    monkeypatch.setattr("serve_lite_cli.runner.run", lambda asked: seen.append(asked) or 0)
    with pytest.raises(SystemExit) as end:
        build_program(["run"])(["run", *words])
    assert end.value.code == 0
    return seen[0]


@pytest.mark.parametrize(
    "line",
    [
        "app:app",
        "app:app a=b c=d=e",
        "--port 0 app:app",
        "app:app --port=9000 x=1 --host 0.0.0.0",
        "-p 1 -h localhost -d /tmp -a /var/x app:app",
        "config.yaml --non-blocking --name shop --route-prefix /shop",
        "app:app --blocking --admin-port 0 --http-port 3 --http-host ::1",
        "app:app --reload a=b",
        "-r config.yaml --port 0",
        "app:app --runtime-env-json {} --working-dir . --runtime-env env.yaml",
    ],
)
def test_a_plain_command_line_means_the_same_with_and_without_typer(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_command_line(line.split()) == by_typer(line.split(), monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--help",
        "app:app --reload --non-blocking",
        "app:app --reload=yes",
        "app:app --gradio",
        "app:app --prot 1",
        "app:app --port",
        "app:app --port x",
        "app:app --port 65536",
        "app:app --port -1",
        "app:app --blocking=yes",
        "app:app -p=1",
        "app:app --arguments x",
        "app:app -- -x",
        "app:app -port 1",
        "app:app --name --port",
    ],
)
def test_anything_unusual_is_left_to_typer(line: str) -> None:
    assert read_command_line(line.split()) is None


def test_typer_and_the_short_way_have_the_same_options_and_defaults() -> None:
    parameters = inspect.signature(run.command).parameters
    fields = {field.name: field for field in msgspec.structs.fields(RunOptions)}
    assert list(parameters) == list(fields)
    for name, parameter in parameters.items():
        if name not in ("config_or_import_path", "arguments"):
            assert parameter.default == fields[name].default


def test_every_spelling_that_typer_knows_is_known_or_left_to_typer() -> None:
    parameters = inspect.signature(run.command, eval_str=True).parameters
    for name, parameter in parameters.items():
        (info,) = parameter.annotation.__metadata__
        for spelling in getattr(info, "param_decls", None) or ():
            for option in spelling.split("/"):
                assert field_of(option) == (None if name == "gradio" else name)
