"""Configuration files: reading them, and saying where in them something is wrong."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

import msgspec
from ruamel.yaml.error import MarkedYAMLError, YAMLError, YAMLWarning
from ruamel.yaml.reader import ReaderError

from serve_lite.exceptions import InvalidConfigError, ServeLiteError
from serve_lite_cli.yaml_nodes import as_read, duplicates, find, holds_itself, reader

#: Paths in `http_options` and in each `logging_config`.
KEY_FILES = ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "api_keys_file", "access_log")
#: What stands in the place of a path and is none.
NO_PATHS = ("stdout",)
LOG_FOLDERS = ("logs_dir",)
#: A requirement or an option of pip with a path: `./wheels/a.whl[extra]`, `--find-links=../wheels`.
LOCAL_PATH = re.compile(r"(--[a-z-]+=|-[a-z] +|)(\.{1,2}(?:/[^\s;\[]*)?)(.*)", re.DOTALL)
#: `pip_version` stands beside a requirements file and is no path.
PIP_VERSION = re.compile(r"[=<>~!]")


class ConfigFile(msgspec.Struct, frozen=True):
    """One configuration file as it was read."""

    name: str  #: as the user wrote it
    text: str
    document: dict[str, Any]
    duplicates: tuple[
        tuple[int, int, str], ...
    ] = ()  #: line, column and text of each key that is given twice

    @property
    def folder(self) -> str:
        """The absolute directory that the file lies in."""
        return str(Path(self.name).resolve().parent)

    def refuse_duplicates(self) -> None:
        """Refuse keys that are given twice.

        Raises:
            InvalidConfigError: there are some; tells them all.
        """
        if self.duplicates:
            raise self.explain()

    def explain(self, *errors: ServeLiteError) -> InvalidConfigError:
        """Return what is wrong, with file, line and column of the part of the document that each error is about.

        Keys that are given twice are told too. Several mistakes are told by line.
        """
        root = reader().compose(self.text)
        told = [(*find(root, getattr(error, "path", "") or ""), str(error)) for error in errors]
        places = [(line, column, text + as_read(node)) for line, column, node, text in told]
        lines = [
            f"{self.name}:{line}:{column}: {text}"
            for line, column, text in sorted({*places, *self.duplicates})
        ]
        if len(lines) == 1:
            return InvalidConfigError(lines[0])
        return InvalidConfigError("\n".join([f"{len(lines)} mistakes in {self.name}:", *lines]))


def read_config(name: str) -> ConfigFile:
    """Return the configuration in the file `name`: YAML, of which JSON is a part.

    Keys that are given twice are left to the caller, who may know of more mistakes: `explain` tells them all.

    Raises:
        InvalidConfigError: the file cannot be read, is no YAML, or holds no mapping; says where.
    """
    text = _read_text(name)
    document = read_yaml(text, name)
    if not isinstance(document, dict):
        raise InvalidConfigError(
            f"{name}:1:1: The file holds {_kind(document)}, and should hold a mapping: "
            "`applications:` with a list of applications, or `import_path:` for a single one."
        )
    return ConfigFile(name, text, document, tuple(duplicates(reader().compose(text))))


def _read_text(name: str) -> str:
    try:
        raw = Path(name).read_bytes()
    except OSError as error:
        raise InvalidConfigError(f"Cannot read the config file {name!r}: {error.strerror}.") from error
    try:
        return raw.decode("utf-8-sig")  # some editors put a mark in front
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
        raise InvalidConfigError(
            f"{name}:{line}:{column}: The file is not UTF-8 text (byte 0x{raw[error.start]:02x}); save it as UTF-8."
        ) from error


def read_yaml(text: str, name: str) -> Any:
    """Return what `text` holds, in JSON's types. Of keys that are given twice the first counts.

    Raises:
        InvalidConfigError: it is no YAML; says where, calling the source `name`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", YAMLWarning)
            root = reader().compose(text)
            if (inner := holds_itself(root)) is not None:
                mark = inner.start_mark
                raise InvalidConfigError(
                    f"{name}:{mark.line + 1}:{mark.column + 1}: An alias stands inside of what it is an alias of; "
                    "write out what is meant."
                )
            # Dates become texts, and keys that are numbers too, as JSON would have them.
            return msgspec.to_builtins(reader().load(text), str_keys=True)
    except InvalidConfigError:
        raise
    except MarkedYAMLError as error:
        raise InvalidConfigError(f"{_at(name, error)}: {_problem(error)}.") from error
    except ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, _column(text, error.position)
        raise InvalidConfigError(
            f"{name}:{line}:{column}: not valid YAML: the character {chr(error.character)!r} is not allowed."
        ) from error
    except RecursionError as error:
        raise InvalidConfigError(f"{name}:1:1: not valid YAML: it is nested too deeply.") from error
    except (YAMLError, TypeError, ValueError) as error:
        raise InvalidConfigError(f"{name}: not valid YAML: {error}") from error


def _problem(error: MarkedYAMLError) -> str:
    """Return what is wrong with the YAML, and what to do about the usual mistakes."""
    problem, context = str(error.problem), error.context or ""
    if "found another document" in problem:
        return (
            "a second document begins here; put all applications into one, under one `applications:` "
            "(`serve config --document` prints them so)"
        )
    if r"'\t'" in problem or "tab" in problem.lower():
        return "not valid YAML: a tab; indent with spaces"
    if "mapping values are not allowed" in problem:
        return "not valid YAML: no ':' is expected here; check the indentation, and put texts with ': ' in quotes"
    if "could not determine a constructor" in problem:
        tag = problem.rpartition(" ")[2]
        return f"not valid YAML: the tag {tag} is not allowed; a config file holds plain values only"
    return f"not valid YAML: {problem}" + (f" {context}" if context else "")


def absolute_paths(document: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return the document with its local paths made absolute: of runtime environments, keys and logs.

    They are meant relative to the file; whoever reads the stored document later does not know where that was.
    """
    if not isinstance(document.get("applications"), list):
        single: dict[str, Any] = _with_absolute_app(document, folder)
        return single
    apps = [_with_absolute_app(app, folder) for app in document["applications"]]
    changed = _with_absolute(document, "http_options", KEY_FILES, folder)
    return {**_with_absolute(changed, "logging_config", LOG_FOLDERS, folder), "applications": apps}


def _with_absolute_app(app: Any, folder: str) -> Any:
    app = _with_absolute(_with_absolute_env(app, folder), "logging_config", LOG_FOLDERS, folder)
    if not isinstance(app, dict) or not isinstance(app.get("deployments"), list):
        return app
    listed = [_with_absolute(d, "logging_config", LOG_FOLDERS, folder) for d in app["deployments"]]
    return {**app, "deployments": listed}


def _with_absolute(around: Any, part: str, names: tuple[str, ...], folder: str) -> Any:
    """Return a part of a document in whose inner part these paths are absolute."""
    inner = around.get(part) if isinstance(around, dict) else None
    if not isinstance(inner, dict):
        return around
    paths = {name: _absolute(inner[name], folder) for name in names if isinstance(inner.get(name), str)}
    return {**around, part: {**inner, **paths}}


def _with_absolute_env(app: Any, folder: str) -> Any:
    """Return one application's part of a document; anything malformed stays for the schema to refuse."""
    if not isinstance(app, dict):
        return app
    changed = dict(app)
    if "runtime_env" in app:
        changed["runtime_env"] = absolute_env(app["runtime_env"], folder)
    if isinstance(app.get("deployments"), list):
        changed["deployments"] = [_deployment_with_absolute_env(d, folder) for d in app["deployments"]]
    return changed


def _deployment_with_absolute_env(deployment: Any, folder: str) -> Any:
    options = deployment.get("ray_actor_options") if isinstance(deployment, dict) else None
    if not isinstance(options, dict) or "runtime_env" not in options:
        return deployment
    return {
        **deployment,
        "ray_actor_options": {**options, "runtime_env": absolute_env(options["runtime_env"], folder)},
    }


def absolute_env(env: Any, folder: str) -> Any:
    """Return a runtime environment with local paths that are relative to `folder` made absolute."""
    if not isinstance(env, dict):
        return env
    changed = dict(env)
    for key in ("python", "py_executable"):
        if isinstance(env.get(key), str) and os.sep in env[key]:  # else it is looked for on the PATH
            changed[key] = _absolute(env[key], folder)
    if isinstance(env.get("working_dir"), str):
        changed["working_dir"] = _absolute(env["working_dir"], folder)
    if isinstance(env.get("py_modules"), list):
        changed["py_modules"] = [_absolute(m, folder) if isinstance(m, str) else m for m in env["py_modules"]]
    for key in ("pip", "uv"):
        if isinstance(env.get(key), dict):
            changed[key] = {name: _absolute_packages(value, folder) for name, value in env[key].items()}
        elif key in env:
            changed[key] = _absolute_packages(env[key], folder)
    return changed


def _absolute_packages(value: Any, folder: str) -> Any:
    """Return a requirements file, or packages and options, with local paths made absolute."""
    if isinstance(value, list):
        return [_absolute_word(word, folder) if isinstance(word, str) else word for word in value]
    return _absolute(value, folder) if isinstance(value, str) and not PIP_VERSION.match(value) else value


def _absolute_word(word: str, folder: str) -> str:
    """Return a requirement or an option with the local path in it made absolute, if it says that it is one."""
    found = LOCAL_PATH.fullmatch(word)
    return word if found is None else found[1] + _absolute(found[2], folder) + found[3]


def _absolute(path: str, folder: str) -> str:
    """Return a local path as an absolute one; a URI is left alone."""
    if not path or "://" in path or path in NO_PATHS:
        return path
    return os.path.normpath(os.path.join(folder, os.path.expanduser(path)))


def _column(text: str, position: int) -> int:
    return position - text.rfind("\n", 0, position)


def _at(name: str, error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"{name}:{mark.line + 1}:{mark.column + 1}" if mark is not None else name


def _kind(value: Any) -> str:
    names = {type(None): "nothing", list: "a list", str: "a text"}
    return names.get(type(value), f"a {type(value).__name__}")
