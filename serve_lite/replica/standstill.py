"""What a thread that does not come back is doing: evidence from the kernel and the interpreter.

Linux tells in `/proc` which system call each thread of a process is in. That tells a lock from a sleep from input;
it does not tell who will release the lock, so what is said here is what can be known, and `WAITS` is all the rest.
"""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import threading
from types import FrameType
from typing import Final

import serve_lite
from serve_lite.state.pulse import Doing

#: Numbers of the system calls behind Python's locks and behind `time.sleep`.
_FUTEX: Final = {"x86_64": "202", "aarch64": "98", "riscv64": "98"}.get(platform.machine())
_SLEEPS: Final = {
    "x86_64": ("35", "230"),
    "aarch64": ("101", "115"),
    "riscv64": ("101", "115"),
}.get(platform.machine(), ())

_NOT_THE_USERS: Final = tuple(
    os.path.abspath(path) + os.sep
    for path in {
        os.path.dirname(serve_lite.__file__),
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    }
)

#: Code and instruction of each frame: the same twice means that no line was left meanwhile.
Place = tuple[tuple[int, int], ...]


def frame_of(thread: int) -> FrameType | None:
    """Return the innermost frame of a thread, by its identifier; None if it has ended."""
    return sys._current_frames().get(thread)


def place_of(frame: FrameType | None) -> Place:
    """Return where a thread is, to compare."""
    place = []
    while frame is not None:
        place.append((id(frame.f_code), frame.f_lasti))
        frame = frame.f_back
    return tuple(place)


def where_of(frame: FrameType | None) -> str:
    """Return `file:line in function` of the innermost frame that is the user's, or of the innermost at all."""
    if frame is None:
        return ""
    found, outer = frame, frame.f_back
    while found.f_code.co_filename.startswith((*_NOT_THE_USERS, "<frozen")) and outer is not None:
        found, outer = outer, outer.f_back
    if outer is None:  # nothing but ours and the library's
        found = frame
    return f"{found.f_code.co_filename}:{found.f_lineno} in {found.f_code.co_name}"


def doing_of(native_thread: int) -> Doing:
    """Return what a thread that uses no CPU is doing; `AWAITS_LOCK` for a lock it waits for without a time limit."""
    call, arguments = _system_call(native_thread)
    if call in _SLEEPS:
        return Doing.SLEEPS
    if call == _FUTEX and call is not None:
        # Its fourth argument is the time limit.
        return Doing.AWAITS_LOCK if arguments[3:4] == ["0x0"] else Doing.WAITS
    return Doing.WAITS


def may_be_freed(*, besides: frozenset[int]) -> bool:
    """Whether something could still end a wait for a lock: a child process, or a thread that waits for input.

    Threads that have no Python code in them are passed over: they come with libraries and wait for ever.

    Args:
        besides: identifiers of threads that are not to be looked at.
    """
    for thread in threading.enumerate():
        native = thread.native_id
        # Not told apart by the native one: that of the main thread is wrong after a fork in Python 3.11.
        if native is None or thread.ident in besides:
            continue
        call, _ = _system_call(native)
        if call != _FUTEX and call not in _SLEEPS:
            return True
    return has_children()


def has_children() -> bool:
    """Whether this process has any; True where the kernel does not tell."""
    try:
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children", "rb") as children:
                if children.read(1):
                    return True
    except FileNotFoundError:  # a thread has just ended, or there is no such file here
        return not os.path.exists("/proc/self/task")
    except OSError:
        return True
    return False


def _system_call(native_thread: int) -> tuple[str | None, list[str]]:
    """Return the number and arguments of the system call that a thread is in; None if it is in none or nobody tells."""
    try:
        with open(f"/proc/self/task/{native_thread}/syscall", encoding="ascii") as file:
            number, *arguments = file.read().split()
    except (OSError, ValueError):
        return None, []
    return (number, arguments) if number.isdigit() else (None, [])
