"""Whether a replica's process is alive and its loop turns, as the probes of the daemon find it.

`controller/probes.py` asks the watchdogs and tells what they answer as events; `policy/health.py` decides what
follows.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

#: Seconds between two questions to a watchdog.
PROBE_PERIOD_S: Final = 1.0
#: Questions in a row without an answer after which a replica is sent nothing more. One is enough if it is known why.
SUSPECT_MISSES: Final = 3


class Doing(enum.StrEnum):
    """What a loop that does not turn is doing, as far as can be told from outside of its code."""

    NOTHING = ""  #: it turns
    COMPUTES = "the process uses CPU"
    HOLDS_INTERPRETER = "the process is busy and cannot answer: native code holds the interpreter"
    AWAITS_LOCK = "it waits for a lock and the process uses no CPU"
    SLEEPS = "it sleeps"
    WAITS = "it waits for input, output or native code"


class Silence(enum.StrEnum):
    """Why a process does not answer."""

    NONE = ""  #: it does
    STOPPED = "its process is stopped (SIGSTOP)"
    TRACED = "its process is held by a debugger"
    UNKNOWN = "its process neither answers nor uses CPU"


class Calls(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the calls of a replica end, where its deployment ejects outliers (`policy/outliers.py`)."""

    ended: int = 0
    failures: int = 0  #: of these
    streak: int = 0  #: failures since the last that was none
    ejected_until: float | None = None  #: it is sent nothing until then; None: it is sent calls
    ejections: int = 0  #: that weighed on it when it was ejected last
    returned_at: float | None = None  #: from its last ejection
    ended_at_return: int = 0  #: calls that had ended then

    def __str__(self) -> str:
        return (
            f"it failed {self.streak} calls in a row while others did not, and is ejected for the time being"
        )


class Pulse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last that was heard of a replica's process."""

    misses: int = 0  #: questions in a row without an answer
    silence: Silence = Silence.NONE
    blocked_s: float = 0.0  #: how long its loop has not turned
    stuck_s: float = 0.0  #: how long that has looked like a deadlock
    doing: Doing = Doing.NOTHING
    where: str = ""  #: of the user's code that the loop is in; "" if not known

    @property
    def is_suspended(self) -> bool:
        """Whether it is to be sent nothing until it answers again."""
        is_certain = self.silence in (Silence.STOPPED, Silence.TRACED)
        return self.misses >= (1 if is_certain else SUSPECT_MISSES)

    @property
    def silent_s(self) -> float:
        """How long it has not answered, in questions asked: time in which nobody asked does not count."""
        return self.misses * PROBE_PERIOD_S

    def __str__(self) -> str:
        if self.silence:
            return f"it has not answered for {self.silent_s:.0f} s: {self.silence}"
        if self.blocked_s:
            at = f" at {self.where}" if self.where else ""
            return f"its loop has been blocked for {self.blocked_s:.0f} s{at}: {self.doing}"
        return ""
