"""The other front: hypercorn, for WebSocket and HTTP/2, and for everything if the options say so.

Imported only when first needed. Each connection arrives with a reader that already holds what was read
from it. hypercorn calls `Front` as an ASGI application; each call becomes an exchange, as in `http1`, and
ends in the same request function. This front is made of coroutines, so a bridge stands between them and
the callbacks: `hypercorn_bridge`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, cast

import anyio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config

from serve_lite.proxy.entry import ENTRY, Entry
from serve_lite.proxy.http import RequestHandler
from serve_lite.proxy.hypercorn_bridge import Receive
from serve_lite.proxy.hypercorn_connection import Connection
from serve_lite.proxy.hypercorn_http import HttpBridge
from serve_lite.proxy.hypercorn_streams import (
    Message,
    Send,
)
from serve_lite.proxy.hypercorn_websocket import WebSocketBridge

_LAST_WORDS_S: Final = 2.0


class Front:
    """hypercorn, serving one connection at a time in the caller's task.

    Args:
        handler: where every request ends.
    """

    def __init__(self, handler: RequestHandler) -> None:
        options = handler.options
        self._handler = handler
        self._context = WorkerContext(None)
        self._is_retiring = False
        self._connections: set[Connection] = set()
        self._websockets: set[WebSocketBridge] = set()
        self._config = config = Config()
        config.keep_alive_timeout = options.keep_alive_timeout_s
        config.keep_alive_max_requests = 1_000_000_000
        config.h11_max_incomplete_size = 2 * options.max_header_bytes  # counted already, as they came
        config.h2_max_header_list_size = options.max_header_bytes
        config.max_app_queue_size = 2  # messages read ahead, each of up to 16 MB for a WebSocket
        config.include_server_header = False
        config.accesslog = None  # ours is written by the accounts
        config.errorlog = logging.getLogger("serve_lite.proxy.hypercorn")

    async def run(self, entry: Entry, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        ENTRY.set(entry)  # hypercorn's tasks for this connection begin with a copy of our context
        loop = asyncio.get_running_loop()
        app = ASGIWrapper(cast(Any, self._serve))
        connection = Connection(app, loop, self._config, self._context, cast(Any, {}), entry.reader, writer)
        if self._is_retiring:
            connection.leave()
        self._connections.add(connection)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_end_with_client, entry, group.cancel_scope)
                await connection
                group.cancel_scope.cancel()
        finally:
            self._connections.discard(connection)

    async def terminate(self) -> None:
        """Let connections end after the answers they are giving."""
        await self._context.terminate.set()
        await self._context.terminated.set()

    def retire(self) -> None:
        """Have HTTP/2 clients open their next streams on new connections, each when no stream is open on its own.

        `hypercorn_connection` tells why then. A connection that is idle may bring one more request.
        """
        self._is_retiring = True
        for connection in tuple(self._connections):
            connection.leave()

    async def hurry(self) -> None:
        """Have the others do so although streams are open."""
        async with anyio.create_task_group() as group:  # a client that reads nothing makes its own wait
            for connection in tuple(self._connections):
                group.start_soon(connection.hurry)

    def close_websockets(self) -> None:
        """Tell both ends of every WebSocket that the service restarts."""
        for bridge in tuple(self._websockets):
            bridge.restart()

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await HttpBridge(self._handler, scope, receive, send).run()
        elif scope["type"] == "websocket":
            bridge = WebSocketBridge(self._handler, scope, receive, send)
            self._websockets.add(bridge)
            try:
                await bridge.run()
            finally:
                self._websockets.discard(bridge)


async def _end_with_client(entry: Entry, serving: anyio.CancelScope) -> None:
    """End the serving of a connection that is gone, should hypercorn not do so: it may wait for an application to
    take a body, and then does not see the client leave."""
    await entry.left.wait()
    await anyio.sleep(_LAST_WORDS_S)  # what has come is still worked through
    for bridge in tuple(entry.bridges):
        bridge.client_gone()
    serving.cancel()
