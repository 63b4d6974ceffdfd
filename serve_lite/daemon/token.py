"""The token of an instance: who bears it may use the control plane, whichever user or machine asks.

It lies in the state directory as one line of text, for its owner alone, so that the command line, `curl` and
Prometheus can read it. The daemon looks at the file whenever somebody bears a token, so that another one counts at
once. The token before it may count for a while longer; of that one only a hash is kept, with the time of its end.

Imports next to nothing, because the keeper stands on it. The gate that asks is `admin/auth.py`.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time

from serve_lite.daemon.home import TOKEN_VARIABLE, Paths

#: Shorter ones could be guessed. RFC 6750 says which characters a bearer token has.
SHORTEST = 16
_TOKEN = re.compile(rf"[A-Za-z0-9\-._~+/]{{{SHORTEST},}}=*")

_RANDOM_BYTES = 32
_MOST_BYTES = 4096  #: of a token's file


def new_token() -> str:
    """Return a token that nobody can guess."""
    return os.urandom(_RANDOM_BYTES).hex()


def check_token(token: str, source: str) -> str:
    """Return a token as it was given, without white space around it.

    Args:
        source: where it stands, for the error; the error does not show the token.

    Raises:
        InstanceError: it is too short, or has characters that no header can carry.
    """
    token = token.strip()
    if not _TOKEN.fullmatch(token):
        raise _error(
            f"{source} holds no token: one has {SHORTEST} or more characters, of letters, digits and -._~+/. "
            "`serve token rotate` makes a good one."
        )
    return token


def read_token(path: str) -> str:
    """Return the token in a file.

    Raises:
        FileNotFoundError: there is no such file.
        InstanceError: others can read it, or it is not ours, or holds no token.
    """
    return check_token(_read_private(path), f"The file {path}")


def write_token(where: Paths, token: str, *, grace_s: float = 0.0) -> None:
    """Make `token` the one that counts, from the next request on.

    Args:
        grace_s: seconds that the one before still counts too.
    """
    before = _trusted_or_none(where.token) if grace_s > 0 else None
    if before not in (None, token):
        assert before is not None
        previous = {"sha256": digest(before.encode()).hex(), "until": time.time() + grace_s}
        _write_private(where.previous_token, json.dumps(previous))
    else:
        _remove(where.previous_token)
    _write_private(where.token, token)


def prepare_token(where: Paths, given: str = "") -> None:
    """Have a token in the state directory: the one given, else the one that is there, else a new one.

    Raises:
        InstanceError: the one given is no token, or the file with it is open to others.
    """
    if given:
        given = check_token(given, TOKEN_VARIABLE)
        if _trusted_or_none(where.token) != given:
            write_token(where, given)
        return
    try:
        read_token(where.token)
    except FileNotFoundError:
        write_token(where, new_token())


class Tokens:
    """The tokens that count now, as the files of an instance say."""

    def __init__(self, where: Paths) -> None:
        self._where = where
        self._seen: tuple[object, ...] = ()  #: state of both files when they were read
        self._hashes: list[tuple[bytes, float]] = []  #: of tokens, each with the time of its end (since 1970)

    def accept(self, given: bytes) -> bool:
        """Whether this token counts now. Takes as long whichever part of it is wrong.

        Raises:
            InstanceError: the files cannot be trusted.
        """
        import hmac  # only the daemon asks

        state = (_state(self._where.token), _state(self._where.previous_token))
        if state != self._seen:
            self._hashes = list(self._read())
            self._seen = state
        found, now = False, time.time()
        for expected, until in self._hashes:
            found |= hmac.compare_digest(expected, digest(given)) and now < until
        return found

    def _read(self) -> list[tuple[bytes, float]]:
        hashes = []
        try:
            hashes.append((digest(read_token(self._where.token).encode()), float("inf")))
        except FileNotFoundError:
            pass  # whoever removed it wants that nobody gets in by it
        try:
            previous = json.loads(_read_private(self._where.previous_token))
            hashes.append((bytes.fromhex(previous["sha256"]), float(previous["until"])))
        except FileNotFoundError:
            pass  # nobody has rotated the token, or there was no grace
        except (ValueError, KeyError, TypeError) as error:
            raise _error(
                f"The file {self._where.previous_token} cannot be read; remove it: {error}."
            ) from error
        return hashes


def digest(token: bytes) -> bytes:
    """Return what is kept and compared instead of a token."""
    import hashlib  # 4 ms that the keeper can do without

    return hashlib.sha256(token).digest()


def _trusted_or_none(path: str) -> str | None:
    from serve_lite.exceptions import InstanceError

    try:
        return read_token(path)
    except (FileNotFoundError, InstanceError):  # what cannot be trusted counts as little as what is not there
        return None


def _state(path: str) -> tuple[int, ...] | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _read_private(path: str) -> str:
    """Return the text of a file that is ours alone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _error(f"The file {path} cannot be read: {error.strerror}.") from error
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise _error(f"{path} is not a file of yours, so it may hold anybody's token. Remove it.")
        if found.st_mode & 0o077:
            raise _error(
                f"Others may read or write {path} (mode {stat.S_IMODE(found.st_mode):04o}), so they may know the "
                "token. Run `serve token rotate`, which makes another one for you alone."
            )
        return file.read(_MOST_BYTES).decode("latin-1")


def _write_private(path: str, text: str) -> None:
    """Have a file with this text, ours alone; whoever reads it finds the old text or the new one."""
    unready = f"{path}.{os.getpid()}~"
    _remove(unready)
    fd = os.open(unready, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(fd)
        os.rename(unready, path)
    except BaseException:
        _remove(unready)
        raise


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _error(problem: str) -> Exception:
    from serve_lite.exceptions import InstanceError  # 5 ms that a keeper that starts well does not need

    return InstanceError(problem)
