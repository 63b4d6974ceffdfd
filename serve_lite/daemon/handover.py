"""A daemon as its keeper sees it, and how one takes the place of another without a request lost.

Words on the link, each a line. From a daemon: `upgrade SECONDS` (start my successor; the proxies, if there are any,
get so long to finish), `drain` (have the proxies finish and end), `loaded` (a successor could take
over), `handed` (nothing of mine changes the instance any more) or `refuse WHY`,
`ready N` (it serves; N is the form of a keeper's
memory that its code knows). From the keeper: `hand-over`, `go` (take over now), `leave PID` (the successor serves:
finish what you have and end), `keep WHY` (there is no successor: go on), `exit PID STATUS`, `drained`.

    old daemon        keeper            successor
        upgrade ------> starts it
                        <------ loaded     (everything is imported, the state can be read)
        <----- hand-over
        handed ------->
                        go ------------>   (opens the store, adopts the replicas, accepts)
                        <-------- ready
        <--------- leave
    finishes, ends

A successor that ends, or is silent for too long, at any point before `ready` is out, and the old daemon keeps or
takes back what it had. An old daemon that ends on the way is no obstacle: its successor goes on. Imports little, like
`keeper.py`, which does what this decides.
"""

from __future__ import annotations

import os
import signal
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would cost 4 ms
    from typing import Any, Final

#: Of what a keeper passes on to the code that takes its place (`Keeper.memory`). A daemon tells the form that its own
#: keeper would understand; if it is another, the keeper stays as it is.
MEMORY_FORM: Final = 2

#: Seconds until a stage of the hand-over must be over.
_LOADING_S: Final = 120.0
_HANDING_S: Final = 60.0
_STARTING_S: Final = 120.0


class DaemonProcess:
    """One daemon and the link to it. Its keeper's child, and not reaped as long as this is held."""

    def __init__(self, pid: int, link: socket.socket | None, started_at: float) -> None:
        self.pid = pid
        self.link = link  #: None once its end has closed
        self.started_at = started_at  #: monotonic, seconds
        self._partial = b""

    def tell(self, line: str) -> None:
        """Send a line. A daemon too busy to read, or gone, goes without: its exit or a deadline tells more."""
        if self.link is not None:
            try:
                self.link.send(f"{line}\n".encode())
            except OSError:
                pass

    def hear(self) -> list[str] | None:
        """Return the lines that have come; None if the link has ended."""
        assert self.link is not None
        try:
            said = self.link.recv(4096)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not said:
            return None
        *lines, self._partial = (self._partial + said).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def signal(self, number: int) -> None:
        """Send a signal. It is our child and not reaped, so the pid cannot belong to anyone else."""
        os.kill(self.pid, number)

    def memory(self) -> dict[str, Any]:
        """Return what makes the same again in this process after an exec; the link's descriptor is passed on."""
        if self.link is not None:
            self.link.set_inheritable(True)
        fd = self.link.fileno() if self.link is not None else -1
        return {"pid": self.pid, "link": fd, "started_at": self.started_at}

    @staticmethod
    def remembered(memory: dict[str, Any]) -> DaemonProcess:
        """Return what `memory` told, with the link."""
        link = None
        if memory["link"] >= 0:
            link = socket.socket(fileno=memory["link"])
            link.set_inheritable(False)
        return DaemonProcess(memory["pid"], link, memory["started_at"])


class Handover:
    """The way from one daemon to the next. Ends with `is_done`, or with the successor's exit."""

    def __init__(self, old: DaemonProcess | None, successor: DaemonProcess, now: float) -> None:
        self.old: DaemonProcess | None = old  #: None once it has ended
        self.successor = successor
        self.is_loaded = False
        self.is_going = False  #: the successor was told to take over
        self.is_done = False  #: it has
        self.memory_form = 0  #: that the successor told
        self.grace_s = 0.0  #: for what is open in those that leave
        self.why_out = ""  #: why the successor was ended
        self.deadline = now + _LOADING_S  #: monotonic

    def heard_successor(self, line: str, now: float) -> None:
        """Take a line of the successor."""
        word, _, rest = line.partition(" ")
        if word == "loaded" and not self.is_loaded:
            self.is_loaded = True
            if self.old is None:
                self._go(now)
            else:
                self.deadline = now + _HANDING_S
                self.old.tell("hand-over")
        elif word == "ready" and self.is_going:
            self.is_done = True
            self.memory_form = int(rest) if rest.isdigit() else 0
            if self.old is not None:
                self.old.tell(f"leave {self.successor.pid}")

    def heard_old(self, line: str, now: float) -> None:
        """Take a line of the daemon that leaves."""
        if line == "handed" and self.is_loaded and not self.is_going and not self.why_out:
            self._go(now)
        elif line.startswith("refuse ") and not self.is_going:
            self.end_successor(line.partition(" ")[2])

    def old_ended(self, now: float) -> None:
        """The daemon that should leave is gone before its time."""
        self.old = None
        if self.is_loaded and not self.is_going and not self.why_out:
            self._go(now)

    def end_successor(self, why: str) -> None:
        """Give the successor up; its exit follows."""
        if not self.why_out:
            self.why_out = why
            self.successor.signal(signal.SIGKILL)

    def check_deadline(self, now: float) -> None:
        """Give up a successor, or a daemon that does not hand over, after its time."""
        if now < self.deadline or self.is_done or self.why_out:
            return
        if self.is_loaded and not self.is_going:
            self.end_successor("the running daemon did not hand over in time")
        else:
            self.end_successor("the new daemon was not ready in time and was killed")

    def successor_ended(self, how: str) -> None:
        """Tell the old daemon, if there is one, that it stays."""
        if self.old is not None:
            self.old.tell(f"keep {self.why_out or f'the new daemon ended {how} before it was ready'}")

    def _go(self, now: float) -> None:
        self.is_going = True
        self.deadline = now + _STARTING_S
        self.successor.tell("go")
