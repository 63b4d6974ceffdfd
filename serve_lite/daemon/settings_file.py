"""The settings file of an instance: YAML with the sections of a config file, and our own options at its top.

    http_options: {port: 9000, server: native}
    logging_config: {encoding: JSON}
    admin_port: 52366

Paths in it are meant relative to the file. Everything that is wrong is told at once, with file, line and column.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError, YAMLWarning
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from serve_lite.admin.mistakes import find_mistakes, path_of
from serve_lite.checks import Check, check_fields, wrong
from serve_lite.daemon.settings import OPTIONS
from serve_lite.daemon.sources import Layer
from serve_lite.exceptions import InvalidConfigError, ServeLiteError

Place = tuple[int, int]  #: line and column, from 1

#: What belongs into other files.
ELSEWHERE = {
    "applications": "a config file, for `serve deploy`",
    "import_path": "a config file, for `serve deploy`",
    "target_capacity": "a config file, for `serve deploy`",
    "home": "the environment (SERVE_LITE_HOME) or --address",
    **{option.key: f"{option.section!r}" for option in reversed(OPTIONS) if option.section},
    "log_level": "the top of the file, or 'logging_config'",
}


def read_settings(path: str) -> Layer:
    """Return what a settings file says.

    Raises:
        InvalidConfigError: it cannot be read, or something in it is wrong; says all of it, and where.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidConfigError(f"Cannot read the settings file {path!r}: {reason}.") from error
    document, places = _read_yaml(text, path)
    document = {} if document is None else document
    try:
        checked = _checked(document)
    except InvalidConfigError as error:
        all_of_them: Sequence[ServeLiteError] = (
            find_mistakes(document, _checked, has_applications=False) if isinstance(document, dict) else ()
        )
        raise _refusal(path, places, all_of_them or (error,)) from error
    values, origins = {}, {}
    for option in OPTIONS:
        part = (checked.get(option.section) or {}) if option.section else checked
        if option.key in part:
            values[option.id] = option.placed(part[option.key], os.path.dirname(path))
            origins[option.id] = f"file {path}:{places[option.name][0]}"
    return Layer(values, origins)


def _checked(document: Any) -> dict[str, Any]:
    """Return what the file holds; raises for the first mistake."""
    return check_fields(document, _fields(), "", False, thing="a settings file", elsewhere=ELSEWHERE)


def _refusal(
    path: str, places: Mapping[str, Place], mistakes: Sequence[ServeLiteError]
) -> InvalidConfigError:
    """Return what is wrong, each mistake with its line and column, in their order."""
    found = sorted((*_nearest(places, path_of(mistake)), str(mistake)) for mistake in mistakes)
    lines = [f"{path}:{line}:{column}: {text}" for line, column, text in found]
    heading = [f"{len(lines)} mistakes in {path}:"] if len(lines) > 1 else []
    return InvalidConfigError("\n".join([*heading, *lines]))


def _fields() -> dict[str, Check]:
    """Return what may stand at the top of a file."""
    sections: dict[str, dict[str, Check]] = {}
    fields: dict[str, Check] = {}
    for option in OPTIONS:
        if option.section:
            sections.setdefault(option.section, {})[option.key] = option.check
        else:
            fields[option.key] = option.check
    return fields | {name: _section(name, keys) for name, keys in sections.items()}


def _section(name: str, keys: Mapping[str, Check]) -> Check:
    elsewhere = {o.key: f"{o.section!r}" for o in reversed(OPTIONS) if o.section and o.section != name}
    elsewhere |= {o.key: "the top of the file" for o in OPTIONS if not o.section}

    def check(value: Any, where: str, lax: bool) -> dict[str, Any]:
        if value is None:  # a section whose options are all commented out
            return {}
        if not isinstance(value, dict):
            raise wrong(value, where, "a mapping", wrong_type=True)
        return check_fields(value, keys, where, lax, thing=name, elsewhere=elsewhere)

    return check


def _read_yaml(text: str, path: str) -> tuple[Any, dict[str, Place]]:
    """Return what the file holds, and where each part of it is."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)  # as config files are read
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", YAMLWarning)
            document = msgspec.to_builtins(yaml.load(text), str_keys=True)
            node = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else path
        problem = str(error.problem).split(" with value", maxsplit=1)[0]
        raise InvalidConfigError(f"{at}: not valid YAML: {problem}.") from error
    except (YAMLError, TypeError, ValueError) as error:
        raise InvalidConfigError(f"{path}: not valid YAML: {error}") from error
    return document, dict(_places(node, ""))


def _places(node: Node | None, where: str) -> Iterator[tuple[str, Place]]:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            path = f"{where}.{key.value}" if where else str(key.value)
            yield path, (key.start_mark.line + 1, key.start_mark.column + 1)
            yield from _places(value, path)
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            yield f"{where}[{index}]", (value.start_mark.line + 1, value.start_mark.column + 1)
            yield from _places(value, f"{where}[{index}]")


def _nearest(places: Mapping[str, Place], path: str) -> Place:
    """Return where `path`, or what is around it, is."""
    while path and path not in places:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return places.get(path, (1, 1))
