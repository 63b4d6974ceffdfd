"""Whether the kernel has ended processes because memory ran out.

A process that is ended so dies of SIGKILL like any other that somebody kills; only the kernel's count of it tells one
from the other. A cgroup's own count (`cgroups.py`) makes it certain. The whole machine's makes it likely, and is told
so.
"""

from __future__ import annotations

import re
import signal

from serve_lite.controller.child import ExitInfo
from serve_lite.policy.devices import in_bytes

_COUNT = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)


def count_oom_kills(path: str = "/proc/vmstat") -> int | None:
    """Return how many processes the kernel has ended so since it was started; None where it does not tell."""
    try:
        with open(path, "rb") as file:  # made by the kernel in microseconds, no disk is read
            found = _COUNT.search(file.read())
    except OSError:
        return None
    return int(found[1]) if found else None


def explain_limit(limit_bytes: float) -> str:
    """Return what to add to "was killed by SIGKILL" for a replica that wanted more than its cgroup may have."""
    return (
        f": over its memory limit of {in_bytes(limit_bytes)} (`memory` in its ray_actor_options, with the processes "
        "that it started)"
    )


def explain_kill(info: ExitInfo, before: int | None, now: int | None) -> str:
    """Return what to add to "was killed by SIGKILL"; "" if memory did not run out since `before` was counted."""
    if info.signal != signal.SIGKILL or before is None or now is None or now <= before:
        return ""
    return (
        " (memory ran out: the kernel has ended processes for it while this one ran, so probably this one; give the "
        "machine or its container more memory, or start fewer replicas)"
    )
