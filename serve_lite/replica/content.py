"""Which files of the user's a module needs, found by reading them. Nothing is imported here.

The edges are the `import` statements, wherever in a file they stand: one inside a function may run years later, and
the process that runs it has the file as it was then. `versions.py` makes versions of deployments from this.
"""

from __future__ import annotations

import ast
import hashlib
import os
import site
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)
from types import ModuleType

import msgspec

#: What Python's own path finder looks for, in its order.
_LOADERS = (
    (ExtensionFileLoader, EXTENSION_SUFFIXES),
    (SourceFileLoader, SOURCE_SUFFIXES),
    (SourcelessFileLoader, BYTECODE_SUFFIXES),
)

#: Functions that import what a text names.
_IMPORTERS = frozenset({"import_module", "__import__"})

_PACKAGE_FOLDERS = frozenset({"site-packages", "dist-packages"})


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """Where one of the user's modules is."""

    file: str = ""  #: "" for a namespace package
    folders: tuple[str, ...] = ()  #: where its submodules are looked for; none if it is no package


class Sources:
    """The user's modules, found where `import` would find them.

    Each file is read once, so an object of this class is a picture of the files at one time.
    """

    def __init__(
        self, path: Sequence[str], *, loaded: Mapping[str, str] | None = None, libraries: Sequence[str] = ()
    ) -> None:
        """Look along `path`.

        Args:
            path: as `sys.path`; its order counts, libraries included.
            loaded: files of modules by name, for those that no entry of `path` leads to.
            libraries: folders whose modules are nobody's to edit: they and what they import count for nothing.
        """
        self._path = [os.path.abspath(entry) for entry in path]
        self._libraries = tuple(os.path.realpath(folder) + os.sep for folder in libraries)
        self._loaded = {name: file for name, file in (loaded or {}).items() if self._is_users(file)}
        self._finders: dict[str, FileFinder] = {}
        self._found: dict[str, Module | None] = {}
        self._read: dict[str, tuple[str, frozenset[str], frozenset[str]]] = {}

    @property
    def loaded(self) -> frozenset[str]:
        """The user's own among the loaded modules."""
        return frozenset(self._loaded)

    def find(self, name: str) -> Module | None:
        """Return where a module is; None if there is no such one, or it is not the user's."""
        if name not in self._found:
            is_name = all(part.isidentifier() for part in name.split("."))
            self._found[name] = self._look_for(name) if is_name else None
        return self._found[name]

    def needed_by(self, roots: Iterable[str]) -> dict[str, str]:
        """Return the files of these modules and of all they import, by the modules' names.

        Names that are no module of the user's are passed over: the candidates of `from package import name` are among
        the roots of others, and only some of them are modules.
        """
        needed: dict[str, str] = {}
        seen: set[str] = set()
        waiting = list(roots)
        while waiting:
            name = waiting.pop()
            if not name or name in seen:
                continue
            seen.add(name)
            module = self.find(name)
            if module is None:
                continue
            waiting.append(name.rpartition(".")[0])  # `import a.b` runs `a` first
            if module.file:
                needed[name] = module.file
                waiting += self._imports(name, module)
        return needed

    def digest(self, files: Mapping[str, str]) -> str:
        """Return what changes exactly when the contents of these files do, or under which names they are imported."""
        whole = hashlib.sha256()
        for name, file in sorted(files.items()):
            whole.update(f"{name} {self._content(name, file)[0]}\n".encode())
        return whole.hexdigest()

    def _look_for(self, name: str) -> Module | None:
        parent, _, _ = name.rpartition(".")
        if name in sys.builtin_module_names:
            return None
        folders: Sequence[str] = self._path
        if parent:
            package = self.find(parent)
            if package is None:
                return None
            folders = package.folders
        return self._in_folders(name, folders) or self._among_loaded(name)

    def _in_folders(self, name: str, folders: Sequence[str]) -> Module | None:
        portions: list[str] = []
        for folder in folders:
            spec = self._spec(name, folder)
            if spec is None:
                continue
            if spec.has_location and spec.origin:
                inside = spec.submodule_search_locations
                return self._users(spec.origin, tuple(inside or ()))
            portions += spec.submodule_search_locations or ()  # a portion of a namespace package
        own = [portion for portion in portions if self._is_users(portion)]
        return Module(folders=tuple(own)) if own else None

    def _spec(self, name: str, folder: str) -> ModuleSpec | None:
        if folder not in self._finders:
            self._finders[folder] = FileFinder(folder, *_LOADERS)
        return self._finders[folder].find_spec(name)

    def _among_loaded(self, name: str) -> Module | None:
        file = self._loaded.get(name)
        if file is None:
            return None
        is_package = os.path.basename(file).partition(".")[0] == "__init__"
        return Module(file=file, folders=(os.path.dirname(file),) if is_package else ())

    def _users(self, file: str, folders: tuple[str, ...]) -> Module | None:
        return Module(file=file, folders=folders) if self._is_users(file) else None

    def _is_users(self, file: str) -> bool:
        real = os.path.realpath(file)
        return not f"{real}{os.sep}".startswith(self._libraries) and _PACKAGE_FOLDERS.isdisjoint(
            real.split(os.sep)
        )

    def _imports(self, name: str, module: Module) -> Iterator[str]:
        """Yield what a module may import; not all of it need exist."""
        _, names, stars = self._content(name, module.file, is_package=bool(module.folders))
        yield from names
        for package in stars:
            target = self.find(package)
            if target is not None and target.file:
                listed = exported_names(_parsed(_bytes_of(target.file)))
                yield from (f"{package}.{item}" for item in listed)

    def _content(
        self, name: str, file: str, *, is_package: bool = False
    ) -> tuple[str, frozenset[str], frozenset[str]]:
        if name not in self._read:  # not by file: one may be found under two names, in two packages
            data = _bytes_of(file)
            package = name if is_package else name.rpartition(".")[0]
            tree = _parsed(data) if file.endswith(tuple(SOURCE_SUFFIXES)) else None
            self._read[name] = (hashlib.sha256(data).hexdigest(), *imported_names(tree, package))
        return self._read[name]


def imported_names(tree: ast.Module | None, package: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return which modules a file may import, and which it imports `*` from.

    What stands under `if TYPE_CHECKING:` is never imported. A call of `importlib.import_module` counts if it is
    given a text; what is put together at run time cannot be known.

    Args:
        package: the package that the file is in, for relative imports; for an `__init__.py` its own.
    """
    names: set[str] = set()
    stars: set[str] = set()
    for node in _nodes(tree) if tree is not None else ():
        match node:
            case ast.Import():
                names.update(alias.name for alias in node.names)
            case ast.ImportFrom():
                base = _resolved(node.module or "", node.level, package)
                if base is None:
                    continue
                names.add(base)
                names.update(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
                stars.update(base for alias in node.names if alias.name == "*")
            case ast.Call(func=function, args=[ast.Constant(value=str(text)), *_]) if (
                _last_name(function) in _IMPORTERS
            ):
                bare = text.lstrip(".")
                target = _resolved(bare, len(text) - len(bare), package)
                if target:
                    names.add(target)
    return frozenset(names), frozenset(stars)


def exported_names(tree: ast.Module | None) -> tuple[str, ...]:
    """Return the texts in a module's `__all__`: with `import *` those that are submodules are imported."""
    for node in tree.body if tree is not None else ():
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List(elts) | ast.Tuple(elts)):
                return tuple(
                    e.value for e in elts if isinstance(e, ast.Constant) and isinstance(e.value, str)
                )
    return ()


def library_folders() -> tuple[str, ...]:
    """Return where the standard library, installed packages and serve_lite itself lie."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    known = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(dict.fromkeys([*known, *site.getsitepackages(), site.getusersitepackages(), here]))


def loaded_files() -> dict[str, str]:
    """Return the files of the modules that are loaded here, by name."""
    modules = [(name, m) for name, m in list(sys.modules.items()) if isinstance(m, ModuleType)]
    # Not by getattr: modules that load themselves on first use would do so now.
    named = [(name, vars(module).get("__file__")) for name, module in modules if name != "__main__"]
    return {name: os.path.abspath(file) for name, file in named if isinstance(file, str) and file}


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what is in a tree but for what only type checkers see."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _last_name(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _resolved(name: str, level: int, package: str) -> str | None:
    """Return the absolute name of what is imported; None for a relative import that leaves its package."""
    if not level:
        return name
    parts = package.split(".") if package else []
    if level > len(parts):
        return None
    return ".".join([*parts[: len(parts) - level + 1], *([name] if name else [])])


def _parsed(data: bytes) -> ast.Module | None:
    """Return a file's tree; None if it is not Python, or not of this version."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever imports it is told
            return ast.parse(data)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _bytes_of(file: str) -> bytes:
    """Return a file's content; nothing if it cannot be read, of which whoever imports it is told."""
    try:
        with open(file, "rb") as source:
            return source.read()
    except OSError:
        return b""
