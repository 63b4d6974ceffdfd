"""From a path to the application that answers it: longest prefix wins.

Pure. A table is made anew whenever the controller publishes routes and never changes afterwards.
`/-/routes` and `/-/healthz` match nothing here: they belong to `http`, whatever is deployed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from serve_lite.wire.messages import RouteTarget

ROUTES_PATH: Final = b"/-/routes"
HEALTH_PATH: Final = b"/-/healthz"
RESERVED_PATHS: Final = frozenset((ROUTES_PATH, HEALTH_PATH))

_CACHED_PATHS: Final = 1024
_CACHED_PATH_BYTES: Final = 256  #: longer paths are not worth their memory


class RouteTable:
    """The route prefixes in force.

    A prefix matches the path equal to it and every path below it, in whole segments: `/a` matches `/a`,
    `/a/` and `/a/b`, never `/ab`. `/` matches every path. Comparison is of decoded bytes, case-sensitive.
    """

    __slots__ = ("_cache", "_longest_first", "targets")

    def __init__(self, targets: Iterable[RouteTarget] = ()) -> None:
        self.targets: tuple[RouteTarget, ...] = tuple(targets)
        prefixes = ((_normal(target.prefix), target) for target in self.targets)
        #: (prefix, prefix and slash, target); the root's two are empty and a slash
        self._longest_first = sorted(
            ((prefix, prefix + b"/", target) for prefix, target in prefixes),
            key=lambda entry: len(entry[0]),
            reverse=True,
        )
        self._cache: dict[bytes, RouteTarget | None] = {}

    def __bool__(self) -> bool:
        return bool(self.targets)

    def match(self, path: bytes) -> RouteTarget | None:
        """Return where `path` (as received, percent-encoded, no query) goes; None for nowhere."""
        try:
            return self._cache[path]
        except KeyError:
            pass
        found = self._search(decode_path(path))
        if len(path) <= _CACHED_PATH_BYTES:
            if len(self._cache) >= _CACHED_PATHS:
                self._cache.clear()  # someone walks through many paths: start over rather than keep an order
            self._cache[path] = found
        return found

    def to_json(self) -> bytes:
        """Return the body of `/-/routes`: each prefix and its application, compact."""
        return msgspec.json.encode({target.prefix: target.app for target in self.targets})

    def _search(self, path: bytes) -> RouteTarget | None:
        if path in RESERVED_PATHS:
            return None
        for prefix, below, target in self._longest_first:
            if path.startswith(below) or path == prefix:
                return target
        return None


def decode_path(path: bytes) -> bytes:
    """Return `path` with percent-escapes decoded."""
    return unquote_to_bytes(path) if b"%" in path else path


def _normal(prefix: str) -> bytes:
    """Return the prefix as bytes without a slash at its end, so the root is empty."""
    return prefix.encode().rstrip(b"/")
