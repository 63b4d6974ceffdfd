"""API keys: what one looks like, what the file of them says, and which key a client has shown.

A key is `sl_<id>_<secret>`. The file has a line for each with the SHA-256 of the secret, never the secret. Secrets are
256 random bits, so there is nothing to guess and a slow hash, which passwords need, would only cost every request.
The id finds the line; the secret is compared in constant time.

Values only: `key_file` reads and writes the file, `guard` asks for keys.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from serve_lite.exceptions import InvalidConfigError
from serve_lite.rates import Rate, parse_rate

PREFIX: Final = "sl_"
_SECRET_BYTES: Final = 32
_ID_BYTES: Final = 6
_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")
_ID: Final = re.compile(r"[0-9a-f]{6,32}")
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")  #: goes into a header and into logs as it is
_SHOWN: Final = re.compile(rb"sl_([0-9a-f]{6,32})_([A-Za-z0-9_-]{20,128})")
_NO_HASH: Final = bytes(32)


class Key(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line of the file."""

    name: str  #: whose it is; unique
    id: str  #: the part of the key that everybody may know
    hash: str  #: `sha256:` and 64 hexadecimal digits, of the secret as it is written
    apps: tuple[str, ...] = ()  #: applications it opens; none: all
    routes: tuple[str, ...] = ()  #: paths below which it is good; none: all
    rate: str | None = None  #: as `rates.parse_rate` takes it; None: the application's
    expires: str | None = None  #: ISO 8601 with a zone
    created: str | None = None


class KnownKey(msgspec.Struct, frozen=True):
    """A key ready to be asked for."""

    key: Key
    digest: bytes
    rate: Rate | None
    expires_at: float  #: Unix time; infinite: never
    routes: tuple[bytes, ...]  #: without a slash at the end, so that the root is empty


class KeyRing:
    """The keys of one file. Never changes."""

    def __init__(self, keys: Iterable[KnownKey] = ()) -> None:
        self._by_id = {known.key.id: known for known in keys}

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, shown: bytes) -> KnownKey | None:
        """Return the key that a client has shown; None if there is no such key."""
        match = _SHOWN.fullmatch(shown)
        if match is None:
            return None
        known = self._by_id.get(match[1].decode("ascii"))
        digest = known.digest if known is not None else _NO_HASH
        return known if hmac.compare_digest(hashlib.sha256(match[2]).digest(), digest) else None


def new_key(
    name: str,
    *,
    apps: tuple[str, ...] = (),
    routes: tuple[str, ...] = (),
    rate: str | None = None,
    expires: str | None = None,
) -> tuple[Key, str]:
    """Return a new key's line, and the key itself, which is nowhere else.

    Raises:
        InvalidConfigError: something is not what it must be.
    """
    id = secrets.token_hex(_ID_BYTES)
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    digest = hashlib.sha256(secret.encode("ascii")).hexdigest()
    created = datetime.now(UTC).isoformat(timespec="seconds")
    key = Key(
        name=name,
        id=id,
        hash=f"sha256:{digest}",
        apps=apps,
        routes=routes,
        rate=rate,
        expires=expires,
        created=created,
    )
    try:
        _known(key)
    except ValueError as error:
        raise InvalidConfigError(f"There is no new key: {error}.") from error
    return key, f"{PREFIX}{id}_{secret}"


def parse_keys(text: str, source: str) -> tuple[Key, ...]:
    """Return the keys of a file's text: a JSON object a line; empty lines and lines that begin with `#` are notes.

    Raises:
        InvalidConfigError: a line is wrong, or a name or an id is there twice; names `source` and the line.
    """
    keys: list[Key] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = msgspec.json.decode(line, type=Key)
            _known(key)
            for mark in (f"name {key.name!r}", f"id {key.id!r}"):
                if mark in seen:
                    raise ValueError(f"the {mark} is also in line {seen[mark]}")
                seen[mark] = number
        except (msgspec.MsgspecError, ValueError) as error:
            raise InvalidConfigError(f"{source}:{number}: not the line of an API key: {error}.") from error
        keys.append(key)
    return tuple(keys)


def key_ring(keys: Iterable[Key]) -> KeyRing:
    """Return keys that `parse_keys` has let pass, ready to be asked for."""
    return KeyRing(map(_known, keys))


def line_of(key: Key) -> str:
    """Return the line of a key, with its end."""
    return msgspec.json.encode(key).decode() + "\n"


def expiry(key: Key) -> float:
    """Return when a key ends, as Unix time; infinite if it does not."""
    return float("inf") if key.expires is None else _moment(key.expires).timestamp()


def _known(key: Key) -> KnownKey:
    """Return the key ready for use.

    Raises:
        ValueError: something is not what it must be.
    """
    if NAME.fullmatch(key.name) is None:
        raise ValueError(
            f"the name is {key.name!r}; it must be up to 64 letters, digits and '.', '_', '@', '-'"
        )
    if _ID.fullmatch(key.id) is None:
        raise ValueError(f"the id is {key.id!r}; it must be 6 to 32 hexadecimal digits")
    if _HASH.fullmatch(key.hash) is None:
        raise ValueError("the hash must be 'sha256:' and 64 hexadecimal digits")
    if "" in key.apps:
        raise ValueError("an application's name is empty")
    for route in key.routes:
        if not route.startswith("/") or has_odd_segments(route.encode()):
            raise ValueError(f"the route is {route!r}; it must begin with '/' and be a plain path")
    return KnownKey(
        key,
        bytes.fromhex(key.hash.partition(":")[2]),
        None if key.rate is None else parse_rate(key.rate),
        expiry(key),
        tuple(route.rstrip("/").encode() for route in key.routes),
    )


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(
            f"the end is {text!r}; it needs a time zone, such as the Z of '2030-01-31T12:00:00Z'"
        )
    return moment


# --- paths ----------------------------------------------------------------------------------------

_ESCAPED: Final = re.compile(rb"%(2e|2f|5c|25)", re.IGNORECASE)


def is_below(path: bytes, routes: Iterable[bytes]) -> bool:
    """Whether a decoded path is at or below one of the routes, whole segments counted.

    A path that an application might read as another one is below nothing: with empty segments, `.` or `..`,
    backslashes, or something that is still escaped.
    """
    if has_odd_segments(path):
        return False
    return any(path == route or path.startswith(route + b"/") for route in routes)


def has_odd_segments(path: bytes) -> bool:
    """Whether another reader could take this decoded path for another one."""
    segments = path.split(b"/")
    return (
        b"\\" in path
        or _ESCAPED.search(path) is not None
        or any(segment in (b".", b"..") for segment in segments)
        or b"" in segments[1:-1]
    )
