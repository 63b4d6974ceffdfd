"""What a `runtime_env` may say, what is wrong with it, and what comes of an application's and a deployment's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.exceptions import InvalidConfigError
from serve_lite.runtime_env.merging import code_environment, merged, own_environment
from serve_lite.runtime_env.reading import read_runtime_env
from serve_lite.runtime_env.requirements import read_packages
from serve_lite.state.environment import Archive, Interpreter, Packages, RuntimeEnv, without_credentials
from tests.environments.sources import make_wheel, make_zip


def requirements(value: Any, folder: Path) -> tuple[str, ...]:
    return read_packages("pip", value, "pip", str(folder)).requirements


# --- what is read -------------------------------------------------------------------------------


def test_folders_and_archives_are_told_apart(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "code.zip", {"a.py": ""})
    (tmp_path / "lib").mkdir()
    env = read_runtime_env({"working_dir": "code.zip", "py_modules": ["lib"]}, base_dir=str(tmp_path))
    assert isinstance(env.working_dir, Archive)
    assert (env.working_dir.uri, env.working_dir.size) == (str(path), path.stat().st_size)
    assert env.py_modules == (str(tmp_path / "lib"),)
    assert read_runtime_env({"working_dir": f"file://{path}"}).working_dir == env.working_dir

    env = read_runtime_env({"working_dir": f"https://u:p@h/x.zip?a=b#sha256={'AB' * 32}"})
    assert env.working_dir == Archive(uri="https://u:p@h/x.zip?a=b", sha256="ab" * 32)


def test_an_archive_that_changes_is_another_one(tmp_path: Path) -> None:
    def read() -> Any:
        return read_runtime_env({"working_dir": str(tmp_path / "code.zip")})

    make_zip(tmp_path / "code.zip", {"a.py": ""})
    first = read()
    assert read() == first
    make_zip(tmp_path / "code.zip", {"a.py": "x = 1"})
    assert read() != first


def test_the_interpreter_has_two_names(tmp_path: Path) -> None:
    for name in ("python", "py_executable"):
        assert read_runtime_env({name: sys.executable}).python == sys.executable
    link = tmp_path / "bin" / "python"
    link.parent.mkdir()
    link.symlink_to(sys.executable)
    assert read_runtime_env({"python": "bin/python"}, base_dir=str(tmp_path)).python == str(link)
    assert os.path.isabs(read_runtime_env({"python": "python3"}).python)


def test_a_requirements_file_is_read_with_all_that_it_includes(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "wheels", "acme", "1.0")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "base.txt").write_text(
        "numpy>=1.26  # arrays\n../wheels/acme-1.0-py3-none-any.whl\n"
    )
    (tmp_path / "pins.txt").write_text("numpy<3\n")
    (tmp_path / "requirements.txt").write_text(
        "# what we need\n--find-links ./wheels\nrequests[socks] \\\n  >=2\n-r more/base.txt\n-c pins.txt\n"
        "pack @ https://u:p@h/pack.whl#sha256=aa\n--extra-index-url https://u:p@h/simple\n"
    )
    packages = read_packages("pip", "requirements.txt", "pip", str(tmp_path))
    assert packages.requirements == (
        f"--find-links {tmp_path}/wheels",
        "--extra-index-url https://u:p@h/simple",
        *sorted(
            [
                str(wheel),
                "numpy>=1.26",
                "pack @ https://u:p@h/pack.whl#sha256=aa",
                "requests[socks]   >=2",
            ]
        ),
    )
    assert packages.constraints == ("numpy<3",)
    assert [path for path, *_ in packages.files] == [str(wheel)]


def test_the_same_packages_are_the_same_whatever_the_order_and_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("b\na==1\n")
    assert (
        requirements(["a==1", "b"], tmp_path)
        == requirements("a.txt", tmp_path)
        == requirements({"packages": ["b", "a==1", "b"]}, tmp_path)
    )
    first = read_packages("pip", "a.txt", "pip", str(tmp_path))
    (tmp_path / "a.txt").write_text("b\na==2\n")
    assert read_packages("pip", "a.txt", "pip", str(tmp_path)) != first


def test_both_installers_take_rays_mapping(tmp_path: Path) -> None:
    pip = {
        "packages": ["a"],
        "pip_check": True,
        "pip_version": "==24.0",
        "pip_install_options": ["--no-index", "--find-links=./wheels", "--find-links", "../w"],
    }
    assert read_packages("pip", pip, "pip", str(tmp_path)) == Packages(
        installer="pip",
        requirements=("a",),
        options=(
            "--no-index",
            f"--find-links={tmp_path}/wheels",
            "--find-links",
            str(tmp_path.parent / "w"),
        ),
        is_checked=True,
        version="==24.0",
    )
    uv = {
        "packages": ["a"],
        "uv_check": False,
        "uv_version": "==0.4",
        "uv_pip_install_options": ["--offline"],
    }
    assert read_packages("uv", uv, "uv", None) == Packages(
        installer="uv", requirements=("a",), options=("--offline",), version="==0.4"
    )


# --- what is wrong ------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: (runtime_env, path that is told, words that are told)
    "an object store": ({"working_dir": "s3://u:secret@b/x.zip"}, "working_dir", "s3:// cannot be read here"),
    "another object store": ({"py_modules": ["gs://b/x.zip"]}, "py_modules[0]", "gs:// cannot be read here"),
    "a URL of a tarball": ({"working_dir": "https://h/x.tar.gz"}, "working_dir", "must end with .zip"),
    "a URL without a host": ({"working_dir": "https:///x.zip"}, "working_dir", "not a URL"),
    "a URL with a wrong port": ({"working_dir": "https://h:x/y.zip"}, "working_dir", "not a URL"),
    "another hash": ({"working_dir": "https://h/x.zip#md5=12"}, "working_dir", "sha256="),
    "a short hash": ({"working_dir": "https://h/x.zip#sha256=12"}, "working_dir", "64 hexadecimal"),
    "a file of elsewhere": ({"working_dir": "file://host/x.zip"}, "working_dir", "three slashes"),
    "nothing there": ({"working_dir": "/nowhere"}, "working_dir", "does not exist"),
    "a file that is none": ({"working_dir": "{folder}/text"}, "working_dir", "not a directory"),
    "a wheel as a module": ({"py_modules": ["{folder}/a-1-py3-none-any.whl"]}, "py_modules[0]", "pip or uv"),
    "one module, not a list": ({"py_modules": "{folder}"}, "py_modules", "a list"),
    "a number as a folder": ({"working_dir": 3}, "working_dir", "a local directory"),
    "both installers": ({"pip": ["a"], "uv": ["a"]}, "uv", "both pip and uv"),
    "conda": ({"conda": {"dependencies": []}}, "conda", "does not exist here. List the packages under pip"),
    "a container": ({"container": {"image": "x"}}, "container", "start the whole instance in a container"),
    "an image": ({"image_uri": "x"}, "image_uri", "start the whole instance in a container"),
    "a hook": ({"worker_process_setup_hook": "a.b"}, "worker_process_setup_hook", "top of the application's"),
    "an unknown key": ({"pipp": []}, "pipp", "did you mean 'pip'"),
    "packages as a number": ({"pip": 3}, "pip", "a list of packages"),
    "a package as a number": ({"pip": ["a", 3]}, "pip[1]", "one requirement"),
    "two lines in one": ({"pip": ["a\nb"]}, "pip[0]", "one requirement"),
    "no packages": ({"uv": {"uv_check": True}}, "uv", "has no `packages`"),
    "the other's key": ({"uv": {"packages": ["a"], "pip_check": True}}, "uv.pip_check", "not an option"),
    "a check that is none": (
        {"pip": {"packages": ["a"], "pip_check": "yes"}},
        "pip.pip_check",
        "true or false",
    ),
    "a version without ==": ({"pip": {"packages": ["a"], "pip_version": "24"}}, "pip.pip_version", "==24.0"),
    "options as a text": (
        {"pip": {"packages": ["a"], "pip_install_options": "-q"}},
        "pip.pip_install_options",
        "a list of texts",
    ),
    "no requirements file": ({"pip": "{folder}/none.txt"}, "pip", "cannot be read: No such file"),
    "a folder as requirements": ({"pip": "{folder}"}, "pip", "Is a directory"),
    "endless requirements": ({"pip": "{folder}/endless.txt"}, "pip", "without end"),
    "no local wheel": ({"pip": ["./none.whl"]}, "pip[0]", "there is no such file"),
    "no interpreter": ({"python": "{folder}/python"}, "python", "does not exist"),
    "an interpreter with arguments": (
        {"py_executable": "/bin/python -v"},
        "py_executable",
        "without arguments",
    ),
    "an unknown program": ({"python": "no-such-python"}, "python", "not on the PATH"),
    "a text as interpreter": ({"python": "{folder}/text"}, "python", "may not be executed"),
    "two interpreters": ({"python": "a", "py_executable": "b"}, "py_executable", "two names for one thing"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_its_place(case: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("")
    (tmp_path / "endless.txt").write_text("-r endless.txt\n")
    make_wheel(tmp_path, "a", "1").rename(tmp_path / "a-1-py3-none-any.whl")
    env, path, words = WRONG[case]

    def filled(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{folder}", str(tmp_path))
        return [filled(v) for v in value] if isinstance(value, list) else value

    with pytest.raises(InvalidConfigError) as caught:
        read_runtime_env({k: filled(v) for k, v in env.items()}, base_dir=str(tmp_path))
    assert caught.value.path == f"runtime_env.{path}"
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "env", [{"working_dir": "here"}, {"pip": "r.txt"}, {"pip": ["./a.whl"]}, {"python": "a/b"}]
)
def test_relative_paths_need_somebody_who_knows_the_folder(env: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigError, match="an absolute path, since this side does not know"):
        read_runtime_env(env)


def test_what_only_a_cluster_needs_and_what_is_null_is_passed_over() -> None:
    given_ = {
        "config": {"setup_timeout_seconds": 3},
        "excludes": ["*.log"],
        "eager_install": True,
        "conda": None,
    }
    assert read_runtime_env(given_) == RuntimeEnv()


@given(
    user=st.text(st.characters(exclude_characters="/?#'\"\\", exclude_categories=("Z", "C")), min_size=1),
    before=st.sampled_from(["", "ERROR: ", "at <"]),
)
def test_no_password_stays_in_a_url(user: str, before: str) -> None:
    text = f"{before}https://{user}@host/simple and ftp://{user}@other"
    assert without_credentials(text) == f"{before}https://<redacted>@host/simple and ftp://<redacted>@other"


# --- what comes of it ---------------------------------------------------------------------------

ARCHIVE = Archive(uri="https://h/app.zip")
MODULE = Archive(uri="https://h/mod.zip", is_module=True)
PIP = Packages(installer="pip", requirements=("a", "--index-url https://${TOKEN}@h/"))


def test_a_deployments_own_keys_replace_the_applications_and_variables_are_merged() -> None:
    app = RuntimeEnv(working_dir="/app", py_modules=("/libs/a",), env_vars={"A": "1", "B": "1"}, packages=PIP)
    own = RuntimeEnv(py_modules=("/libs/b",), env_vars={"B": "2"}, python="/py")
    assert merged(app, own) == RuntimeEnv(
        working_dir="/app", py_modules=("/libs/b",), env_vars={"A": "1", "B": "2"}, python="/py", packages=PIP
    )


def test_places_stand_for_what_is_still_to_be_prepared() -> None:
    env = RuntimeEnv(
        working_dir=ARCHIVE,
        py_modules=(MODULE, "/libs/a"),
        env_vars={"TOKEN": "t", "PIP_QUIET": "1", "OTHER": "x"},
        packages=PIP,
    )
    environment = code_environment(env)
    assert environment.cwd == ARCHIVE.place
    assert environment.sys_path == (ARCHIVE.place, MODULE.place, "/libs")
    archive, module, interpreter = environment.parts
    assert (archive, module) == (ARCHIVE, MODULE)
    assert isinstance(interpreter, Interpreter)
    assert interpreter.packages is not None
    assert interpreter.packages.variables == (("PIP_QUIET", "1"), ("TOKEN", "t"))


def test_a_deployment_finds_its_own_code_first_and_the_applications_module_still() -> None:
    app_env = RuntimeEnv(working_dir="/app", py_modules=("/libs/a",))
    app = code_environment(app_env)
    own = own_environment(app, app_env, RuntimeEnv(working_dir=ARCHIVE, py_modules=(MODULE,)))
    assert own.cwd == ARCHIVE.place
    assert own.sys_path == (ARCHIVE.place, MODULE.place, "/app")
    assert own.parts == (ARCHIVE, MODULE)
    assert own_environment(app, app_env, RuntimeEnv()) == app


def test_a_deployment_can_do_without_the_applications_packages() -> None:
    app_env = RuntimeEnv(packages=PIP)
    own = own_environment(code_environment(app_env), app_env, RuntimeEnv(packages=Packages(installer="pip")))
    assert own.parts == ()


sources = st.sampled_from([ARCHIVE, MODULE, "/app", "/libs/a", "/libs/b"])
runtime_envs = st.builds(
    RuntimeEnv,
    working_dir=st.none() | sources,
    py_modules=st.none() | st.lists(sources, max_size=3).map(tuple),
    python=st.sampled_from(["", "/py"]),
    packages=st.none() | st.just(PIP),
)


@given(app_env=runtime_envs, own_env=runtime_envs)
def test_whatever_is_to_be_prepared_is_a_part(app_env: RuntimeEnv, own_env: RuntimeEnv) -> None:
    environment = own_environment(code_environment(app_env), app_env, own_env)
    places = {p for p in (environment.cwd, *environment.sys_path) if p.startswith("archive:")}
    assert places == {p.place for p in environment.parts if isinstance(p, Archive)}
    env = merged(app_env, own_env)
    has_interpreter = any(isinstance(p, Interpreter) for p in environment.parts)
    assert has_interpreter == bool(env.python or env.packages)
