"""The callee's side: accepts connections on a Unix socket and serves the calls that arrive.

The shell around `calls.CalleeTable`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from serve_lite.wire.calls import CalleeTable, Gauge, IncomingCall
from serve_lite.wire.connection import CoalescingProtocol, check_peer
from serve_lite.wire.frames import Buffer
from serve_lite.wire.ledger import LedgerWriter

#: From Python 3.13 on a loop removes the file of a Unix socket when its server closes. Ours belong to whoever
#: made them: the keeper, which gives the same socket to the next daemon, or the daemon that started a replica.
KEEP_SOCKET_FILE: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}

HandleCall = Callable[[IncomingCall], None]


class NoGauge:
    """For processes that do not count requests."""

    ongoing = 0


class ServedConnection(CoalescingProtocol):
    """One caller's connection, seen by the callee. Closes when the caller goes or the listener closes."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self._listener = listener
        ledger = listener.ledger
        self.slot = slot = ledger.claim() if ledger else -1
        self._ledger = ledger if slot >= 0 else None  #: None: nothing is noted for this caller
        self.table = CalleeTable(
            self.schedule_flush,
            listener.handle_call,
            gauge=listener.gauge,
            note_accepted=partial(ledger.cells.__setitem__, slot) if ledger and slot >= 0 else None,
            slot=slot,
        )
        self.table.on_decline = listener.declined

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock = transport.get_extra_info("socket")
        super().connection_made(transport)
        self._listener.connections.add(self)
        try:
            check_peer(sock)
        except PermissionError:
            self.transport.abort()  # nothing was read, and nothing is told
            return
        if self._listener.facts:
            self.table.tell_facts(self._listener.facts)

    def data_to_send(self) -> list[Buffer]:
        return self.table.data_to_send()

    def data_received(self, data: bytes) -> None:
        ledger, slot = self._ledger, self.slot
        read_before = ledger.cells[slot] if ledger is not None else 0
        try:
            self.table.receive(data)
        except ValueError:
            self.transport.abort()
            raise
        if ledger is not None and ledger.taken_back[slot]:
            self.table.withdraw(read_before, ledger.taken_back[slot])

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._listener.connections.discard(self)
        self.table.lost()
        if self._listener.ledger:
            self._listener.ledger.release(self.slot)
        if self._listener.on_lost is not None:
            self._listener.on_lost(self.table)
        self.table.let_go()


class Listener:
    """Accepts callers on one socket.

    Lifetime: `listen` makes and opens it, `aclose` stops accepting, closes every connection and waits for them.
    """

    def __init__(self, handle_call: HandleCall, gauge: Gauge, ledger: LedgerWriter | None) -> None:
        self.handle_call = handle_call
        self.gauge = gauge
        self.ledger = ledger
        self.facts = b""  #: told to every caller that connects
        self.connections: set[ServedConnection] = set()
        self.on_decline: Callable[[], None] | None = None  #: a caller that was offered room does not want it
        self.on_lost: Callable[[CalleeTable], None] | None = None  #: a caller's connection has ended
        self._server: asyncio.AbstractServer | None = None

    async def open(self, sock: socket.socket) -> None:
        """Begin to accept on a listening Unix socket."""
        sock.setblocking(False)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: ServedConnection(self), sock=sock, **KEEP_SOCKET_FILE
        )

    def tell_facts(self, facts: bytes) -> None:
        """Tell every caller, and those who will connect, what they should know to choose."""
        self.facts = facts
        for connection in self.connections:
            connection.table.tell_facts(facts)

    def declined(self) -> None:
        """A caller that was offered room does not want it."""
        if self.on_decline is not None:
            self.on_decline()

    def stop_accepting(self) -> None:
        """Take no more connections; those that there are go on."""
        if self._server is not None:
            self._server.close()

    async def aclose(self) -> None:
        """Stop accepting and close all connections."""
        self.stop_accepting()
        connections = list(self.connections)
        for connection in connections:
            connection.close()
        for connection in connections:
            await connection.wait_closed()
        if self.ledger is not None:
            self.ledger.close()


async def listen(
    sock: socket.socket,
    handle_call: HandleCall,
    *,
    gauge: Gauge | None = None,
    ledger: LedgerWriter | None = None,
) -> Listener:
    """Serve calls on a listening Unix socket. `handle_call` is called on the loop for each call."""
    listener = Listener(handle_call, gauge or NoGauge(), ledger)
    await listener.open(sock)
    return listener
