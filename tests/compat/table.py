"""What `table.yaml` says, as values: groups of entries, and entries with members.

`test_table.py` checks it against the package, `render.py` makes docs/compatibility.md of it.
"""

from __future__ import annotations

import enum
import importlib
import inspect
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import msgspec
from ruamel.yaml import YAML

import serve_lite as serve

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("table.yaml")

#: Kinds of entries that are looked up in the package by their name.
IN_PACKAGE = frozenset(
    "attribute class decorator enum exception field function method module option parameter property".split()
)
#: Kinds that only a test can show: names that users, requests or the environment bring along.
BY_TEST = frozenset("command environment flag header hook rule".split())


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the table; the fields are explained at its top."""

    name: str
    behaviour: str
    kind: str = ""  #: of members: what their group of members says
    since: str = ""  #: of members: that of what they belong to
    status: str = "done"
    signature: str | None = None
    bases: str | None = None
    values: str | None = None
    default: Any = msgspec.UNSET
    difference: str | None = None
    why: str | None = None
    instead: str | None = None
    check: str | list[str] = []
    members: list[Entry] = []
    options: list[Entry] = []
    parameters: list[Entry] = []
    fields: list[Entry] = []


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Entries of one topic."""

    title: str
    about: str = ""
    entries: list[Entry]


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """An entry in its place: with its whole name, and what it inherits filled in."""

    entry: Entry
    name: str
    kind: str
    since: str
    parent: Line | None = None

    @property
    def checks(self) -> list[str]:
        """The tests that show it, as `file::test`, and the programs, as `file`; from tests/."""
        return [self.entry.check] if isinstance(self.entry.check, str) else self.entry.check


def read() -> list[Group]:
    """Return the table.

    Raises:
        msgspec.ValidationError: an entry has a field that none has, or lacks one.
    """
    return msgspec.convert(YAML(typ="safe").load(SOURCE), list[Group])


def lines_of(group: Group) -> Iterator[Line]:
    """Return the entries of a group, each followed by its members."""
    for entry in group.entries:
        yield from _lines(Line(entry=entry, name=entry.name, kind=entry.kind, since=entry.since))


def _lines(line: Line) -> Iterator[Line]:
    yield line
    entry = line.entry
    kinds = (
        ("option", entry.options),
        ("parameter", entry.parameters),
        ("field", entry.fields),
        ("", entry.members),
    )
    for kind, members in kinds:
        for member in members:
            yield from _lines(
                Line(
                    entry=member,
                    name=f"{line.name}.{member.name}",
                    kind=member.kind or kind,
                    since=member.since or line.since,
                    parent=line,
                )
            )


def find(line: Line) -> Any:
    """Return what a line is about; of an option or parameter, its `inspect.Parameter`.

    Raises:
        AttributeError, KeyError: it is not there.
    """
    if line.parent is None:
        head, *rest = line.name.split(".")
        try:
            found: Any = getattr(serve, head)
        except AttributeError:
            if line.entry.status == "left out":
                raise
            found = importlib.import_module(f"serve_lite.{head}")
        return reduce(getattr, rest, found)
    owner = find(line.parent)
    if line.kind in ("option", "parameter"):
        return inspect.signature(owner).parameters[line.entry.name]
    if line.kind == "field":
        return fields_of(owner)[line.entry.name]
    if inspect.isclass(owner):
        return inspect.getattr_static(owner, line.entry.name)  # a property itself, not its value
    return getattr(owner, line.entry.name)


def fields_of(record: type) -> dict[str, Any]:
    """Return the fields of a struct or dataclass with their defaults, UNSET for those that must be given."""
    if issubclass(record, msgspec.Struct):
        return {f.name: _default_of_field(f) for f in msgspec.structs.fields(record)}
    parameters = inspect.signature(record).parameters.values()
    made = {p.name: p.default for p in parameters}
    return {n: msgspec.UNSET if d is inspect.Parameter.empty else plain(d) for n, d in made.items()}


def _default_of_field(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return plain(field.default_factory())
    return msgspec.UNSET if field.default is msgspec.NODEFAULT else plain(field.default)


def plain(value: Any) -> Any:
    """Return a default as YAML would say it."""
    if isinstance(value, enum.Enum):
        return "DEFAULT" if repr(value) == "DEFAULT" else value.value
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    if isinstance(value, type | tuple) or repr(value) == "<factory>":
        return [] if value == () else repr(value)
    return value


def shown_signature(target: Any) -> str:
    """Return a signature without annotations, as the table has it."""
    signature = inspect.signature(target)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(bare))
