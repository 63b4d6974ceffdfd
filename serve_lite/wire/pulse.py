"""How a replica's watchdog is asked whether the process is alive, and what it answers.

Datagrams between Unix sockets in the instance's private directory, beside the connections for calls: the watchdog is
a thread of its own and answers while the replica's loop does not. Any answer, a late one too, says
that the process is alive; the number of the question is there for whoever looks at the traffic.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from serve_lite.state.pulse import Doing

LONGEST_DATAGRAM: Final = 4096


class Question(msgspec.Struct, array_like=True, frozen=True):
    """Are you alive?"""

    serial: int


class Answer(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True):
    """Yes; and this is how the loop and the calls are."""

    serial: int
    blocked_s: float = 0.0  #: how long the loop has not turned; 0: it does, or has not long enough to tell
    stuck_s: float = 0.0  #: how long it has looked like a deadlock
    doing: Doing = Doing.NOTHING
    where: str = ""  #: file:line and function of the user's code that the loop is in
    calls: int = 0  #: that have ended, since the start
    failures: int = 0  #: of these, those that failed
    streak: int = 0  #: failures since the last call that did not fail


def pulse_path(socket_path: str) -> str:
    """Return where the watchdog of the process that listens at `socket_path` is asked."""
    return str(Path(socket_path).with_suffix(".live"))
