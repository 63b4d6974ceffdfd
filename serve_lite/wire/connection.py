"""A caller's connection to another process: the shell around `calls.CallerTable`.

Reads, writes and waits; every decision about bytes is in the table.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import msgspec

from serve_lite import exceptions
from serve_lite.wire.calls import CallerTable, OutgoingCall, Receiver
from serve_lite.wire.frames import Buffer, Kind
from serve_lite.wire.ledger import LedgerReader
from serve_lite.wire.messages import ControlHead, ErrorHead, RejectReason

T = TypeVar("T")

_JOIN_BYTES = 64 * 1024  #: chunks that together are smaller than this are joined before writing
_encode = msgspec.msgpack.Encoder().encode
_decode_error = msgspec.msgpack.Decoder(ErrorHead).decode


class ConnectionLostError(exceptions.InstanceError):
    """The other process ended or closed the connection before it had answered."""


class RemoteControlError(exceptions.ServeLiteError):
    """A control call failed in the other process."""

    def __init__(self, type_name: str, text: str, traceback: str = "") -> None:
        super().__init__(type_name, text, traceback)
        self.type_name, self.text, self.traceback = type_name, text, traceback

    def __str__(self) -> str:
        return self.text or self.type_name


class CoalescingProtocol(asyncio.Protocol):
    """Writes once per pass of the loop, however many frames were put meanwhile."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.closed = False
        self._closed_future: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_to_send(self) -> list[Buffer]:
        raise NotImplementedError

    def schedule_flush(self) -> None:
        self._loop.call_soon(self.flush)

    def flush(self) -> None:
        chunks = self.data_to_send()
        if not chunks or self.closed:
            return
        if len(chunks) == 1:
            self.transport.write(chunks[0])
        elif sum(map(len, chunks)) < _JOIN_BYTES:
            self.transport.write(b"".join(chunks))
        else:
            self.transport.writelines(chunks)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if not self._closed_future.done():
            self._closed_future.set_result(None)

    def close(self) -> None:
        """Close after what was put so far is written. `wait_closed` tells when it is done."""
        if not self.closed:
            self.flush()
            self.transport.close()

    async def wait_closed(self) -> None:
        """Return once the connection has ended, whoever ended it."""
        await asyncio.shield(self._closed_future)


class Connection(CoalescingProtocol):
    """Calls to one other process.

    Lifetime: made by `connect`; the caller closes it. When it ends, every open call's receiver hears
    `on_lost`, after `on_closed` was called.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.on_closed: Callable[[], None] | None = None
        self.table = CallerTable(self.schedule_flush)
        self._ledger: LedgerReader | None = None
        self._welcome: asyncio.Future[None] = self._loop.create_future()
        self.table.on_welcome = self._welcomed

    @property
    def load(self) -> int:
        """The callee's ongoing requests when it last answered."""
        return self.table.load

    def call(
        self,
        kind: int,
        envelope: bytes,
        buffers: Sequence[Buffer],
        receiver: Receiver,
        *,
        streams_body: bool = False,
    ) -> OutgoingCall:
        """Start a call; `receiver` hears of it.

        Raises:
            ConnectionLostError: the connection has ended; nothing was sent.
        """
        if self.closed:
            raise ConnectionLostError(f"the connection to {self.path} has ended")
        return self.table.call(kind, envelope, buffers, receiver, streams_body=streams_body)

    async def control(
        self,
        method: str,
        request: msgspec.Struct,
        reply_type: type[T],
        *,
        timeout_s: float | None,
        on_news: Callable[[memoryview], None] | None = None,
    ) -> T:
        """Make a control call and return its reply. On cancel the call is cancelled too.

        Args:
            on_news: hears, encoded, what the method tells before it answers (`ControlMethods.telling`); if nobody
                does, that is dropped.

        Raises:
            RemoteControlError: the method raised; errors of `serve_lite.exceptions` arrive as themselves.
            ConnectionLostError: the other process went away.
            TimeoutError: no answer within `timeout_s` seconds.
        """
        receiver = _ControlReceiver(self._loop.create_future(), on_news)
        outgoing = self.call(Kind.CALL_CONTROL, _encode(ControlHead(method)), [_encode(request)], receiver)
        receiver.outgoing = outgoing
        try:
            async with asyncio.timeout(timeout_s):
                body = await receiver.future
        except BaseException:
            outgoing.cancel()
            raise
        return msgspec.msgpack.decode(body, type=reply_type)

    def watch(
        self,
        method: str,
        request: msgspec.Struct,
        item_type: type[T],
        on_item: Callable[[T], None],
        on_end: Callable[[Exception | None], None],
    ) -> OutgoingCall:
        """Start a control stream; `on_end` gets None or why it ended. Cancel the call to stop it."""
        receiver = _WatchReceiver(msgspec.msgpack.Decoder(item_type).decode, on_item, on_end)
        outgoing = self.call(Kind.CALL_CONTROL, _encode(ControlHead(method)), [_encode(request)], receiver)
        receiver.outgoing = outgoing
        return outgoing

    def take_back(self) -> None:
        """Take back every call that the other process has not accepted; it will not run them, whenever it wakes up.

        Their receivers hear that they were lost. Those that it has accepted stay open.
        """
        if self._ledger is None or self.closed or not self.table.last_id:
            return
        last_accepted = self._ledger.take_back(self.table.last_id)
        if last_accepted is not None:
            self.table.take_back(last_accepted)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.table.hello()

    def data_to_send(self) -> list[Buffer]:
        return self.table.data_to_send()

    def data_received(self, data: bytes) -> None:
        try:
            self.table.receive(data)
        except ValueError:
            self.transport.abort()
            raise

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self._welcome.done():
            self._welcome.set_exception(ConnectionLostError(f"{self.path} closed the connection at once"))
        if self.on_closed is not None:
            self.on_closed()
            self.on_closed = None
        last = self._ledger.last_accepted() if self._ledger else None
        self.table.lost(last)
        self.table.let_go()
        if self._ledger:
            self._ledger.close()

    async def _ready(self) -> None:
        await self._welcome
        slot = self.table.slot
        if slot is not None and slot >= 0:
            self._ledger = LedgerReader(self.path, slot)

    def _welcomed(self) -> None:
        if not self._welcome.done():
            self._welcome.set_result(None)


async def connect(path: str) -> Connection:
    """Connect to the process that listens at this Unix socket path.

    Returns once it has answered, which is when its loop runs; cancel to give up. The other side must run
    as our user or root.

    Raises:
        OSError: nobody listens there.
        ConnectionLostError: it closed the connection before it answered.
        PermissionError: the socket belongs to another user.
    """
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, path)
        check_peer(sock)
        _, connection = await loop.create_connection(lambda: Connection(path), sock=sock)
    except BaseException:
        sock.close()
        raise
    try:
        await connection._ready()
    except BaseException:
        connection.transport.abort()
        raise
    return connection


def check_peer(sock: socket.socket) -> None:
    """Raise PermissionError unless the other end runs as this user or root."""
    uid = unix_peer_uid(sock)
    if uid not in (os.geteuid(), 0):
        raise PermissionError(f"the process at the other end of the socket runs as user {uid}")


def unix_peer_uid(sock: socket.socket) -> int:
    """Return the user who connected the Unix socket at the other end, or who listened on it."""
    if sys.platform == "linux":
        creds = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", creds)[1])
    # macOS and BSD: struct xucred of LOCAL_PEERCRED begins with version and uid
    return int(struct.unpack("2I", sock.getsockopt(0, 1, 8))[1])


def as_local_error(head: ErrorHead) -> Exception:
    """Return the error of a control call: our own class where the text is all it needs."""
    if head.type_name in ("RayServeException", "InvalidConfigError", "InstanceError", "ServeLiteError"):
        error: Exception = getattr(exceptions, head.type_name)(head.text)
        return error
    return RemoteControlError(head.type_name, head.text, head.traceback)


class _ControlReceiver:
    """Turns what happens to one control call into a future."""

    def __init__(
        self, future: asyncio.Future[memoryview], on_news: Callable[[memoryview], None] | None
    ) -> None:
        self.future = future
        self.outgoing: OutgoingCall | None = None
        self._on_news = on_news

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None:
        if not self.future.done():
            self.future.set_result(buffers[0])

    def on_error(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self._fail(as_local_error(_decode_error(envelope)))

    def on_rejected(self, reason: RejectReason, load: int) -> None:
        self._fail(RemoteControlError("Rejected", f"refused: {reason.name.lower()}"))

    def on_lost(self, accepted: bool) -> None:
        self._fail(ConnectionLostError("the other process went away before it had answered"))

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        if self._on_news is not None:
            self._on_news(buffers[0])
        if self.outgoing is not None:
            self.outgoing.consumed(len(buffers[0]))

    def on_end(self, envelope: bytes) -> None:
        self._fail(RemoteControlError("ProtocolError", "a stream answered a unary call"))

    def on_writable(self) -> None:
        """Control calls do not stream their request."""

    def _fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _WatchReceiver:
    """Decodes the items of one control stream."""

    def __init__(
        self,
        decode: Callable[[Any], Any],
        on_item: Callable[[Any], None],
        on_end: Callable[[Exception | None], None],
    ) -> None:
        self.outgoing: OutgoingCall | None = None
        self._decode, self._on_item, self._on_end = decode, on_item, on_end

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self._on_item(self._decode(buffers[0]))
        if self.outgoing is not None:
            self.outgoing.consumed(len(buffers[0]))

    def on_end(self, envelope: bytes) -> None:
        self._on_end(None)

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self._on_end(RemoteControlError("ProtocolError", "one answer where a stream was asked for"))

    def on_error(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self._on_end(as_local_error(_decode_error(envelope)))

    def on_rejected(self, reason: RejectReason, load: int) -> None:
        self._on_end(RemoteControlError("Rejected", f"refused: {reason.name.lower()}"))

    def on_lost(self, accepted: bool) -> None:
        self._on_end(ConnectionLostError("the other process went away"))

    def on_writable(self) -> None:
        """Control streams do not stream their request."""
