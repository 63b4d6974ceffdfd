"""The directory of one instance: where it is, what lies in it, and that nobody else can read it; and its secrets.

Imports next to nothing, because the keeper stands on it. `options.py` has everything else about an instance.
"""

from __future__ import annotations

import os
import stat

#: A Unix socket's path may have 107 bytes and a final zero; a few are left for other systems' lower limits.
_LONGEST_SOCKET_PATH = 100

#: Variables that choose the state directory, the strongest first.
HOME_VARIABLES = ("SERVE_LITE_HOME", "XDG_STATE_HOME")

#: Variables that hold secrets. User code inherits the environment, so no process of an instance leaves them there.
SECRET_VARIABLES = ("SERVE_LITE_HTTP_SSL_KEYFILE_PASSWORD",)

#: Names the token to bear, to the command line; the token to have, to an instance that starts. A secret too.
TOKEN_VARIABLE = "SERVE_LITE_TOKEN"


class Paths:
    """Where everything of one instance is."""

    def __init__(self, home: str) -> None:
        self.home = home  #: the state directory
        self.run = _socket_directory(home)  #: the sockets; `home` unless its path is too long
        self.control = os.path.join(self.run, "control.sock")
        self.lock = os.path.join(home, "lock")
        self.token = os.path.join(home, "token")  #: opens the control plane; see `token.py`
        self.previous_token = os.path.join(home, "token.previous")  #: hash of the one before, and its end
        self.db = os.path.join(home, "state.db")
        self.logs = os.path.join(home, "logs")
        self.environments = os.path.join(home, "environments")  #: archives and packages of applications

    def prepare(self) -> None:
        """Create the directories, or check that they are ours alone.

        Raises:
            InstanceError: a directory cannot be made or used, or belongs to or is open to someone else.
        """
        _prepare_directory(self.home)
        if self.run != self.home:
            _prepare_directory(self.run, may_be_link=False)  # others can make links in /tmp
        _prepare_directory(self.logs)

    def remove_sockets(self) -> None:
        """Remove every socket file of the instance. Only for the last one that leaves."""
        for name in os.listdir(self.run):
            if name == "control.sock" or (
                name.startswith(("r-", "p-")) and name.endswith((".sock", ".acc", ".live"))
            ):
                _remove(os.path.join(self.run, name))
        if self.run != self.home:
            try:
                os.rmdir(self.run)
            except OSError:  # something that is not ours lies there: leave it
                pass


def paths(home: str) -> Paths:
    """Return where everything of the instance in `home` is. Touches nothing."""
    return Paths(os.path.abspath(os.path.expanduser(home)))


def home_from_environment() -> str:
    """Return the state directory that the environment names, or the user's default one."""
    home = os.environ.get("SERVE_LITE_HOME")
    if home:
        return os.path.abspath(os.path.expanduser(home))
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the XDG base directory specification says to ignore relative ones
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "serve-lite")


def take_secrets() -> dict[str, str]:
    """Take what is secret out of this process's environment; return the environment as it was."""
    before = dict(os.environ)
    for name in (*SECRET_VARIABLES, TOKEN_VARIABLE):
        os.environ.pop(name, None)
    return before


def _socket_directory(home: str) -> str:
    if _has_room(home):
        return home
    import hashlib  # 4 ms that a home of usual length does not need

    name = f"serve-lite-{os.getuid()}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:12]}"
    candidates = [os.environ.get("XDG_RUNTIME_DIR", ""), os.environ.get("TMPDIR", ""), "/tmp"]
    for parent in candidates:
        if os.path.isdir(parent) and _has_room(os.path.join(parent, name)):
            return os.path.join(parent, name)
    return os.path.join("/tmp", name)


def _has_room(directory: str) -> bool:
    return len(os.fsencode(os.path.join(directory, "r-xxxxxxxx.sock"))) < _LONGEST_SOCKET_PATH


def _prepare_directory(path: str, *, may_be_link: bool = True) -> None:
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.stat(path, follow_symlinks=may_be_link)
    except OSError as error:
        raise _error(f"The directory {path!r} cannot be used for the instance: {error.strerror}.") from error
    if stat.S_ISLNK(found.st_mode):
        raise _error(
            f"{path!r} is a link, which another user may have made, and the sockets of the instance would lie where "
            "it leads. Remove it."
        )
    if not stat.S_ISDIR(found.st_mode):
        raise _error(f"{path!r} is not a directory.")
    if found.st_uid != os.geteuid():
        raise _error(
            f"The directory {path!r} belongs to user {found.st_uid}, not to you (user {os.geteuid()}), so its "
            "owner could read and replace what the instance runs."
        )
    if found.st_mode & 0o077 and os.listdir(path):
        raise _error(
            f"The directory {path!r} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}) and not "
            f"empty. Run `chmod 700 {path}` if it is meant for the instance."
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        os.chmod(path, 0o700)
    if not os.access(path, os.W_OK | os.X_OK):
        raise _error(
            f"The directory {path!r} cannot be written to: it is on a file system that is read-only."
        )


def _error(problem: str) -> Exception:
    from serve_lite.exceptions import (
        InstanceError,
    )  # costs 5 ms, which a keeper that starts well does not need

    return InstanceError(f"{problem} Name another one with SERVE_LITE_HOME.")


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
