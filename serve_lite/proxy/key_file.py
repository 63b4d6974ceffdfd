"""The file of API keys on disk: read when it has changed, written as a whole under a lock.

It belongs to the user of the instance and nobody else may write it. A file that cannot be used changes nothing: the
keys that were read before stay in force, and the log says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Final

from serve_lite.exceptions import InvalidConfigError
from serve_lite.proxy.keys import Key, KeyRing, key_ring, line_of, parse_keys

FILE_NAME: Final = "api-keys"  #: in the state directory, unless an option names another file
_LOCK_PATIENCE_S: Final = 10.0
_LOOK_AGAIN_S: Final = 0.05

_log = logging.getLogger("serve_lite.proxy")

_Stamp = tuple[int, int, int]  #: inode, size and time of change


class KeyFile:
    """The keys in force, and the file that they come from. Used on one event loop, but for `read`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.ring = KeyRing()  #: in force
        self.problem = ""  #: why the file is not what is in force; "" if it is
        self._stamp: _Stamp | None = None  #: of the file as it was read last, usable or not

    def has_changed(self) -> bool:
        """Whether the file is not the one that was read last. Blocks for a moment."""
        return _stamp_of(self.path) != self._stamp

    def load(self) -> None:
        """Read the file, and take what it says if that can be used. Blocks for a moment."""
        self._stamp = _stamp_of(self.path)
        try:
            keys = read_keys(self.path)
        except InvalidConfigError as error:
            self.problem = str(error)
            _log.error("the API keys stay as they were (%d): %s", len(self.ring), error)
            return
        num_before = len(self.ring)
        self.ring, self.problem = key_ring(keys), ""
        if self._stamp is not None:
            _log.info("API keys: %d, read from %s", len(self.ring), self.path)
        elif num_before:
            _log.warning("API keys: none is good any more, because %s is gone", self.path)


def read_keys(path: str) -> tuple[Key, ...]:
    """Return the keys of a file; none if there is no file.

    Raises:
        InvalidConfigError: it cannot be read or used.
    """
    try:
        with open(path, encoding="utf-8") as file:
            _check_owner(os.fstat(file.fileno()), path)
            text = file.read()
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidConfigError(f"The file of API keys {path!r} cannot be read: {reason}.") from error
    return parse_keys(text, path)


def add_key(path: str, key: Key) -> None:
    """Add a key to a file, which is made if there is none.

    Raises:
        InvalidConfigError: the file cannot be used, or has a key of that name.
    """

    def change(text: str) -> str:
        if any(known.name == key.name for known in parse_keys(text, path)):
            raise InvalidConfigError(
                f"There is an API key {key.name!r} already. Remove it first (`serve keys remove {key.name}`), or give "
                "the new one another name."
            )
        return text + ("\n" if text and not text.endswith("\n") else "") + line_of(key)

    _rewrite(path, change)


def remove_key(path: str, name: str) -> Key:
    """Remove the key with this name from a file; return what it was. Other lines stay as they are.

    Raises:
        InvalidConfigError: the file cannot be used, or has no such key.
    """
    removed: list[Key] = []

    def change(text: str) -> str:
        kept = []
        for line in text.splitlines(keepends=True):
            found = parse_keys(line, path)
            if found and found[0].name == name:
                removed.extend(found)
            else:
                kept.append(line)
        if not removed:
            names = ", ".join(known.name for known in parse_keys(text, path)) or "none"
            raise InvalidConfigError(f"There is no API key {name!r} in {path}. There are: {names}.")
        return "".join(kept)

    _rewrite(path, change)
    return removed[0]


def _rewrite(path: str, change: Callable[[str], str]) -> None:
    """Put a changed text in the place of a file's, as a whole or not at all."""
    try:
        with _locked(path):
            read_keys(path)  # a file that others may write, or that is broken, is not built upon
            try:
                with open(path, encoding="utf-8") as file:
                    text = file.read()
            except FileNotFoundError:
                text = ""
            text = change(text)
            new = f"{path}.new"
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "w", encoding="utf-8") as file:
                os.fchmod(fd, 0o600)
                file.write(text)
                file.flush()
                os.fsync(fd)
            os.replace(new, path)
    except OSError as error:
        raise InvalidConfigError(
            f"The file of API keys {path!r} cannot be written: {error.strerror}."
        ) from error


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Keep others who change the file away. The lock is a file beside it, because the file itself is replaced."""
    fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        give_up_at = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    raise InvalidConfigError(
                        f"Somebody else has been changing {path} for {_LOCK_PATIENCE_S:g} seconds; try again."
                    ) from None
                time.sleep(_LOOK_AGAIN_S)
        yield
    finally:
        os.close(fd)


def _stamp_of(path: str) -> _Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_ctime_ns  # a change of mode counts too


def _check_owner(found: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InvalidConfigError(f"The file of API keys {path!r} is not a file.")
    if found.st_uid not in (os.geteuid(), 0):
        raise InvalidConfigError(
            f"The file of API keys {path!r} belongs to user {found.st_uid}, who could add keys; it must be yours."
        )
    if found.st_mode & 0o022:
        raise InvalidConfigError(
            f"The file of API keys {path!r} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}); run "
            f"`chmod 600 {path}`."
        )
