"""What stands between hypercorn's coroutines and the callbacks of an exchange.

An outbox for what goes to the client, which the bridge's own task empties, and another task that takes what comes from
it. `hypercorn_http` and `hypercorn_websocket` are the two kinds.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from serve_lite.proxy.entry import ENTRY
from serve_lite.proxy.exchange import NOTED, Exchange, is_valid_host
from serve_lite.proxy.http import RequestHandler
from serve_lite.proxy.hypercorn_streams import (
    Message,
    Send,
    forget,
    reset,
)
from serve_lite.wire.messages import Headers

Receive = Callable[[], Awaitable[Message]]

OUTBOX_BYTES: Final = 64 * 1024  #: written and not yet taken by the client; more stops the application
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Bridge(Exchange):
    """What both kinds of exchange have: the request's fields, and an outbox."""

    def __init__(self, handler: RequestHandler, scope: Message, receive: Receive, send: Send) -> None:
        self._handler = handler
        self._entry = ENTRY.get()
        self._receive, self._send = receive, send
        self._original_send = send
        #: for one message, where the client can hold up one stream; the entry sees to the connection
        self._write_timeout_s = handler.options.write_timeout_s if scope["http_version"] == "2" else None
        self.method = scope.get("method", "GET")
        self.target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        self.headers, self.noted = _read_headers(scope["headers"])
        self.http_version = scope["http_version"]
        self.scheme = scope["scheme"]
        self._is_secure = self.scheme in ("https", "wss")  # whatever a server in front tells
        self.client = _address(scope["client"])
        self.server = _address(scope["server"])
        if handler.forwarding.trusts(self.client[0]):
            handler.forwarding.apply(self)
        self._outbox: deque[Message | None] = deque()  #: None ends the exchange
        self._outbox_bytes = 0
        self._is_blocked = False  #: the writer was told to stop
        self._has_output = asyncio.Event()
        self._wants_input = asyncio.Event()
        self._is_over = False

    @property
    def is_well_formed(self) -> bool:
        """Whether what hypercorn lets pass is good enough for us."""
        names = [name for name, _ in self.headers]
        hosts = [value for name, value in self.headers if name == b"host"]
        return (
            (len(hosts) == 1 or (not hosts and self.http_version == "1.0"))
            and all(map(is_valid_host, hosts))
            and self.target.startswith(b"/")
            and b"#" not in self.target
            and self.http_version in ("1.0", "1.1", "2")
            and not (
                b"transfer-encoding" in names and (b"content-length" in names or self.http_version == "1.0")
            )
            and not any(_CONTROL.search(value) for _, value in self.headers)
        )

    async def run(self) -> None:
        """Serve the exchange to its end."""
        bridges = self._entry.bridges
        bridges.add(self)
        async with anyio.create_task_group() as group:
            try:
                if await self._begin():
                    group.start_soon(self._take_input)
                    await self._send_output()
            except asyncio.CancelledError:
                forget(self._original_send)
                raise
            finally:
                bridges.discard(self)
                self._is_over = True
                group.cancel_scope.cancel()
                self._ended()

    def client_gone(self) -> None:
        """The connection has ended, and hypercorn does not tell."""
        self._leave()
        self._put(None)
        forget(self._original_send)

    async def _begin(self) -> bool:
        raise NotImplementedError

    async def _take_input(self) -> None:
        raise NotImplementedError

    def _ended(self) -> None:
        """The exchange is over, one way or the other."""

    def _writable(self) -> None:
        """The client took what was put."""

    def _leave(self) -> None:
        """The client has left, or is taken to have."""

    def _put(self, message: Message | None, size: int = 0) -> bool:
        if self._is_over:
            return True
        self._outbox.append(message)
        self._outbox_bytes += size
        self._has_output.set()
        if self._outbox_bytes >= OUTBOX_BYTES:
            self._is_blocked = True
        return not self._is_blocked

    async def _send_output(self) -> None:
        while True:
            while self._outbox:
                message = self._outbox.popleft()
                if message is None:
                    return
                with anyio.move_on_after(self._write_timeout_s) as scope:
                    await self._send(message)
                if scope.cancelled_caught:
                    self._leave()
                    if not self._entry.takes_nothing:  # else the entry ends all of the connection
                        await reset(self._original_send)
                    return
            self._outbox_bytes = 0
            if self._is_blocked:
                self._is_blocked = False
                self._writable()
            if not self._outbox:
                self._has_output.clear()
                await self._has_output.wait()


def _read_headers(pairs: list[tuple[bytes, bytes]]) -> tuple[Headers, dict[bytes, bytes]]:
    """Return the headers for the application, and those that Serve looks at."""
    headers: Headers = []
    noted: dict[bytes, bytes] = {}
    for name, value in pairs:
        if name == b":authority":
            name = b"host"
        elif name.startswith(b":"):
            continue
        if name == b"host" and (name, value) in headers:
            continue  # HTTP/2 clients may send both, alike
        headers.append((name, value))
        watched = NOTED.get(name)
        if watched is not None:
            noted[watched] = noted[watched] + b", " + value if watched in noted else value
    return headers, noted


def _address(pair: tuple[str, int] | None) -> tuple[str, int]:
    return (pair[0], pair[1]) if pair else ("", 0)
