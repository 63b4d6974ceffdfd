"""Asks the watchdogs of all ready replicas, about once a second, whether their processes are alive.

One socket and one timer for all. A process that does not answer is looked at from outside: one that is stopped says
nothing and is known at once; one that uses CPU is alive, and its native code keeps the interpreter for itself. What
follows from either is decided elsewhere (`policy/health.py`); here it becomes events.

Time is counted in questions, so that a daemon that was stopped itself, or a machine that slept, takes nobody for dead.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from serve_lite.state import events as ev
from serve_lite.state.ids import DeploymentId, ReplicaId
from serve_lite.state.pulse import PROBE_PERIOD_S, Doing, Silence
from serve_lite.wire.pulse import LONGEST_DATAGRAM, Answer, Question, pulse_path

logger = logging.getLogger(__name__)

#: Share of one CPU that a process must use between two questions to be taken for one that computes.
_BUSY: Final = 0.02
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Answer).decode


class ProcessLook(msgspec.Struct, frozen=True):
    """What the kernel tells of a process."""

    state: str  #: its letter in /proc
    cpu_s: float  #: CPU time of all its threads


class Prober:
    """Asks, and tells what is news.

    Lifetime: the controller runs `run` in its task group; `begin` and `end` may be used while it runs. Cancelled, it
    removes its socket.

    Args:
        run_dir: where the replicas' sockets are.
        epoch: of this daemon; names its socket.
        post: hears events.
        clock: seconds, monotonic.
    """

    def __init__(
        self, run_dir: str, epoch: int, post: Callable[[ev.Event], None], clock: Callable[[], float]
    ) -> None:
        self._path = os.path.join(run_dir, f"p-{epoch % 1_000_000}.live")
        self._post, self._clock = post, clock
        self._probed: dict[ReplicaId, _Probed] = {}
        self._by_path: dict[str, _Probed] = {}
        self._serial = 0
        self._wanted = asyncio.Event()  #: there is somebody to ask
        #: whether anybody wants to know how the calls of a deployment end; the controller gives a better one
        self.counts_of: Callable[[DeploymentId], bool] = lambda _: False

    def begin(self, replica: ReplicaId, deployment: DeploymentId, pid: int, socket_path: str) -> None:
        """Ask this replica from now on."""
        path = pulse_path(socket_path)
        if os.path.exists(path):  # else it is of a version that has no watchdog
            self._probed[replica] = self._by_path[path] = _Probed(replica, deployment, pid, path)
            self._wanted.set()

    def end(self, replica: ReplicaId) -> None:
        """Ask it no more, and tell nothing more of it."""
        probed = self._probed.pop(replica, None)
        if probed is not None:
            del self._by_path[probed.path]

    async def run(self) -> None:
        """Ask until cancelled; sleeps while there is nobody to ask."""
        loop = asyncio.get_running_loop()
        _remove_older(self._path)
        try:
            sock = _bind(self._path)
        except OSError as error:
            logger.error("replicas are not probed: cannot listen on %r: %s", self._path, error.strerror)
            return
        try:
            loop.add_reader(sock.fileno(), self._hear, sock)
            while True:
                if not self._probed:
                    self._wanted.clear()
                    await self._wanted.wait()  # ends with the first replica
                self._ask(sock)
                await asyncio.sleep(PROBE_PERIOD_S)
        finally:
            loop.remove_reader(sock.fileno())
            sock.close()
            Path(self._path).unlink(missing_ok=True)

    def _ask(self, sock: socket.socket) -> None:
        self._serial += 1
        question = _encode(Question(self._serial))
        for probed in list(self._probed.values()):
            if probed.is_asked:
                self._post(probed.missed(self._clock()))
            try:
                # Once more even so: the answer may have been lost, because too many came at a time.
                sock.sendto(question, probed.path)
            except BlockingIOError:
                logger.debug("replica %s has all the questions that it can hold", probed.replica)
            except OSError as error:  # the process has ended, which others notice
                logger.debug("replica %s was not asked: %s", probed.replica, error)
                continue
            probed.is_asked = True

    def _hear(self, sock: socket.socket) -> None:
        """Take what has been answered."""
        while True:
            try:
                data, sender = sock.recvfrom(LONGEST_DATAGRAM)
            except BlockingIOError:
                return
            probed = self._by_path.get(sender)
            if probed is None:
                continue
            try:
                answer = _decode(data)
            except msgspec.MsgspecError as error:
                logger.warning("replica %s has answered a probe with nonsense: %s", probed.replica, error)
                continue
            now = self._clock()
            if (news := probed.answered(answer, now)) is not None:
                self._post(news)
            if self.counts_of(probed.deployment) and (counts := probed.counted(answer, now)) is not None:
                self._post(counts)


class _Probed:
    """One replica that is asked."""

    def __init__(self, replica: ReplicaId, deployment: DeploymentId, pid: int, path: str) -> None:
        self.replica, self.deployment, self.pid, self.path = replica, deployment, pid, path
        self.is_asked = False  #: and has not answered since
        self._busy_s = 0.0  #: how long it has been alive without an answer
        self._is_news = False  #: the last event was not that all is well
        self._seen: ProcessLook | None = None
        self._counts = (0, 0, 0)  #: told last

    def missed(self, now: float) -> ev.Event:
        """Return what it means that there is no answer yet."""
        before, self._seen = self._seen, look_at(self.pid)
        self._is_news = True
        verdict = judge(before, self._seen)
        if isinstance(verdict, Silence):
            self._busy_s = 0.0
            return ev.ReplicaUnanswered(replica=self.replica, at=now, silence=verdict)
        self._busy_s += PROBE_PERIOD_S
        return ev.ReplicaAnswered(replica=self.replica, at=now, blocked_s=self._busy_s, doing=verdict)

    def answered(self, answer: Answer, now: float) -> ev.Event | None:
        """Return what is news in an answer."""
        self.is_asked = False
        was_news, self._is_news = self._is_news, bool(answer.blocked_s)
        self._seen, self._busy_s = None, 0.0
        if not was_news and not self._is_news:
            return None
        return ev.ReplicaAnswered(
            replica=self.replica,
            at=now,
            blocked_s=answer.blocked_s,
            stuck_s=answer.stuck_s,
            doing=answer.doing,
            where=answer.where,
        )

    def counted(self, answer: Answer, now: float) -> ev.Event | None:
        """Return how its calls have ended, if that is news."""
        counts = answer.calls, answer.failures, answer.streak
        if counts == self._counts:
            return None
        self._counts = counts
        return ev.ReplicaCounted(
            replica=self.replica, at=now, ended=answer.calls, failures=answer.failures, streak=answer.streak
        )


def judge(before: ProcessLook | None, seen: ProcessLook | None) -> Silence | Doing:
    """Return why a process does not answer, or what it does if it is alive all the same.

    Args:
        before: what was seen at the last question without an answer, None if that one was answered.
        seen: what is seen now; None where nobody tells.
    """
    if seen is None:
        return Silence.UNKNOWN
    if seen.state == "T":
        return Silence.STOPPED
    if seen.state == "t":
        return Silence.TRACED
    if seen.state in ("R", "D"):  # it wants a CPU, or a disk: the machine is slow, not the process dead
        return Doing.HOLDS_INTERPRETER if seen.state == "R" else Doing.WAITS
    if before is not None and seen.cpu_s - before.cpu_s > _BUSY * PROBE_PERIOD_S:
        return Doing.HOLDS_INTERPRETER
    return Silence.UNKNOWN


def look_at(pid: int) -> ProcessLook | None:
    """Return what the kernel tells of a process; None where it does not, or if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return ProcessLook(fields[0].decode(), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S)


def _remove_older(path: str) -> None:
    """Remove the sockets of daemons before, which may have been killed: only the newest asks."""
    for older in Path(path).parent.glob("p-*.live"):
        if str(older) != path:
            older.unlink(missing_ok=True)


def _bind(path: str) -> socket.socket:
    Path(path).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.bind(path)
        os.chmod(path, 0o600)
    except OSError:
        sock.close()
        raise
    return sock
