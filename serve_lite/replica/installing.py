"""Installing packages into a new virtual environment, with pip or uv, as their users know them.

Nothing that is installed elsewhere is seen while installing, so the same list gives the same packages whatever the
instance has. pip may be anybody's: it is run from outside (`pip --python`), or comes with the interpreter.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from serve_lite.replica.preparation_error import PreparationError
from serve_lite.state.environment import Packages, without_credentials

VENV = "venv"  #: folder of the environment in its part's

_LAST_LINES = 15  #: of an installer's output that are told when it fails
_FIRST_PIP_FROM_OUTSIDE = (22, 3)  #: the release that learned --python

#: Variables that would have another interpreter, or another place, used than is meant.
_MISLEADING = re.compile(
    "PYTHON|VIRTUAL_ENV|CONDA_PREFIX|PIP_(USER|TARGET|PREFIX|ROOT|PYTHON|REQUIRE_VIRTUALENV)$|"
    "UV_(PYTHON|SYSTEM_PYTHON|PROJECT|PROJECT_ENVIRONMENT)$"
)


def install(packages: Packages, python: str, making: Path, final: Path) -> None:
    """Make a virtual environment of `python` in `making`, with the packages, that works once it is in `final`.

    Raises:
        PreparationError: it cannot be made, or a package cannot be installed; ends with the installer's last lines.
    """
    env = {k: v for k, v in os.environ.items() if not _MISLEADING.match(k)} | dict(packages.variables)
    env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_USER": "0", "PYTHONSAFEPATH": "1"}
    lists = making / "lists"
    lists.mkdir(mode=0o700)
    arguments = [*_file_option(lists, "-r", "requirements.txt", packages.requirements)]
    arguments += _file_option(lists, "-c", "constraints.txt", packages.constraints)

    def run(command: Sequence[str], failure: str) -> None:
        _run(command, failure, env, cwd=lists)

    run(
        [python, "-m", "venv", "--without-pip", str(making / VENV)],
        f"{python} cannot make a virtual environment",
    )
    if packages.installer == "pip":
        pip = _pip(packages, making, run)
        run([*pip, "install", *packages.options, *arguments], "pip could not install the packages")
        if packages.is_checked:
            run([*pip, "check"], "pip finds that the packages do not go together")
    else:
        uv, there = _uv(packages, making, run), ["--python", str(venv_python(making))]
        run(
            [*uv, "pip", "install", *there, *packages.options, *arguments],
            "uv could not install the packages",
        )
        if packages.is_checked:
            run([*uv, "pip", "check", *there], "uv finds that the packages do not go together")
    shutil.rmtree(lists)
    _tell_new_place(making / VENV, final / VENV)


def venv_python(folder: Path) -> Path:
    """Return the interpreter of the environment in a part's folder."""
    return folder / VENV / "bin" / "python"


def _pip(packages: Packages, making: Path, run: Callable[[Sequence[str], str], None]) -> list[str]:
    """Return the command that is pip for the new environment."""
    python = str(venv_python(making))
    inside = [python, "-m", "pip"]
    outside = [sys.executable, "-m", "pip", "--python", python]
    if not _has_pip_for_others():
        run([python, "-m", "ensurepip"], f"There is no pip, and {python} has no ensurepip to get it from")
        outside = inside
    if packages.version:
        wanted = f"pip{packages.version}"
        run(
            [*outside, "install", *packages.options, wanted], f"{wanted} (pip_version) could not be installed"
        )
        return inside
    return outside


def _uv(packages: Packages, making: Path, run: Callable[[Sequence[str], str], None]) -> list[str]:
    """Return the command that is uv."""
    if program := shutil.which("uv"):
        uv = [program]
    elif importlib.util.find_spec("uv") is not None:
        uv = [sys.executable, "-m", "uv"]
    else:
        raise PreparationError(
            "The runtime_env has packages under uv, and the program uv is neither on the PATH of the instance nor "
            f"installed beside it. Get it with `{sys.executable} -m pip install uv`, or list the packages under pip."
        )
    if packages.version:
        wanted, python = f"uv{packages.version}", str(venv_python(making))
        run(
            [*uv, "pip", "install", "--python", python, *packages.options, wanted],
            f"{wanted} (uv_version) could not be installed",
        )
        return [str(making / VENV / "bin" / "uv")]
    return uv


def _has_pip_for_others() -> bool:
    try:
        numbers = re.findall(r"\d+", version("pip"))
    except PackageNotFoundError:
        return False
    return tuple(map(int, numbers[:2])) >= _FIRST_PIP_FROM_OUTSIDE


def _file_option(folder: Path, option: str, name: str, lines: Sequence[str]) -> list[str]:
    """Return the words that make an installer read `lines` from a file; they are not for all eyes, as words are."""
    if not lines:
        return []
    file = folder / name
    file.write_text("\n".join(lines) + "\n")
    return [option, str(file)]


def _run(command: Sequence[str], failure: str, env: Mapping[str, str], cwd: Path) -> None:
    """Run a command; its output goes into the log.

    Raises:
        PreparationError: it fails; the message begins with `failure` and ends with its last lines.
    """
    last: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        with subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:  # ends with the process; who needs it may be patient or cancel
                line = without_credentials(line.rstrip())
                print(line, flush=True)  # noqa: T201  # our output is the log
                last.append(line)
    except OSError as error:
        raise PreparationError(f"{failure}: {command[0]}: {error.strerror}.") from error
    if process.returncode != 0:
        said = "\n".join(last)
        raise PreparationError(
            f"{failure} (exit status {process.returncode}); its last lines:\n{said}".rstrip()
        )


def _tell_new_place(made: Path, final: Path) -> None:
    """Replace the path of an environment in its scripts by the one that it is going to have."""
    old, new = os.fsencode(made), os.fsencode(final)
    for file in [made / "pyvenv.cfg", *(made / "bin").iterdir()]:
        if file.is_symlink() or not file.is_file():
            continue
        content = file.read_bytes()
        if old not in content or b"\0" in content:
            continue
        # A new file: the old one may be a link to the installer's cache.
        changed = file.with_name(file.name + ".new")
        changed.write_bytes(content.replace(old, new))
        shutil.copymode(file, changed)
        changed.replace(file)
