"""The daemon's end of the link to its keeper. `handover.py` has the words."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from serve_lite.exceptions import InstanceError


class KeeperLink:
    """Hears the keeper and speaks to it.

    Lifetime: `listen` on the daemon's loop, `close` at its end.

    Args:
        on_exit: hears pid and wait status of each orphan that the keeper reaped.
        on_gone: called once, when the keeper has ended.
    """

    def __init__(
        self, sock: socket.socket, on_exit: Callable[[int, int], None], on_gone: Callable[[], None]
    ) -> None:
        self._sock, self._on_exit, self._on_gone = sock, on_exit, on_gone
        self._partial = b""
        self.hand_over_asked = asyncio.Event()
        self.go = asyncio.Event()  #: we, a successor, may take over
        self._verdict: asyncio.Future[int] | None = None  #: of the upgrade that is under way

    def listen(self) -> None:
        """Begin to hear."""
        self._sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._on_readable)

    def close(self) -> None:
        """Stop hearing and let go."""
        self._sock.close()

    def say(self, line: str) -> None:
        """Tell the keeper something; nothing if it is gone, which is heard otherwise."""
        with suppress(OSError):
            self._sock.send(f"{line}\n".encode())

    def ask_upgrade(self) -> asyncio.Future[int]:
        """Ask for a successor, if none is coming already; return the future of its pid.

        The future raises InstanceError if there is none: this daemon stays.
        """
        if self._verdict is None or self._verdict.done():
            self._verdict = asyncio.get_running_loop().create_future()
            self._verdict.add_done_callback(lambda done: done.exception())  # nobody may be waiting any more
            self.say("upgrade")
        return self._verdict

    def _on_readable(self) -> None:
        try:
            said = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._decide(InstanceError("The keeper of the instance is gone."))
            self._on_gone()
            return
        *lines, self._partial = (self._partial + said).split(b"\n")
        for line in lines:
            self._hear(*line.decode(errors="replace").partition(" ")[::2])

    def _hear(self, word: str, rest: str) -> None:
        match word:
            case "exit":
                pid, status = map(int, rest.split())
                self._on_exit(pid, status)
            case "go":
                self.go.set()
            case "hand-over":
                self.hand_over_asked.set()
            case "leave":
                self._decide(int(rest))
            case "keep":
                self.hand_over_asked.clear()
                self._decide(InstanceError(rest))

    def _decide(self, verdict: int | InstanceError) -> None:
        if self._verdict is None or self._verdict.done():
            return
        if isinstance(verdict, InstanceError):
            self._verdict.set_exception(verdict)
        else:
            self._verdict.set_result(verdict)
