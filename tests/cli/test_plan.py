"""What `serve run` makes of its arguments, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_lite.exceptions import InvalidConfigError
from serve_lite_cli.plan import (
    is_config_file,
    parse_arguments,
    plan_config_file,
    plan_import_path,
    read_runtime_env,
)


def plan(import_path: str = "shop:app", **changes: object) -> object:
    given = {"name": "default", "route_prefix": "/", "app_dir": ".", "runtime_env": {}, **changes}
    return plan_import_path(import_path, {}, **given)  # type: ignore[arg-type]


def test_an_import_path_becomes_one_application_that_an_importer_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code").mkdir()
    planned = plan_import_path(
        "shop:app", {"size": "l"}, name="shop", route_prefix="/s", app_dir="code", runtime_env={}
    )

    (app,) = planned.request.apps
    assert (app.name, app.route_prefix, app.source, app.code_version) == ("shop", "/s", "imperative", "")
    assert app.build is not None
    assert (app.build.app_name, app.build.import_path, app.build.args) == ("shop", "shop:app", {"size": "l"})
    assert app.environment.sys_path == (str(tmp_path / "code"),)
    assert app.environment.cwd == str(tmp_path)
    assert not planned.request.replace_declarative


def test_a_working_directory_is_looked_in_after_the_app_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    planned = plan_import_path(
        "a:b",
        {},
        name="default",
        route_prefix="/",
        app_dir=".",
        runtime_env={"working_dir": "work", "env_vars": {"A": "1"}},
    )
    environment = planned.request.apps[0].environment
    assert environment.cwd == str(tmp_path / "work")
    assert environment.sys_path == (str(tmp_path), str(tmp_path / "work"))
    assert environment.env_vars == {"A": "1"}


@pytest.mark.parametrize(
    "path", ["shop", ":app", "shop:", "a:b:c", ".app", "shop.", "", "shop.py:app", "a/b:app"]
)
def test_a_malformed_import_path_is_refused_by_its_name(path: str) -> None:
    with pytest.raises(InvalidConfigError, match="import path") as refused:
        plan(path)
    assert repr(path) in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"route_prefix": "shop"}, "--route-prefix 'shop'"),
        ({"route_prefix": "/shop/"}, "'/shop'"),
        ({"name": ""}, "--name is empty"),
        ({"app_dir": "/nowhere/at/all"}, "--app-dir is '/nowhere/at/all'"),
        ({"runtime_env": {"conda": "env"}}, "runtime_env.conda does not exist here"),
        ({"runtime_env": {"working_dir": "/nowhere"}}, "does not exist"),
        ({"runtime_env": {"working_dir": "s3://x"}}, "s3:// cannot be read here"),
        ({"runtime_env": {"wroking_dir": "."}}, "working_dir"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidConfigError) as refused:
        plan(**changes)
    assert words in str(refused.value)


def test_arguments_are_split_at_the_first_equals_sign() -> None:
    assert parse_arguments(["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"}


@pytest.mark.parametrize("argument", ["a", "a=", "=b", "="])
def test_an_argument_that_is_no_pair_is_refused(argument: str) -> None:
    with pytest.raises(InvalidConfigError, match=r"must be of the form '<key>=<val>'"):
        parse_arguments([argument])


def test_the_working_dir_option_wins_over_the_environments(tmp_path: Path) -> None:
    file = tmp_path / "env.yaml"
    file.write_text("working_dir: a\nenv_vars: {X: y}\n")
    assert read_runtime_env(str(file), "", "b") == {"working_dir": "b", "env_vars": {"X": "y"}}
    assert read_runtime_env("", '{"env_vars": {}}', "") == {"env_vars": {}}
    with pytest.raises(InvalidConfigError, match="Only one of"):
        read_runtime_env("a", "{}", "")
    for text in ("{", "[]"):
        with pytest.raises(InvalidConfigError, match="--runtime-env-json"):
            read_runtime_env("", text, "")


def test_a_target_is_a_config_file_if_it_exists_and_a_missing_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("serve.yaml").touch()
    assert is_config_file("serve.yaml")
    assert not is_config_file("shop:app")
    with pytest.raises(InvalidConfigError, match="other.yaml"):
        is_config_file("other.yaml")


def test_a_config_file_becomes_its_applications_and_listeners(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(
        "http_options: {port: 9000}\n"
        "applications:\n"
        "  - {name: a, route_prefix: /a, import_path: 'x:a', runtime_env: {working_dir: .}}\n"
        "  - {name: b, route_prefix: /b, import_path: 'x:b'}\n"
    )
    planned = plan_config_file(str(file))
    assert planned.names == ["a", "b"]
    assert planned.document["http_options"] == {"port": 9000}
    assert [app.environment.cwd for app in planned.request.apps] == [str(tmp_path)] * 2
    assert not planned.request.replace_declarative


def test_a_mistake_in_a_config_file_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("applications:\n  - import_path: x:a\n    route_prfix: /a\n")
    with pytest.raises(InvalidConfigError) as refused:
        plan_config_file(str(file))
    assert str(refused.value).startswith(f"{file}:3:5: ")
    assert "'route_prefix'" in str(refused.value)
