"""The proxy processes of an instance, as its keeper sees them: started, started again, replaced, ended.

They are the keeper's children, and not the daemon's, so that nothing that happens to the daemon reaches them. Words
on the link to each, a line each. From a proxy: `ready` (it accepts). From the keeper: `drain` (accept nothing more,
finish, end) and `retire SECONDS` (another one accepts: finish within that time, end). Imports little, as `keeper.py`.
"""

from __future__ import annotations

import signal

from serve_lite.daemon.handover import DaemonProcess

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would cost 4 ms
    from collections.abc import Callable, Iterable
    from typing import Any, Final

_SHORTEST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_PAUSES_FORGOTTEN_AFTER_S: Final = 30.0  #: a proxy that ran this long starts a new row


class _Place:
    """One of the proxies that there should be."""

    def __init__(self, number: int) -> None:
        self.number = number  #: from 1
        self.process: DaemonProcess | None = None  #: that accepts, or is about to
        self.replaced: DaemonProcess | None = None  #: goes on until `process` is ready
        self.start_at: float | None = None  #: monotonic
        self.failures = 0  #: ends in a row that nobody asked for


class ProxyProcesses:
    """Keeps a number of proxies running.

    Args:
        spawn: starts a proxy with this number and returns it.
        drop: lets go of the link of one that has ended.
        log: takes a line for the keeper's log.
    """

    def __init__(
        self,
        count: int,
        spawn: Callable[[int], DaemonProcess],
        drop: Callable[[DaemonProcess], None],
        log: Callable[[str], None],
    ) -> None:
        self._places = [_Place(number) for number in range(1, count + 1)]
        self._retired: list[DaemonProcess] = []
        self._spawn, self._drop, self._log = spawn, drop, log
        self._grace_s = 0.0  #: for those that are replaced
        self.is_draining = False

    @property
    def next_at(self) -> float | None:
        """When `start_due` has something to do."""
        return min((place.start_at for place in self._places if place.start_at is not None), default=None)

    def start(self, now: float) -> None:
        """Start all of them."""
        for place in self._places:
            place.start_at = now
        self.start_due(now)

    def start_due(self, now: float) -> None:
        """Start those whose time has come."""
        for place in self._places:
            if place.start_at is not None and now >= place.start_at and not self.is_draining:
                place.start_at = None
                place.process = self._spawn(place.number)

    def replace(self, grace_s: float) -> None:
        """Have each followed by a new one, of the code that is installed now."""
        self._grace_s = grace_s
        for place in self._places:
            if self.is_draining or place.process is None:  # the next one is of that code anyway
                continue
            if place.replaced is not None:  # of an upgrade before, whose proxy is not even ready
                self._retire(place.process)
            else:
                place.replaced = place.process
            place.process, place.failures = self._spawn(place.number), 0

    def drain(self) -> None:
        """Have all of them accept nothing more, finish and end. None is started after this."""
        self.is_draining = True
        for process in self.all():
            process.tell("drain")

    def all(self) -> list[DaemonProcess]:
        """Return every proxy that runs."""
        held: Iterable[DaemonProcess | None] = (
            process for place in self._places for process in (place.process, place.replaced)
        )
        return [*(process for process in held if process is not None), *self._retired]

    def heard(self, process: DaemonProcess, line: str) -> None:
        """Take a line of one of them."""
        for place in self._places:
            if line == "ready" and place.process is process and place.replaced is not None:
                self._retire(place.replaced)
                place.replaced = None

    def ended(self, process: DaemonProcess, code: int, now: float) -> None:
        """One of them has ended; start another if it should be there."""
        self._drop(process)
        how = f"with status {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        if process in self._retired:
            self._retired.remove(process)
            self._log(f"the replaced proxy {process.pid} ended {how}")
            return
        for place in self._places:
            if place.replaced is process:
                place.replaced = None
            elif place.process is process:
                place.process = None
                if not self.is_draining:
                    self._start_again(place, process, how, now)

    def kill(self) -> None:
        """End all of them at once."""
        self.is_draining = True
        for process in self.all():
            process.signal(signal.SIGKILL)

    def memory(self) -> dict[str, Any]:
        """Return what makes the same again in this process after an exec."""
        return {
            "grace_s": self._grace_s,
            "retired": [process.memory() for process in self._retired],
            "places": [
                {
                    "process": place.process.memory() if place.process is not None else None,
                    "replaced": place.replaced.memory() if place.replaced is not None else None,
                }
                for place in self._places
            ],
        }

    def remember(self, memory: dict[str, Any], now: float) -> None:
        """Take back what `memory` told."""
        self._grace_s = memory["grace_s"]
        self._retired = [DaemonProcess.remembered(process) for process in memory["retired"]]
        for place, kept in zip(self._places, memory["places"], strict=True):
            if kept["replaced"] is not None:
                place.replaced = DaemonProcess.remembered(kept["replaced"])
            if kept["process"] is not None:
                place.process = DaemonProcess.remembered(kept["process"])
            else:
                place.start_at = now

    def _start_again(self, place: _Place, process: DaemonProcess, how: str, now: float) -> None:
        if now - process.started_at > _PAUSES_FORGOTTEN_AFTER_S:
            place.failures = 0
        place.failures += 1
        pause_s = 0.0 if place.failures == 1 else _SHORTEST_PAUSE_S * 2.0 ** min(place.failures - 2, 10)
        pause_s = min(pause_s, _LONGEST_PAUSE_S)
        place.start_at = now + pause_s
        self._log(f"proxy {process.pid} ended {how}: starting another in {pause_s:.1f} s")

    def _retire(self, process: DaemonProcess) -> None:
        self._retired.append(process)
        process.tell(f"retire {self._grace_s}")
