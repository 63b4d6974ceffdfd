"""Reading configuration files and telling where in them a mistake is."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_lite.checks import invalid
from serve_lite.exceptions import InvalidConfigError
from serve_lite_cli.files import absolute_paths, read_config

TWO_APPS = """\
applications:
  - name: first
    import_path: a:b
  - name: second
    import_path: c:d
    runtime_env:
      env_vars: {A: "1", B: 2}
    deployments:
      - name: D
        num_replicas: 0
"""


@pytest.fixture
def write(tmp_path: Path) -> object:
    def write_file(text: str) -> str:
        path = tmp_path / "serve.yaml"
        path.write_text(text)
        return str(path)

    return write_file


@pytest.mark.parametrize(
    ("path", "line", "column"),
    [
        ("applications[0].name", 2, 5),
        ("applications[1]", 4, 5),
        ("applications[1].deployments[0].num_replicas", 10, 9),
        ("applications[1].runtime_env.env_vars.B", 7, 26),
        ("applications[1].route_prefix", 4, 5),  # not there: the application that should have it
        ("applications[7].name", 1, 1),
        ("", 1, 1),
    ],
)
def test_a_mistake_is_told_with_line_and_column(path: str, line: int, column: int, write) -> None:  # type: ignore[no-untyped-def]
    config = read_config(write(TWO_APPS))
    error = config.explain(invalid(path, "it is wrong"))
    assert str(error) == f"{config.name}:{line}:{column}: it is wrong"


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("a: [1, 2", ":1:9:", "not valid YAML"),
        ("a: 1\nb: {\n", ":3:1:", "not valid YAML"),
        ("a: 1\n\tb: 2\n", ":2:1:", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", ":2:1:", "a second document"),
        ("a: &a [*a]\n", ":1:4:", "inside of what it is an alias of"),
        ("a: \x07\n", ":1:4:", "is not allowed"),
        ("- a\n- b\n", ":1:1:", "a list"),
        ("just text", ":1:1:", "a text"),
        ("", ":1:1:", "nothing"),
        ("a: !!python/object:os.system {}", ":1:4:", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_with_its_place(
    text: str, where: str, words: str, write
) -> None:  # type: ignore[no-untyped-def]
    name = write(text)
    with pytest.raises(InvalidConfigError) as refused:
        read_config(name)
    assert str(refused.value).startswith(name + where)
    assert words in str(refused.value)


def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfigError, match="No such file"):
        read_config(str(tmp_path / "absent.yaml"))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidConfigError, match="UTF-8"):
        read_config(str(binary))


def test_yaml_is_read_as_ray_reads_it_and_comes_out_as_json(write) -> None:  # type: ignore[no-untyped-def]
    config = read_config(write("y: n\na: yes\nb: on\nc: 1e3\nd: 2020-01-01\n12: x\ne: ~\n"))
    assert config.document == {
        "y": "n",
        "a": True,
        "b": True,
        "c": 1000.0,
        "d": "2020-01-01",
        "12": "x",
        "e": None,
    }


def test_local_paths_are_meant_relative_to_the_file() -> None:
    env = {"working_dir": ".", "py_modules": ["../libs/one", "/abs", "https://x/y.zip"]}
    document = {"applications": [{"import_path": "a:b", "runtime_env": env}, {"import_path": "c:d"}]}

    first, second = absolute_paths(document, "/srv/app")["applications"]
    assert first["runtime_env"] == {
        "working_dir": "/srv/app",
        "py_modules": ["/srv/libs/one", "/abs", "https://x/y.zip"],
    }
    assert second == {"import_path": "c:d"}
    assert (
        absolute_paths({"import_path": "a:b", "runtime_env": env}, "/srv")["runtime_env"]["working_dir"]
        == "/srv"
    )


def test_keys_and_logs_are_meant_relative_to_the_file_too() -> None:
    logs = {"logs_dir": "logs", "log_level": "INFO"}
    app = {
        "import_path": "a:b",
        "logging_config": logs,
        "deployments": [{"name": "D", "logging_config": logs}, 3],
    }
    http = {"ssl_keyfile": "tls/key.pem", "ssl_certfile": "/c.pem", "ssl_ca_certs": None, "root_path": "x"}
    found = absolute_paths({"applications": [app], "http_options": http, "logging_config": logs}, "/srv")

    there = {"logs_dir": "/srv/logs", "log_level": "INFO"}
    assert found["http_options"] == http | {"ssl_keyfile": "/srv/tls/key.pem"}
    assert found["logging_config"] == there
    assert found["applications"] == [
        app | {"logging_config": there, "deployments": [{"name": "D", "logging_config": there}, 3]}
    ]
    assert absolute_paths({"import_path": "a:b", "logging_config": logs}, "/srv")["logging_config"] == there


def test_local_paths_of_packages_and_of_deployments_are_too() -> None:
    pip = {
        "packages": ["./w/a.whl[x]; python_version > '3'", "numpy", "-r ../r.txt", "-e ."],
        "pip_version": "==24.0",
        "pip_check": True,
        "pip_install_options": ["--find-links=./w", "--find-links", "../w", "--index-url=https://x/y"],
    }
    env = {"pip": pip, "python": "../venv/bin/python"}
    options = {"num_cpus": 1, "runtime_env": {"uv": "requirements.txt", "py_executable": "python3.12"}}
    app = {"runtime_env": env, "deployments": [{"name": "A", "ray_actor_options": options}, {"name": "B"}, 3]}

    changed = absolute_paths({"applications": [app]}, "/srv/app")["applications"][0]
    assert changed["runtime_env"] == {
        "pip": {
            "packages": [
                "/srv/app/w/a.whl[x]; python_version > '3'",
                "numpy",
                "-r /srv/r.txt",
                "-e /srv/app",
            ],
            "pip_version": "==24.0",
            "pip_check": True,
            "pip_install_options": [
                "--find-links=/srv/app/w",
                "--find-links",
                "/srv/w",
                "--index-url=https://x/y",
            ],
        },
        "python": "/srv/venv/bin/python",
    }
    assert changed["deployments"] == [
        {
            "name": "A",
            "ray_actor_options": {
                "num_cpus": 1,
                "runtime_env": {"uv": "/srv/app/requirements.txt", "py_executable": "python3.12"},
            },
        },
        {"name": "B"},
        3,
    ]


@pytest.mark.parametrize("document", [{"applications": 3}, {"applications": [3]}, {"runtime_env": []}, {}])
def test_malformed_documents_are_left_to_the_schema(document: dict[str, object]) -> None:
    assert absolute_paths(document, "/srv") == document
