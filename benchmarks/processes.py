"""Weigh and stop everything that a contender started, however far it detached itself.

The harness makes itself the subreaper of its descendants (Linux, `prctl(PR_SET_CHILD_SUBREAPER)`), so
daemons that were started on the way come back to it as children when their parents end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Weight:
    """What a contender costs while nobody asks it anything."""

    pss_mb: float  #: proportional set size, summed: shared pages are counted once
    processes: int
    cpu_percent: float  #: of one core

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def become_subreaper() -> None:
    """Make this process the parent of every orphan among its descendants."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[psutil.Process]:
    """Return the living processes below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


def weigh(*, over_s: float) -> Weight:
    """Weigh the descendants; their use of the processor is watched for `over_s` seconds."""
    before, started = _cpu_s(), time.monotonic()
    time.sleep(over_s)
    cpu_s, elapsed = _cpu_s() - before, time.monotonic() - started
    processes = descendants()
    return Weight(
        pss_mb=sum(_pss_kb(p.pid) for p in processes) / 1024,
        processes=len(processes),
        cpu_percent=100 * cpu_s / elapsed,
    )


def stop(
    started: Sequence[subprocess.Popen[bytes]], *, with_signal: signal.Signals, grace_s: float
) -> list[str]:
    """Ask what was started to end, last first, then kill what is left.

    Returns:
        The names of the processes that were still there after `grace_s` seconds and had to be killed.
    """
    for process in reversed(started):
        if process.poll() is None:
            process.send_signal(with_signal)
    deadline = time.monotonic() + grace_s
    while descendants() and time.monotonic() < deadline:
        _reap(started)
        time.sleep(0.05)

    killed: list[str] = []
    while left := descendants():  # a killed parent may uncover children that were not seen yet
        for process_left in left:
            try:
                killed.append(process_left.name())
                process_left.kill()
            except psutil.NoSuchProcess:
                pass
        _reap(started)
        time.sleep(0.05)
    _reap(started)
    return killed


def _reap(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Collect the exit codes of our children and of the orphans that became ours."""
    for process in started:
        process.poll()
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def _cpu_s() -> float:
    total = 0.0
    for process in descendants():
        try:
            times = process.cpu_times()
            total += times.user + times.system
        except psutil.NoSuchProcess:
            pass
    return total


def _pss_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
