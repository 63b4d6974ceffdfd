"""Operating-system processes as all parts see them: how ours are started, told apart and titled.

Imports next to nothing, because the keeper stands on it and has to be up in a few hundredths of a second.
"""

from __future__ import annotations

import os
import sys

#: The folder that holds the package, for interpreters that would not find it on their own.
PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_PR_SET_PDEATHSIG = 1
#: Added to the score by which the kernel chooses, thousandths of all memory: a process that runs user code seems
#: larger by half of the machine.
_KILLED_FIRST = 500
_PR_SET_CHILD_SUBREAPER = 36


def python_command(
    module: str, *arguments: str, python: str = "", library: tuple[str, ...] = ()
) -> list[str]:
    """Return the command that runs `main()` of one of our modules in a fresh interpreter.

    With `library`, folders of packages that the interpreter looks into after its own.

    Not `-m`: that would put the working directory in front of `sys.path`, where a user's `socket.py`
    could take the place of the real one, and would load the module a second time when another imports it.
    """
    behind = "".join(f"site.addsitedir({folder!r}); " for folder in library)
    behind = f"import site; {behind}" if behind else ""
    code = (
        f"import sys; sys.path.append({PACKAGE_ROOT!r}); {behind}from {module} import main; sys.exit(main())"
    )
    return [python or sys.executable, "-P", "-c", code, *arguments]


def start_time_of(pid: int) -> int | None:
    """Return a number that, with `pid`, names one process for as long as the machine is up; None if it is gone.

    Clock ticks since boot where `/proc` tells them, microseconds since 1970 elsewhere.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The second field is the command in parentheses and may hold anything, spaces too.
            fields = stat.read().rpartition(b")")[2].split()
    except ProcessLookupError:
        return None
    except FileNotFoundError:
        return None if os.path.exists("/proc/self/stat") else _start_time_without_proc(pid)
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def children_of(pid: int) -> list[int]:
    """Return the direct children of a process, dead ones not yet reaped included."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as children:
            return [int(child) for child in children.read().split()]
    except OSError:
        import psutil  # only where the kernel does not tell

        try:
            return [child.pid for child in psutil.Process(pid).children()]
        except psutil.NoSuchProcess:
            return []


def resident_bytes(pid: int) -> int:
    """Return how much of the machine's memory a process and those below it occupy; 0 if it is gone.

    Pages that several of them share count for each.
    """
    total, below = 0, [pid]
    while below:
        one = below.pop()
        try:
            with open(f"/proc/{one}/statm", "rb") as statm:
                total += int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        below += children_of(one)
    return total


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends; None where there is no such thing.

    Raises:
        ProcessLookupError: there is no such process.
    """
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:  # a kernel before 5.3, or a sandbox that forbids it
        return None


def become_subreaper() -> bool:
    """Make this process the parent of every descendant that loses its own; False where that is not possible."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signal_number: int) -> bool:
    """Have the kernel send us this signal when the parent ends; False where that is not possible."""
    return _prctl(_PR_SET_PDEATHSIG, signal_number)


def be_killed_first() -> None:
    """Have the kernel end this process rather than the daemon when the machine runs out of memory.

    Raising the score needs no right; where there is no such thing, or /proc may not be written, nothing changes.
    """
    try:
        with open("/proc/self/oom_score_adj", "r+b", buffering=0) as score:
            found = int(score.read())
            score.seek(0)
            score.write(str(min(1000, max(found, 0) + _KILLED_FIRST)).encode())
    except OSError:
        return


def enter_cgroup(folder: str) -> None:
    """Move this process, all its threads, into a cgroup of version 2.

    Raises:
        OSError: the kernel refuses, or there is no such cgroup.
    """
    with open(f"{folder}/cgroup.procs", "wb", buffering=0) as members:
        members.write(b"0")


def set_title(title: str) -> None:
    """Show `title` in `ps`. The environment stays readable in /proc, so that it can tell whose process it is."""
    os.environ["SPT_NOENV"] = "1"
    try:
        from setproctitle import setproctitle  # 10 ms, so not before it is needed
    except ImportError:
        return
    finally:
        del os.environ["SPT_NOENV"]
    setproctitle(title)


def _prctl(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    import ctypes  # 2 ms, so not before it is needed

    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)


def _start_time_without_proc(pid: int) -> int | None:
    import psutil  # only where there is no /proc

    try:
        return int(psutil.Process(pid).create_time() * 1_000_000)
    except psutil.NoSuchProcess:
        return None
