"""Take the rounds: every contender once, then every contender again, so that drift hits all alike.

Within a round each contender is started afresh (timed to its first right answer), checked, weighed while
idle, warmed up and loaded at each number of connections, called through a handle, and stopped. A second
start serves the FastAPI application. Whatever fails is kept as an error in the results and shown.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import load, machine, processes
from benchmarks.contenders.base import App, Ask, Contender, Place
from benchmarks.contenders.mosec import Mosec
from benchmarks.contenders.nginx_uvicorn import NginxUvicorn
from benchmarks.contenders.ray_serve import RayServe, RayServeAtItsBest
from benchmarks.contenders.serve_lite import ServeLite
from benchmarks.contenders.uvicorn_plain import UvicornPlain

CONTENDERS: Sequence[Contender] = (
    ServeLite(),
    RayServe(),
    RayServeAtItsBest(),
    Mosec(),
    UvicornPlain(),
    NginxUvicorn(),
)

RESULTS = Path(__file__).parent / "results"

Sample = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How long and how often. Kept with the results."""

    rounds: int = 5
    seconds: float = 5.0  #: of load for each number of connections
    warm_up_s: float = 2.0
    settle_s: float = 3.0  #: from the first answer to the weighing
    idle_s: float = 3.0  #: for which the idle processor use is watched
    connections: tuple[int, ...] = (1, 16, 64)
    start_limit_s: float = 90.0
    stop_limit_s: float = 30.0
    check_requests: int = 20


QUICK = Settings(rounds=1, seconds=1.0, warm_up_s=1.0, settle_s=1.0, idle_s=1.0, connections=(1, 16))


class BenchmarkError(Exception):
    """A contender did not start, answered wrongly, or refused to be measured."""


def run(contenders: Sequence[Contender], settings: Settings) -> dict[str, Any]:
    """Measure the contenders that are installed and return everything that was seen."""
    processes.become_subreaper()
    present, absent = [], {}
    for contender in contenders:
        if reason := contender.missing():
            absent[contender.name] = reason
            print(f"skipped: {contender.title}: {reason}")
        else:
            present.append(contender)

    results: dict[str, Any] = {
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "load_average_before": machine.load_average(),
        "settings": asdict(settings),
        "titles": {c.name: c.title for c in contenders},
        "versions": {c.name: c.versions() for c in present},
        "absent": absent,
        "samples": [],
    }
    for number in range(1, settings.rounds + 1):
        for contender in present:
            for app in contender.apps:
                print(f"round {number}/{settings.rounds}: {contender.title}: {app} ... ", end="", flush=True)
                sample = {"contender": contender.name, "app": app, "round": number}
                sample |= measure(contender, app, settings)
                results["samples"].append(sample)
                print(_one_line(sample))
    return results


def measure(contender: Contender, app: App, settings: Settings) -> Sample:
    """Start one contender, take every measure of it, and stop it. A failure is part of the sample."""
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    place = Place(port=free_port(), directory=directory)
    output = directory / "output.log"
    started: list[subprocess.Popen[bytes]] = []
    sample: Sample = {}
    try:
        clock = time.perf_counter()
        started += [command.popen(output) for command in contender.commands(app, place)]
        wait_for_answer(place.port, contender.ask(app), started, settings.start_limit_s)
        sample["start_s"] = time.perf_counter() - clock
        _measure_running(contender, app, place, settings, sample)
    except (BenchmarkError, OSError, subprocess.SubprocessError, ValueError) as error:
        sample["error"] = f"{error} Last output:\n{_tail(output)}"
    finally:
        sample["killed_at_stop"] = processes.stop(
            started, with_signal=contender.stop_signal, grace_s=settings.stop_limit_s
        )
        shutil.rmtree(directory, ignore_errors=True)
    return sample


def _measure_running(
    contender: Contender, app: App, place: Place, settings: Settings, sample: Sample
) -> None:
    ask = contender.ask(app)
    for _ in range(settings.check_requests):
        status, body = _request(place.port, ask)
        if not ask.is_right(status, body):
            raise BenchmarkError(f"Wrong answer: status {status}, body {body[:200]!r}.")

    if app == "noop":
        time.sleep(settings.settle_s)
        sample["idle"] = processes.weigh(over_s=settings.idle_s).as_dict()

    sample["http"] = {}
    for connections in settings.connections if app == "noop" else settings.connections[-1:]:
        load.run(
            place.port, ask, connections=connections, seconds=settings.warm_up_s, scratch=place.directory
        )
        seen = load.run(
            place.port, ask, connections=connections, seconds=settings.seconds, scratch=place.directory
        )
        sample["http"][str(connections)] = seen.as_dict()

    driver = contender.handle_driver(place)
    if app == "noop" and driver is not None:
        errors = place.directory / "driver.log"
        process = driver.popen(errors)
        code = process.wait(timeout=settings.start_limit_s)
        lines = errors.read_text(errors="replace").strip().splitlines()
        if code != 0:
            raise BenchmarkError(f"The handle driver failed: {' | '.join(lines[-5:])}.")
        sample["handle"] = json.loads(next(line for line in reversed(lines) if line.startswith("{")))


def wait_for_answer(port: int, ask: Ask, started: Sequence[subprocess.Popen[bytes]], limit_s: float) -> None:
    """Return at the first right answer. Asks every 5 ms, one new connection each time."""
    deadline = time.monotonic() + limit_s
    last = "nothing listened"
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in started):
            raise BenchmarkError("It ended before it answered.")
        try:
            status, body = _request(port, ask)
        except (OSError, http.client.HTTPException) as error:
            last = repr(error)
        else:
            if ask.is_right(status, body):
                return
            last = f"status {status}, body {body[:200]!r}"
        time.sleep(0.005)
    raise BenchmarkError(f"No right answer within {limit_s} s; the last try: {last}.")


def _request(port: int, ask: Ask) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"Content-Type": "application/json"} if ask.body else {}
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
    if not output.exists():
        return "(none)"
    return "\n".join(output.read_text(errors="replace").splitlines()[-lines:])


def _one_line(sample: Sample) -> str:
    if "error" in sample:
        return f"FAILED: {sample['error'].splitlines()[0]}"
    words = [f"start {sample['start_s']:.2f} s"]
    if idle := sample.get("idle"):
        words.append(f"{idle['pss_mb']:.0f} MB in {idle['processes']}")
    for connections, seen in sample["http"].items():
        words.append(f"c{connections} {seen['requests_per_s']:,.0f}/s")
    if handle := sample.get("handle"):
        words.append(f"handle {handle['p50_ms']:.2f} ms")
    return ", ".join(words)
