"""What a contender must tell: how it is installed, how it is started, and what to ask it.

A contender only describes. Starting, waiting, weighing and stopping are the same for all of them and
live in `server.py` and `processes.py`, so nobody is treated better than another.
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

from benchmarks.asks import ASKS, Ask

#: What is served. `apps/` has them; a contender lists those that it can do.
App = Literal[
    "noop",  # answers `hello`
    "sync",  # the same with a handler that is not async
    "fastapi",  # answers a small JSON object through FastAPI
    "web",  # a Starlette application: JSON, large bodies, streams, WebSockets
    "composed",  # several deployments that call each other
    "grpc",  # answers a string over gRPC
    "batch",  # a model that takes 5 ms, alone or in batches
    "replicas",  # `noop` again, to be given more replicas and neighbours
    "pair",  # `noop` with two replicas
    "busy",  # two replicas of known capacity with a limited queue
    "sleeper",  # without a replica until somebody asks
    "nothing",  # nothing is started
]

#: Which part of a server a process is, for the cost of a request.
Role = Literal["front", "replica", "rest"]

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".venvs"


@dataclass(frozen=True)
class Place:
    """Where one start of a contender may live: its ports, and a directory that is removed afterwards."""

    port: int
    directory: Path
    grpc_port: int = 0


@dataclass(frozen=True)
class Command:
    """A process to start."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)  #: on top of the harness's own

    def popen(self, output: Path, *, cwd: Path = ROOT) -> subprocess.Popen[bytes]:
        with output.open("ab") as log:
            return subprocess.Popen(
                list(self.argv),
                env={**os.environ, "PYTHONPATH": PYTHONPATH, **self.env},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )


#: Where contenders and drivers find the applications, and ours the checkout that is measured.
PYTHONPATH = os.pathsep.join((str(ROOT), str(ROOT / "cli")))


class Contender:
    """One server. Subclasses set the class variables and say how to start it."""

    name: ClassVar[str]  #: for the command line and the raw results
    title: ClassVar[str]  #: for the table
    packages: ClassVar[Sequence[str]] = ()  #: installed by pip into `.venvs/<environment>`
    environment: ClassVar[str]
    shown_versions: ClassVar[Sequence[str]] = ()  #: packages whose versions the report names
    apps: ClassVar[Sequence[App]] = ("noop",)
    why_not: ClassVar[Mapping[App, str]] = {}  #: reasons for applications that it cannot do
    module: ClassVar[str | None] = None  #: what a program imports to use it
    has_handles: ClassVar[bool] = False  #: whether drivers of `drivers/` can call it
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT
    #: What the command line of the process to kill begins with, or its name: of the one that takes connections, and
    #: of a replica. None if nobody would restart it.
    victims: ClassVar[Mapping[str, str] | None] = None

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

    def lacks(self, app: App) -> str | None:
        """Return why this contender does not serve `app`, or None if it does."""
        if app == "nothing" or app in self.apps:
            return None
        return self.why_not.get(app, "it has nothing of the kind")

    def ask(self, name: str) -> Ask:
        """Return what to ask this contender for one of `ASKS`."""
        return ASKS[name]

    def commands(self, app: App, place: Place) -> list[Command]:
        """Return the processes to start, in order. The first answer is timed from the first of them."""
        raise NotImplementedError

    def driver(self, module: str, place: Place, *arguments: str) -> Command:
        """Return the command for a program of `drivers/`, in the contender's own environment."""
        return Command([str(self.python), "-m", f"benchmarks.drivers.{module}", *arguments])

    def role(self, name: str, command: str) -> Role:
        """Return what the process with this name and command line does when a request comes."""
        return "replica"


def system_program(name: str) -> str | None:
    """Return the path of a program of the operating system, `/usr/sbin` included."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def program_version(*argv: str) -> str:
    """Return the first word with a digit that a program prints about itself."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    words = (done.stdout + done.stderr).replace("/", " ").split()
    return next((word for word in words if word[0].isdigit()), "unknown")
