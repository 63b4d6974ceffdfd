"""The table of `table.yaml` tells the truth: what it says is there is there, with the signature and defaults it gives,
and what it says is shown by a test is shown by a test that exists."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

import serve_lite as serve
from serve_lite.deployment import Deployment, deployment
from serve_lite.exceptions import RayServeException
from tests.compat import render
from tests.compat.table import BY_TEST, IN_PACKAGE, ROOT, Line, fields_of, find, lines_of, plain, read
from tests.compat.table import shown_signature as signature_of

GROUPS = read()
LINES = [line for group in GROUPS for line in lines_of(group)]
DONE = [line for line in LINES if line.entry.status == "done" and line.kind in IN_PACKAGE]
LEFT_OUT = [line for line in LINES if line.entry.status == "left out" and line.kind in IN_PACKAGE]

#: Modules whose public names are all in the table.
MODULES = (
    "config",
    "context",
    "exceptions",
    "grpc_util",
    "handle",
    "metrics",
    "request_router",
    "schema",
    "testing",
)
#: Still to come. Nothing else may be planned.
PLANNED: set[str] = set()


def by_name(line: Line) -> str:
    return line.name


# --- from the table to the package ---------------------------------------------------------------


@pytest.mark.parametrize("line", DONE, ids=by_name)
def test_what_is_done_is_there_and_as_it_is_told(line: Line) -> None:
    found = find(line)
    match line.kind:
        case "class":
            assert inspect.isclass(found)
        case "exception":
            assert issubclass(found, Exception)
            assert ", ".join(base.__name__ for base in found.__bases__) == line.entry.bases
        case "enum":
            assert issubclass(found, enum.Enum)
            assert ", ".join(str(member.value) for member in found) == line.entry.values
        case "property":
            assert isinstance(found, property)
        case "module":
            assert inspect.ismodule(found)
        case "attribute":
            pass  # another name for something that has an entry of its own
        case "decorator" | "function" | "method":
            assert callable(bare(found))
            assert line.entry.signature is not None, "functions have their signature in the table"
        case "option":
            assert isinstance(found, inspect.Parameter)
            if line.entry.default is not msgspec.UNSET:
                assert plain(effective(line.entry.name)) == line.entry.default
        case "parameter":
            has_none = found.default is inspect.Parameter.empty
            assert (msgspec.UNSET if has_none else plain(found.default)) == line.entry.default
        case "field":
            assert found == line.entry.default
        case other:
            pytest.fail(f"unknown kind {other!r}")
    if line.entry.signature is not None:
        assert signature_of(bare(found)) == line.entry.signature


def bare(found: Any) -> Any:
    """The function of a classmethod or staticmethod, as it stands in its class."""
    return found.__func__ if isinstance(found, classmethod | staticmethod) else found


@deployment
class Plain:
    pass


def effective(option: str) -> Any:
    """What an option is if nobody gives it."""
    for place in (Plain, Plain.config):
        if option in dir(place):
            return getattr(place, option)
    return Plain.config.accepted.get(option)


@pytest.mark.parametrize("line", LEFT_OUT, ids=by_name)
def test_what_is_left_out_says_so_and_what_to_use_instead(line: Line) -> None:
    *owner, name = line.name.split(".")
    place: Any = Plain if owner == ["Deployment"] else serve
    if owner and place is serve:
        place = getattr(serve, owner[0])
    try:
        there = getattr(place, name)
    except AttributeError as error:
        assert name in str(error) and "; " in str(error), "the error says nothing of what to use instead"
    else:
        with pytest.raises(RayServeException, match=rf"{name} needs .+\. .+"):
            there()


# --- from the table to the tests -----------------------------------------------------------------


@cache
def names_of_tests(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(), str(file))
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(f.name for f in functions if f.name.startswith("test_"))


@pytest.mark.parametrize("line", [line for line in LINES if line.checks], ids=by_name)
def test_what_shows_an_entry_exists(line: Line) -> None:
    for check in line.checks:
        path, _, test = check.partition("::")
        file = ROOT / "tests" / path
        assert file.is_file(), f"there is no {file}"
        if test:
            assert test in names_of_tests(file), f"{path} has no {test}"
        else:
            assert "programs" in file.parts, f"{check} names no test"


# --- the table itself ----------------------------------------------------------------------------


def test_entries_are_complete() -> None:
    names = [line.name for line in LINES]
    assert len(set(names)) == len(names), sorted({n for n in names if names.count(n) > 1})
    for line in LINES:
        entry = line.entry
        assert line.since in {"2.7", "2.60", "both", "ours"}, line.name
        assert line.kind in IN_PACKAGE | BY_TEST, line.name
        assert entry.status in {"done", "planned", "left out"}, line.name
        assert entry.behaviour.endswith("."), line.name
        if entry.status == "left out":
            assert entry.why and entry.instead, (
                f"{line.name}: left out needs a reason and what to use instead"
            )
        else:
            assert (entry.difference is None) == (entry.why is None), (
                f"{line.name}: a difference needs a reason"
            )


def test_what_no_lookup_can_show_is_shown_by_a_test() -> None:
    for line in LINES:
        if line.entry.status == "done" and line.kind in BY_TEST:
            assert line.checks, f"{line.name} has no test"


def test_only_what_is_named_here_is_still_planned() -> None:
    assert {line.name for line in LINES if line.entry.status == "planned"} == PLANNED


# --- from the package to the table ---------------------------------------------------------------


def test_every_public_name_of_the_package_is_in_the_table() -> None:
    named = {line.name.rpartition(".")[2] for line in LINES if line.kind not in ("option", "parameter")}
    assert not set(serve.__all__) - named


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_of_a_module_is_in_the_table(module: str) -> None:
    owned = {line.name for line in LINES if line.parent is None}
    anywhere = {name.rpartition(".")[2] for name in owned}  # a name may be at home in two modules
    assert not set(importlib.import_module(f"serve_lite.{module}").__all__) - anywhere


@pytest.mark.parametrize(
    "line",
    [line for line in DONE if line.kind in ("class", "exception") and line.parent is None],
    ids=by_name,
)
def test_every_field_method_and_property_of_a_class_is_in_the_table(line: Line) -> None:
    cls = find(line)
    entry = line.entry
    if entry.fields:
        assert {field.name for field in entry.fields} == set(fields_of(cls))
    told = {member.name for member in (*entry.fields, *entry.members)}
    assert own_names(cls) <= told, f"not in the table: {sorted(own_names(cls) - told)}"


def own_names(cls: type) -> set[str]:
    """Methods and properties that a class has by itself, or from a private class beside it."""
    places = [cls, *(base for base in cls.__mro__[1:] if is_private_part(base, cls))]
    return {
        name
        for place in places
        for name, value in vars(place).items()
        if not name.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod))
    }


def is_private_part(base: type, cls: type) -> bool:
    return base.__module__ == cls.__module__ and base.__name__.startswith("_")


@pytest.mark.parametrize(
    "line", [line for line in DONE if line.kind in ("function", "decorator", "method")], ids=by_name
)
def test_parameters_that_are_told_are_all_of_them(line: Line) -> None:
    told = {p.name for p in (*line.entry.parameters, *line.entry.options)}
    if not told:
        return  # the signature is enough
    there = set(inspect.signature(bare(find(line))).parameters) - {"self", "_func", "_func_or_class", "func"}
    assert there == told


# --- the page ------------------------------------------------------------------------------------


def test_the_page_is_what_the_table_says() -> None:
    assert render.PAGE.read_text() == render.page(GROUPS), (
        f"{render.PAGE} is not what tests/compat/table.yaml says now; run `make docs`."
    )


def test_the_page_has_every_entry_difference_and_reason() -> None:
    page = render.page(GROUPS)
    for line in LINES:
        assert any(f"{start}{render.shown_name(line)}" in page for start in ("`", "| ")), line.name
        for text in (line.entry.difference, line.entry.why, line.entry.instead):
            assert text is None or render.cell(text) in page, line.name


def test_deployments_are_looked_up_as_users_see_them() -> None:
    assert isinstance(Plain, Deployment)
