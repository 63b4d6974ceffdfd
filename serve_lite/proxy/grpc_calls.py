"""One gRPC request that an application answers: between an exchange and the router. Callback style, no task."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Final, NamedTuple, Protocol

import msgspec

from serve_lite.proxy.accounts import RouteAccount
from serve_lite.proxy.grpc_exchange import GrpcExchange
from serve_lite.proxy.grpc_headers import GrpcRequestError
from serve_lite.proxy.guard import Guard
from serve_lite.proxy.http import RouterLike
from serve_lite.routing.router import PendingCall
from serve_lite.wire import grpc_status as status
from serve_lite.wire.calls import ITEM_OVERHEAD_BYTES, WINDOW_BYTES
from serve_lite.wire.frames import Buffer, Kind
from serve_lite.wire.messages import CallFacts, ErrorHead, GrpcHead, GrpcStatus, Metadata
from serve_lite.wire.spawning import GrpcMethod

_COMPRESSED: Final = b"\1"  #: envelope of a message that the client has compressed

_log = logging.getLogger("serve_lite.proxy")
_encode = msgspec.msgpack.Encoder().encode
_decode_status = msgspec.msgpack.Decoder(GrpcStatus).decode
_decode_error = msgspec.msgpack.Decoder(ErrorHead).decode
_decode_metadata = msgspec.msgpack.Decoder(Metadata).decode


class Lane(NamedTuple):
    """One application with all that its requests need."""

    app: str
    router: RouterLike
    account: RouteAccount
    guard: Guard | None = None  #: None: everybody may come in


class CallLimits(NamedTuple):
    """What the instance allows a call."""

    timeout_s: float | None = None
    max_receive_bytes: int = 2**31 - 1
    max_send_bytes: int = 2**31 - 1


class Ledger(Protocol):
    """Who wants to know how calls end."""

    def call_ended(self, call: GrpcCall, code: int) -> None:
        """The last word of a call."""


class GrpcCall(PendingCall):
    """One request: a client's messages to a replica, and the replica's to the client.

    Lifetime: from `begin` until its exchange is over.
    """

    kind = Kind.CALL_GRPC

    def __init__(
        self, exchange: GrpcExchange, method: GrpcMethod, lane: Lane, limits: CallLimits, ledger: Ledger
    ) -> None:
        self.exchange = exchange
        self.method = method
        self.lane = lane
        self.model_id = exchange.head.noted(b"multiplexed_model_id")
        self.streams_body = method.client_streaming
        self._limits = limits
        self._ledger = ledger
        self._code: int | None = None  #: how it has ended
        self._with_router = False  #: the router has it
        self._timeout_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._head = GrpcHead(method.name, method.servicer, exchange.request_id)
        self._message: Buffer | None = None  #: the one message, where there is just one
        self._unconsumed: list[int] = []  #: sizes of messages that wait for the client
        # Of streams of the client's:
        self._unsent: deque[tuple[bytes, Buffer]] = (
            deque()
        )  #: envelope and message, for which no replica has room yet
        self._may_send = False
        self._messages_ended = False
        self._kept: list[tuple[bytes, Buffer]] = []  #: messages sent, while they may have to be sent again
        self._kept_bytes = 0

    def begin(self) -> None:
        """Take what the headers say; submit the call if its messages may follow."""
        exchange, method = self.exchange, self.method
        exchange.work = self
        head = exchange.head
        try:
            limits = (head.timeout_s(), self._limits.timeout_s)
            self._timeout_s = min((limit for limit in limits if limit is not None), default=None)
            metadata = head.metadata()
        except GrpcRequestError as error:
            self.on_refused(error.code, error.details)
            return
        deadline = 0.0
        if self._timeout_s is not None:
            deadline = exchange.started + self._timeout_s
            self._timer = asyncio.get_running_loop().call_later(
                deadline - time.monotonic(), self._run_out_of_time
            )
        self._head = GrpcHead(
            method.name,
            method.servicer,
            exchange.request_id,
            method.client_streaming,
            method.server_streaming,
            deadline,
            self.lane.app,
            self.model_id,
            head.noted(b"session_id"),
            head.noted(b"traceparent"),
            exchange.peer.address,
            metadata,
            head.encoding,
            False,
            head.readable_encodings,
            self._limits.max_receive_bytes,
            exchange.peer.certificate,
        )
        if method.client_streaming:
            self._submit()

    def refuse(self, outcome: GrpcStatus) -> None:
        """Answer without having asked anybody."""
        self.exchange.work = self
        self._end(outcome)

    def facts(self) -> CallFacts:
        return CallFacts(
            request_id=self.exchange.request_id,
            method=self.method.name.rpartition("/")[2],
            route=self.lane.app,
            app=self.lane.app,
            model_id=self.model_id,
            session_id=self._head.session_id,
            streaming=self.method.server_streaming,
        )

    def _submit(self) -> None:
        self.envelope = _encode(self._head)
        self._with_router = True
        self.lane.router.submit(self)

    # --- from the exchange ----------------------------------------------------------------------

    def on_message(self, message: Buffer, is_compressed: bool) -> None:
        if self.method.client_streaming:
            self._unsent.append((_COMPRESSED if is_compressed else b"", message))
            self._push()
        elif self._message is None:
            self._message = message
            self._head.is_compressed = is_compressed
        else:
            self.on_refused(
                status.UNIMPLEMENTED, f"{self.method.name!r} takes one message, and more than one came."
            )

    def on_messages_end(self) -> None:
        if self.method.client_streaming:
            self._messages_ended = True
            self._push()
        elif self._message is None:
            self.on_refused(status.UNIMPLEMENTED, f"{self.method.name!r} needs a message; none came.")
        else:
            self.buffers = (self._message,)
            self._submit()

    def on_client_writable(self) -> None:
        sizes, self._unconsumed = self._unconsumed, []
        if self.outgoing is not None:
            for size in sizes:
                self.outgoing.consumed(size)

    def on_refused(self, code: int, details: str) -> None:
        self._end(GrpcStatus(code, details))

    def on_over(self, *, is_complete: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._leave_router()
        code = self._code
        if not is_complete and not code:  # the client has left before it had all
            code = status.CANCELLED
        assert code is not None
        self._code = code
        self._ledger.call_ended(self, code)

    # --- a stream of the client's ---------------------------------------------------------------

    def _push(self) -> None:
        """Send the replica what it has room for, and let the client go on once all is sent."""
        outgoing, unsent = self.outgoing, self._unsent
        while unsent and self._may_send and outgoing is not None:
            item = unsent.popleft()
            self._keep(item)
            self._may_send = outgoing.send_item(*item)
        if unsent:
            self.exchange.pause()
            return
        if self.exchange.is_paused:
            self.exchange.read_on()
        if self._messages_ended and outgoing is not None:
            outgoing.end()

    def _keep(self, item: tuple[bytes, Buffer]) -> None:
        if not self.retryable:
            return
        if self._kept_bytes > WINDOW_BYTES:
            # More than a window may be sent only with credit, which comes from a replica that has accepted the call.
            self.retryable, self._kept = False, []
            return
        self._kept_bytes += len(item[1]) + ITEM_OVERHEAD_BYTES
        self._kept.append(item)

    # --- from the router ------------------------------------------------------------------------

    def on_sent(self, replica_id: str) -> None:
        if not self.streams_body:
            return
        assert self.outgoing is not None
        self._may_send = True
        for item in self._kept:  # a replica has refused the call: all again
            self._may_send = self.outgoing.send_item(*item)
        self._push()

    def on_writable(self) -> None:
        self._may_send = True
        self._push()

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        message: Buffer = buffers[0] if buffers else b""
        if self._is_too_large(message):
            return
        compression = envelope[0] if envelope else 0
        initial = _decode_metadata(envelope[1:]) if len(envelope) > 1 else None
        size = len(envelope) + len(message)
        if self.exchange.send(message, compression, initial):
            if self.outgoing is not None:
                self.outgoing.consumed(size)
        else:
            self._unconsumed.append(size)

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None:
        outcome = _decode_status(envelope)
        if outcome.code != status.OK:
            self._end_by_router(outcome)
            return
        message: Buffer = buffers[0] if buffers else b""
        if self._is_too_large(message):
            return
        self._with_router = False
        self._code = status.OK
        self.exchange.respond(
            message,
            outcome.compression,
            details=outcome.details,
            trailing=outcome.trailing,
            initial=outcome.initial,
        )

    def on_end(self, envelope: bytes) -> None:
        self._end_by_router(_decode_status(envelope))

    def on_error(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self._end_by_router(GrpcStatus(status.INTERNAL, status.shortened(_decode_error(envelope).text)))

    def on_failed(self, error: Exception) -> None:
        if isinstance(error, TimeoutError):
            self._end_by_router(
                GrpcStatus(status.DEADLINE_EXCEEDED, "Request timed out before it was started.")
            )
            return
        code, details = status.status_of(error)
        if code == status.INTERNAL:
            _log.warning("request %s failed: %s: %s", self.exchange.request_id, type(error).__name__, error)
        self._end_by_router(GrpcStatus(code, details))

    # --- ends -----------------------------------------------------------------------------------

    def _run_out_of_time(self) -> None:
        self._timer = None
        assert self._timeout_s is not None
        if self.exchange.holds_answer:
            self._code = status.DEADLINE_EXCEEDED
            self._leave_router()
            self.exchange.cut()
        else:
            self._end(GrpcStatus(status.DEADLINE_EXCEEDED, status.timed_out(self._timeout_s)))

    def _is_too_large(self, message: Buffer) -> bool:
        limit = self._limits.max_send_bytes
        if len(message) <= limit:
            return False
        details = f"The answer's message of {len(message)} bytes is larger than the {limit} allowed."
        self._end(GrpcStatus(status.RESOURCE_EXHAUSTED, details))
        return True

    def _end_by_router(self, outcome: GrpcStatus) -> None:
        self._with_router = False
        self._end(outcome)

    def _end(self, outcome: GrpcStatus) -> None:
        if self._code is None:
            self._code = outcome.code
            self._leave_router()
            self.exchange.finish(outcome.code, outcome.details, outcome.trailing, outcome.initial)

    def _leave_router(self) -> None:
        if self._with_router:
            self._with_router = False
            self.lane.router.cancel(self)
