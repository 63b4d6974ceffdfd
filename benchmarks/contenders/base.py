"""What a contender must tell: how it is installed, how it is started, and what to ask it.

A contender only describes. Starting, waiting, weighing and stopping are the same for all of them and
live in `run.py` and `processes.py`, so no server is treated better than another.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

#: "noop" answers the text `hello`; "fastapi" answers a small JSON object through FastAPI.
App = Literal["noop", "fastapi"]

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".venvs"


@dataclass(frozen=True)
class Ask:
    """One request, and the only answer that counts as right."""

    answer: str | Mapping[str, object]  #: text, or what the body must be as JSON
    path: str = "/"
    method: str = "GET"
    body: str = ""

    def is_right(self, status: int, body: bytes) -> bool:
        if status != 200:
            return False
        if isinstance(self.answer, str):
            return body.decode() == self.answer
        try:
            return bool(json.loads(body) == self.answer)
        except ValueError:
            return False


ASKS: Mapping[App, Ask] = {
    "noop": Ask(answer="hello"),
    "fastapi": Ask(answer={"message": "hello", "number": 42}),
}


@dataclass(frozen=True)
class Place:
    """Where one start of a contender may live: its port, and a directory that is removed afterwards."""

    port: int
    directory: Path


@dataclass(frozen=True)
class Command:
    """A process to start."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)  #: on top of the harness's own

    def popen(self, output: Path, *, cwd: Path = ROOT) -> subprocess.Popen[bytes]:
        with output.open("ab") as log:
            return subprocess.Popen(
                list(self.argv),
                env={**os.environ, "PYTHONPATH": str(ROOT), **self.env},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


class Contender:
    """One server. Subclasses set the class variables and say how to start it."""

    name: ClassVar[str]  #: for the command line and the raw results
    title: ClassVar[str]  #: for the table
    packages: ClassVar[Sequence[str]] = ()  #: installed by pip into `.venvs/<environment>`
    environment: ClassVar[str]
    shown_versions: ClassVar[Sequence[str]] = ()  #: packages whose versions the report names
    apps: ClassVar[Sequence[App]] = ("noop",)
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    @property
    def python(self) -> Path:
        return ENVIRONMENTS / self.environment / "bin" / "python"

    def script(self, name: str) -> str:
        """Return the path of a command that was installed with the contender."""
        return str(self.python.parent / name)

    def missing(self) -> str | None:
        """Return why this contender cannot run here, or None if it can."""
        if not self.python.exists():
            return "not installed; run `make bench-setup`"
        versions = self.versions()
        lacking = [name for name in self.shown_versions if name not in versions]
        if lacking:
            return f"{', '.join(lacking)} not installed; run `make bench-setup`"
        return None

    def setup(self) -> None:
        """Install the contender into its own environment; raises CalledProcessError."""
        if not self.python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(self.python.parent.parent)], check=True)
        install = [str(self.python), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
        subprocess.run([*install, *self.packages], check=True)

    def versions(self) -> dict[str, str]:
        """Return the versions of `shown_versions` and of Python, as the contender's environment has them."""
        code = (
            "import importlib.metadata as m, json, platform, sys\n"
            "found = {'python': platform.python_version()}\n"
            "for name in sys.argv[1:]:\n"
            "    try: found[name] = m.version(name)\n"
            "    except m.PackageNotFoundError: pass\n"
            "print(json.dumps(found))\n"
        )
        command = [str(self.python), "-c", code, *self.shown_versions]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return {str(name): str(version) for name, version in found.items()}

    def ask(self, app: App) -> Ask:
        return ASKS[app]

    def commands(self, app: App, place: Place) -> list[Command]:
        """Return the processes to start, in order. The first answer is timed from the first of them."""
        raise NotImplementedError

    def handle_driver(self, place: Place) -> Command | None:
        """Return the command that measures calls through a handle, or None if there are no handles."""
        return None


def system_program(name: str) -> str | None:
    """Return the path of a program of the operating system, `/usr/sbin` included."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def program_version(*argv: str) -> str:
    """Return the first word with a digit that a program prints about itself."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    words = (done.stdout + done.stderr).replace("/", " ").split()
    return next((word for word in words if word[0].isdigit()), "unknown")
