"""The table of `table.yaml` tells the truth: what it calls done is there, with the signature it gives."""

from __future__ import annotations

import enum
import importlib
import inspect
from functools import reduce
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ruamel.yaml import YAML

import serve_lite as serve


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the table; the fields are explained at its top."""

    name: str
    kind: str
    since: str
    status: str
    behaviour: str
    signature: str | None = None
    difference: str | None = None
    why: str | None = None


TABLE = msgspec.convert(YAML(typ="safe").load(Path(__file__).with_name("table.yaml")), list[Entry])
DONE = [entry for entry in TABLE if entry.status == "done"]


def find(entry: Entry) -> Any:
    """Return what an entry is about; for an option, the parameter of the decorator."""
    head, *rest = entry.name.split(".")
    if entry.kind == "option":
        return inspect.signature(getattr(serve, head)).parameters[rest[0]]
    try:
        found: Any = getattr(serve, head)
    except AttributeError:
        found = importlib.import_module(f"serve_lite.{head}")
    return reduce(getattr, rest, found)


def shown_signature(target: Any) -> str:
    signature = inspect.signature(target)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(bare))


@pytest.mark.parametrize("entry", DONE, ids=lambda entry: entry.name)
def test_what_is_done_is_there(entry: Entry) -> None:
    found = find(entry)
    match entry.kind:
        case "class":
            assert inspect.isclass(found)
        case "exception":
            assert issubclass(found, Exception)
        case "enum":
            assert issubclass(found, enum.Enum)
        case "property":
            assert not callable(found)
        case "decorator" | "function" | "method":
            assert callable(found)
        case "option":
            assert isinstance(found, inspect.Parameter)
        case other:
            pytest.fail(f"unknown kind {other!r}")
    if entry.signature is not None:
        assert shown_signature(found) == entry.signature


def test_every_entry_is_complete() -> None:
    assert len({entry.name for entry in TABLE}) == len(TABLE)
    for entry in TABLE:
        assert entry.since in {"2.7", "2.60", "both", "ours"}, entry.name
        assert entry.status in {"done", "planned"}, entry.name
        assert (entry.difference is None) == (entry.why is None), f"{entry.name}: a difference needs a reason"


def test_every_public_name_is_in_the_table() -> None:
    named = {entry.name for entry in TABLE} | {entry.name.rpartition(".")[2] for entry in TABLE}
    assert not set(serve.__all__) - named
