"""A Python for user code: looked at, and where packages are asked for, a virtual environment made from it.

Whichever it is must be able to run a replica: Python 3.11 or newer, with what serve-lite imports. A virtual
environment sees the packages of the interpreter that it is made from, and then the instance's own, behind what is
installed into it; an interpreter of the same version that lacks them is lent the instance's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import serve_lite
from serve_lite.processes import PACKAGE_ROOT
from serve_lite.replica.installing import VENV, install, venv_python
from serve_lite.replica.preparation_error import PreparationError
from serve_lite.state.environment import Interpreter, Packages
from serve_lite.wire.spawning import Prepared

_OLDEST = (3, 11)
_ANSWER_S = 60.0  #: an interpreter that needs longer to start is broken
_BEHIND = "serve_lite_behind.pth"

#: Run by an interpreter of any version; the last line it prints is JSON.
_PROBE = """
import json, sys, sysconfig
stdlib = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
print(json.dumps({"version": list(sys.version_info[:3]), "path": sys.path[:], "stdlib": stdlib}))
"""


class _Seen(msgspec.Struct, frozen=True):
    """What an interpreter tells of itself."""

    version: tuple[int, int, int]
    path: list[str]
    stdlib: list[str]


def prepare_interpreter(wanted: Interpreter, making: Path, final: Path) -> Prepared:
    """Look at the interpreter, and make a virtual environment in `making` that will lie in `final`.

    Raises:
        PreparationError: it cannot run a replica, or packages cannot be installed.
        OSError: something cannot be written.
    """
    python = wanted.python or sys.executable
    seen = _look_at(python)
    is_same = seen.version[:2] == sys.version_info[:2]
    ours = library_of(sys.path, [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")])
    if wanted.packages is None:
        return Prepared(python=python, package_folders=_borrowed(python, seen, ours if is_same else ()))
    install(wanted.packages, python, making, final)
    own = library_of(seen.path, seen.stdlib) if wanted.python else ()
    _put_behind(making, dict.fromkeys((*own, *(ours if is_same else ()))))
    if trouble := _cannot_run(str(venv_python(making))):
        raise PreparationError(
            f"With these packages a replica cannot run: {trouble}. {_remedy(wanted.packages, seen)}"
        )
    return Prepared(python=os.path.join(VENV, "bin", "python"), scripts=os.path.join(VENV, "bin"))


def library_of(path: Sequence[str], stdlib: Sequence[str]) -> tuple[str, ...]:
    """Return the folders of `sys.path` that hold packages, without those of the standard library."""
    standard = {os.path.realpath(folder) for folder in stdlib}
    standard |= {os.path.join(folder, "lib-dynload") for folder in standard}
    return tuple(
        entry
        for entry in dict.fromkeys(os.path.abspath(entry) for entry in path if entry)
        if os.path.isdir(entry) and os.path.realpath(entry) not in standard
    )


def _look_at(python: str) -> _Seen:
    """Return what an interpreter tells of itself.

    Raises:
        PreparationError: it is none, or too old.
    """
    output = _run([python, "-c", _PROBE], f"{python} is no Python interpreter that works")
    try:
        seen = msgspec.json.decode(output.strip().splitlines()[-1], type=_Seen)
    except (IndexError, msgspec.DecodeError) as error:
        raise PreparationError(f"{python} is no Python interpreter: it printed {output[:200]!r}.") from error
    if seen.version[:2] < _OLDEST:
        told = ".".join(map(str, seen.version))
        raise PreparationError(
            f"{python} is Python {told}, and replicas need {'.'.join(map(str, _OLDEST))} or newer."
        )
    return seen


def _borrowed(python: str, seen: _Seen, ours: tuple[str, ...]) -> tuple[str, ...]:
    """Return the folders that the interpreter needs of ours to run a replica; none if it has all itself.

    Raises:
        PreparationError: it cannot run one either way.
    """
    trouble = _cannot_run(python)
    if not trouble:
        return ()
    if ours:
        if not (still := _cannot_run(python, ours)):
            return ours
        raise PreparationError(f"{python} cannot run a replica, even with the instance's packages: {still}.")
    told, here = _minor(seen.version), _minor(sys.version_info)
    raise PreparationError(
        f"{python} cannot run a replica: {trouble}. It is Python {told}, so the packages of this instance, which "
        f"runs on {here}, are of no use to it; install serve-lite there: `{python} -m pip install serve-lite`."
    )


def _remedy(packages: Packages, seen: _Seen) -> str:
    """Return what helps if a replica cannot run with these packages."""
    if seen.version[:2] == sys.version_info[:2]:
        return (
            f"What is listed under {packages.installer} comes before the instance's own packages; name versions that "
            "serve-lite can use, or leave them out."
        )
    told, here = _minor(seen.version), _minor(sys.version_info)
    return (
        f"The interpreter is Python {told}, so the packages of this instance, which runs on {here}, are of no use to "
        f"it; list serve-lite=={serve_lite.__version__} among the packages."
    )


def _minor(version: tuple[Any, ...]) -> str:
    return ".".join(map(str, version[:2]))


def _cannot_run(python: str, library: tuple[str, ...] = ()) -> str:
    """Return why an interpreter cannot run a replica, "" if it can."""
    behind = "".join(f"site.addsitedir({folder!r}); " for folder in library)
    code = (
        f"import sys, site; sys.path.append({PACKAGE_ROOT!r}); {behind}"
        "import serve_lite; import serve_lite.replica.template; print(serve_lite.__version__)"
    )
    try:
        output = _run([python, "-P", "-c", code], "")
    except PreparationError as error:
        return str(error).strip().removeprefix(": ").rstrip(".")
    version = (output.strip().splitlines() or [""])[-1]
    if version != serve_lite.__version__:
        return f"it has serve-lite {version}, and this instance is {serve_lite.__version__}"
    return ""


def _run(command: Sequence[str], failure: str) -> str:
    """Return what a command prints.

    Raises:
        PreparationError: it fails; the message begins with `failure` and ends with the last line of its complaint.
    """
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_S,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
        )
    except OSError as error:
        raise PreparationError(f"{failure}: {error.strerror}.") from error
    except subprocess.TimeoutExpired as error:
        raise PreparationError(f"{failure}: it did not answer within {_ANSWER_S:g} s.") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        raise PreparationError(f"{failure}: {last}.")
    return done.stdout


def _put_behind(making: Path, folders: Sequence[str] | dict[str, None]) -> None:
    """Have a virtual environment look into these folders after its own packages."""
    [site_packages] = (making / VENV / "lib").glob("python*/site-packages")
    lines = [f"import site; site.addsitedir({folder!r})\n" for folder in folders]
    (site_packages / _BEHIND).write_text("".join(lines))
