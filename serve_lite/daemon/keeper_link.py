"""A daemon's, and a proxy's, end of the link to the keeper. `handover.py` and `proxy_keeping.py` have the words."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from serve_lite.exceptions import InstanceError


class KeeperSocket:
    """Hears the keeper and speaks to it, in lines.

    Lifetime: `listen` on the process's loop; the owner of the socket closes it.

    Args:
        hear: takes the first word of each line and the rest of it.
        on_gone: called once, when the keeper has ended.
    """

    def __init__(
        self, sock: socket.socket, hear: Callable[[str, str], None], on_gone: Callable[[], None]
    ) -> None:
        self._sock, self._on_word, self._on_gone = sock, hear, on_gone
        self._partial = b""

    def listen(self) -> None:
        """Begin to hear."""
        self._sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._on_readable)

    def say(self, line: str) -> None:
        """Tell the keeper something; nothing if it is gone, which is heard otherwise."""
        with suppress(OSError):
            self._sock.send(f"{line}\n".encode())

    def _on_readable(self) -> None:
        try:
            said = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._on_gone()
            return
        *lines, self._partial = (self._partial + said).split(b"\n")
        for line in lines:
            self._on_word(*line.decode(errors="replace").partition(" ")[::2])


class KeeperLink:
    """What a daemon and its keeper have to tell each other.

    Args:
        on_exit: hears pid and wait status of each orphan that the keeper reaped.
        on_gone: called once, when the keeper has ended.
    """

    def __init__(
        self, sock: socket.socket, on_exit: Callable[[int, int], None], on_gone: Callable[[], None]
    ) -> None:
        self._keeper = KeeperSocket(sock, self._hear, self._keeper_is_gone)
        self._on_exit, self._on_gone = on_exit, on_gone
        self.hand_over_asked = asyncio.Event()
        self.go = asyncio.Event()  #: we, a successor, may take over
        self.drained = asyncio.Event()  #: the proxies have ended
        self._verdict: asyncio.Future[int] | None = None  #: of the upgrade that is under way
        self.listen, self.say = self._keeper.listen, self._keeper.say

    def ask_upgrade(self, grace_s: float | None = None) -> asyncio.Future[int]:
        """Ask for a successor, if none is coming already; return the future of its pid.

        The future raises InstanceError if there is none: this daemon stays.

        Args:
            grace_s: seconds for what the proxies have open; None: an upgrade is under way.
        """
        if self._verdict is None or self._verdict.done():
            self._verdict = asyncio.get_running_loop().create_future()
            self._verdict.add_done_callback(lambda done: done.exception())  # nobody may be waiting any more
            self.say("upgrade" if grace_s is None else f"upgrade {grace_s}")
        return self._verdict

    async def drain_proxies(self) -> None:
        """Have the proxies answer what they have, and return when they are gone."""
        self.say("drain")
        await self.drained.wait()

    def _keeper_is_gone(self) -> None:
        self._decide(InstanceError("The keeper of the instance is gone."))
        self._on_gone()

    def _hear(self, word: str, rest: str) -> None:
        match word:
            case "exit":
                pid, status = map(int, rest.split())
                self._on_exit(pid, status)
            case "go":
                self.go.set()
            case "hand-over":
                self.hand_over_asked.set()
            case "drained":
                self.drained.set()
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
