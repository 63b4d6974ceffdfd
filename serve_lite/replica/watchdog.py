"""The watchdog of a replica: a thread that says that the process is alive while its loop says nothing.

It sleeps until the daemon asks (`controller/probes.py`, about once a second), looks whether the loop turns, and
answers; so it costs nothing when nobody asks. A loop that is in the user's code when it looks is asked to say that it
turns. If that takes longer than a second, the stack is logged, and from then on the answers tell how long, where,
and what the thread does (`standstill.py`). What follows is decided in the daemon.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Final

import msgspec

from serve_lite.replica import standstill
from serve_lite.replica.reporting import RequestCounts
from serve_lite.state.pulse import Doing
from serve_lite.wire.pulse import LONGEST_DATAGRAM, Answer, Question

log = logging.getLogger("serve_lite.replica")

BLOCKED_S: Final = 1.0  #: a loop that has not turned for so long is blocked
_LOOK_AGAIN_S: Final = 0.5  #: while the loop owes a sign of life
_SHORTEST_LOOK_S: Final = 0.4
_BUSY: Final = 0.02  #: share of one CPU above which the process is said to compute
_SURE_EVERY: Final = 10  #: so many looks that find the loop idle are believed before it is asked all the same
_SAME_PLACE_S: Final = 300.0  #: a place is logged with its stack once in so long
_PLACES: Final = 100  #: that are remembered for it
_JOIN_S: Final = 1.0

_decode = msgspec.msgpack.Decoder(Question).decode
_encode = msgspec.msgpack.Encoder().encode


class Watchdog:
    """Answers the daemon's probes from a thread.

    Lifetime: `start` on the loop's thread, once the replica is ready; `close` ends the thread and removes the socket.

    Args:
        path: where it is to be asked.
        name: of the replica, for the log.
    """

    def __init__(self, path: str, name: str) -> None:
        self._path, self._name = path, name
        self._sock: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="serve-watchdog", daemon=True)
        self._counts = RequestCounts()
        self._is_closing = False
        self._idle_frame: FrameType | None = None  #: what the loop's thread is in when it runs nobody's code
        self._asked_at: float | None = None  #: since when the loop owes a sign of life
        self._cpu_s = 0.0  #: then
        self._standstill: _Standstill | None = None
        self._looks = 0
        self._logged: dict[str, float] = {}  #: places, and when they were

    def start(self, counts: RequestCounts) -> None:
        """Begin to answer. Raises OSError if there can be no socket."""
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._native_thread = threading.get_native_id()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.bind(self._path)
            os.chmod(self._path, 0o600)
        except OSError:
            sock.close()
            raise
        self._sock = sock
        self._loop.call_soon(self._note_idle_frame)
        self._thread.start()

    def close(self) -> None:
        """End the thread; returns when it has, or after a second."""
        if self._sock is None:
            return
        self._is_closing = True
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # where a datagram socket cannot be shut down, a datagram wakes the thread as well
            self._sock.sendto(b"", self._path)
        self._thread.join(_JOIN_S)
        self._sock.close()
        self._sock = None
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass

    # --- on the loop ---

    def _note_idle_frame(self) -> None:
        # A callback is called by the loop itself, which is no Python code: the next frame is what runs the loop.
        self._idle_frame = sys._getframe(1)

    def _turned(self) -> None:
        self._asked_at = None

    # --- on the thread ---

    def _run(self) -> None:
        sock = self._sock
        assert sock is not None
        while not self._is_closing:
            sock.settimeout(None if self._asked_at is None else _LOOK_AGAIN_S)
            try:
                question, sender = sock.recvfrom(LONGEST_DATAGRAM)
            except TimeoutError:
                question, sender = b"", None
            if self._is_closing:
                return
            standstill_now = self._look(time.monotonic())
            if sender is not None and question:
                self._answer(sock, sender, question, standstill_now)

    def _answer(
        self, sock: socket.socket, sender: str, question: bytes, standstill_now: _Standstill | None
    ) -> None:
        counts = self._counts
        try:
            serial = _decode(question).serial
            answer = Answer(serial, calls=counts.calls, failures=counts.failures, streak=counts.streak)
            if standstill_now is not None:
                answer = msgspec.structs.replace(
                    answer,
                    blocked_s=standstill_now.blocked_s,
                    stuck_s=standstill_now.stuck_s,
                    doing=standstill_now.doing,
                    where=standstill_now.where,
                )
            sock.settimeout(_LOOK_AGAIN_S)
            sock.sendto(_encode(answer), sender)
        except (OSError, msgspec.MsgspecError) as error:  # the daemon has gone, or is a stranger
            log.debug("a probe was not answered: %s", error)

    def _look(self, now: float) -> _Standstill | None:
        """Return how the loop stands still; None if it turns, or has not long enough to tell."""
        asked_at = self._asked_at
        if asked_at is None:
            if self._standstill is not None:
                self._in_background(self._log_end, self._standstill)
                self._standstill = None
            if standstill.frame_of(self._loop_thread) is not self._idle_frame or self._is_time_to_be_sure():
                self._cpu_s = _cpu_s()
                self._asked_at = now
                try:
                    self._loop.call_soon_threadsafe(self._turned)
                except RuntimeError:  # the loop is closed: the process ends
                    self._is_closing = True
            return None
        blocked_s = now - asked_at
        if blocked_s < BLOCKED_S:
            return None
        frame = standstill.frame_of(self._loop_thread)
        if self._standstill is None:
            self._standstill = _Standstill(asked_at, self._cpu_s)
        self._standstill.look(frame, blocked_s, now, self._loop_thread, self._native_thread)
        if not self._standstill.is_logged:
            self._standstill.is_logged = True
            self._log_begin(self._standstill, frame, now)
        return self._standstill

    def _is_time_to_be_sure(self) -> bool:
        """Native code that the loop calls by itself shows no frame: now and then the loop is asked all the same."""
        self._looks = (self._looks + 1) % _SURE_EVERY
        return self._looks == 0

    # --- the log ---

    def _log_begin(self, begun: _Standstill, frame: FrameType | None, now: float) -> None:
        last = self._logged.get(begun.where)
        if last is not None and now - last < _SAME_PLACE_S:
            return
        if len(self._logged) >= _PLACES:
            del self._logged[next(iter(self._logged))]
        self._logged[begun.where] = now
        # Taken now: by the time that it is written, the thread may be elsewhere.
        stack = traceback.StackSummary.extract(traceback.walk_stack(frame), lookup_lines=False)
        stack.reverse()
        self._in_background(self._log_stack, begun.blocked_s, begun.where, begun.doing, stack)

    def _log_stack(self, blocked_s: float, where: str, doing: Doing, stack: traceback.StackSummary) -> None:
        log.warning(
            "the event loop of replica %s has been blocked for %.1f s at %s (%s); nothing else runs meanwhile, health "
            "checks included. Its stack:\n%s",
            self._name,
            blocked_s,
            where,
            doing,
            "".join(stack.format()).rstrip(),
        )

    def _log_end(self, ended: _Standstill) -> None:
        log.info(
            "the event loop of replica %s turns again, after more than %.1f s at %s",
            self._name,
            ended.blocked_s,
            ended.where,
        )

    def _in_background(self, function: object, *arguments: object) -> None:
        """Log from a thread that may hang: the loop's may hold a lock of the logging module."""
        assert callable(function)
        threading.Thread(target=function, args=arguments, name="serve-watchdog-log", daemon=True).start()


class _Standstill:
    """One time that the loop does not turn."""

    def __init__(self, since: float, cpu_s: float) -> None:
        self.blocked_s = 0.0
        self.stuck_s = 0.0
        self.doing = Doing.WAITS
        self.where = ""
        self.is_logged = False
        self._place: standstill.Place = ()
        self._looked_at, self._cpu_s = since, cpu_s
        self._stuck_since: float | None = None

    def look(
        self, frame: FrameType | None, blocked_s: float, now: float, loop_thread: int, native_thread: int
    ) -> None:
        """Take evidence: is it at the same place, does the process use CPU, what does the kernel say?"""
        self.blocked_s = blocked_s
        if now - self._looked_at < _SHORTEST_LOOK_S:
            return  # a question has come right after a look: too short a time to tell anything by
        place, cpu_s = standstill.place_of(frame), _cpu_s()
        is_same_place = place == self._place
        elapsed_s = now - self._looked_at
        is_busy = cpu_s - self._cpu_s > _BUSY * elapsed_s
        self._place, self._looked_at, self._cpu_s = place, now, cpu_s
        self.where = standstill.where_of(frame)
        self.doing = Doing.COMPUTES if is_busy else standstill.doing_of(native_thread)
        looks_stuck = self.doing is Doing.AWAITS_LOCK and not standstill.may_be_freed(
            besides=frozenset({loop_thread, threading.get_ident()})
        )
        if not looks_stuck or not is_same_place or self._stuck_since is None:
            self._stuck_since = now if looks_stuck else None
        self.stuck_s = now - self._stuck_since if self._stuck_since is not None else 0.0


def _cpu_s() -> float:
    """Return the CPU time of the process, without that of the calling thread."""
    return time.process_time() - time.thread_time()
