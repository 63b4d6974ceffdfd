"""One child process as the daemon sees it: alive until its pidfd says otherwise.

A child need not be the daemon's own: replicas are forked by a template, and outlive a daemon. So an exit is
noticed by pidfd, and its status comes from whoever reaps the process (`Child.reap`), or not at all.

Who starts children: `spawner.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import msgspec

from serve_lite.processes import open_pidfd, start_time_of

#: How long the status of a process that has ended may be on its way from the one that reaps it.
_STATUS_PATIENCE_S = 0.5
_LOOK_EVERY_S = 0.2  #: where there are no pidfds
_TAIL_BYTES = 16 * 1024


class ExitInfo(msgspec.Struct, frozen=True):
    """How a process ended. Neither field is set if nobody could tell."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"was killed by {signal_name(self.signal)}"
        return "ended" if self.code is None else f"exited with status {self.code}"


def signal_name(number: int) -> str:
    """Return `SIGKILL` for 9, `signal 99` for what has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def exit_info(code: int) -> ExitInfo:
    """Return an exit code as `os.waitstatus_to_exitcode` and `subprocess` give it, negative for a signal."""
    return ExitInfo(code=code) if code >= 0 else ExitInfo(signal=-code)


class ChildFiles(msgspec.Struct, frozen=True):
    """Where a child is reached and where its output goes."""

    socket_path: str = ""  #: removed when the process has ended
    log_path: str = ""
    log_begin: int = 0  #: size of the log when the child was started: what stands before is somebody else's


class Child:
    """A running process that can be told from a later one with the same pid.

    Lifetime: made by a `Spawner`, which watches it until it has exited; nothing to close. `wait` may be cancelled
    and called again. Forgetting a child does not end it.
    """

    def __init__(
        self,
        pid: int,
        start_time: int,
        pidfd: int | None,
        files: ChildFiles,
        *,
        reap: Callable[[], ExitInfo | None] | None = None,
        on_exit: Callable[[Child], None] | None = None,
    ) -> None:
        self.pid = pid
        self.start_time = start_time  #: see `processes.start_time_of`
        self.files = files
        self.exited: ExitInfo | None = None
        self._pidfd = pidfd
        self._reap = reap  #: asks how it ended, if the process is our own child
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        if pidfd is None:
            self._look()
        else:
            self._loop.add_reader(pidfd, self._on_pidfd)

    @property
    def socket_path(self) -> str:
        return self.files.socket_path

    @property
    def log_path(self) -> str:
        return self.files.log_path

    async def wait(self) -> ExitInfo:
        """Return how the process ended, once it has."""
        await self._gone.wait()
        assert self.exited is not None
        return self.exited

    def kill(self) -> None:
        """Send SIGKILL; nothing if the process is gone."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM; nothing if the process is gone."""
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: int) -> None:
        """Send a signal to this very process, never to a later one with its pid."""
        if self.exited is not None:
            return
        try:
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif start_time_of(self.pid) == self.start_time:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def tail(self, lines: int) -> list[str]:
        """Return the last lines the process printed."""
        return _tail(self.files, lines)

    def report_exit(self, info: ExitInfo) -> None:
        """Take the word of whoever reaped the process."""
        if self.exited is not None:
            return
        self.exited = info
        self._unwatch()
        if self._on_exit is not None:
            self._on_exit(self)
        self._gone.set()

    def unwatch(self) -> None:
        """Stop watching; for a daemon that leaves while the process lives on."""
        self._unwatch()

    def _on_pidfd(self) -> None:
        assert self._pidfd is not None
        self._loop.remove_reader(self._pidfd)
        self._ended()

    def _look(self) -> None:
        if start_time_of(self.pid) == self.start_time:
            self._timer = self._loop.call_later(_LOOK_EVERY_S, self._look)
        else:
            self._ended()

    def _ended(self) -> None:
        info = self._reap() if self._reap is not None else None
        if info is not None:
            self.report_exit(info)
        else:
            self._timer = self._loop.call_later(_STATUS_PATIENCE_S, self.report_exit, ExitInfo())

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # it knows us
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None


def find_process(pid: int, start_time: int) -> int | None:
    """Return a pidfd of the process with this pid and start time, None where there are no pidfds.

    Raises:
        ProcessLookupError: it is gone; the pid may belong to another one by now.
    """
    pidfd = open_pidfd(pid)
    if start_time_of(pid) != start_time:
        if pidfd is not None:
            os.close(pidfd)
        raise ProcessLookupError(pid)
    return pidfd


def _tail(files: ChildFiles, lines: int) -> list[str]:
    try:
        with open(files.log_path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = files.log_begin if files.log_begin <= size else 0  # another file has the name now
            file.seek(max(begin, size - _TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []
