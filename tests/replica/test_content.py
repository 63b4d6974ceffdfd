"""Which files a module needs, from files alone."""

from __future__ import annotations

import ast
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_lite.replica.content import Sources, imported_names, library_folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of code. Nothing in it may be run."""
    return tmp_path


def write(folder: Path, **files: str) -> None:
    """Write modules; `pkg__mod` is `pkg/mod.py`."""
    for name, text in files.items():
        parts = name.replace("__init__", "__@").split("__")
        path = folder.joinpath(*parts).with_suffix(".py")
        path = path.with_name(path.name.replace("@", "__init__"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise SystemExit('this was imported')\n" + text)


def needed(folder: Path, *roots: str, sources: Sources | None = None) -> set[str]:
    return set((sources or Sources([str(folder)])).needed_by(roots))


IMPORTS = {
    "import a": {"a"},
    "import a.b as c, d": {"a.b", "d"},
    "from a import b": {"a", "a.b"},
    "from . import b": {"pkg.sub", "pkg.sub.b"},
    "from .a import b": {"pkg.sub.a", "pkg.sub.a.b"},
    "from .. import b": {"pkg", "pkg.b"},
    "from ..a import b": {"pkg.a", "pkg.a.b"},
    "from ... import b": set(),
    "def f():\n  class C:\n    import a": {"a"},
    "try:\n  import a\nexcept ImportError:\n  import b": {"a", "b"},
    "async def f():\n  with g():\n    from a import b": {"a", "a.b"},
    "if TYPE_CHECKING:\n  import a\nelse:\n  import b": {"b"},
    "import typing\nif typing.TYPE_CHECKING:\n  import a": {"typing"},
    "import importlib\nimportlib.import_module('a.b')": {"importlib", "a.b"},
    "import_module('.b', __package__)": {"pkg.sub.b"},
    "__import__('a')": {"a"},
    "import_module(name)": set(),
    "match x:\n  case 1:\n    import a": {"a"},
    "x = 'import a'": set(),
}


@pytest.mark.parametrize("text", IMPORTS)
def test_the_imports_of_a_file_are_found_wherever_they_stand(text: str) -> None:
    assert imported_names(ast.parse(text), "pkg.sub")[0] == IMPORTS[text]


def test_what_a_module_imports_is_needed_and_what_that_imports_too(folder: Path) -> None:
    write(folder, a="def f():\n  import b", b="from c import x", c="", other="import a")
    assert needed(folder, "a") == {"a", "b", "c"}


def test_modules_that_import_each_other_are_found_once(folder: Path) -> None:
    write(folder, a="import b", b="import a")
    assert needed(folder, "a") == needed(folder, "b") == {"a", "b"}


def test_a_package_is_needed_for_its_modules_but_not_all_of_its_modules_for_it(folder: Path) -> None:
    write(folder, pkg__init__="from . import used", pkg__used="", pkg__unused="", top="import pkg.deep.leaf")
    write(folder, pkg__deep__init__="", pkg__deep__leaf="from ..unused import x")
    assert needed(folder, "pkg") == {"pkg", "pkg.used"}
    assert needed(folder, "top") == {"top", "pkg", "pkg.used", "pkg.deep", "pkg.deep.leaf", "pkg.unused"}


def test_a_folder_without_an_init_file_is_a_package_too(folder: Path) -> None:
    write(folder, spaced__inner__leaf="", top="from spaced.inner import leaf")
    assert needed(folder, "top") == {"top", "spaced.inner.leaf"}


def test_a_namespace_may_be_spread_over_the_path(folder: Path) -> None:
    first, second = folder / "first", folder / "second"
    write(first, spaced__one="from spaced import two")
    write(second, spaced__two="")
    assert needed(folder, "spaced.one", sources=Sources([str(first), str(second)])) == {
        "spaced.one",
        "spaced.two",
    }


def test_importing_all_of_a_package_imports_the_modules_it_lists(folder: Path) -> None:
    write(folder, pkg__init__="__all__ = ['listed', 'number']\nnumber = 1", pkg__listed="", pkg__left="")
    write(folder, top="from pkg import *")
    assert needed(folder, "top") == {"top", "pkg", "pkg.listed"}


def test_the_first_module_on_the_path_is_the_one(folder: Path) -> None:
    write(folder / "one", twice="")
    write(folder / "two", twice="import also", also="")
    assert needed(folder, "twice", sources=Sources([f"{folder}/one", f"{folder}/two"])) == {"twice"}
    assert needed(folder, "twice", sources=Sources([f"{folder}/two", f"{folder}/one"])) == {"twice", "also"}


def test_libraries_count_for_nothing_and_hide_what_comes_after_them(folder: Path) -> None:
    libraries = folder / "libraries"
    write(libraries, known="import mine")
    write(folder / "env" / "site-packages", installed="")
    write(folder / "own", top="import known, json, sys, serve_lite, anyio, installed", known="", mine="")
    path = [str(libraries), f"{folder}/env/site-packages", f"{folder}/own", *sys.path]
    sources = Sources(path, libraries=[str(libraries), *library_folders()])
    assert needed(folder, "top", sources=sources) == {"top"}


def test_a_module_that_only_this_process_can_find_is_found_where_it_was_loaded_from(folder: Path) -> None:
    write(folder / "hidden", plugin__init__="from . import part", plugin__part="")
    loaded = {"plugin": str(folder / "hidden" / "plugin" / "__init__.py"), "json": ast.__file__}
    sources = Sources([str(folder)], loaded=loaded, libraries=library_folders())
    assert needed(folder, "plugin", sources=sources) == {"plugin", "plugin.part"}
    assert sources.loaded == {"plugin"}


@pytest.mark.parametrize("text", ["def (", "\x00", "x = '\\d'", "# coding: nonsense\n"])
def test_a_file_that_is_no_python_counts_with_what_is_in_it(folder: Path, text: str) -> None:
    write(folder, top="import odd", odd="")
    before = digest(folder, "top")
    (folder / "odd.py").write_text(text)
    assert needed(folder, "top") == {"top", "odd"}
    assert digest(folder, "top") != before


def digest(folder: Path, *roots: str) -> str:
    sources = Sources([str(folder)])
    return sources.digest(sources.needed_by(roots))


def test_the_digest_follows_the_contents_of_what_is_needed_and_of_nothing_else(folder: Path) -> None:
    write(folder, a="import b", b="", other="")
    first = digest(folder, "a")
    write(folder, other="x = 1")
    (folder / "data.txt").write_text("new")
    assert digest(folder, "a") == first
    write(folder, b="x = 1")
    assert digest(folder, "a") != first
    write(folder, b="")
    assert digest(folder, "a") == first


def test_a_file_added_where_an_import_looked_for_it_changes_the_digest(folder: Path) -> None:
    write(folder, a="try:\n  import extra\nexcept ImportError:\n  extra = None")
    before = digest(folder, "a")
    write(folder, extra="")
    assert digest(folder, "a") != before


@pytest.mark.parametrize("name", ["", ".", "a..b", "a/b", "no such", "../up", "sys", "a.b.c.d"])
def test_what_is_no_module_of_the_users_is_passed_over(folder: Path, name: str) -> None:
    write(folder, a="")
    assert needed(folder, name) <= {"a"}


FORMS = (
    "import {0}",
    "from {0} import x",
    "def f():\n  import {0} as y",
    "import importlib\nimportlib.import_module('{0}')",
)


@given(
    edges=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.sampled_from(FORMS)), max_size=20),
    edited=st.integers(0, 7),
)
@settings(deadline=None)
def test_a_file_counts_exactly_for_the_modules_that_imports_lead_from(
    edges: list[tuple[int, int, str]], edited: int
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for module in range(8):
            lines = [form.format(f"m{target}") for source, target, form in edges if source == module]
            (folder / f"m{module}.py").write_text("\n".join(lines))
        reached = {module: {module} for module in range(8)}
        for _ in range(8):
            for source, target, _ in edges:
                reached[source] |= reached[target]
        before = {module: digest(folder, f"m{module}") for module in range(8)}
        with (folder / f"m{edited}.py").open("a") as file:
            file.write("\nx = 1")
        for module in range(8):
            assert needed(folder, f"m{module}") == {f"m{target}" for target in reached[module]}
            assert (digest(folder, f"m{module}") != before[module]) == (edited in reached[module])
