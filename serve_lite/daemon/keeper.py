"""The keeper: holds an instance's sockets and keeps a daemon behind them.

The smallest process of an instance and the only one that must not fail, so it does little: it binds, starts the
daemon with the sockets inherited (systemd's LISTEN_FDS convention), starts it again when it ends unasked, adopts
and reaps whatever loses its parent, and takes everything down at the end. Connections that come while there is no
daemon wait in the sockets' backlogs.

It talks with each daemon over a socket pair (`handover.py` has the words); the end of file tells either that the
other is gone. For an upgrade it starts a second daemon beside the first, and when that serves, changes to the new
code itself: an exec in place, with the same pid, sockets and children.

It imports little, because everything else waits for it. Under systemd it is not needed.
Its starter is `engines/launch.py`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys
import time

from serve_lite.daemon.handover import MEMORY_FORM, DaemonProcess, Handover
from serve_lite.daemon.home import TOKEN_VARIABLE, Paths, paths, take_secrets
from serve_lite.daemon.log_files import reopen, writes_into
from serve_lite.daemon.proxy_keeping import ProxyProcesses
from serve_lite.daemon.token import prepare_token
from serve_lite.processes import (
    become_subreaper,
    children_of,
    open_pidfd,
    python_command,
    set_title,
    start_time_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` itself would cost 4 ms
    from typing import Any, Final

#: A daemon that ends with this status has found a fault that another start, right now, would only find again.
EXIT_HOPELESS: Final = 78  # EX_CONFIG of sysexits.h

#: Starts in a row that may fail before the first one that got ready. After it, the keeper never gives up.
_FIRST_ATTEMPTS: Final = 3
_SHORTEST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_PAUSES_FORGOTTEN_AFTER_S: Final = 30.0  #: a daemon that ran this long starts a new row
_LOCK_PATIENCE_S: Final = 5.0  #: for the last processes of an instance that is just leaving
_KILL_PATIENCE_S: Final = 10.0
_PROXIES_LAST_S: Final = 1.0  #: for proxies to hand out what replicas have answered, once all else has ended

#: What a successor says before it is ready; whoever asked for the upgrade is shown its end if it fails.
UPGRADE_LOG: Final = "upgrade.log"


class StartError(Exception):
    """The instance cannot be started. `facts` go to the launcher as they are."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.facts = {"ok": False, "error": message, **facts}


class Keeper:
    """One instance's sockets and the daemon behind them, from the first start to the last exit."""

    def __init__(self, options: str, where: Paths, sockets: dict[str, socket.socket], lock_fd: int) -> None:
        self._options = options
        self._paths = where
        self._sockets = sockets
        self._lock_fd = lock_fd
        self._daemon: DaemonProcess | None = None  #: that is in charge; None: none runs now
        self._handover: Handover | None = None  #: under way
        self._retired: list[DaemonProcess] = []  #: finish what they have
        self._start_at: float | None = None  #: when to start the next daemon
        self._failures = 0  #: daemons in a row that ended unasked
        self._was_ready = False  #: a daemon of this keeper has been ready once
        self._stops = 0  #: how often we were asked to stop
        self._exit_status: int | None = None  #: set: the work is done
        settings = json.loads(options)
        self._proxies = ProxyProcesses(settings["proxy_processes"], self._new_proxy, self._drop_link, _log)
        self._poll = select.poll()
        self._writes_log = writes_into(os.path.join(where.logs, "keeper.log"))
        self._wakeup = _catch_signals()
        self._poll.register(self._wakeup, select.POLLIN)

    @property
    def daemon_pid(self) -> int:
        return self._daemon.pid if self._daemon is not None else 0

    def start(self) -> None:
        """Start the first daemon, and the proxies if there shall be any."""
        self.start_daemon()
        self._proxies.start(time.monotonic())

    def start_daemon(self) -> None:
        """Start a daemon that inherits the sockets."""
        self._daemon = self._new_daemon("daemon.log")
        self._start_at = None

    def watch_owner(self, pid: int) -> None:
        """Stop gracefully when this process ends."""
        try:
            self._owner, self._owner_fd = pid, open_pidfd(pid)
        except ProcessLookupError:
            self._stop(f"its owner, process {pid}, is gone")
            return
        if self._owner_fd is not None:
            self._poll.register(self._owner_fd, select.POLLIN)

    _owner = 0
    _owner_fd: int | None = None

    def run(self) -> int:
        """Keep a daemon running until asked to stop; return the exit status. Nothing is left afterwards."""
        while self._exit_status is None:
            for fd, _ in self._poll.poll(self._pause_ms()):
                if fd == self._wakeup:
                    self._on_signals(os.read(self._wakeup, 4096))
                elif fd == self._owner_fd:
                    self._poll.unregister(fd)
                    self._stop(f"its owner, process {self._owner}, is gone")
                else:
                    self._on_link(fd)
            now = time.monotonic()
            if self._start_at is not None and now >= self._start_at:
                self.start_daemon()
            self._proxies.start_due(now)
            if self._handover is not None:
                self._handover.check_deadline(now)
            if self._owner and self._owner_fd is None and start_time_of(self._owner) is None:
                self._stop(f"its owner, process {self._owner}, is gone")
        self._wait_for_proxies()
        _kill_descendants()
        self._paths.remove_sockets()
        return self._exit_status

    def _wait_for_proxies(self) -> None:
        """Let the proxies hand out the last answers."""
        self._proxies.drain()
        give_up_at = time.monotonic() + _PROXIES_LAST_S
        while self._proxies.all() and (left_s := give_up_at - time.monotonic()) > 0 and self._stops < 2:
            for fd, _ in self._poll.poll(left_s * 1000):
                if fd == self._wakeup:
                    self._on_signals(os.read(self._wakeup, 4096))
                elif fd != self._owner_fd:
                    self._on_link(fd)

    def memory(self, grace_s: float) -> str:
        """Return what `remember` needs in the same process after an exec. Descriptors in it are made inheritable.

        Args:
            grace_s: for what is open in the proxies of the present code.
        """
        for sock in self._sockets.values():
            sock.set_inheritable(True)
        os.set_inheritable(self._lock_fd, True)
        assert self._daemon is not None
        return json.dumps(
            {
                "sockets": {name: sock.fileno() for name, sock in self._sockets.items()},
                "lock": self._lock_fd,
                "daemon": self._daemon.memory(),
                "retired": [daemon.memory() for daemon in self._retired],
                "proxies": self._proxies.memory(),
                "grace_s": grace_s,
                "owner": self._owner,
                "writes_log": self._writes_log,
            }
        )

    @classmethod
    def remember(cls, options: str, where: Paths, memory: str) -> Keeper:
        """Return the keeper that this process was before it changed its code."""
        known = json.loads(memory)
        sockets = {name: socket.socket(fileno=fd) for name, fd in known["sockets"].items()}
        for sock in sockets.values():
            sock.set_inheritable(False)
        os.set_inheritable(known["lock"], False)
        keeper = cls(options, where, sockets, known["lock"])
        keeper._was_ready, keeper._writes_log = True, known["writes_log"]
        keeper._daemon = DaemonProcess.remembered(known["daemon"])
        keeper._retired = [DaemonProcess.remembered(daemon) for daemon in known["retired"]]
        keeper._proxies.remember(known["proxies"], time.monotonic())
        for daemon in keeper._all_processes():
            if daemon.link is not None:
                keeper._poll.register(daemon.link, select.POLLIN)
        keeper._reap()  # whoever ended meanwhile
        if known["owner"]:
            keeper.watch_owner(known["owner"])
        keeper._proxies.replace(known["grace_s"])
        return keeper

    def _new_daemon(self, log: str, *, is_successor: bool = False) -> DaemonProcess:
        inherited = {name: sock.fileno() for name, sock in self._sockets.items()}
        inherited["lock"] = self._lock_fd
        more = {"SERVE_LITE_SUCCESSOR": "1"} if is_successor else {}
        return self._spawn("serve_lite.daemon.entry", inherited, log, more)

    def _new_proxy(self, number: int) -> DaemonProcess:
        # The lock too: as long as we accept on the sockets, no other instance can.
        inherited = {name: sock.fileno() for name, sock in self._sockets.items() if name in ("http", "grpc")}
        more = {"SERVE_LITE_PROXY": str(number)}
        return self._spawn(
            "serve_lite.daemon.proxy_process", {**inherited, "lock": self._lock_fd}, "proxy.log", more
        )

    def _spawn(self, module: str, inherited: dict[str, int], log: str, more: dict[str, str]) -> DaemonProcess:
        """Start a process of the instance, with a link to us."""
        ours, theirs = socket.socketpair()
        variables = {"SERVE_LITE_INSTANCE": self._options, **more}
        pid = _spawn(
            module, {**inherited, "keeper": theirs.fileno()}, variables, os.path.join(self._paths.logs, log)
        )
        theirs.close()
        ours.setblocking(False)
        self._poll.register(ours, select.POLLIN)
        return DaemonProcess(pid, ours, time.monotonic())

    def _pause_ms(self) -> float | None:
        pauses = [1000.0] if self._owner and self._owner_fd is None else []  # no pidfd on this system: look
        times = [at for at in (self._start_at, self._proxies.next_at) if at is not None]
        if self._handover is not None and not self._handover.why_out:
            times.append(self._handover.deadline)
        pauses += [max(0.0, (at - time.monotonic()) * 1000) + 1 for at in times]
        return min(pauses, default=None)

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGHUP:
                if self._writes_log:
                    reopen(os.path.join(self._paths.logs, "keeper.log"))
                for process in (*self._serving(), *self._proxies.all()):
                    process.signal(signal.SIGHUP)
            else:
                self._stop(f"it got {signal.Signals(number).name}")

    def _serving(self) -> list[DaemonProcess]:
        """Return the daemons that may have requests."""
        successor = [self._handover.successor] if self._handover and self._handover.is_going else []
        return [*([self._daemon] if self._daemon is not None else []), *successor, *self._retired]

    def _all_daemons(self) -> list[DaemonProcess]:
        successor = [self._handover.successor] if self._handover is not None else []
        return [*([self._daemon] if self._daemon is not None else []), *successor, *self._retired]

    def _all_processes(self) -> list[DaemonProcess]:
        return [*self._all_daemons(), *self._proxies.all()]

    def _on_link(self, fd: int) -> None:
        for daemon in self._all_processes():
            if daemon.link is not None and daemon.link.fileno() == fd:
                lines = daemon.hear()
                if lines is None:  # its exit follows
                    self._drop_link(daemon)
                for line in lines or ():
                    self._on_line(daemon, line)
                return

    def _on_line(self, daemon: DaemonProcess, line: str) -> None:
        now, handover = time.monotonic(), self._handover
        if handover is not None and daemon is handover.successor:
            handover.heard_successor(line, now)
            if handover.is_done:
                self._finish_handover(handover)
        elif daemon in self._proxies.all():
            self._proxies.heard(daemon, line)
        elif daemon is not self._daemon:
            return
        elif line.startswith("upgrade"):
            self._begin_handover(daemon, float(line.partition(" ")[2] or 0))
        elif line == "drain":
            self._proxies.drain()
            self._tell_drained()
        elif handover is not None:
            handover.heard_old(line, now)
        elif line.startswith("ready") and not self._was_ready:
            self._was_ready, self._failures = True, 0

    # --- another daemon in place of the one that runs ---

    def _tell_drained(self) -> None:
        if self._daemon is not None and self._proxies.is_draining and not self._proxies.all():
            self._daemon.tell("drained")

    def _begin_handover(self, daemon: DaemonProcess, grace_s: float) -> None:
        if self._handover is not None or self._stops:
            daemon.tell("keep the instance is stopping, or an upgrade is under way already")
            return
        log = os.path.join(self._paths.logs, UPGRADE_LOG)
        if os.path.exists(log):  # what an earlier successor said is of no interest to this one's user
            os.truncate(log, 0)
        successor = self._new_daemon(UPGRADE_LOG, is_successor=True)
        self._handover = Handover(daemon, successor, time.monotonic())
        self._handover.grace_s = grace_s
        _log(f"starting process {successor.pid} to take the place of daemon {daemon.pid}")

    def _finish_handover(self, handover: Handover) -> None:
        self._handover = None
        if handover.old is not None:
            self._retired.append(handover.old)
        self._daemon, self._failures, self._start_at = handover.successor, 0, None
        _log(f"daemon {handover.successor.pid} has taken over")
        if handover.memory_form == MEMORY_FORM and not self._stops:
            self._renew(handover.grace_s)
        else:
            _log("the keeper goes on with the code that it was started with")
        self._proxies.replace(handover.grace_s)

    def _renew(self, grace_s: float) -> None:
        """Become what is installed now. The successor has just loaded the same module in the same environment."""
        _log("changing to the code of the new daemon")
        command = python_command("serve_lite.daemon.keeper")
        environment = dict(
            os.environ, SERVE_LITE_INSTANCE=self._options, SERVE_LITE_KEEPER=self.memory(grace_s)
        )
        # Signals that come meanwhile wait until the new code listens: the mask outlives the exec.
        signal.pthread_sigmask(signal.SIG_BLOCK, _CAUGHT)
        try:
            os.execve(command[0], command, environment)
        except OSError as error:  # the interpreter is gone, for example
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _CAUGHT)
            _log(f"the keeper goes on with the code that it was started with: {error}")

    def _on_successor_exit(self, handover: Handover, how: str) -> None:
        self._handover = None
        _log(f"the new daemon ended {how} before it was ready. {handover.why_out}".rstrip())
        handover.successor_ended(how)
        if self._daemon is None and not self._stops:  # both are gone
            self._start_at = time.monotonic()
        elif self._daemon is None:
            self._exit_status = 1
        elif self._stops:
            self._daemon.signal(signal.SIGTERM)

    # --- ends ---

    def _drop_link(self, daemon: DaemonProcess) -> None:
        if daemon.link is not None:
            self._poll.unregister(daemon.link)
            daemon.link.close()
            daemon.link = None

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = next((process for process in self._all_processes() if process.pid == pid), None)
            if ended is not None and ended in self._proxies.all():
                self._proxies.ended(ended, os.waitstatus_to_exitcode(status), time.monotonic())
                self._tell_drained()
            elif ended is not None:
                self._on_exit(ended, os.waitstatus_to_exitcode(status))
            else:
                for daemon in self._serving():
                    daemon.tell(f"exit {pid} {status}")

    def _on_exit(self, daemon: DaemonProcess, code: int) -> None:
        self._drop_link(daemon)
        how = f"with status {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        if daemon in self._retired:
            self._retired.remove(daemon)
            _log(f"the replaced daemon {daemon.pid} ended {how}")
        elif self._handover is not None and daemon is self._handover.successor:
            self._on_successor_exit(self._handover, how)
        else:
            self._on_daemon_exit(daemon, code, how)

    def _on_daemon_exit(self, daemon: DaemonProcess, code: int, how: str) -> None:
        self._daemon = None
        handover = self._handover
        if handover is not None and (handover.is_going or not (self._stops or code == 0)):
            _log(f"the daemon ended {how}: its successor goes on alone")
            handover.old_ended(time.monotonic())
            return
        if self._stops or code == 0:
            _log(f"the daemon ended {how}")
            self._exit_status = 0 if code in (0, -signal.SIGTERM) else 1
            return
        if time.monotonic() - daemon.started_at > _PAUSES_FORGOTTEN_AFTER_S:
            self._failures = 0
        self._failures += 1
        # After the first one that got ready, even a hopeless fault may pass: a full disk that somebody tidies.
        if not self._was_ready and (code == EXIT_HOPELESS or self._failures >= _FIRST_ATTEMPTS):
            _log(f"the daemon ended {how}, {self._failures} times without getting ready: giving up")
            self._exit_status = 1
            return
        pause_s = 0.0 if self._failures == 1 else _SHORTEST_PAUSE_S * 2.0 ** min(self._failures - 2, 10)
        pause_s = min(pause_s, _LONGEST_PAUSE_S)
        self._start_at = time.monotonic() + pause_s
        _log(f"the daemon ended {how}: starting it again in {pause_s:.1f} s")

    def _stop(self, reason: str) -> None:
        self._stops += 1
        if self._daemon is None and self._handover is None:
            _log(f"stopping, because {reason}")
            self._exit_status = 0
        elif self._stops == 1:
            _log(f"stopping gracefully, because {reason}")
            self._stop_gracefully()
        else:
            _log(f"stopping at once, because {reason}")
            self._proxies.kill()
            for daemon in self._all_daemons():
                daemon.signal(signal.SIGKILL)

    def _stop_gracefully(self) -> None:
        handover = self._handover
        if handover is None:
            assert self._daemon is not None
            self._daemon.signal(signal.SIGTERM)
        elif handover.is_going:  # it has the instance, or will say that it failed
            handover.successor.signal(signal.SIGTERM)
        else:  # its exit tells the old one, which then gets its signal
            handover.end_successor("the instance is stopping")


def main() -> int:
    """Run the keeper of the instance that the environment describes.

    Arguments, in pairs: `--handshake-fd N`, a pipe that gets one line of JSON once the sockets are bound or cannot
    be; `--owner-pid N`, the process whose end is the instance's end.
    """
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    handshake_fd = int(arguments.get("--handshake-fd", "-1"))
    token = os.environ.pop(TOKEN_VARIABLE, "")  # not for the daemon, nor for user code
    options = _options()
    settings = json.loads(options)
    where = paths(settings["home"])
    if memory := os.environ.pop("SERVE_LITE_KEEPER", ""):
        keeper = Keeper.remember(options, where, memory)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _CAUGHT)
        set_title("serve-lite: keeper")
        return keeper.run()
    try:
        where.prepare()
        lock_fd = take_lock(where.lock)
        where.prepare()  # again, because the last instance may have removed its directory in the end
        sockets = _bind(settings, where, has_token=bool(token) or os.path.exists(where.token))
        prepare_token(where, token)
    except Exception as error:
        facts = error.facts if isinstance(error, StartError) else {"ok": False, "error": str(error)}
        _shake_hands(handshake_fd, facts)
        _log(f"cannot start: {error}")
        return 1
    become_subreaper()
    keeper = Keeper(options, where, sockets, lock_fd)
    keeper.start()
    if "--owner-pid" in arguments:
        keeper.watch_owner(int(arguments["--owner-pid"]))
    _shake_hands(handshake_fd, {"ok": True, **_info(settings, sockets), "pid": keeper.daemon_pid})
    set_title("serve-lite: keeper")
    return keeper.run()


#: Options that are read here.
_COMPLETE: Final = {
    "home", "http_host", "http_port", "grpc_servicer_functions", "grpc_host", "grpc_port", "admin_host", "admin_port",
    "backlog", "origins", "proxy_processes", "http3",
}  # fmt: skip


def _options() -> str:
    """Return JSON of `InstanceOptions`, complete. A launcher gives it so; whoever starts us by hand need not."""
    given = os.environ.pop("SERVE_LITE_INSTANCE", "{}")
    if json.loads(given).keys() >= _COMPLETE:
        return given
    import msgspec  # 30 ms

    from serve_lite.daemon.options import options_from

    return msgspec.json.encode(options_from(given, take_secrets())).decode()


def take_lock(path: str) -> int:
    """Return a descriptor that holds the instance's lock. The daemon inherits it, so it outlives the keeper.

    Raises:
        StartError: another process has it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up_at = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = int(os.pread(fd, 20, 0) or b"0")
            if start_time_of(holder) is not None:
                raise _already_up(path, holder) from None
            if time.monotonic() > give_up_at:
                raise StartError(f"The last instance in {os.path.dirname(path)!r} is still ending.") from None
            time.sleep(0.02)  # its keeper is gone and its daemon is about to be
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def _already_up(path: str, holder: int) -> StartError:
    home = os.path.dirname(path)
    return StartError(
        f"An instance is already up in {home!r} (process {holder}). Use it, stop it with `serve shutdown`, "
        "or name another state directory with SERVE_LITE_HOME.",
        kind="already_up",
        keeper_pid=holder,
    )


def _bind(settings: dict[str, Any], where: Paths, *, has_token: bool) -> dict[str, socket.socket]:
    sockets = {}
    if settings["http_host"] is not None:
        sockets["http"] = _listen(settings["http_host"], settings["http_port"], settings["backlog"])
        if settings["http3"]:
            sockets["http3"] = _listen_udp(settings["http_host"], sockets["http"].getsockname()[1])
    if settings["grpc_servicer_functions"]:
        sockets["grpc"] = _listen(settings["grpc_host"], settings["grpc_port"], settings["backlog"])
    sockets["admin"] = _listen(settings["admin_host"], settings["admin_port"], 128, may_be_exposed=has_token)
    sockets["control"] = _listen_unix(where.control)
    return sockets


def _listen(host: str, port: int, backlog: int, *, may_be_exposed: bool = True) -> socket.socket:
    sock: socket.socket | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        found.sort(
            key=lambda entry: entry[0] != socket.AF_INET
        )  # `localhost` may be both: most clients try this first
        family, kind, protocol, _, address = found[0]
        if not may_be_exposed and address[0] != "::1" and not str(address[0]).startswith("127."):
            raise _exposed(host)
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(backlog)
    except OSError as error:
        if sock is not None:
            sock.close()
        if error.errno == errno.EADDRINUSE:
            holder = _holder_of(port)
            by = f", held by {holder}" if holder else ""
            message = f"the port {host}:{port} is in use{by}"
            raise StartError(message, kind="port_in_use", host=host, port=port, holder=holder) from error
        why = "ports below 1024 are for root" if error.errno == errno.EACCES else error.strerror
        raise StartError(
            f"Cannot listen on '{host}:{port}': {why}. Choose another address.", kind="bind"
        ) from error
    return sock


def _exposed(host: str) -> StartError:
    return StartError(
        f"The control plane would listen on {host!r}, where other machines can reach it and start any code, and the "
        f"instance has no token yet. Make one with `serve token rotate`, or set {TOKEN_VARIABLE}, or listen on "
        "127.0.0.1.",
        kind="bind",
    )


def _listen_udp(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)  # the family that `_listen` has chosen
    family, kind, protocol, _, address = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.bind(address)
    except OSError as error:
        sock.close()
        message = f"the UDP port {host}:{port}, for HTTP/3, is in use"
        if error.errno != errno.EADDRINUSE:
            message = f"Cannot listen on the UDP port '{host}:{port}' for HTTP/3: {error.strerror}."
        raise StartError(message, kind="bind") from error
    return sock


def _listen_unix(path: str) -> socket.socket:
    unready = path + "~"
    for stale in (path, unready):  # we hold the lock, so whoever made it is gone
        try:
            os.unlink(stale)
        except FileNotFoundError:
            pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(unready)
    os.chmod(unready, 0o600)
    sock.listen(128)
    os.rename(unready, path)  # whoever sees it can connect
    return sock


def _holder_of(port: int) -> str | None:
    """Name the process that listens on a TCP port, if we may know it."""
    import psutil  # only to explain a failure

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                process = psutil.Process(connection.pid)
                command = " ".join(process.cmdline()).strip() or process.name()  # titles are padded
                return f"process {connection.pid} ({command[:80]})"
    except (psutil.Error, OSError):
        pass
    return None


def _info(settings: dict[str, Any], sockets: dict[str, socket.socket]) -> dict[str, Any]:
    """Return what is known of an `InstanceInfo` (wire/messages.py) before there is a daemon."""
    return {
        "keeper_pid": os.getpid(),
        "home": settings["home"],
        "http_host": settings["http_host"],
        "http_port": sockets["http"].getsockname()[1] if "http" in sockets else 0,
        "grpc_host": settings["grpc_host"] if "grpc" in sockets else None,
        "grpc_port": sockets["grpc"].getsockname()[1] if "grpc" in sockets else 0,
        "admin_host": settings["admin_host"],
        "admin_port": sockets["admin"].getsockname()[1],
    }


def _shake_hands(fd: int, facts: dict[str, Any]) -> None:
    if fd < 0:
        if not facts["ok"]:
            print(facts["error"], file=sys.stderr)
        return
    try:
        os.write(fd, json.dumps(facts).encode() + b"\n")
        os.close(fd)
    except BrokenPipeError:  # the launcher has gone; if it was our owner too, its pidfd tells
        pass


def _spawn(module: str, inherited: dict[str, int], variables: dict[str, str], log_path: str) -> int:
    """Start a process that runs a module and return its pid. `inherited` become its descriptors 3, 4, ... in order."""
    environment = dict(
        os.environ, **variables, LISTEN_FDS=str(len(inherited)), LISTEN_FDNAMES=":".join(inherited)
    )
    command = python_command(module)
    pid = os.fork()  # safe here: this process has no threads
    if pid:
        return pid
    try:
        os.setsid()  # a Ctrl-C in a terminal is for the keeper, which stops things in order
        signal.set_wakeup_fd(-1)
        for number in _CAUGHT:
            signal.signal(number, signal.SIG_DFL)  # SIGINT may have been ignored when the keeper was started
        environment["LISTEN_PID"] = str(os.getpid())
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        last = 3 + len(inherited)
        for fd in (1, 2):
            os.dup2(log, fd)
        # Up first, so that no descriptor is overwritten before it was copied.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, last) for fd in inherited.values()]
        for target, fd in enumerate(high, 3):
            os.dup2(fd, target)
        os.execve(command[0], command, environment)
    except BaseException as error:
        print(f"cannot start {module}: {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(EXIT_HOPELESS)


_CAUGHT: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _catch_signals() -> int:
    """Return a descriptor that gives a byte for each signal that came."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in _CAUGHT:
        signal.signal(number, lambda *_: None)
    return reader


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer


def _kill_descendants() -> None:
    """Kill what is left below us. As a subreaper we inherit the children of each one that falls."""
    give_up_at = time.monotonic() + _KILL_PATIENCE_S
    while time.monotonic() < give_up_at:
        for pid in children_of(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        try:
            reaped, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if reaped == 0:
            time.sleep(0.002)
    _log("some processes could not be killed: they hang inside the kernel")


def _log(text: str) -> None:
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} keeper: {text}\n"
    try:
        os.write(2, line.encode())  # not through a buffer, which would try again, and fail again, at the end
    except OSError:  # no room on the disk, or nobody who reads: no reason to end an instance
        pass


if __name__ == "__main__":
    sys.exit(main())
