"""Configuration files: reading them, and saying where in them something is wrong."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError, YAMLWarning
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode
from ruamel.yaml.resolver import VersionedResolver

from serve_lite.exceptions import InvalidConfigError

#: Parts of a path like `applications[0].runtime_env.env_vars`.
PATH_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
#: A requirement or an option of pip with a path: `./wheels/a.whl[extra]`, `--find-links=../wheels`.
LOCAL_PATH = re.compile(r"(--[a-z-]+=|-[a-z] +|)(\.{1,2}(?:/[^\s;\[]*)?)(.*)", re.DOTALL)
#: `pip_version` stands beside a requirements file and is no path.
PIP_VERSION = re.compile(r"[=<>~!]")


class ConfigFile(msgspec.Struct, frozen=True):
    """One configuration file as it was read."""

    name: str  #: as the user wrote it
    text: str
    document: dict[str, Any]

    @property
    def folder(self) -> str:
        """The absolute directory that the file lies in."""
        return str(Path(self.name).resolve().parent)

    def explain(self, error: InvalidConfigError) -> InvalidConfigError:
        """Return `error` with file, line and column of the part of the document it is about."""
        line, column = self._position(getattr(error, "path", "") or "")
        return InvalidConfigError(f"{self.name}:{line}:{column}: {error}")

    def _position(self, path: str) -> tuple[int, int]:
        """Return line and column, from 1, of `path` or of the nearest part around it that exists."""
        node: Node | None = _yaml().compose(self.text)
        mark = node.start_mark if node is not None else None
        for index, key in PATH_PART.findall(path):
            if index and isinstance(node, SequenceNode) and int(index) < len(node.value):
                node = node.value[int(index)]
                mark = node.start_mark
            elif key and isinstance(node, MappingNode) and (pair := _pair(node, key)):
                mark, node = pair[0].start_mark, pair[1]
            else:
                break
        return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


def read_config(name: str) -> ConfigFile:
    """Return the configuration in the file `name`: YAML, of which JSON is a part.

    Raises:
        InvalidConfigError: the file cannot be read, is no YAML, or holds no mapping; says where.
    """
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidConfigError(f"Cannot read the config file {name!r}: {reason}.") from error
    document = read_yaml(text, name)
    if not isinstance(document, dict):
        raise InvalidConfigError(
            f"{name}:1:1: The file holds {_kind(document)}, and should hold a mapping: "
            "`applications:` with a list of applications, or `import_path:` for a single one."
        )
    return ConfigFile(name, text, document)


def read_yaml(text: str, name: str) -> Any:
    """Return what `text` holds, in JSON's types.

    Raises:
        InvalidConfigError: it is no YAML; says where, calling the source `name`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", YAMLWarning)
            # Dates become texts, and keys that are numbers too, as JSON would have them.
            return msgspec.to_builtins(_yaml().load(text), str_keys=True)
    except DuplicateKeyError as error:
        problem = str(error.problem).split(" with value", maxsplit=1)[0].replace("found ", "")
        raise InvalidConfigError(f"{_at(name, error)}: {problem}: each key may be given once.") from error
    except MarkedYAMLError as error:
        context = f" {error.context}" if error.context else ""
        raise InvalidConfigError(f"{_at(name, error)}: not valid YAML: {error.problem}{context}.") from error
    except (YAMLError, TypeError, ValueError) as error:
        raise InvalidConfigError(f"{name}: not valid YAML: {error}") from error


def absolute_paths(document: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return the document with the local paths of its runtime environments made absolute.

    They are meant relative to the file; whoever reads the stored document later does not know where that was.
    """
    if not isinstance(document.get("applications"), list):
        single: dict[str, Any] = _with_absolute_env(document, folder)
        return single
    apps = [_with_absolute_env(app, folder) for app in document["applications"]]
    return {**document, "applications": apps}


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
    if not path or "://" in path:
        return path
    return os.path.normpath(os.path.join(folder, os.path.expanduser(path)))


def _yaml() -> YAML:
    """Return a reader that takes YAML 1.1, as Ray does: `yes` and `on` are true."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    yaml.Resolver = _Resolver
    return yaml


class _Resolver(VersionedResolver):
    """Leaves `y` and `n` texts, as the reader does that Ray uses; they are usual names of keys."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        return super().resolve(kind, "text" if value in ("y", "Y", "n", "N") else value, implicit)


def _pair(node: MappingNode, key: str) -> tuple[Node, Node] | None:
    return next(((k, v) for k, v in node.value if k.value == key), None)


def _at(name: str, error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    return f"{name}:{mark.line + 1}:{mark.column + 1}" if mark is not None else name


def _kind(value: Any) -> str:
    names = {type(None): "nothing", list: "a list", str: "a text"}
    return names.get(type(value), f"a {type(value).__name__}")
