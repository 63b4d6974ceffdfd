"""`serve logs`: what replicas print, of all of them in one."""

from __future__ import annotations

import heapq
import json
import os
import re
import select
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer

from serve_lite.exceptions import InstanceError, RayServeException
from serve_lite_cli.address import control_plane
from serve_lite_cli.flags import AddressOption
from serve_lite_cli.follow import LogFollower
from serve_lite_cli.rest import APPLICATIONS, RestClient

#: How long to wait for new output where the system cannot tell (no inotify).
LOOK_EVERY_S = 0.25


#: When a line was written: near its beginning, as our own text and JSON formats have it, and most others.
TIME = re.compile(r"^.{0,40}?(?P<day>\d{4}-\d\d-\d\d)[ T](?P<time>\d\d:\d\d:\d\d)")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One replica and the file with its output."""

    app: str
    deployment: str
    replica: str
    path: str

    @property
    def label(self) -> str:
        """How its lines are marked, as `serve run` marks them."""
        return f"{self.app}/{self.deployment} {self.replica}"


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Whose output is wanted; "" means everyone's."""

    app: str = ""
    deployment: str = ""
    replica: str = ""

    def takes(self, source: Source) -> bool:
        """Whether a replica's output is wanted."""
        pairs = (
            (self.app, source.app),
            (self.deployment, source.deployment),
            (self.replica, source.replica),
        )
        return all(wanted in ("", given) for wanted, given in pairs)


class Sources:
    """The replicas that an instance tells of and whose output is wanted, as far as it has been asked."""

    def __init__(self, client: RestClient, wanted: Filter) -> None:
        self._client, self._wanted = client, wanted
        self.by_label: dict[str, Source] = {}

    def ask(self) -> dict[str, Any]:
        """Ask the instance, and return its answer.

        Raises:
            InstanceError: it cannot be asked.
        """
        details = self._client.get(APPLICATIONS)
        found = (source for source in sources_in(details) if self._wanted.takes(source))
        self.by_label |= {source.label: source for source in found}
        return details

    def labels(self) -> Mapping[str, str]:
        """Ask again; return labels by the names of log files.

        Raises:
            InstanceError: the instance cannot be asked.
        """
        self.ask()
        return {os.path.basename(source.path): label for label, source in self.by_label.items()}


def command(
    address: AddressOption = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is printed from now on.")
    ] = False,
    app: Annotated[str, typer.Option("--app", help="Only of this application.")] = "",
    deployment: Annotated[str, typer.Option("--deployment", help="Only of this deployment.")] = "",
    replica: Annotated[
        str, typer.Option("--replica", help="Only of this replica: the id in `status --json`.")
    ] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Last lines of each replica.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each line.")] = False,
) -> None:
    """Print what replicas have printed, those that died lately too. Each line says whose it is.

    With --follow, replicas and applications that come later are followed too.

    With --json: an object on each line, {"app", "deployment", "replica", "time", "line"}; "time" is the time at the
    beginning of the line as it was written, null where there is none.

    Logs are files of the machine that the instance runs on; elsewhere there is nothing to read.
    """
    sources = Sources(control_plane(address), Filter(app=app, deployment=deployment, replica=replica))
    details = sources.ask()
    if app and app not in details["applications"]:
        raise RayServeException(f'Application "{app}" does not exist.')
    if not sources.by_label and (deployment or replica):
        raise RayServeException("No replica fits what was asked for; `serve status --json` lists them.")
    folder = os.path.dirname(details["controller_info"]["log_file_path"] or "")
    if not os.path.isdir(folder):
        raise InstanceError(
            f"The logs are in {folder!r} on the machine of the instance, which is another one."
        )

    def show(label: str, line: str) -> None:
        print(
            json.dumps(as_object(sources.by_label[label], line)) if as_json else f"({label}) {line}",
            flush=True,
        )

    # Made before the past is read, so that no line is lost in between.
    follower = LogFollower(folder, (), show, labels=sources.labels) if follow else None
    try:
        for label, line in merged(list(sources.by_label.values()), lines, follower):
            show(label, line)
        if follower is not None:
            follow_until_interrupted(follower)
    finally:
        if follower is not None:
            follower.close()


def as_object(source: Source, line: str) -> dict[str, str | None]:
    """Return a line for programs."""
    found = TIME.search(line)
    at = f"{found['day']}T{found['time']}" if found else None
    return {
        "app": source.app,
        "deployment": source.deployment,
        "replica": source.replica,
        "time": at,
        "line": line,
    }


def sources_in(details: dict[str, Any]) -> Iterator[Source]:
    """Return the replicas that the instance tells of, the dead ones of each deployment first."""
    for name, app in details["applications"].items():
        for deployment, one in app["deployments"].items():
            for replica in (*one["recent_dead_replicas"], *one["replicas"]):
                if replica["log_file_path"]:
                    yield Source(
                        app=name,
                        deployment=deployment,
                        replica=replica["replica_id"],
                        path=replica["log_file_path"],
                    )


def merged(
    sources: Sequence[Source], count: int, follower: LogFollower | None = None
) -> Iterator[tuple[str, str]]:
    """Return the last lines of each replica with its label, in the order of their times.

    What `follower` is going to show is left to it.

    A line without a time stays behind the one before it. Times are compared as they are written, so replicas that
    write them in different zones are not in order.
    """
    streams = []
    for source in sources:
        end = None if follower is None else follower.start_of(os.path.basename(source.path))
        lines = last_lines(source.path, count, end)
        streams.append([(at, source.label, line) for at, line in timed(lines)])
    for _, label, line in heapq.merge(*streams, key=lambda entry: entry[0]):
        yield label, line


def timed(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Return each line with its time, never earlier than that of the line before it; "" while there is none."""
    latest = ""
    for line in lines:
        found = TIME.search(line)
        if found:
            latest = max(latest, f"{found['day']} {found['time']}")
        yield latest, line


def last_lines(path: str, count: int, end: int | None = None) -> list[str]:
    """Return the last lines of a file, or of its first `end` bytes; none if it is gone."""
    try:
        with Path(path).open("rb") as log:
            lines = deque(log if end is None else _until(log, end), count)
    except FileNotFoundError:
        return []
    return [line.decode(errors="replace").rstrip("\r\n") for line in lines]


def _until(log: BinaryIO, end: int) -> Iterator[bytes]:
    """Return the lines of a file before an offset."""
    while (left := end - log.tell()) > 0 and (line := log.readline(left)):
        yield line


def follow_until_interrupted(follower: LogFollower) -> None:
    """Show new lines as they come. Ends with Ctrl-C."""
    watched = follower.fileno()
    try:
        while True:
            if watched >= 0:
                select.select([watched], [], [])
            else:
                select.select([], [], [], LOOK_EVERY_S)
            follower.read_new()
    except KeyboardInterrupt:
        sys.stdout.flush()
