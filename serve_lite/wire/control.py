"""Control calls on the callee's side: method names, their types, and the tasks that answer them."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import anyio.abc
import msgspec

from serve_lite.wire.callbacks import start_soon
from serve_lite.wire.calls import IncomingCall
from serve_lite.wire.messages import ControlHead, ErrorHead

Q = TypeVar("Q", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)

_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(ControlHead).decode


class ItemSink:
    """Where a control stream puts its items."""

    def __init__(self, call: IncomingCall) -> None:
        self._call = call

    async def send(self, item: msgspec.Struct) -> None:
        """Send an item; waits while the client is slow."""
        while not self._call.has_credit and self._call.alive:
            writable = asyncio.Event()
            self._call.on_writable = writable.set
            await writable.wait()  # ends with credit, or with the cancel of this stream
        self._call.item(b"", _encode(item))


class News:
    """Tells the client of a control call how it goes, before its answer."""

    def __init__(self, call: IncomingCall) -> None:
        self._call = call

    def tell(self, item: msgspec.Struct) -> None:
        """Send an item; never waits, so only for a few small ones. It leaves with the loop's next turn but one."""
        self._call.item(b"", _encode(item))


_Answer = tuple[Callable[[Any], Any], Callable[..., Awaitable[Any]], type[ItemSink] | type[News] | None]


class ControlMethods:
    """Answers control calls, each in a task of `group`; a client that goes cancels its tasks."""

    def __init__(self, group: anyio.abc.TaskGroup) -> None:
        self._group = group
        self._methods: dict[str, _Answer] = {}
        self._running = 0
        self._idle = asyncio.Event()

    def method(
        self, name: str, request_type: type[Q], handler: Callable[[Q], Awaitable[msgspec.Struct]]
    ) -> None:
        """Register a method that answers once."""
        self._methods[name] = (msgspec.msgpack.Decoder(request_type).decode, handler, None)

    def telling(
        self, name: str, request_type: type[Q], handler: Callable[[Q, News], Awaitable[msgspec.Struct]]
    ) -> None:
        """Register a method that answers once and may tell how it goes before."""
        self._methods[name] = (msgspec.msgpack.Decoder(request_type).decode, handler, News)

    def stream(
        self, name: str, request_type: type[Q], handler: Callable[[Q, ItemSink], Awaitable[None]]
    ) -> None:
        """Register a method that answers with items until it returns."""
        self._methods[name] = (msgspec.msgpack.Decoder(request_type).decode, handler, ItemSink)

    def handle_call(self, call: IncomingCall) -> None:
        """Answer one control call (`wire.listener` gives them)."""
        self._running += 1
        start_soon(self._group, self._answer, call)

    async def finish(self, timeout_s: float) -> None:
        """Wait until every control call has been answered, at most this long."""
        with anyio.move_on_after(timeout_s):
            while self._running:
                self._idle.clear()
                await self._idle.wait()

    async def _answer(self, call: IncomingCall) -> None:
        with anyio.CancelScope() as scope:
            call.on_cancel = scope.cancel
            try:
                if call.alive:
                    await self._run(call)
            except Exception as error:  # boundary: whatever a method raises is the client's answer
                head = ErrorHead(type(error).__name__, str(error), traceback.format_exc())
                call.error(_encode(head))
            finally:
                self._running -= 1
                self._idle.set()

    async def _run(self, call: IncomingCall) -> None:
        name = _decode_head(call.envelope).method
        if name not in self._methods:
            raise LookupError(f"there is no control method {name!r}; there are {sorted(self._methods)}")
        decode, handler, tells = self._methods[name]
        request = decode(call.buffers[0])
        if tells is ItemSink:
            await handler(request, ItemSink(call))
            call.end()
        elif tells is News:
            call.result(b"", _encode(await handler(request, News(call))))
        else:
            call.result(b"", _encode(await handler(request)))
