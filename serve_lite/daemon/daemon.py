"""The daemon: controller, proxy, control socket and admin port in one task group on one loop.

If one part fails, all are cancelled, the traceback is logged, and the process ends; the keeper starts the next
one, which adopts the replicas. Nothing here decides anything: this is where the parts are put together, in the
order in which they may start and must stop.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import msgspec

from serve_lite import __version__
from serve_lite.admin.auth import check_listener
from serve_lite.controller.advisers import Advisers
from serve_lite.controller.controller import Controller
from serve_lite.controller.environment_cache import EnvironmentCache
from serve_lite.controller.environments import Environments, settings_from
from serve_lite.controller.importer import Importer
from serve_lite.controller.publisher import Publisher
from serve_lite.controller.spawner import Spawner
from serve_lite.controller.store import Store
from serve_lite.controller.warm import Template
from serve_lite.daemon.control import ControlSocket
from serve_lite.daemon.effective import shown
from serve_lite.daemon.grpc_memory import GrpcMemory
from serve_lite.daemon.home import Paths
from serve_lite.daemon.keeper import EXIT_HOPELESS
from serve_lite.daemon.lazy_admin import serve_admin
from serve_lite.daemon.options import InstanceOptions
from serve_lite.exceptions import InstanceError, InvalidConfigError
from serve_lite.processes import set_title
from serve_lite.proxy.http import RequestHandler
from serve_lite.proxy.options import ProxyOptions
from serve_lite.proxy.server import HttpServer, serve_http
from serve_lite.routing.router import Routers
from serve_lite.schema import ProxyStatus
from serve_lite.state.goal import CodeEnvironment
from serve_lite.wire.listener import listen
from serve_lite.wire.messages import InstanceInfo, InstanceSettings

if TYPE_CHECKING:
    from serve_lite.proxy import grpc

logger = logging.getLogger("serve_lite.daemon")

#: How long requests may finish before their replicas are told to stop, which they do gracefully anyway.
_DRAIN_FIRST_S = 1.0


def run(options: InstanceOptions, where: Paths, inherited: dict[str, int], template: Template | None) -> int:
    """Run the daemon until it is told to stop; return the exit status."""
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    daemon = Daemon(options, where, inherited, template)
    try:
        anyio.run(daemon.serve, backend="asyncio", backend_options={"use_uvloop": True})
    except Exception as error:
        causes = _leaves(error)
        if not daemon.is_ready and all(
            isinstance(cause, (InvalidConfigError, InstanceError)) for cause in causes
        ):
            logger.critical("the instance cannot start: %s", " ".join(map(str, causes)))
            return EXIT_HOPELESS
        logger.critical("the daemon failed", exc_info=error)
        return 1
    return 0


class Daemon:
    """One run of the daemon.

    Lifetime: `serve` returns once it was told to stop and nothing of the applications is left. If a part fails it
    raises, and replicas live on for the next daemon.
    """

    def __init__(
        self, options: InstanceOptions, where: Paths, inherited: dict[str, int], template: Template | None
    ) -> None:
        self.is_ready = False  #: everything is up
        self._options, self._paths, self._template = options, where, template
        self._sockets = {
            name: socket.socket(fileno=inherited[name])
            for name in ("http", "grpc", "admin", "control")
            if name in inherited
        }
        self._keeper_pid = os.getppid()
        self._forgets_goal = options.is_embedded  #: else the next daemon brings the applications back
        # The lock is only held, so that no other instance starts here before we are gone too.
        self._keeper = socket.socket(fileno=inherited["keeper"]) if "keeper" in inherited else None
        self._leaving: asyncio.Event

    async def serve(self) -> None:
        """Bring up everything in order, run until told to stop, take it down in order."""
        self._leaving = asyncio.Event()
        set_title("serve-lite: daemon")
        try:
            async with (
                Spawner(self._paths.run, self._paths.logs, template=self._template) as spawner,
                Store(self._paths.db) as store,
                anyio.create_task_group() as group,
            ):
                await self._serve(group, spawner, store)
                group.cancel_scope.cancel()
        finally:
            self._close()

    async def _serve(self, group: anyio.abc.TaskGroup, spawner: Spawner, store: Store) -> None:
        await group.start(self._watch_signals)
        if self._keeper is not None:
            self._watch_keeper(self._keeper, spawner)
        publisher = Publisher(spawner.socket_path)
        limits, kept = settings_from(os.environ)
        cache = EnvironmentCache(self._paths.environments, kept)
        environments = Environments(group, spawner, cache, limits)
        environments.remove_half_made()
        importer = Importer(spawner, environments)
        controller = Controller(
            store,
            spawner,
            importer,
            publisher,
            environments,
            control_socket=self._paths.control,
            orphan_grace_s=self._options.orphan_grace_s,
            http_options=self._http_options(),
            grpc_options=self._grpc_options(),
            proxy_location="EveryNode" if "http" in self._sockets else "Disabled",
            logging_config=self._options.logging_config,
            log_file=os.path.join(self._paths.logs, "daemon.log"),
            machine=self._options.machine,
        )
        advisers = Advisers(group, spawner, controller.code_of, environments)
        controller.ask_policies(advisers.policy)
        await group.start(controller.run)  # returns with the replicas of an earlier daemon adopted
        routers = Routers(publisher, advisers.make)
        http = await self._open_http(group, routers, publisher)
        # Before anybody can ask: what is wrong with the services must be told to whoever starts the instance.
        grpc = await self._open_grpc(group, routers, publisher, importer)
        settings = self._settings()
        control = ControlSocket(
            group, controller, publisher, self._info(controller.epoch), settings, self._shut_down
        )
        listener = await listen(self._sockets["control"], control.methods.handle_call)
        if "admin" in self._sockets:
            check_listener(self._options.admin_host, None)
            group.start_soon(
                serve_admin, self._sockets["admin"], controller, self._options, settings, self._leaving
            )
        self._tell_ready()
        await self._leaving.wait()  # ends with a signal, a client's `shutdown`, or the keeper
        controller.proxy_status = ProxyStatus.DRAINING
        await self._drain([door.drain for door in (http, grpc) if door is not None], controller)
        await control.tell_left()
        await listener.aclose()
        await routers.aclose()

    def _shut_down(self) -> None:
        """Leave for good: a client asked for it."""
        self._forgets_goal = True
        self._leaving.set()

    async def _drain(
        self, doors: Sequence[Callable[[], Coroutine[Any, Any, object]]], controller: Controller
    ) -> None:
        """Let requests finish, then end every replica; requests that take longer end with theirs."""
        async with anyio.create_task_group() as group:
            drained = anyio.Event()

            async def drain() -> None:
                async with anyio.create_task_group() as draining:
                    for door in doors:
                        draining.start_soon(door)
                drained.set()

            if doors:
                group.start_soon(drain)
                with anyio.move_on_after(_DRAIN_FIRST_S):
                    await drained.wait()
            await controller.shutdown(keep_goal=not self._forgets_goal)
            group.cancel_scope.cancel()

    async def _open_http(
        self, group: anyio.abc.TaskGroup, routers: Routers, publisher: Publisher
    ) -> HttpServer | None:
        if "http" not in self._sockets:
            return None
        handler = RequestHandler(routers, _proxy_options(self._options))
        publisher.watch_routes(handler.set_routes)
        server: HttpServer = await group.start(serve_http, self._sockets["http"], handler)
        return server

    async def _open_grpc(
        self, group: anyio.abc.TaskGroup, routers: Routers, publisher: Publisher, importer: Importer
    ) -> grpc.GrpcDoor | None:
        if "grpc" not in self._sockets:
            return None
        from serve_lite.proxy import grpc  # brings another HTTP/2 stack, which few instances need

        options = self._options
        environment = CodeEnvironment(sys_path=options.grpc_sys_path)
        memory = GrpcMemory(self._paths.home, self._keeper_pid if self._keeper is not None else 0)
        services = memory.recall()
        if services is None:
            services = await importer.read_servicers(options.grpc_servicer_functions, environment)
            memory.keep(services)
        door = grpc.GrpcDoor(
            routers,
            services,
            grpc.GrpcOptions(
                request_timeout_s=options.grpc_request_timeout_s,
                enable_reflection=options.grpc_enable_reflection,
                backlog=options.backlog,
            ),
        )
        publisher.watch_routes(door.set_routes)
        await group.start(grpc.serve_grpc, self._sockets["grpc"], door)
        return door

    def _grpc_options(self) -> dict[str, Any]:
        """Return the options as REST shows them, with the port that was really bound."""
        sock, options = self._sockets.get("grpc"), self._options
        return {
            "port": sock.getsockname()[1] if sock else options.grpc_port,
            "grpc_servicer_functions": list(options.grpc_servicer_functions),
            "request_timeout_s": options.grpc_request_timeout_s,
            "enable_reflection": options.grpc_enable_reflection,
        }

    def _http_options(self) -> dict[str, Any]:
        """Return the options as REST shows them, with the port that was really bound."""
        http, options = self._sockets.get("http"), self._options
        return {
            "host": options.http_host if http else None,
            "port": http.getsockname()[1] if http else 0,
            "root_path": options.root_path,
            "request_timeout_s": options.request_timeout_s,
            "keep_alive_timeout_s": options.keep_alive_timeout_s,
        }

    def _settings(self) -> InstanceSettings:
        """Return every option with who chose it, and the ports that were really bound."""
        bound = {
            f"{name}_port": self._sockets[name].getsockname()[1]
            for name in ("http", "grpc", "admin")
            if name in self._sockets
        }
        return InstanceSettings(settings=shown(self._options, bound))

    def _info(self, epoch: int) -> InstanceInfo:
        http, admin, grpc = (self._sockets.get(name) for name in ("http", "admin", "grpc"))
        return InstanceInfo(
            pid=os.getpid(),
            keeper_pid=os.getppid() if self._keeper is not None else 0,
            version=__version__,
            epoch=epoch,
            home=self._paths.home,
            http_host=self._options.http_host if http else None,
            http_port=http.getsockname()[1] if http else 0,
            admin_host=self._options.admin_host,
            admin_port=admin.getsockname()[1] if admin else 0,
            grpc_host=self._options.grpc_host if grpc else None,
            grpc_port=grpc.getsockname()[1] if grpc else 0,
        )

    def _tell_ready(self) -> None:
        self.is_ready = True
        gc.freeze()  # what start-up made stays: later collections need not look at it
        gc.enable()
        if self._keeper is not None:
            try:
                self._keeper.send(b"ready\n")
            except OSError:  # it is gone, which `_watch_keeper` sees
                pass
        logger.info("ready (process %d)", os.getpid())

    async def _watch_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    continue  # nothing to reload yet; its default would end us
                logger.info("leaving, because of %s", number.name)
                self._leaving.set()

    def _watch_keeper(self, keeper: socket.socket, spawner: Spawner) -> None:
        """Leave when the keeper is gone; hear from it how orphans ended that it has reaped."""
        keeper.setblocking(False)
        loop = asyncio.get_running_loop()
        partial = bytearray()

        def on_readable() -> None:
            try:
                said = keeper.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                said = b""
            if not said:
                loop.remove_reader(keeper.fileno())
                logger.warning("leaving, because the keeper is gone")
                self._leaving.set()
                return
            partial.extend(said)
            *lines, rest = bytes(partial).split(b"\n")
            partial[:] = rest
            for line in lines:
                _, pid, status = line.split()
                spawner.report_exit(int(pid), int(status))

        loop.add_reader(keeper.fileno(), on_readable)

    def _close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        if self._keeper is None:
            return
        # Without a keeper nobody else removes the sockets. Its end may just not have been noticed yet.
        if self._leaving.is_set() and os.getppid() != self._keeper_pid:
            self._paths.remove_sockets()
        self._keeper.close()


def _proxy_options(options: InstanceOptions) -> ProxyOptions:
    names = [field for field in ProxyOptions.__struct_fields__ if hasattr(options, field)]
    return msgspec.convert({name: getattr(options, name) for name in names}, ProxyOptions)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
