"""One gRPC call in a replica: its messages decoded, the handler's answer encoded, its status found.

What runs the handler is `requests`, as for every other call. Loaded with a replica's first gRPC call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

import msgspec

from serve_lite.context import RequestContext
from serve_lite.exceptions import RayServeException, gRPCStatusError
from serve_lite.grpc_util import (
    RayServegRPCContext,
    code_of,
    encoding_for,
    gRPCInputStream,
    initial_of,
    number_of,
    trailing_of,
)
from serve_lite.replica.asgi import writable
from serve_lite.replica.servicers import Described, read_servicer
from serve_lite.wire import grpc_status
from serve_lite.wire.calls import IncomingCall
from serve_lite.wire.grpc_codings import CodingError, deflated, inflated
from serve_lite.wire.messages import GrpcHead, GrpcStatus

_encode = msgspec.msgpack.Encoder().encode

_END: Final = object()
_LONG_BYTES: Final = 64 * 1024  #: to compress more than this, or to decompress it, takes a thread

#: by import path; replicas of one application need few
_servicers: dict[str, dict[str, Described]] = {}


def request_context(head: GrpcHead) -> RequestContext:
    """Return the context of a call; its `grpc_context` is what the handler gets."""
    context = RequestContext(
        head.request_id,
        route=head.app,
        app_name=head.app,
        multiplexed_model_id=head.model_id,
        session_id=head.session_id,
        deadline=head.deadline,
        traceparent=head.traceparent,
    )
    context.grpc_context = RayServegRPCContext(
        [(name, value if name.endswith("-bin") else value.decode("ascii")) for name, value in head.metadata],
        request_id=head.request_id,
        application=head.app,
        peer=head.peer,
        multiplexed_model_id=head.model_id,
        traceparent=head.traceparent,
        readable_encodings=head.readable,
        certificate=head.certificate,
    )
    return context


async def argument_of(call: IncomingCall, head: GrpcHead) -> Any:
    """Return what the handler is called with: the message, or the stream of messages.

    Raises:
        RayServeException: the message cannot be read; or whatever importing the servicer function raises.
    """
    described = await _described(head)
    if head.client_streaming:
        return gRPCInputStream(_Messages(call, described, head).receive, _END)
    data: bytes | memoryview = call.buffers[0] if call.buffers else b""
    call.buffers = []
    if head.is_compressed:
        data = await _inflated(data, head)
    return _decoded(described, data, head)


async def packed(context: RayServegRPCContext, message: Any) -> tuple[int, bytes]:
    """Return a message's bytes, and what they are compressed with.

    Raises:
        TypeError: it is no protobuf message.
    """
    data = encoded(message)
    compression = encoding_for(context)
    if not compression:
        return 0, data
    if len(data) > _LONG_BYTES:
        return compression, await asyncio.to_thread(deflated, data, compression)
    return compression, deflated(data, compression)


def result(call: IncomingCall, context: RayServegRPCContext, compression: int, message: bytes) -> None:
    """Answer a unary call with a message as `packed` has it."""
    status = _status(context)
    if status.code:
        call.result(_encode(status))
    else:
        status.compression = compression
        call.result(_encode(status), message)


async def send(call: IncomingCall, context: RayServegRPCContext, message: Any) -> None:
    """Send one message of a stream; waits while the client is slow."""
    compression, data = await packed(context, message)
    envelope = bytes((compression,)) if compression else b""
    initial = initial_of(context)
    if initial:
        envelope = bytes((compression,)) + _encode(initial)
    if not call.item(envelope, data):
        await writable(call)


def end(call: IncomingCall, context: RayServegRPCContext) -> None:
    """End a stream."""
    call.end(_encode(_status(context)))


def fail(call: IncomingCall, context: RayServegRPCContext, error: BaseException) -> None:
    """Answer with the status that the handler has set, or with that of the error."""
    code, details = grpc_status.status_of(error)
    if isinstance(error, gRPCStatusError):
        code = number_of(error.grpc_code) or code
        details = error.grpc_details or str(error.original_exception)
    code = code_of(context) or code  # OK cannot be meant
    details = context.details() or details
    call.end(
        _encode(
            GrpcStatus(code, grpc_status.shortened(details), trailing_of(context), 0, initial_of(context))
        )
    )  # ends a unary call as well


def encoded(message: Any) -> bytes:
    """Return a message's bytes.

    Raises:
        TypeError: it is no protobuf message.
    """
    serialize = getattr(message, "SerializeToString", None)
    if serialize is None or isinstance(message, type):
        raise TypeError(
            f"A gRPC method must return a protobuf message, but it returned {type(message).__name__!r}."
        )
    data: bytes = serialize()
    return data


def _status(context: RayServegRPCContext) -> GrpcStatus:
    details = grpc_status.shortened(context.details() or "")
    code = code_of(context) or grpc_status.OK
    return GrpcStatus(code, details, trailing_of(context), 0, initial_of(context))


async def _described(head: GrpcHead) -> Described:
    methods = _servicers.get(head.servicer)
    if methods is None:
        methods = _servicers[head.servicer] = await asyncio.to_thread(read_servicer, head.servicer)
    try:
        return methods[head.method]
    except KeyError:
        raise RayServeException(
            f"The servicer function {head.servicer!r} has no method {head.method!r} in this replica, other than when "
            "the instance was started. Start the instance again after a change of the services."
        ) from None


def _decoded(described: Described, data: Any, head: GrpcHead) -> Any:
    try:
        return described.decode(bytes(data))
    except Exception as error:  # boundary: another library's decoder, which raises what it likes
        raise RayServeException(f"The request is no message that {head.method!r} takes: {error}") from error


async def _inflated(data: bytes | memoryview, head: GrpcHead) -> bytes:
    try:
        if len(data) > _LONG_BYTES:
            return await asyncio.to_thread(inflated, data, head.encoding, head.max_message_bytes)
        return inflated(data, head.encoding, head.max_message_bytes)
    except CodingError as error:
        raise gRPCStatusError(error, error.code, error.details) from error


class _Messages:
    """The client's messages as they come. At most a window of them waits."""

    def __init__(self, call: IncomingCall, described: Described, head: GrpcHead) -> None:
        self._call, self._described, self._head = call, described, head
        self._waiting: deque[tuple[bool, memoryview | bytes]] = deque()  #: whether compressed, message
        self._has_ended = False
        self._changed = asyncio.Event()
        call.listen(self._on_item, self._on_end)

    async def receive(self) -> Any:
        """Return the next message, `_END` after the last one."""
        while not self._waiting:
            if self._has_ended:
                return _END
            self._changed.clear()
            await self._changed.wait()  # ends with a message, the end, or the cancel of this call
        is_compressed, data = self._waiting.popleft()
        self._call.consumed(len(data))
        if is_compressed:
            data = await _inflated(data, self._head)
        return _decoded(self._described, data, self._head)

    def _on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self._waiting.append((bool(envelope), buffers[0] if buffers else b""))
        self._changed.set()

    def _on_end(self) -> None:
        self._has_ended = True
        self._changed.set()
