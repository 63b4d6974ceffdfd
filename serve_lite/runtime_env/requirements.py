"""Reading what pip or uv shall install: a list, a requirements file, or a mapping with either and more.

A list is read like the lines of a requirements file. Files that are included are taken in, and local paths made
absolute, so that the result means the same in every process, and changes exactly when something in a file does.
Whether the packages exist is for the installer to find out.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from serve_lite.checks import invalid, unknown_key, wrong
from serve_lite.state.environment import Installer, Packages

#: Keys of the mapping: what may be said beside the packages, under each installer's names.
_KEYS: Mapping[Installer, Mapping[str, str]] = MappingProxyType(
    {
        "pip": {"check": "pip_check", "version": "pip_version", "options": "pip_install_options"},
        "uv": {"check": "uv_check", "version": "uv_version", "options": "uv_pip_install_options"},
    }
)
_LARGEST_FILE = 1_000_000  #: bytes; a requirements file is far smaller
_DEEPEST = 10  #: files that include each other
_WHAT = "a list of packages, the path of a requirements file, or a mapping with `packages`"

_COMMENT = re.compile(r"(^|\s)#.*$")
_INCLUDE = re.compile(r"(-r|-c|--requirement|--constraint)(?:\s*=\s*|\s+|(?<=^-[rc]))(\S.*)")
_PATH_OPTION = re.compile(r"(-e|--editable|-f|--find-links)(\s*=\s*|\s+)(\S+)(.*)")
_PATH = re.compile(r"([^\s;\[@]+)(.*)", re.DOTALL)
_VERSION = re.compile(
    r"(===|==|~=|!=|<=|>=|<|>)\s*[0-9A-Za-z.*+!_-]+(\s*,\s*(==|~=|!=|<=|>=|<|>)\s*[0-9A-Za-z.*+!_-]+)*"
)


class _Found(msgspec.Struct):
    """What was read so far."""

    options: list[str] = []
    requirements: list[str] = []
    constraints: list[str] = []
    files: set[tuple[str, int, int]] = set()


def read_packages(installer: Installer, value: Any, where: str, base_dir: str | None) -> Packages:
    """Return the packages that `value` asks for.

    Args:
        where: its place in the document, for errors.
        base_dir: what relative paths are relative to; None: they are refused.

    Raises:
        InvalidConfigError: it has a wrong form, or a file cannot be read.
    """
    keys = _KEYS[installer]
    given: Mapping[str, Any] = {"packages": value}
    if isinstance(value, Mapping):
        given = value
        for key in given:
            if key not in ("packages", *keys.values()):
                raise unknown_key(key, where, ("packages", *keys.values()), thing=f"`{installer}`")
        if given.get("packages") is None:
            raise invalid(where, f"{where} has no `packages`; give a list of them or a requirements file.")
        where = f"{where}.packages"
    found = _Found()
    match given["packages"]:
        case str() as path if path:
            _read_file(path, where, base_dir, found, is_constraint=False, depth=0)
        case list() | tuple() as lines:
            for i, line in enumerate(lines):
                if not isinstance(line, str) or not line.strip() or "\n" in line or "\0" in line:
                    raise wrong(
                        line, f"{where}[{i}]", 'one requirement, such as "numpy>=1.26"', wrong_type=True
                    )
                _read_line(line.strip(), f"{where}[{i}]", base_dir, found, is_constraint=False, depth=0)
        case other:
            raise wrong(other, where, _WHAT, wrong_type=True)
    where = where.removesuffix(".packages")
    return Packages(
        installer=installer,
        requirements=(*found.options, *sorted(set(found.requirements))),
        constraints=tuple(sorted(set(found.constraints))),
        options=_options(given.get(keys["options"]), f"{where}.{keys['options']}", base_dir, found),
        is_checked=_flag(given.get(keys["check"]), f"{where}.{keys['check']}"),
        version=_version(given.get(keys["version"]), f"{where}.{keys['version']}"),
        files=tuple(sorted(found.files)),
    )


def _read_file(
    name: str, where: str, base_dir: str | None, found: _Found, *, is_constraint: bool, depth: int
) -> None:
    path = _absolute(name, where, base_dir)
    if depth > _DEEPEST:
        raise invalid(where, f"{where}: requirement files include each other without end ({path!r} again).")
    for line in _logical_lines(_text(path, where)):
        _read_line(
            line,
            where,
            os.path.dirname(path),
            found,
            is_constraint=is_constraint,
            depth=depth + 1,
        )


def _read_line(
    line: str, where: str, base_dir: str | None, found: _Found, *, is_constraint: bool, depth: int
) -> None:
    """Take one requirement, constraint or option into `found`."""
    include = _INCLUDE.fullmatch(line)
    if include and "://" not in include[2]:
        is_constraint = is_constraint or include[1] in ("-c", "--constraint")
        _read_file(include[2].strip(), where, base_dir, found, is_constraint=is_constraint, depth=depth)
    elif with_path := _PATH_OPTION.fullmatch(line):
        option, between, path, rest = with_path.groups()
        if "://" not in path:
            path = _absolute(path, where, base_dir)
        found.options.append(f"{option}{between}{path}{rest}")
    elif line.startswith("-"):
        found.options.append(line)
    else:
        (found.constraints if is_constraint else found.requirements).append(
            _requirement(line, where, base_dir, found)
        )


def _requirement(line: str, where: str, base_dir: str | None, found: _Found) -> str:
    """Return a requirement, the absolute one if it is a local path."""
    match = _PATH.match(line)
    if match is None:
        return line
    head, rest = match.groups()
    is_path = head.startswith((".", "/", "~")) or (
        "://" not in head and head.endswith((".whl", ".zip", ".tar.gz"))
    )
    if not is_path:
        return line
    path = _absolute(head, where, base_dir)
    try:
        seen = os.stat(path)
    except OSError as error:
        raise invalid(where, f"{where} is {line!r}; there is no such file ({path}).") from error
    if stat.S_ISREG(seen.st_mode):
        found.files.add((path, seen.st_size, seen.st_mtime_ns))
    return path + rest


def _options(value: Any, where: str, base_dir: str | None, found: _Found) -> tuple[str, ...]:
    """Return further words for the installer, local paths in them absolute."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) and "\0" not in v for v in value):
        raise wrong(value, where, 'a list of texts, such as ["--no-index"]', wrong_type=True)
    words = []
    for word in value:
        name, equals, operand = word.partition("=") if word.startswith("--") else ("", "", word)
        if operand.startswith(("./", "../", "~/")) or operand in (".", ".."):
            word = f"{name}{equals}{_absolute(operand, where, base_dir)}"
        words.append(word)
    return tuple(words)


def _flag(value: Any, where: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise wrong(value, where, "true or false", wrong_type=True)
    return bool(value)


def _version(value: Any, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not _VERSION.fullmatch(value.strip()):
        raise wrong(value, where, 'a version with its comparison, such as "==24.0"', wrong_type=True)
    return value.strip()


def _absolute(name: str, where: str, base_dir: str | None) -> str:
    path = os.path.expanduser(name)
    if not os.path.isabs(path) and base_dir is None:
        raise wrong(name, where, "an absolute path, since this side does not know your directory")
    return os.path.normpath(os.path.join(base_dir or "", path))


def _text(path: str, where: str) -> str:
    try:
        # Not to wait for ever, should it be a pipe.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise invalid(where, f"{where} is {path!r}, which is not a file.")
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise invalid(
            where, f"{where} is {path!r}, a requirements file that cannot be read: {error.strerror}."
        ) from error
    if len(content) > _LARGEST_FILE:
        raise invalid(where, f"{where} is {path!r}, which is too large for a requirements file.")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise invalid(where, f"{where} is {path!r}, which is not UTF-8 text.") from error


def _logical_lines(text: str) -> Iterator[str]:
    """Return lines without comments, continued ones as one."""
    for line in _joined(text.splitlines()):
        stripped = _COMMENT.sub("", line).strip()
        if stripped:
            yield stripped


def _joined(lines: Iterable[str]) -> Iterator[str]:
    begun = ""
    for line in lines:
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            begun += line[:-1]
            continue
        yield begun + line
        begun = ""
    if begun:
        yield begun
