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
import shutil
import signal
import socket
import sys
from collections import deque
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from serve_lite import __version__, instruments
from serve_lite.controller.cgroups import ReplicaGroups
from serve_lite.controller.controller import Controller
from serve_lite.controller.environment_cache import EnvironmentCache
from serve_lite.controller.environments import Environments, settings_from
from serve_lite.controller.importer import Importer
from serve_lite.controller.publisher import Publisher
from serve_lite.controller.spawner import Spawner, replica_socket_in
from serve_lite.controller.store import Store
from serve_lite.controller.store_copy import BEFORE, copy_state, drop_state, restore_state
from serve_lite.controller.warm import Template
from serve_lite.daemon.activation import tell_ready
from serve_lite.daemon.control import ControlSocket
from serve_lite.daemon.door_parts import ADDRESS, DoorParts
from serve_lite.daemon.doors import Doors, proxy_options
from serve_lite.daemon.effective import shown
from serve_lite.daemon.grpc_memory import GrpcMemory
from serve_lite.daemon.handover import MEMORY_FORM
from serve_lite.daemon.home import Paths
from serve_lite.daemon.keeper import EXIT_HOPELESS, UPGRADE_LOG
from serve_lite.daemon.keeper_link import KeeperLink
from serve_lite.daemon.log_files import bound, prune, reopen, writes_into
from serve_lite.daemon.memory import give_memory_back
from serve_lite.daemon.options import InstanceOptions
from serve_lite.daemon.plane import ControlPlane, open_plane
from serve_lite.daemon.proxy_asks import ProxyAsks, proxy_status
from serve_lite.daemon.token import Tokens
from serve_lite.exceptions import InstanceError, InvalidConfigError
from serve_lite.instruments import Family
from serve_lite.outputs import drop_what_has_no_room
from serve_lite.processes import set_title
from serve_lite.proxy.server import check_certificates
from serve_lite.routing.daemon_link import DaemonLink
from serve_lite.routing.membership import RemoteMembership
from serve_lite.routing.ranked import Adviser
from serve_lite.routing.router import Routers
from serve_lite.schema import ProxyStatus
from serve_lite.state.goal import CodeEnvironment
from serve_lite.state.status import ProxyFacts
from serve_lite.wire.messages import (
    InstanceInfo,
    InstanceSettings,
    Membership,
    ReloadKeysReply,
    UpgradeReply,
    UpgradeRequest,
)
from serve_lite.wire.spawning import GrpcServices

logger = logging.getLogger("serve_lite.daemon")

#: How long requests may finish before their replicas are told to stop, which they do gracefully anyway.
_DRAIN_FIRST_S = 1.0

_LOOK_EVERY_S = 15.0  #: at logs and memory


def run(
    options: InstanceOptions,
    where: Paths,
    inherited: dict[str, int],
    template: Template | None,
    *,
    is_successor: bool = False,
    notify: str = "",
) -> int:
    """Run the daemon until it is told to stop; return the exit status.

    Args:
        inherited: descriptors of the sockets, of the lock, and of the link to a keeper, if there is one.
        is_successor: another daemon serves until we can.
        notify: where systemd wants to be told that we serve.
    """
    drop_what_has_no_room()
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    daemon = Daemon(options, where, inherited, template, is_successor=is_successor, notify=notify)
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

    Lifetime: `serve` returns once it was told to stop and nothing of the applications is left, or once another
    daemon has taken over and what this one had is finished. If a part fails it raises, and replicas live on for the
    next daemon.
    """

    def __init__(
        self,
        options: InstanceOptions,
        where: Paths,
        inherited: dict[str, int],
        template: Template | None,
        *,
        is_successor: bool = False,
        notify: str = "",
    ) -> None:
        self.is_ready = False  #: everything is up
        self._options, self._paths, self._template = options, where, template
        self._notify = notify
        self._is_successor = is_successor  #: of a daemon that still serves
        self._sockets: dict[str, socket.socket] = {
            name: socket.socket(fileno=inherited[name])
            for name in ("http", "http3", "grpc", "admin", "control")
            if name in inherited
        }
        self._keeper_pid = os.getppid()
        self._forgets_goal = options.is_embedded  #: else the next daemon brings the applications back
        # The lock is only held, so that no other instance starts here before we are gone too.
        self._keeper_socket = socket.socket(fileno=inherited["keeper"]) if "keeper" in inherited else None
        self._log = os.path.join(where.logs, "daemon.log")
        self._writes_log = is_successor or writes_into(
            self._log
        )  #: else our output is somebody else's business
        self._epoch = 0  #: of our last control plane
        self._grace_s = UpgradeRequest().grace_s
        self._leaving: asyncio.Event
        self._keeper: KeeperLink | None = None
        self._plane: ControlPlane | None = None  #: None while another daemon has the instance
        self._parts = DoorParts(options, where.home)
        self._doors = Doors(self._parts)
        self._asks: ProxyAsks
        self._node_id = ""
        self._is_draining = False  #: for good
        self._groups: ReplicaGroups | None = None  #: of our last control plane

    async def serve(self) -> None:
        """Bring up everything in order, run until told to stop, take it down in order."""
        self._leaving = asyncio.Event()
        set_title("serve-lite: daemon")
        try:
            async with self._parts, anyio.create_task_group() as group:
                await group.start(self._watch_signals)
                if self._keeper_socket is not None:
                    self._keeper = KeeperLink(self._keeper_socket, self._report_exit, self._keeper_is_gone)
                    self._keeper.listen()
                if not self._is_successor or await self._wait_for_turn():
                    await self._serve(group)
                group.cancel_scope.cancel()
        finally:
            self._close()

    async def _serve(self, group: anyio.abc.TaskGroup) -> None:
        publisher = Publisher(replica_socket_in(self._paths.run))
        routers = Routers(publisher, self._make_adviser)
        self._asks = ProxyAsks(publisher.watch_routes)
        while True:
            # Taken back from a successor that failed: it may have taken the epoch after ours.
            newer_than = self._epoch + 1 if self._epoch else 0
            store = Store(self._paths.db, newer_than=newer_than)
            async with open_plane(
                self._new_spawner,
                store,
                self._new_environments,
                partial(self._new_controller, store, publisher),
            ) as plane:
                self._plane, self._epoch = plane, plane.controller.epoch
                if not self.is_ready:
                    await self._open_doors(group, routers, publisher, plane.importer)
                    group.start_soon(self._keep_small)
                    group.start_soon(self._parts.watch_keys)
                else:
                    routers.ask_anew()
                await self._open_to_clients(group, plane, publisher)
                if not self.is_ready:
                    self._tell_ready()
                await self._until_asked()
                if self._leaving.is_set():
                    await self._leave(plane, routers)
                    return
                await plane.release()
                self._plane = None
            if await self._hand_over(plane):
                await self._finish_requests(group, publisher)
                await routers.aclose()
                return

    def _new_spawner(self) -> Spawner:
        template, self._template = self._template, None  # the first one's; a later one starts its own
        return Spawner(self._paths.run, self._paths.logs, template=template)

    def _new_environments(self, group: anyio.abc.TaskGroup, spawner: Spawner) -> Environments:
        limits, kept = settings_from(os.environ)
        environments = Environments(group, spawner, EnvironmentCache(self._paths.environments, kept), limits)
        environments.remove_half_made()
        return environments

    def _new_controller(
        self,
        store: Store,
        publisher: Publisher,
        group: anyio.abc.TaskGroup,
        spawner: Spawner,
        importer: Importer,
        environments: Environments,
    ) -> Controller:
        self._node_id = store.stored.node_id
        self._groups = groups = ReplicaGroups(store.stored.node_id, self._options.memory_limits)
        groups.require()
        return Controller(
            group,
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
            log_file=self._log,
            machine=self._options.machine,
            groups=groups,
        )

    async def _ask_proxies(self) -> None:
        """Have the present numbers of proxy processes, if there are any."""
        if self._plane is not None:
            connected = self._plane.control.proxies.values()
            await self._asks.scrape(pid for pids in connected for pid in pids)

    def _door_metrics(self, routers: Routers) -> list[Family]:
        """Return what the doors of the instance have counted, in whichever processes they are."""
        if "http" not in self._sockets:
            return self._parts.families(self._node_id, routers)
        if self._options.proxy_processes:
            families = self._asks.families(self._node_id)
        else:
            families = self._parts.families(self._node_id, routers)
        return [proxy_status(self._proxies(), self._node_id, ADDRESS), *families]

    async def _reload_keys(self) -> ReloadKeysReply:
        """Read the API keys again, here and in proxy processes."""
        reply = await self._parts.reload_keys()
        self._asks.have_keys_read()
        return reply

    def _make_adviser(self, membership: Membership) -> Adviser | None:
        return self._plane.advisers.make(membership) if self._plane is not None else None

    async def _open_doors(
        self, group: anyio.abc.TaskGroup, routers: Routers, publisher: Publisher, importer: Importer
    ) -> None:
        await self._parts.reload_keys()
        instruments.add_source(partial(self._door_metrics, routers))
        publisher.watch_routes(self._parts.keeper.look_at)
        read_services = partial(self._read_services, importer)
        if self._options.proxy_processes == 0:
            await self._doors.open(group, self._sockets, self._options, routers, publisher, read_services)
            return
        if self._keeper is None:
            raise InvalidConfigError(
                "`proxy_processes` needs a keeper, which starts them: with socket units of systemd there is none. "
                "Use the unit that `serve systemd` prints without --sockets, or set it to 0."
            )
        await anyio.to_thread.run_sync(check_certificates, proxy_options(self._options))
        if "grpc" in self._sockets:
            await read_services()  # what is wrong with them must be told to whoever starts the instance

    async def _read_services(self, importer: Importer) -> GrpcServices:
        """Return what gRPC can be asked for, from the users' servicer functions or from an earlier daemon."""
        memory = GrpcMemory(self._paths.home, self._keeper_pid if self._keeper_socket is not None else 0)
        services = memory.recall()
        if services is None:
            environment = CodeEnvironment(sys_path=self._options.grpc_sys_path)
            services = await importer.read_servicers(self._options.grpc_servicer_functions, environment)
            memory.keep(services)
        return services

    async def _open_to_clients(
        self, group: anyio.abc.TaskGroup, plane: ControlPlane, publisher: Publisher
    ) -> None:
        settings = self._settings()
        control = ControlSocket(
            group,
            plane.controller.desk,
            publisher,
            plane.advisers,
            self._info(plane.controller.epoch),
            settings,
            self._shut_down,
            self._upgrade,
            partial(self._read_services, plane.importer),
            self._asks,
            self._reload_keys,
        )
        plane.controller.desk.ask_proxies = self._ask_proxies
        if self._options.proxy_location != "Disabled" and "http" in self._sockets:
            plane.controller.desk.proxies = self._proxies
        tokens = Tokens(self._paths)
        await plane.open_to_clients(control, self._sockets, self._options, settings, tokens)

    def _proxies(self) -> tuple[ProxyFacts, ...]:
        """Return who answers requests, for status and REST."""
        draining = ProxyStatus.DRAINING if self._is_draining else None
        if not self._options.proxy_processes:
            return (ProxyFacts(0, os.getpid(), draining or ProxyStatus.HEALTHY),)
        connected = self._plane.control.proxies if self._plane is not None else {}
        return tuple(
            ProxyFacts(number, pids[-1], draining or ProxyStatus.HEALTHY)
            if (pids := connected.get(number))
            else ProxyFacts(number, 0, draining or ProxyStatus.STARTING)
            for number in range(1, self._options.proxy_processes + 1)
        )

    async def _until_asked(self) -> None:
        """Return when we are to leave, or to hand the instance over."""
        waits = [self._leaving.wait()]
        if self._keeper is not None:
            waits.append(self._keeper.hand_over_asked.wait())
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def _leave(self, plane: ControlPlane, routers: Routers) -> None:
        """End with all that the instance has."""
        plane.close_admin()
        self._is_draining = True
        await self._drain(plane.controller)
        await plane.control.tell_left()
        await plane.listener.aclose()
        await routers.aclose()

    # --- another daemon takes over ---

    async def _upgrade(self, request: UpgradeRequest) -> UpgradeReply:
        """Have a daemon of the code that is installed now take over; answered when it serves, or has failed."""
        if self._keeper is None:
            raise InstanceError(
                "This instance has no keeper: systemd holds its sockets and can start one daemon only. Restart its "
                "service instead; connections wait meanwhile."
            )
        self._grace_s = request.grace_s
        logger.info("an upgrade is asked for")
        try:
            return UpgradeReply(pid=await asyncio.shield(self._keeper.ask_upgrade(request.grace_s)))
        except InstanceError as error:
            log = os.path.join(self._paths.logs, UPGRADE_LOG)
            said = await asyncio.to_thread(_last_words, log)
            raise InstanceError(
                f"There was no upgrade; the running daemon goes on: {error}.{said}"
            ) from error

    async def _wait_for_turn(self) -> bool:
        """Try all that can be tried while the other daemon serves, then wait until it lets go; False: not needed."""
        assert self._keeper is not None
        await anyio.to_thread.run_sync(check_certificates, proxy_options(self._options))
        folder = os.path.join(self._paths.home, "upgrade")
        try:
            await asyncio.to_thread(_copy_for_rehearsal, self._paths.db, folder)
            async with Store(os.path.join(folder, "state.db")):
                pass  # its schema is brought up to date there, and everything in it was read
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        self._keeper.say("loaded")
        tasks = [asyncio.ensure_future(event.wait()) for event in (self._keeper.go, self._leaving)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # the keeper has a deadline for us
        finally:
            for task in tasks:
                task.cancel()
        return self._keeper.go.is_set()

    async def _hand_over(self, plane: ControlPlane) -> bool:
        """Let the successor have the instance; return True once it serves, False if we are to take it back."""
        assert self._keeper is not None
        before = self._paths.db + BEFORE
        verdict = self._keeper.ask_upgrade()  # the one that is under way
        try:
            await asyncio.to_thread(copy_state, self._paths.db, before)
            self._keeper.say("handed")
        except InstanceError as error:
            self._keeper.say(f"refuse {error}")
        try:
            pid = await asyncio.shield(verdict)  # the keeper has a deadline for the successor
        except InstanceError as error:
            if self._leaving.is_set() and not self._has_keeper:
                return True  # whoever has the instance now leaves too
            logger.error("taking the instance back: %s", error)
            await self._take_state_back(before)
            has_successor = False
        else:
            logger.info("daemon %d has taken over; finishing what is here", pid)
            await asyncio.to_thread(drop_state, before)
            has_successor = True
        await plane.control.tell_upgraded()
        await plane.listener.aclose()  # so that clients ask whoever has the instance now
        return has_successor

    async def _take_state_back(self, before: str) -> None:
        """Have a state file that this release can read: the successor's, which knows best, if it can be read."""
        try:
            async with Store(self._paths.db):
                pass
        except InstanceError as error:
            logger.warning("the state goes back to what it was before the upgrade: %s", error)
            await asyncio.to_thread(restore_state, before, self._paths.db)
        else:
            await asyncio.to_thread(drop_state, before)

    async def _finish_requests(self, group: anyio.abc.TaskGroup, publisher: Publisher) -> None:
        """Answer what has come here, with the replicas that the other daemon tells of."""
        link = DaemonLink(self._paths.control)
        publisher.follow(RemoteMembership(link))
        group.start_soon(link.run)
        async with anyio.create_task_group() as retiring:

            async def hurry() -> None:
                await self._leaving.wait()  # ends with the requests, which cancels it
                retiring.cancel_scope.cancel()

            async def finish() -> None:
                await self._doors.retire(self._grace_s)
                retiring.cancel_scope.cancel()

            retiring.start_soon(hurry)
            retiring.start_soon(finish)
        logger.info("everything here is finished")

    # --- ends ---

    @property
    def _has_keeper(self) -> bool:
        return os.getppid() == self._keeper_pid

    def _shut_down(self) -> None:
        """Leave for good: a client asked for it."""
        self._forgets_goal = True
        self._leaving.set()

    def _keeper_is_gone(self) -> None:
        logger.warning("leaving, because the keeper is gone")
        self._leaving.set()

    def _report_exit(self, pid: int, status: int) -> None:
        if self._plane is not None:
            self._plane.spawner.report_exit(pid, status)

    async def _drain(self, controller: Controller) -> None:
        """Let requests finish, then end every replica; requests that take longer end with theirs."""
        async with anyio.create_task_group() as group:
            drained = anyio.Event()

            async def drain() -> None:
                if self._options.proxy_processes and self._keeper is not None:
                    await self._keeper.drain_proxies()
                await self._doors.drain()
                drained.set()

            group.start_soon(drain)
            with anyio.move_on_after(_DRAIN_FIRST_S):
                await drained.wait()
            await controller.shutdown(keep_goal=not self._forgets_goal)
            group.cancel_scope.cancel()

    def _grpc_options(self) -> dict[str, Any]:
        """Return the options as REST shows them, with the port that was really bound."""
        sock, options = self._sockets.get("grpc"), self._options
        return {
            "port": sock.getsockname()[1] if sock else options.grpc_port,
            "grpc_servicer_functions": list(options.grpc_servicer_functions),
            "request_timeout_s": options.grpc_request_timeout_s,
            "enable_reflection": options.grpc_enable_reflection,
            "max_receive_message_bytes": options.grpc_max_receive_message_bytes,
            "max_send_message_bytes": options.grpc_max_send_message_bytes,
            "max_connections": options.grpc_max_connections,
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
        told = self._groups.told if self._groups is not None else ""
        return InstanceSettings(settings=shown(self._options, bound, told))

    def _info(self, epoch: int) -> InstanceInfo:
        http, admin, grpc = (self._sockets.get(name) for name in ("http", "admin", "grpc"))
        return InstanceInfo(
            pid=os.getpid(),
            keeper_pid=os.getppid() if self._keeper_socket is not None else 0,
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
        logger.info("ready (process %d)", os.getpid())
        if self._is_successor:
            reopen(self._log)  # until now, what we said was for whoever waits for the upgrade
            logger.info("took over (process %d, version %s)", os.getpid(), __version__)
        if self._keeper is not None:
            self._keeper.say(f"ready {MEMORY_FORM}")
        try:
            tell_ready(self._notify)
        except OSError as error:
            logger.warning("systemd could not be told that the instance is up: %s", error)

    async def _keep_small(self) -> None:
        """Bound our log, the number of logs of replicas that are gone, and our memory, until cancelled."""
        ended = 0
        while True:
            if self._plane is not None:
                if self._plane.spawner.num_ended != ended:
                    ended = self._plane.spawner.num_ended
                    give_memory_back()
                try:
                    if self._writes_log:
                        bound(self._log)
                    alive = self._plane.controller.replica_logs()
                    await asyncio.to_thread(prune, self._paths.logs, alive)
                except OSError as error:  # a full disk, or a folder that is gone: nothing else needs it
                    logger.warning("the logs could not be bounded: %s", error)
            await anyio.sleep(_LOOK_EVERY_S)

    async def _watch_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    await self._reload()
                elif self._leaving.is_set() and self._keeper is None:
                    logger.warning("leaving at once, because of a second signal")
                    if self._plane is not None:
                        self._plane.spawner.kill_all()
                    os._exit(1)  # with a keeper, it is the keeper that hears the second signal
                else:
                    logger.info("leaving, because of %s", number.name)
                    self._leaving.set()

    async def _reload(self) -> None:
        """Open the log anew, which somebody may have moved, and read certificates and API keys anew."""
        if self._writes_log:
            reopen(self._log)
        await self._reload_keys()
        await asyncio.to_thread(self._doors.reload_certificates)

    def _close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        if self._keeper_socket is None:
            return
        # Without a keeper nobody else removes the sockets. Its end may just not have been noticed yet.
        if self._leaving.is_set() and not self._has_keeper:
            self._paths.remove_sockets()
        self._keeper_socket.close()


def _copy_for_rehearsal(db: str, folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of an upgrade that was cut short
    os.mkdir(folder, 0o700)
    copy_state(db, os.path.join(folder, "state.db"))


def _last_words(log: str, lines: int = 12) -> str:
    """Return the end of a log as the end of a message."""
    try:
        with open(log, errors="replace") as file:
            said = "".join(deque(file, lines)).rstrip()
    except OSError:
        said = ""
    return f" The end of {log}:\n{said}" if said else ""


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
