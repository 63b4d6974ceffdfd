"""Starting replicas and importers: by a fork of the template, or by exec where a fork cannot give what is asked.

The daemon makes a replica's listening socket before the replica, so that it can connect at once and nobody has to
wait for a file to appear. Output goes straight into a log file at the descriptor: a crash's last words are kept,
and nothing has to copy them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence, Set
from typing import NamedTuple

import msgspec

from serve_lite.controller.child import Child, ChildFiles, exit_info, find_process
from serve_lite.controller.warm import Template, start_template
from serve_lite.exceptions import InstanceError
from serve_lite.processes import open_pidfd, python_command, start_time_of
from serve_lite.state.goal import CodeEnvironment
from serve_lite.state.ids import ReplicaId, suffix_of
from serve_lite.wire.ledger import ledger_path
from serve_lite.wire.pulse import pulse_path
from serve_lite.wire.spawning import (
    LONGEST_PACKET,
    ChildKind,
    Exited,
    NotSpawned,
    Spawned,
    SpawnRequest,
    TemplateMessage,
)

logger = logging.getLogger(__name__)

#: Variables that the interpreter, the C library or a library's loader reads before any Python code of ours runs.
_READ_EARLY = re.compile(
    "LD_|DYLD_|PYTHON|MALLOC_|GLIBC_|LC_|LANG$|TZ$|CUDA_|NVIDIA_|HIP_|ROCR_|OMP_|GOMP_|KMP_|MKL_|OPENBLAS_|"
    "BLIS_|VECLIB_|NUMEXPR_|ASAN_|TSAN_|UBSAN_"
)

#: Templates in a row that may end without having answered once; after that everything starts by exec.
_BROKEN_TEMPLATES = 2

_decode_message = msgspec.json.Decoder(TemplateMessage).decode


class SpawnLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica keeps to from before anything of the user's runs."""

    cgroup: str = ""  #: folder of the one that it enters; "": it stays in the daemon's
    cpus: tuple[int, ...] = ()  #: to which it is bound; (): to none
    threads: int = 0  #: of numeric libraries, unless a variable says otherwise; 0: as many as they like


class TemplateLostError(Exception):
    """The template ended before it had answered."""


class _Asked(NamedTuple):
    """A request to the template: who waits for the child, and what is known of it already."""

    answer: asyncio.Future[Child]
    files: ChildFiles

    def fail(self, why: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(TemplateLostError(why))


class Spawner:
    """Starts children, and knows all that it has started or adopted.

    Lifetime: the daemon opens it as an async context manager and closes it when it leaves. Closing ends the
    template; children live on, watched by nobody.
    """

    def __init__(self, run: str, logs: str, *, template: Template | None = None, backlog: int = 128) -> None:
        self._run, self._logs, self._backlog = run, logs, backlog
        self._template = template
        self._silent_templates = 0  #: in a row, ended without a word
        self._serial = 0
        self._asked: dict[int, _Asked] = {}  #: of the template and not answered, by serial
        self._children: dict[int, Child] = {}  #: alive, by pid
        self.num_ended = 0  #: children that have ended
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> Spawner:
        self._loop = asyncio.get_running_loop()
        if self._template is not None:
            self._loop.add_reader(self._template.sock.fileno(), self._on_template)
        else:
            self._ensure_template()
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in self._children.values():
            child.unwatch()
        if (template := self._template) is not None:
            self._drop_template()
            await asyncio.to_thread(template.reap)

    @property
    def run_dir(self) -> str:
        """Where replicas listen."""
        return self._run

    def socket_path(self, replica: ReplicaId) -> str:
        """Return where this replica listens."""
        return replica_socket_in(self._run)(replica)

    def log_path(self, kind: str, name: str) -> str:
        """Return where a child's output goes."""
        return os.path.join(self._logs, f"{kind}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.log")

    async def spawn_replica(
        self,
        replica: ReplicaId,
        environment: CodeEnvironment,
        log_path: str | None = None,
        *,
        limits: SpawnLimits = SpawnLimits(),  # noqa: B008  (frozen)
    ) -> Child:
        """Start a replica that listens at `socket_path(replica)`; it waits there for `init`.

        Raises:
            InstanceError: no process could be started.
        """
        app, deployment, suffix = replica.rsplit("#", 2)
        path = self.socket_path(replica)
        listener = _listen(path, self._backlog)
        try:
            return await self._spawn(
                "replica",
                replica,
                f"serve-lite: replica {app}/{deployment} {suffix}",
                environment,
                listener,
                log_path or self.log_path("replica", replica),
                socket_path=path,
                limits=limits,
            )
        except BaseException:
            _remove_sockets(path)
            raise
        finally:
            listener.close()  # the replica has its own; once it is gone, connecting must fail

    async def spawn_importer(
        self, app: str, environment: CodeEnvironment, work: socket.socket, log_path: str
    ) -> Child:
        """Start an importer that gets its request from, and answers into, the other end of `work`.

        Raises:
            InstanceError: no process could be started.
        """
        return await self._spawn("importer", app, f"serve-lite: importer {app}", environment, work, log_path)

    async def spawn_servicers(
        self, environment: CodeEnvironment, work: socket.socket, log_path: str
    ) -> Child:
        """Start a child that reads gRPC servicer functions; `work` as for an importer.

        Raises:
            InstanceError: no process could be started.
        """
        title = "serve-lite: importer of gRPC services"
        return await self._spawn("servicers", "grpc", title, environment, work, log_path)

    async def spawn_preparer(self, name: str, work: socket.socket, log_path: str) -> Child:
        """Start a child that prepares one part of an environment; `work` as for an importer.

        Raises:
            InstanceError: no process could be started.
        """
        title = f"serve-lite: preparer {name}"
        return await self._spawn("preparer", name, title, CodeEnvironment(), work, log_path)

    async def spawn_adviser(self, app: str, environment: CodeEnvironment, path: str) -> Child:
        """Start an adviser that listens at `path` and runs user code which the daemon asks for advice.

        Raises:
            InstanceError: no process could be started.
        """
        listener = _listen(path, self._backlog)
        try:
            return await self._spawn(
                "adviser",
                app,
                f"serve-lite: adviser {app}",
                environment,
                listener,
                self.log_path("adviser", app),
                socket_path=path,
            )
        except BaseException:
            _remove_sockets(path)
            raise
        finally:
            listener.close()

    def adopt_child(
        self, pid: int, start_time: int, *, replica: ReplicaId = "", socket_path: str = "", log_path: str = ""
    ) -> Child | None:
        """Take over a replica that another daemon started; None if it is gone."""
        try:
            pidfd = find_process(pid, start_time)
        except ProcessLookupError:
            return None
        if replica:
            socket_path = socket_path or self.socket_path(replica)
            log_path = log_path or self.log_path("replica", replica)
        return self._watch(pid, start_time, pidfd, ChildFiles(socket_path, log_path))

    def report_exit(self, pid: int, wait_status: int) -> None:
        """Take the word of the keeper, which reaps replicas that have lost their template."""
        child = self._children.get(pid)
        if child is not None:
            child.report_exit(exit_info(os.waitstatus_to_exitcode(wait_status)))

    def kill_all(self) -> None:
        """Kill every child that lives and remove its sockets, for a daemon that ends at once."""
        for child in self._children.values():
            child.kill()
            if child.files.socket_path:
                _remove_sockets(child.files.socket_path)
        for name in os.listdir(self._run):
            if name.startswith("p-") and name.endswith(".live"):  # that replicas answered to
                os.unlink(os.path.join(self._run, name))

    def sweep(self) -> None:
        """End replicas, and remove sockets, that no child of ours has. For a new daemon that has adopted.

        Such are left by a daemon that died between starting a replica and writing it down.
        """
        known = {child.socket_path for child in self._children.values()}
        strays = set()
        for name in os.listdir(self._run):
            if name.startswith("r-") and name.endswith((".sock", ".acc", ".live")):
                suffix = name[2:].partition(".")[0]
                path = os.path.join(self._run, f"r-{suffix}.sock")
                if path not in known:
                    strays.add(suffix)
                    _remove_sockets(path)
        if strays:
            _kill_by_suffix(strays)

    async def _spawn(
        self,
        kind: ChildKind,
        name: str,
        title: str,
        environment: CodeEnvironment,
        work: socket.socket,
        log_path: str,
        *,
        socket_path: str = "",
        limits: SpawnLimits = SpawnLimits(),  # noqa: B008  (frozen)
    ) -> Child:
        self._serial += 1
        request = SpawnRequest(
            serial=self._serial,
            kind=kind,
            name=name,
            title=title,
            cwd=environment.cwd,
            sys_path=environment.sys_path,
            env_vars=environment.env_vars,
            cpus=limits.cpus,
            threads=limits.threads,
            cgroup=limits.cgroup,
        )
        log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        files = ChildFiles(socket_path, log_path, os.fstat(log).st_size)
        try:
            if not needs_exec(environment):
                try:
                    return await self._fork(request, [work.fileno(), log], files)
                except TemplateLostError as error:
                    if kind == "replica":  # it may have been forked before the template ended
                        _kill_by_suffix({suffix_of(name)})
                    logger.warning("%s is started by exec: %s", title, error)
            return self._exec(request, environment, [work.fileno(), log], files)
        finally:
            os.close(log)

    async def _fork(self, request: SpawnRequest, fds: list[int], files: ChildFiles) -> Child:
        packet = msgspec.json.encode(request)
        template = self._ensure_template()
        if template is None:
            raise TemplateLostError("there is no template")
        if len(packet) > LONGEST_PACKET:
            raise TemplateLostError("the environment is too large for a packet")
        answer: asyncio.Future[Child] = self._loop.create_future()
        self._asked[request.serial] = _Asked(answer, files)
        await self._send(template, packet, fds)
        return await answer  # if cancelled, `_on_message` kills what was forked for nobody

    async def _send(self, template: Template, packet: bytes, fds: Sequence[int]) -> None:
        while True:
            try:
                socket.send_fds(template.sock, [packet], fds)
                return
            except BlockingIOError:
                writable = self._loop.create_future()
                self._loop.add_writer(template.sock.fileno(), writable.set_result, None)
                try:
                    await (
                        writable
                    )  # ends with room in the socket, or with the template, which makes it writable
                finally:
                    if template.sock.fileno() >= 0:
                        self._loop.remove_writer(template.sock.fileno())
            except OSError as error:
                raise TemplateLostError(f"the template is gone ({error.strerror})") from error

    def _exec(
        self, request: SpawnRequest, environment: CodeEnvironment, fds: list[int], files: ChildFiles
    ) -> Child:
        python = environment.python
        env_vars, request = request.env_vars, msgspec.structs.replace(request, env_vars={})
        arguments = ["--child", msgspec.json.encode(request).decode(), *map(str, fds)]
        try:
            process = subprocess.Popen(  # on the loop: 2 ms, and a worker thread must not become the parent
                python_command(
                    "serve_lite.replica.template",
                    *arguments,
                    python=python,
                    library=environment.package_folders,
                ),
                env={**os.environ, **env_vars},
                stdin=subprocess.DEVNULL,
                stdout=fds[1],
                stderr=fds[1],
                pass_fds=fds,
                start_new_session=True,
            )
        except OSError as error:
            raise InstanceError(
                f"Cannot start a process with the interpreter {python or sys.executable!r}: {error.strerror}."
            ) from error
        start_time, pidfd = start_time_of(process.pid) or 0, open_pidfd(process.pid)
        return self._watch(process.pid, start_time, pidfd, files, process)

    def _watch(
        self,
        pid: int,
        start_time: int,
        pidfd: int | None,
        files: ChildFiles,
        own: subprocess.Popen[bytes] | None = None,
    ) -> Child:
        child = self._children[pid] = Child(
            pid,
            start_time,
            pidfd,
            files,
            reap=None if own is None else lambda: None if (code := own.poll()) is None else exit_info(code),
            on_exit=self._on_child_exit,
        )
        return child

    def _ensure_template(self) -> Template | None:
        if self._template is None and self._silent_templates < _BROKEN_TEMPLATES:
            self._template = start_template(self._logs)
            if self._template is not None:
                self._loop.add_reader(self._template.sock.fileno(), self._on_template)
        return self._template

    def _on_template(self) -> None:
        assert self._template is not None
        try:
            packet, fds, _, _ = socket.recv_fds(
                self._template.sock, LONGEST_PACKET, 1, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            packet, fds = b"", []
        if not packet:
            self._silent_templates += 1
            template = self._drop_template()
            self._loop.run_in_executor(None, template.reap)  # it is ending already
            logger.warning("the template ended; its children live on")
            return
        self._silent_templates = 0
        self._on_message(_decode_message(packet), fds[0] if fds else None)

    def _on_message(self, message: TemplateMessage, pidfd: int | None) -> None:
        match message:
            case Spawned(serial=serial, pid=pid, start_time=start_time):
                asked = self._asked.pop(serial)
                child = self._watch(pid, start_time, pidfd, asked.files)
                if asked.answer.done():
                    child.kill()
                else:
                    asked.answer.set_result(child)
            case NotSpawned(serial=serial, why=why):
                self._asked.pop(serial).fail(why)
            case Exited(pid=pid, status=status):
                self.report_exit(pid, status)

    def _drop_template(self) -> Template:
        assert self._template is not None
        template, self._template = self._template, None
        self._loop.remove_reader(template.sock.fileno())
        template.close()
        for asked in self._asked.values():
            asked.fail("the template ended")
        self._asked.clear()
        return template

    def _on_child_exit(self, child: Child) -> None:
        self.num_ended += 1
        self._children.pop(child.pid, None)
        if child.files.socket_path:
            _remove_sockets(child.files.socket_path)


def replica_socket_in(run: str) -> Callable[[ReplicaId], str]:
    """Return what tells where replicas listen whose sockets are in the directory `run`."""
    return lambda replica: os.path.join(run, f"r-{suffix_of(replica)}.sock")


def needs_exec(environment: CodeEnvironment) -> bool:
    """Whether a fork of the template could not give this environment."""
    # Not by where a link leads to: a virtual environment's interpreter is a link, and where it lies decides
    # which packages there are.
    if environment.python and os.path.abspath(environment.python) != os.path.abspath(sys.executable):
        return True
    return any(_READ_EARLY.match(name) for name in environment.env_vars)


def _listen(path: str, backlog: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)  # in a directory of mode 0700, so nobody can slip in before the next line
        os.chmod(path, 0o600)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise InstanceError(f"Cannot listen on {path!r}: {error.strerror}.") from error
    return sock


def _remove_sockets(path: str) -> None:
    for file in (path, ledger_path(path), pulse_path(path)):
        try:
            os.unlink(file)
        except FileNotFoundError:
            pass


def _kill_by_suffix(suffixes: Set[str]) -> None:
    """Kill the replicas with these suffixes, found by their titles: the one who knew their pids is gone."""
    import psutil  # only after something has died at a bad moment

    for process in psutil.process_iter(["cmdline", "uids"]):
        title = " ".join(process.info["cmdline"] or ()).strip()
        uids = process.info["uids"]
        is_ours = uids is not None and uids.real == os.getuid() and title.startswith("serve-lite: replica ")
        if is_ours and title.rpartition(" ")[2] in suffixes:
            logger.warning("process %d is a replica that nobody knows: killing it", process.pid)
            process.kill()  # psutil checks that the pid was not reused
