"""The admin port without its price: starlette and hypercorn are loaded when the first connection arrives.

Most instances are never asked over it; until then the connection waits in the inherited socket's backlog.
Next: `admin_server.py`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

import anyio.to_thread

from serve_lite.daemon.options import InstanceOptions
from serve_lite.daemon.token import Tokens
from serve_lite.wire.messages import InstanceSettings

if TYPE_CHECKING:
    from serve_lite.admin.controls import Controls
    from serve_lite.daemon.admin_server import AdminServer

logger = logging.getLogger(__name__)


class Signal(Protocol):
    """An event, asyncio's or anyio's."""

    def is_set(self) -> bool: ...
    def wait(self) -> Coroutine[Any, Any, Any]: ...


async def serve_admin(
    sock: socket.socket,
    controller: Controls,
    options: InstanceOptions,
    settings: InstanceSettings,
    tokens: Tokens,
    leaving: Signal,
) -> None:
    """Serve the control plane on a listening socket until `leaving` is set."""
    sock.setblocking(False)
    while await _first_connection(sock, leaving):
        try:
            server = await anyio.to_thread.run_sync(_load, sock, controller, options, settings, tokens)
        except (
            Exception
        ):  # boundary: a control plane that cannot be loaded must not take the applications down
            logger.exception("the admin port cannot be served")
            _refuse(sock)
            continue
        await server.serve(sock.dup(), leaving.wait)
        return


async def _first_connection(sock: socket.socket, leaving: Signal) -> bool:
    """Return True once somebody connects, False if the daemon leaves before that."""
    loop = asyncio.get_running_loop()
    connected = asyncio.Event()
    loop.add_reader(sock.fileno(), connected.set)
    waits = [asyncio.ensure_future(event.wait()) for event in (connected, leaving)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(sock.fileno())
        for wait in waits:
            wait.cancel()
    return not leaving.is_set()


def _refuse(sock: socket.socket) -> None:
    """Close what waits, so that nobody waits in vain."""
    try:
        while True:
            sock.accept()[0].close()
    except BlockingIOError:
        pass


def _load(
    sock: socket.socket,
    controller: Controls,
    options: InstanceOptions,
    settings: InstanceSettings,
    tokens: Tokens,
) -> AdminServer:
    from serve_lite.admin.app import build_app
    from serve_lite.daemon.admin_server import AdminServer

    # Where it really listens: systemd may hold the socket, and know nothing of our options.
    address = "localhost" if sock.family == socket.AF_UNIX else sock.getsockname()[0]
    return AdminServer(build_app(controller, options, address=address, tokens=tokens, settings=settings))
