"""The JSON Schema of a `runtime_env` takes what the reader takes, and refuses what is wrong for a single key."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from serve_lite.admin.documents import deploy_request
from serve_lite.document_schema import document_schema
from serve_lite.exceptions import InvalidConfigError
from serve_lite.runtime_env.described import environment_schema
from serve_lite.runtime_env.reading import CLUSTER_ONLY, REFUSED, SUPPORTED
from serve_lite.runtime_env.requirements import KEYS

VALIDATOR = Draft202012Validator(document_schema())
URL = "https://example.org/code.zip"

ACCEPTED: list[dict[str, Any]] = [
    {},
    {"working_dir": "."},
    {"working_dir": URL, "py_modules": [f"{URL}#sha256={'a' * 64}"]},
    {"py_modules": []},
    {"pip": ["numpy>=1.26", "--no-index"]},
    {"pip": "requirements.txt"},
    {
        "pip": {
            "packages": ["a"],
            "pip_check": True,
            "pip_version": "==24.0",
            "pip_install_options": ["--no-deps"],
        }
    },
    {
        "uv": {
            "packages": "requirements.txt",
            "uv_check": None,
            "uv_version": None,
            "uv_pip_install_options": [""],
        }
    },
    {"pip": None, "uv": ["a"]},
    {"python": sys.executable},
    {"py_executable": "python3"},
    {"env_vars": {"A": "1", "with space": ""}},
    {"config": {"setup_timeout_seconds": 5}, "excludes": ["x"], "eager_install": False},
    dict.fromkeys((*SUPPORTED, *CLUSTER_ONLY, *REFUSED)),
]

NOT_ACCEPTED: list[dict[str, Any]] = [
    {"workingdir": "."},
    {"working_dir": ""},
    {"working_dir": 1},
    {"py_modules": "."},
    {"py_modules": [1]},
    {"pip": 1},
    {"pip": ""},
    {"pip": [""]},
    {"pip": {"package": ["a"]}},
    {"pip": {"packages": ["a"], "uv_check": True}},
    {"uv": {"uv_check": True}},
    {"uv": {"packages": ["a"], "uv_check": "yes"}},
    {"uv": {"packages": ["a"], "uv_version": 1}},
    {"uv": {"packages": ["a"], "uv_pip_install_options": "--no-deps"}},
    {"pip": ["a"], "uv": ["a"]},
    {"python": ["python3"]},
    {"env_vars": ["A=1"]},
    {"env_vars": []},
    {"env_vars": {"A": 1}},
    {"env_vars": {"A=B": "1"}},
    *({key: "x"} for key in REFUSED),
]


def of_application(env: Any) -> dict[str, Any]:
    return {"applications": [{"import_path": "m:app", "runtime_env": env}]}


def of_single(env: Any) -> dict[str, Any]:
    return {"import_path": "m:app", "runtime_env": env}


def of_deployment(env: Any) -> dict[str, Any]:
    options = {"ray_actor_options": {"runtime_env": env}}
    return {"applications": [{"import_path": "m:app", "deployments": [{"name": "D", **options}]}]}


@pytest.mark.parametrize("env", ACCEPTED, ids=str)
def test_what_the_reader_takes_fits_at_both_levels(env: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("a\n")
    for document in (of_application(env), of_deployment(env)):
        deploy_request(document, base_dir=str(tmp_path))
        VALIDATOR.validate(document)
    VALIDATOR.validate(of_single(env))


@pytest.mark.parametrize("env", NOT_ACCEPTED, ids=str)
def test_what_is_wrong_in_itself_neither_fits_nor_is_taken(env: dict[str, Any], tmp_path: Path) -> None:
    for document in (of_application(env), of_deployment(env)):
        with pytest.raises(InvalidConfigError):
            deploy_request(document, base_dir=str(tmp_path))
        assert not VALIDATOR.is_valid(document)
    assert not VALIDATOR.is_valid(of_single(env))


def test_every_key_is_in_it_and_says_what_it_is_for() -> None:
    properties = environment_schema()["properties"]
    assert set(properties) == {*SUPPORTED, *CLUSTER_ONLY, *REFUSED}
    assert all(schema["description"] for schema in properties.values())
    for key, instead in REFUSED.items():
        assert instead in properties[key]["description"]
    for installer, keys in KEYS.items():
        mapping = properties[installer]["anyOf"][2]
        assert set(mapping["properties"]) == {"packages", *keys.values()}


@pytest.mark.parametrize(
    ("env", "hint"),
    [
        ({"workingdir": "."}, "did you mean 'working_dir'?"),
        ({"env_var": {}}, "did you mean 'env_vars'?"),
        ({"pip": {"package": ["a"]}}, "did you mean 'packages'?"),
        ({"conda": "x"}, "List the packages under pip or uv"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_right_one(env: dict[str, Any], hint: str) -> None:
    for document, place in (
        (of_application(env), "applications[0].runtime_env"),
        (of_deployment(env), "applications[0].deployments[0].ray_actor_options.runtime_env"),
    ):
        with pytest.raises(InvalidConfigError) as caught:
            deploy_request(document, base_dir="/")
        assert hint in str(caught.value)
        assert str(caught.value.path).startswith(place)
