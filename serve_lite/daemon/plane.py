"""The control plane of one daemon: what changes the instance, and of which only one may exist at a time.

Store, spawner, controller, control socket and admin port. A daemon opens one at its start, closes it to hand the
instance over, and opens another if it has to take the instance back. The doors for requests are no part of it: they
outlive it, because requests do.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc

from serve_lite.controller.advisers import Advisers
from serve_lite.controller.controller import Controller
from serve_lite.controller.environments import Environments
from serve_lite.controller.importer import Importer
from serve_lite.controller.spawner import Spawner
from serve_lite.controller.store import Store
from serve_lite.daemon.control import ControlSocket
from serve_lite.daemon.lazy_admin import serve_admin
from serve_lite.daemon.options import InstanceOptions
from serve_lite.daemon.token import Tokens
from serve_lite.wire.calls import IncomingCall
from serve_lite.wire.listener import Listener, listen
from serve_lite.wire.messages import InstanceSettings


class ControlPlane:
    """Made by `open_plane`, with the replicas of an earlier daemon adopted.

    `open_to_clients` comes once all else is up. `release` makes it let go of the instance; what is left then only
    finishes answers.
    """

    listener: Listener
    control: ControlSocket

    def __init__(
        self,
        group: anyio.abc.TaskGroup,
        spawner: Spawner,
        store: Store,
        environments: Environments,
        importer: Importer,
        controller: Controller,
    ) -> None:
        self.spawner, self.store, self.controller = spawner, store, controller
        self.importer = importer
        self.advisers = Advisers(group, spawner, controller.desk.code_of, environments)
        controller.ask_policies(self.advisers.policy)
        self._group = group
        self._is_released = False
        self._closes_admin: anyio.Event = anyio.Event()
        self._admin_ended: anyio.Event | None = None  #: None: there is no admin port

    async def open_to_clients(
        self,
        control: ControlSocket,
        sockets: Mapping[Any, socket.socket],
        options: InstanceOptions,
        settings: InstanceSettings,
        tokens: Tokens,
    ) -> None:
        """Accept on the control socket and the admin port. Each gets a copy of its socket, for a later plane."""
        self.control = control
        self.listener = await listen(sockets["control"].dup(), self._handle_call)
        if "admin" in sockets:
            self._admin_ended = anyio.Event()
            self._group.start_soon(self._serve_admin, sockets["admin"], options, settings, tokens)

    def close_admin(self) -> None:
        """Accept nothing more on the admin port; requests that run may finish for a moment."""
        self._closes_admin.set()

    async def release(self) -> None:
        """Return when nothing of this daemon changes the instance any more, and all it knows is stored.

        New connections wait in the sockets for another daemon. Calls on old ones are answered no more: their end,
        which comes with `listener.aclose()`, tells their callers to ask again.
        """
        self.listener.stop_accepting()
        self.close_admin()
        if self._admin_ended is not None:
            await self._admin_ended.wait()  # it cuts what takes longer than its grace
        self._is_released = True
        await self.controller.suspend()
        await self.store.flush()

    def _handle_call(self, call: IncomingCall) -> None:
        if not self._is_released:
            self.control.methods.handle_call(call)

    async def _serve_admin(
        self, sock: socket.socket, options: InstanceOptions, settings: InstanceSettings, tokens: Tokens
    ) -> None:
        assert self._admin_ended is not None
        try:
            await serve_admin(sock, self.controller.desk, options, settings, tokens, self._closes_admin)
        finally:
            self._admin_ended.set()


@asynccontextmanager
async def open_plane(
    make_spawner: Callable[[], Spawner],
    store: Store,
    make_environments: Callable[[anyio.abc.TaskGroup, Spawner], Environments],
    make_controller: Callable[[anyio.abc.TaskGroup, Spawner, Importer, Environments], Controller],
) -> AsyncIterator[ControlPlane]:
    """Open a control plane with the replicas of an earlier daemon adopted; close it without ending any.

    Raises:
        InstanceError: the state file cannot be used.
    """
    async with make_spawner() as spawner, store, anyio.create_task_group() as group:
        environments = make_environments(group, spawner)
        importer = Importer(spawner, environments)
        controller = make_controller(group, spawner, importer, environments)
        plane = ControlPlane(group, spawner, store, environments, importer, controller)
        await group.start(controller.run)
        yield plane
        group.cancel_scope.cancel()
