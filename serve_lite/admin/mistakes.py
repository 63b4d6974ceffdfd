"""All mistakes of a document at once, where the checks themselves stop at the first.

A mistake that is found is cut out of a copy of the document, and the rest is checked again, until nothing is wrong
any more. So that the cut is not told as a mistake in its turn, what a part cannot be without is filled in: an
application that loses a wrong name gets one that nobody has. Used by the command line, and by REST for the `errors` of
a refusal.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from serve_lite.exceptions import InvalidConfigError, ServeLiteError

#: Whoever has made so many has another problem.
MOST_MISTAKES = 100

#: Parts of a path like `applications[0].runtime_env.env_vars`.
_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
#: Lists of things that have nothing to do with each other: a wrong one leaves the others to be looked at.
_LISTS_OF_INDEPENDENT = frozenset({"py_modules", "grpc_servicer_functions", "schedules"})
_LIKENESS = 0.6  #: of a misspelt key, as for the hint in its message

Check = Callable[[dict[str, Any]], object]


def find_mistakes(
    document: Mapping[str, Any], check: Check, *, has_applications: bool = True
) -> list[ServeLiteError]:
    """Return what `check` finds wrong in the document, each with its `path`; empty if it is right.

    A mistake that concerns the document as a whole, which has no path, ends the search.

    Args:
        check: raises a ServeLiteError with a `path` for the first mistake; called again and again.
        has_applications: whether it is a config file; in a settings file nothing has to be filled in.
    """
    rest = _Rest(copy.deepcopy(dict(document)), has_applications)
    found: list[ServeLiteError] = []
    while len(found) < MOST_MISTAKES:
        try:
            check(rest.document)
            break
        except ServeLiteError as error:
            told = rest.told_of_the_whole(error)
            if any(path_of(told) == path_of(earlier) for earlier in found):
                break  # it cannot be cut out, as what makes a document of one kind or the other
            found.append(told)
            if not rest.cut(path_of(error)):
                break
    return [error for error in found if not _follows(error, found, document)]


def _follows(error: ServeLiteError, found: Sequence[ServeLiteError], document: Mapping[str, Any]) -> bool:
    """Whether the error misses a key that another error has found misspelt, or further inside than it belongs."""
    around, _, missing = path_of(error).rpartition(".")
    node: Any = document
    for part in _parts(around):
        if not _has(node, part):
            return False
        node = node[part]
    if not missing or _has(node, missing):
        return False
    others = [path_of(other) for other in found if other is not error]
    for place, _, key in (path.rpartition(".") for path in others):
        is_misspelt = place == around and _has(node, key) and _is_like(key, missing)
        if is_misspelt or (key == missing and place.startswith(around)):
            return True
    return False


def _is_like(key: object, name: str) -> bool:
    return bool(difflib.get_close_matches(str(key), [name], n=1, cutoff=_LIKENESS))


class RefusedDocumentError(InvalidConfigError):
    """A document is wrong. Says what the first mistake is; `mistakes` has all of them."""

    def __init__(self, mistakes: Sequence[ServeLiteError]) -> None:
        super().__init__(str(mistakes[0]))
        self.path = path_of(mistakes[0])
        self.mistakes = tuple(mistakes)


def path_of(error: ServeLiteError) -> str:
    """Return which part of a document the error is about, "" if none."""
    return getattr(error, "path", "") or ""


class _Rest:
    """What is left of a document to check. Lives within one search."""

    def __init__(self, document: dict[str, Any], has_applications: bool) -> None:
        self.document = document
        self._has_applications = has_applications
        self._is_single = "import_path" in document and "applications" not in document
        self._fillers = 0
        #: Where the items that are left were in the beginning, for lists that lost one; by identity.
        self._places: dict[int, list[int]] = {}

    def told_of_the_whole(self, error: ServeLiteError) -> ServeLiteError:
        """Return the error with its path as it is in the document that the user knows."""
        path = path_of(error)
        whole = self._whole_path(path)
        if whole == path:
            return error
        text = str(error).replace(path, whole)
        told = InvalidConfigError(text)
        told.path = whole
        return told

    def cut(self, path: str) -> bool:
        """Take the part out that the path names; False if there is nothing to take, and no way on."""
        parts = list(_parts(path))
        owners: list[tuple[Any, str | int]] = []  # each container on the way, and what was followed in it
        node: Any = self.document
        for part in parts:
            owners.append((node, part))
            if not _has(node, part):
                break
            node = node[part]
        owner, part = owners[-1]
        if len(owners) < len(parts) or (isinstance(owner, list) and not _has(owner, part)):
            # The path goes on where the document does not: what it got to is at fault as a whole.
            if len(owners) < 2:
                return False
            owners.pop()
            owner, part = owners[-1]
        before = copy.deepcopy(self.document)
        self._take_out(owners)
        return before != self.document

    def _take_out(self, owners: list[tuple[Any, str | int]]) -> None:
        owner, part = owners[-1]
        if isinstance(owner, list):
            assert isinstance(part, int)
            kind = owners[-2][1] if len(owners) > 1 else ""
            if kind in ("applications", "deployments"):
                owner[part] = self._filler("application" if kind == "applications" else "deployment")
            elif kind in _LISTS_OF_INDEPENDENT:
                self._places.setdefault(id(owner), list(range(len(owner)))).pop(part)
                del owner[part]
            else:
                self._take_out(owners[:-1])
            return
        kind = self._kind(owners[:-1])
        needed = self._filler(kind)
        if part in needed:
            owner[part] = needed[part]
            return
        owner.pop(part, None)
        self._fill_in_for(part, kind, owners)

    def _fill_in_for(self, part: object, kind: str, owners: list[tuple[Any, str | int]]) -> None:
        """Give the parts around a removed key what it was probably meant to be."""
        owner = owners[-1][0]
        missing = {name: value for name, value in self._filler(kind).items() if name not in owner}
        for name in difflib.get_close_matches(str(part), list(missing), n=1, cutoff=_LIKENESS):
            owner[name] = missing[name]

    def _kind(self, way: list[tuple[Any, str | int]]) -> str:
        """Return what the mapping at the end of a way is."""
        match [part for _, part in way]:
            case []:
                return "application" if self._is_single else "document"
            case ["applications", int()]:
                return "application"
            case ["deployments", int()] | ["applications", int(), "deployments", int()]:
                return "deployment"
            case [*_, "autoscaling_config", "schedules", int()]:
                return "schedule"
        return ""

    def _filler(self, kind: str) -> dict[str, Any]:
        """Return what such a part cannot be without, right and in nobody's way."""
        if not self._has_applications:
            return {}
        self._fillers += 1
        name = f"(filler {self._fillers})"
        match kind:
            case "document":
                return {"applications": []}
            case "application" if self._is_single:
                return {"import_path": "module:attribute"}
            case "application":
                return {"name": name, "import_path": "module:attribute", "route_prefix": None}
            case "deployment":
                return {"name": name}
            case "schedule":
                return {"cron": "0 0 * * *", "until": "0:00", "duration_s": 60, "min_replicas": 0}
        return {}

    def _whole_path(self, path: str) -> str:
        node: Any = self.document
        whole = ""
        for part in _parts(path):
            if isinstance(part, int):
                places = self._places.get(id(node))
                whole += f"[{places[part] if places and part < len(places) else part}]"
            else:
                whole += f".{part}" if whole else part
            node = node[part] if _has(node, part) else None
        return whole or path


def _parts(path: str) -> Iterator[str | int]:
    for index, key in _PART.findall(path):
        yield int(index) if index else key


def _has(node: Any, part: str | int) -> bool:
    if isinstance(part, int):
        return isinstance(node, list) and part < len(node)
    return isinstance(node, dict) and part in node
