"""What clients see of a kill -9 under load: `python -m benchmarks.recovery [NAME ...] [--quick]`.

The no-op application with two replicas is asked by clients that keep their connection and by clients that make a new
one for each request. Then one process is killed: first the one that accepts requests (the proxy; with serve-lite that
is the daemon, which is controller as well), later one replica. Counted from the kill until all has been well for some
seconds: requests that were not answered with 200, connections that were refused, and the longest time in which nobody
got an answer.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
import uvloop

from benchmarks import machine, processes
from benchmarks.contenders.base import Ask, Contender, Place
from benchmarks.contenders.ray_serve import RayServe, RayServeAtItsBest
from benchmarks.contenders.serve_lite import ServeLite
from benchmarks.run import RESULTS, BenchmarkError, free_port, wait_for_answer

CONFIG = """\
http_options: {{host: 127.0.0.1, port: {port}}}
applications:
  - name: default
    route_prefix: /
    import_path: benchmarks.apps.serve:noop
    deployments: [{{name: Noop, num_replicas: 2}}]
"""

#: By contender and victim, what the command line of the process to kill begins with, or has in it.
VICTIMS = {
    "serve-lite": {"proxy": "serve-lite: daemon", "replica": "serve-lite: replica default/Noop"},
    "ray": {"proxy": "ray::ProxyActor", "replica": "ray::ServeReplica:default:Noop"},
    "ray-best": {"proxy": "haproxy", "replica": "ray::ServeReplica:default:Noop"},
}

CLIENTS = 4  #: of each kind
GIVE_UP_S = 60.0  #: for a request, and for all to be well again
AFTER_REFUSAL_S = 0.01  #: so that clients who are refused leave the processor to those who recover


@dataclass(frozen=True)
class Settings:
    """How long, and how often. The median of the rounds is shown."""

    rounds: int = 3
    before_s: float = 3.0
    well_s: float = 5.0  #: without a failure, and all has recovered


QUICK = Settings(rounds=1, before_s=1.0, well_s=2.0)


@dataclass
class Seen:
    """What clients saw. Times are those of `time.perf_counter`."""

    answered_at: list[float] = field(default_factory=list)
    failed_at: list[tuple[float, str]] = field(default_factory=list)

    def after(self, moment: float) -> Seen:
        """Return what was seen from then on; the answer before it is kept, because a gap may begin with it."""
        begin = max((i for i, at in enumerate(self.answered_at) if at <= moment), default=0)
        return Seen(self.answered_at[begin:], [entry for entry in self.failed_at if entry[0] >= moment])

    def longest_gap_s(self) -> float:
        pairs = zip(self.answered_at, self.answered_at[1:], strict=False)
        return max((later - earlier for earlier, later in pairs), default=0.0)

    def causes(self) -> Counter[str]:
        return Counter(cause for _, cause in self.failed_at)


class Clients:
    """Clients that ask until told to stop."""

    def __init__(self, port: int) -> None:
        self.seen = Seen()
        self._port = port
        self._is_over = False

    async def ask(self, *, keeps: bool) -> None:
        """Ask again and again, on one connection while it lasts or on a new one each time."""
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._is_over:
            try:
                async with asyncio.timeout(GIVE_UP_S):
                    if streams is None:
                        streams = await asyncio.open_connection("127.0.0.1", self._port)
                    status, closes = await _exchange(*streams, keeps=keeps)
            except ConnectionRefusedError:
                await self._fail("refused")
                continue
            except TimeoutError:
                await self._fail("no answer")
                status, closes = 0, True
            except (OSError, EOFError):
                await self._fail("broken")
                status, closes = 0, True
            if status == 200:
                self.seen.answered_at.append(time.perf_counter())
            elif status:
                await self._fail(f"status {status}")
            if streams is not None and (closes or not keeps):
                streams[1].close()
                streams = None
        if streams is not None:
            streams[1].close()

    async def _fail(self, cause: str) -> None:
        self.seen.failed_at.append((time.perf_counter(), cause))
        await asyncio.sleep(AFTER_REFUSAL_S)

    def stop(self) -> None:
        self._is_over = True


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, keeps: bool
) -> tuple[int, bool]:
    """Make one request; return the status and whether the server closes the connection."""
    connection = "keep-alive" if keeps else "close"
    writer.write(f"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: {connection}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    _, found, rest = head.partition(b"content-length:")
    if found:
        await reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
    else:  # the end of the connection is the end of the answer
        await reader.read()
    return status, b"connection: close" in head or not found


async def kill_under_load(port: int, victim: str, settings: Settings) -> Seen:
    """Kill one process whose command line fits `victim`; return what was seen from then until all was well."""
    clients = Clients(port)
    tasks = [asyncio.create_task(clients.ask(keeps=i % 2 == 0)) for i in range(2 * CLIENTS)]
    try:
        await asyncio.sleep(settings.before_s)
        if clients.seen.failed_at or not clients.seen.answered_at:
            raise BenchmarkError(f"Requests failed before the kill: {clients.seen.causes()}.")
        pid = _find(victim)
        killed_at = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        while not _is_well(clients.seen, killed_at, settings.well_s):
            if time.perf_counter() - killed_at > GIVE_UP_S + settings.well_s:
                raise BenchmarkError(f"{GIVE_UP_S:.0f} s after the kill not all is well again.")
            await asyncio.sleep(0.05)
        return clients.seen.after(killed_at)
    finally:
        clients.stop()
        await asyncio.wait(tasks, timeout=GIVE_UP_S)


def _is_well(seen: Seen, killed_at: float, well_s: float) -> bool:
    """Whether answers came, and only answers, in the last seconds."""
    now = time.perf_counter()
    last_failure = max((at for at, _ in seen.failed_at), default=killed_at)
    is_answered = bool(seen.answered_at) and now - seen.answered_at[-1] < 1.0
    first_after = next((at for at in reversed(seen.answered_at) if at < now - well_s), 0.0)
    return is_answered and now - last_failure > well_s and first_after > killed_at


def _find(victim: str) -> int:
    """Return the youngest of the processes that fit: an older one may be the parent that watches it."""
    found: list[psutil.Process] = []
    for process in processes.descendants():
        try:
            command = " ".join(process.cmdline())
            name = process.name()
        except psutil.NoSuchProcess:
            continue
        if command.startswith(victim) or name == victim:
            found.append(process)
    if not found:
        raise BenchmarkError(f"There is no process {victim!r}.")
    return max(found, key=lambda process: process.create_time()).pid


def measure(contender: Contender, settings: Settings) -> dict[str, Seen | str]:
    """Start one contender, kill its proxy and then a replica, stop it. A failure is told as text."""
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    place = Place(port=free_port(), directory=directory)
    config = directory / "serve.yaml"
    started: list[subprocess.Popen[bytes]] = []
    seen: dict[str, Seen | str] = {}
    try:
        commands = contender.commands("noop", place)
        config.write_text(CONFIG.format(port=place.port))  # the same file, with two replicas
        started += [command.popen(directory / "output.log") for command in commands]
        wait_for_answer(place.port, Ask(answer="hello"), started, 90.0)
        for victim, title in VICTIMS[contender.name].items():
            try:
                seen[victim] = uvloop.run(kill_under_load(place.port, title, settings))
            except BenchmarkError as error:
                seen[victim] = str(error)
    except (BenchmarkError, OSError) as error:
        seen = dict.fromkeys(VICTIMS[contender.name], f"It did not start: {error}")
    finally:
        processes.stop(started, with_signal=contender.stop_signal, grace_s=30.0)
        shutil.rmtree(directory, ignore_errors=True)
    return seen


HEAD = "| | killed | not answered | refused | by cause | longest gap without an answer |"


def line(title: str, victim: str, rounds: Sequence[Seen | str]) -> str:
    """Return one line of the table: medians, and every cause with the number of all rounds."""
    good = [seen for seen in rounds if isinstance(seen, Seen)]
    bad = [" ".join(seen.split())[:200] for seen in rounds if isinstance(seen, str)]
    if not good:
        return f"| {title} | {victim} | - | - | {bad[0] if bad else 'not measured'} | - |"
    causes: Counter[str] = sum((seen.causes() for seen in good), Counter())
    told = [f"{count} {cause}" for cause, count in causes.most_common()] + bad
    cells = (
        title,
        victim,
        f"{statistics.median(len(seen.failed_at) for seen in good):g}",
        f"{statistics.median(seen.causes()['refused'] for seen in good):g}",
        ", ".join(told) or "-",
        f"{statistics.median(seen.longest_gap_s() for seen in good):.2f} s",
    )
    return "| " + " | ".join(cells) + " |"


def page(lines: Iterable[str], settings: Settings, load_before: float) -> str:
    """Return the results as a page that says how and where they were taken."""
    about = [f"- {name}: {text}" for name, text in machine.describe().items() if name != "load"]
    return "\n".join(
        [
            "# A kill -9 under load",
            "",
            f"Taken {datetime.now(UTC):%Y-%m-%d} with `python -m benchmarks.recovery`.",
            f"Medians of {settings.rounds} rounds,"
            " but for the causes, which are those of all rounds together.",
            f"{2 * CLIENTS} clients, half of which make a connection for each request; two replicas.",
            f"Load average before: {load_before:.1f}.",
            "",
            *about,
            "",
            HEAD,
            "|---" * (HEAD.count("|") - 1) + "|",
            *lines,
            "",
        ]
    )


def main() -> None:
    """Measure those contenders that are installed, in turns; print the table and write it down."""
    known: list[Contender] = [ServeLite(), RayServe(), RayServeAtItsBest()]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*[c.name for c in known], []], metavar="name")
    parser.add_argument("--quick", action="store_true", help="one short round; nothing is written down")
    arguments = parser.parse_args()
    settings = QUICK if arguments.quick else Settings()
    processes.become_subreaper()
    present = [c for c in known if not arguments.names or c.name in arguments.names]
    for contender in present:
        if reason := contender.missing():
            print(f"skipped: {contender.title}: {reason}")
    present = [c for c in present if not c.missing()]
    load_before = machine.load_average()
    rounds: dict[tuple[str, str], list[Seen | str]] = {}
    for number in range(1, settings.rounds + 1):
        for contender in present:
            print(f"round {number}/{settings.rounds}: {contender.title}", flush=True)
            for victim, seen in measure(contender, settings).items():
                rounds.setdefault((contender.title, victim), []).append(seen)
    text = page([line(*key, seen) for key, seen in rounds.items()], settings, load_before)
    print(text)
    if not arguments.quick:
        (RESULTS / "recovery.md").write_text(text)


if __name__ == "__main__":
    main()
