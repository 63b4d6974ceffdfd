"""The template: an interpreter with our modules loaded, which forks replicas and importers in milliseconds.

It runs no event loop and no second thread, and opens nothing but the socket to the daemon, so that a fork of it is
a fork of something known. A child leaves this module's loop at once and goes on in `replica/process.py` or
`replica/importing.py`. The template ends when the daemon does; its children live on.

The same module starts a child in a fresh interpreter (`--child`), for what a fork cannot give: another
interpreter, or variables that are read before any Python code runs.

The words are in `wire/spawning.py`; the daemon's side is `controller/spawner.py`.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import select
import signal
import socket
import sys

import msgspec

from serve_lite.outputs import drop_what_has_no_room
from serve_lite.processes import (
    be_killed_first,
    die_with_parent,
    enter_cgroup,
    open_pidfd,
    set_title,
    start_time_of,
)
from serve_lite.replica import advising, importing, process, servicers
from serve_lite.wire.spawning import (
    LONGEST_PACKET,
    Exited,
    NotSpawned,
    Spawned,
    SpawnRequest,
    TemplateMessage,
)


class ChildTask(msgspec.Struct, frozen=True):
    """What a fresh child is to do, and the descriptors it got for it."""

    request: SpawnRequest
    work_fd: int
    output_fd: int


def main() -> int:
    """Run as a template on the socket `--socket-fd N`, or as the child that `--child JSON FD FD` describes."""
    match sys.argv[1:]:
        case ["--child", request, work_fd, output_fd]:
            task = ChildTask(msgspec.json.decode(request, type=SpawnRequest), int(work_fd), int(output_fd))
        case ["--socket-fd", fd]:
            daemon = socket.socket(fileno=int(fd))
            daemon.set_inheritable(False)
            return run(daemon)
        case other:
            sys.stderr.write(f"serve_lite.replica.template is started by the daemon only, not with {other}\n")
            return 2
    return run_child(task)


def run(daemon: socket.socket) -> int:
    """Run as a template on this socket; in a forked child, run the child. Returns the exit status of either."""
    set_title("serve-lite: template")
    task = fork_until_eof(daemon)
    # Here, not inside the loop: a child ends like any program, with its exit handlers run.
    return 0 if task is None else run_child(task)


def fork_until_eof(daemon: socket.socket) -> ChildTask | None:
    """Fork what the daemon asks for and report exits. Returns a task in each child, None at the end of file."""
    wakeup, wakeup_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the daemon decides when we end
    gc.freeze()  # children share these pages as long as no collection writes to them
    poll = select.poll()
    poll.register(daemon, select.POLLIN)
    poll.register(wakeup, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if wakeup in ready:
            os.read(wakeup, 4096)
            _report_exits(daemon)
        if daemon.fileno() not in ready:
            continue
        try:
            packet, fds, _, _ = socket.recv_fds(daemon, LONGEST_PACKET, 2, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            return None
        if not packet:
            return None
        task = ChildTask(msgspec.json.decode(packet, type=SpawnRequest), *fds)
        if _fork(daemon, task):
            daemon.close()
            os.close(wakeup)
            signal.set_wakeup_fd(-1)
            os.close(wakeup_writer)
            return task
        for fd in fds:
            os.close(fd)


def run_child(task: ChildTask) -> int:
    """Become what the task says, do it, and return the exit status."""
    request = task.request
    if os.getsid(0) != os.getpid():
        os.setsid()
    _redirect_output(task.output_fd)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    set_title(request.title)
    if problem := _keep_to_limits(request):
        sys.stderr.write(f"this replica cannot {problem}\n")
        return 1
    be_killed_first()
    random.seed()
    gc.enable()
    faulthandler.enable()  # a crash inside a C library leaves its last words in the log
    os.environ.update(request.env_vars)
    if request.threads:
        # Read when the library is loaded, which nobody has done yet. OpenBLAS, MKL and numexpr heed it too.
        os.environ.setdefault("OMP_NUM_THREADS", str(request.threads))
    if request.cwd:
        os.chdir(request.cwd)
        os.environ["PWD"] = request.cwd
    sys.path[:0] = request.sys_path
    work = socket.socket(fileno=task.work_fd)
    work.set_inheritable(False)
    if request.kind == "importer":
        die_with_parent(signal.SIGKILL)  # nobody would read the answer
        importing.main(work)
    elif request.kind == "servicers":
        die_with_parent(signal.SIGKILL)
        servicers.main(work)
    elif request.kind == "preparer":
        from serve_lite.replica import preparing  # rare, and replicas need nothing that it loads

        preparing.main(work)
    elif request.kind == "adviser":
        die_with_parent(signal.SIGKILL)  # what it knows is of use to this daemon alone
        advising.main(work)
    else:
        process.main(work, request.name)
    return 0


def _keep_to_limits(request: SpawnRequest) -> str:
    """Keep to what the daemon has set from now on; return what is not possible, "" if all is."""
    try:
        if request.cgroup:
            enter_cgroup(request.cgroup)
    except OSError as error:
        return f"enter its cgroup {request.cgroup}: {error.strerror}"
    try:
        if request.cpus:
            os.sched_setaffinity(0, request.cpus)  # of this thread, and so of all that are to come
    except OSError as error:
        return f"be bound to the CPUs {request.cpus}: {error.strerror}"
    return ""


def _fork(daemon: socket.socket, task: ChildTask) -> bool:
    """Fork and answer the daemon. True in the child."""
    serial = task.request.serial
    if threads := _other_threads():
        _send(
            daemon,
            NotSpawned(serial=serial, why=f"the template has {threads} threads too many to fork safely"),
        )
        return False
    try:
        pid = os.fork()
    except OSError as error:
        _send(daemon, NotSpawned(serial=serial, why=f"cannot fork: {error.strerror}"))
        return False
    if pid == 0:
        return True
    # Not reaped before we do it, so the pid is the child's even if it has ended already.
    pidfd = open_pidfd(pid)
    answer = Spawned(serial=serial, pid=pid, start_time=start_time_of(pid) or 0)
    _send(daemon, answer, [] if pidfd is None else [pidfd])
    if pidfd is not None:
        os.close(pidfd)
    return False


def _report_exits(daemon: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _send(daemon, Exited(pid=pid, status=status))


def _send(daemon: socket.socket, message: TemplateMessage, fds: list[int] | None = None) -> None:
    try:
        socket.send_fds(daemon, [msgspec.json.encode(message)], fds or [])
    except ConnectionError:  # the daemon is gone: the next read says so too
        pass


def _other_threads() -> int:
    try:
        return len(os.listdir("/proc/self/task")) - 1
    except OSError:
        return 0


def _redirect_output(fd: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    for target in (1, 2):
        os.dup2(fd, target)
    os.close(fd)
    drop_what_has_no_room()  # and line by line: a log that lags behind helps nobody


if __name__ == "__main__":
    sys.exit(main())
