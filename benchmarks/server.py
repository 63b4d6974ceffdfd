"""One contender, started with one application: asked, loaded, weighed, driven, and stopped with all it started."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks import processes
from benchmarks.asks import Ask
from benchmarks.contenders.base import App, Command, Contender, Place, Role
from benchmarks.loads import http as http_load
from benchmarks.loads.http import Load
from benchmarks.settings import Settings

#: What shows that an application is up, where it is not `Ask(answer="hello")` for `/`.
READY: Mapping[App, str] = {"fastapi": "fastapi", "busy": "busy", "batch": "single"}
_ASK_EVERY_S = 0.005


class BenchmarkError(Exception):
    """A contender did not start, answered wrongly, or refused to be measured."""


class Server:
    """A contender that runs. Rows measure it.

    Lifetime: `started` opens and closes it. Rows of one application share it.
    """

    def __init__(self, contender: Contender, app: App, place: Place, settings: Settings) -> None:
        self.contender = contender
        self.app = app
        self.place = place
        self.settings = settings
        self.start_s = 0.0  #: from the start command to the first right answer
        self.notes: list[str] = []  #: what a reader of the results should know; rows add to it

    # --- asking -----------------------------------------------------------------------------------

    def check(self, ask: Ask) -> None:
        """Ask a few times; raises BenchmarkError if one answer is not right."""
        for _ in range(self.settings.check_requests):
            status, body = request(self.place.port, ask, timeout_s=60.0)
            if not ask.is_right(status, body):
                raise BenchmarkError(f"{ask.path}: wrong answer: status {status}, body {body[:200]!r}.")

    def load(self, name: str, *, connections: int) -> Load:
        """Check one of `ASKS`, warm up, and load with it. Failed requests become a note."""
        ask = self.contender.ask(name)
        self.check(ask)
        self._load(ask, connections, self.settings.warm_up_s)
        return self.load_unchecked(name, connections=connections)

    def load_unchecked(self, name: str, *, connections: int) -> Load:
        """Load at once: for what has been checked and is warm. Failed requests become a note."""
        seen = self._load(self.contender.ask(name), connections, self.settings.seconds)
        if seen.errors:
            self.notes.append(f"{name}, {connections} connections: {seen.errors} of {seen.requests} failed")
        if seen.requests <= seen.errors:
            raise BenchmarkError(f"{name}, {connections} connections: no right answer at all.")
        return seen

    def _load(self, ask: Ask, connections: int, seconds: float) -> Load:
        return http_load.run(
            self.place.port, ask, connections=connections, seconds=seconds, scratch=self.place.directory
        )

    def read_json(self, path: str, *, timeout_s: float) -> dict[str, float]:
        """Return the numbers that a path of the application answers."""
        status, body = request(self.place.port, Ask(answer="", path=path), timeout_s=timeout_s)
        if status != 200:
            raise BenchmarkError(f"{path}: status {status}: {body[:300]!r}.")
        return {str(name): float(value) for name, value in json.loads(body).items()}

    # --- its processes ----------------------------------------------------------------------------

    def drive(self, command: Command) -> dict[str, Any]:
        """Run a driver to its end and return the JSON object that it prints last."""
        output = self.place.directory / "driver.log"
        output.unlink(missing_ok=True)
        process = command.popen(output)
        try:
            code = process.wait(timeout=self.settings.wait_limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise BenchmarkError(f"A driver did not end: {' '.join(command.argv[2:])}.") from None
        lines = output.read_text(errors="replace").strip().splitlines()
        told = next((line for line in reversed(lines) if line.startswith("{")), None)
        if code != 0 or told is None:
            raise BenchmarkError(f"The driver {command.argv[2]} failed: {' | '.join(lines[-4:])}.")
        found: dict[str, Any] = json.loads(told)
        return found

    def driver(self, module: str, *arguments: str) -> dict[str, Any]:
        """Run a program of `drivers/` against this server and return what it has measured."""
        return self.drive(self.contender.driver(module, self.place, *arguments))

    def cpu_s(self) -> dict[Role, float]:
        """Return the processor time that the parts of the server have used so far, in seconds."""
        used: dict[Role, float] = {"front": 0.0, "replica": 0.0, "rest": 0.0}
        for process in processes.descendants():
            try:
                role = self.contender.role(process.name(), " ".join(process.cmdline()))
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used[role] += times.user + times.system
        return used


@contextmanager
def started(contender: Contender, app: App, settings: Settings) -> Iterator[Server]:
    """Start a contender in a directory of its own and yield it once it has answered right; then stop it.

    Raises:
        BenchmarkError: it did not start; with the last lines that it wrote.
    """
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    place = Place(port=free_port(), directory=directory, grpc_port=free_port())
    server = Server(contender, app, place, settings)
    output = directory / "output.log"
    begun: list[subprocess.Popen[bytes]] = []
    try:
        if app != "nothing":
            clock = time.perf_counter()
            begun += [command.popen(output) for command in contender.commands(app, place)]
            try:
                wait_for_answer(server, begun)
            except BenchmarkError as error:
                raise BenchmarkError(f"{error} {_tail(output)}") from None
            server.start_s = time.perf_counter() - clock
        yield server
    finally:
        killed = processes.stop(begun, with_signal=contender.stop_signal, grace_s=settings.stop_limit_s)
        if killed:
            limit = f"{settings.stop_limit_s:g} s"
            server.notes.append(f"did not stop within {limit}; {len(killed)} of its processes were killed")
        shutil.rmtree(directory, ignore_errors=True)


def wait_for_answer(server: Server, begun: Sequence[subprocess.Popen[bytes]]) -> None:
    """Return at the first right answer. Asks every 5 ms, one new connection each time."""
    limit_s = server.settings.start_limit_s
    deadline = time.monotonic() + limit_s
    last = "nothing listened"
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in begun):
            raise BenchmarkError("It ended before it answered.")
        try:
            last = _try(server)
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        if not last:
            return
        time.sleep(_ASK_EVERY_S)
    raise BenchmarkError(f"No right answer within {limit_s:g} s; the last try: {last}.")


def _try(server: Server) -> str:
    """Return what is still wrong, or nothing if the server is ready."""
    if server.app == "grpc" and not server.contender.has_handles:
        with socket.create_connection(("127.0.0.1", server.place.grpc_port), timeout=1):
            return ""  # its client waits until calls are answered
    ask = server.contender.ask(READY.get(server.app, "noop"))
    if server.app == "sleeper":
        status, body = request(server.place.port, Ask(answer=""), timeout_s=60.0)
        return "" if status == 200 else f"status {status}, body {body[:200]!r}"
    status, body = request(server.place.port, ask, timeout_s=10.0)
    return "" if ask.is_right(status, body) else f"status {status}, body {body[:200]!r}"


def request(port: int, ask: Ask, *, timeout_s: float) -> tuple[int, bytes]:
    """Make one request on a connection of its own; return the status and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        headers = {"Content-Type": ask.content_type} if ask.body else {}
        connection.request(ask.method, ask.path, body=ask.body or None, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_port() -> int:
    """Return a port that the kernel says is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(output: Path, lines: int = 15) -> str:
    """Return the last line that was written, and below it those before it: reports show the first line."""
    told = output.read_text(errors="replace").split("\n") if output.exists() else []
    told = [line for line in told if line.strip()]
    if not told:
        return "It wrote nothing."
    return "\n".join((f"It wrote last: {told[-1].strip()}", *told[-lines:]))
