"""Requests that the gRPC door answers itself; `grpc_builtins` has their messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from serve_lite.proxy import grpc_builtins as builtins
from serve_lite.proxy.grpc_exchange import GrpcExchange
from serve_lite.wire import grpc_status as status
from serve_lite.wire.frames import Buffer
from serve_lite.wire.grpc_codings import CodingError, inflated
from serve_lite.wire.messages import GrpcStatus

MAX_MESSAGE_BYTES: Final = 256 * 1024  #: that a client may ask with


class Informed(Protocol):
    """What the door knows."""

    def why_unavailable(self) -> GrpcStatus | None:
        """Why no application can be called, None if one can."""

    def health_of(self, service: str) -> int:
        """How a service is, "" for the whole server: a status of the standard health check."""

    def applications(self) -> Iterable[str]:
        """The applications that can be called."""

    def watch(self, watcher: Watcher) -> None:
        """Tell a watcher of every change, until `unwatch`."""

    def unwatch(self, watcher: Watcher) -> None:
        """Tell it no more."""


class BuiltinCall:
    """One request with one message; `answer` makes the answer of it."""

    def __init__(self, exchange: GrpcExchange, answer: Callable[[bytes], bytes | GrpcStatus]) -> None:
        self.exchange = exchange
        self._answer = answer
        self._message = b""
        exchange.work = self

    def on_message(self, message: Buffer, is_compressed: bool) -> None:
        try:
            self._take(
                inflated(bytes(message), self.exchange.head.encoding, MAX_MESSAGE_BYTES)
                if is_compressed
                else bytes(message)
            )
        except CodingError as error:
            self.on_refused(error.code, error.details)
        except ValueError as error:  # no such protobuf message
            self.on_refused(status.INTERNAL, str(error))

    def on_messages_end(self) -> None:
        try:
            answer = self._answer(self._message)
        except ValueError as error:
            self.on_refused(status.INTERNAL, str(error))
            return
        if isinstance(answer, GrpcStatus):
            self.exchange.finish(answer.code, answer.details)
        else:
            self.exchange.respond(answer, 0)

    def on_client_writable(self) -> None:
        """Nothing is held back."""

    def on_refused(self, code: int, details: str) -> None:
        self.exchange.finish(code, details)

    def on_over(self, *, is_complete: bool) -> None:
        """Nothing is to be done."""

    def _take(self, message: bytes) -> None:
        self._message = message


class ReflectionCall(BuiltinCall):
    """A conversation about the services: an answer for each message, as fast as the client takes them."""

    def __init__(self, exchange: GrpcExchange, reflection: builtins.Reflection) -> None:
        super().__init__(exchange, reflection.answer)
        self._unanswered: list[bytes] = []
        self._is_held = self._has_ended = False

    def on_messages_end(self) -> None:
        self._has_ended = True
        self._go_on()

    def on_client_writable(self) -> None:
        self._is_held = False
        try:
            self._go_on()
        except ValueError as error:
            self.on_refused(status.INTERNAL, str(error))

    def _take(self, message: bytes) -> None:
        self._unanswered.append(message)
        self._go_on()

    def _go_on(self) -> None:
        while self._unanswered and not self._is_held:
            answer = self._answer(self._unanswered.pop(0))
            assert isinstance(answer, bytes)
            self._is_held = not self.exchange.send(answer, 0)
        if self._unanswered:
            self.exchange.pause()
            return
        if self.exchange.is_paused:
            self.exchange.read_on()
        if self._has_ended:
            self.exchange.finish(status.OK)


class Watcher(BuiltinCall):
    """A client that is told how a service is, now and after each change."""

    def __init__(self, exchange: GrpcExchange, door: Informed, connection: object) -> None:
        super().__init__(exchange, lambda _: GrpcStatus())
        self.connection = connection  #: that it came on
        self._door = door
        self._told = 0
        self.service = ""

    def on_messages_end(self) -> None:
        try:
            self.service = builtins.asked_service(self._message)
        except ValueError as error:
            self.on_refused(status.INTERNAL, str(error))
            return
        self._door.watch(self)
        self.tell()

    def tell(self) -> None:
        """Tell the client if it has changed."""
        state = self._door.health_of(self.service)
        if state != self._told:
            self._told = state
            self.exchange.send(builtins.health(state), 0)

    def leave(self) -> None:
        """Have the client ask again, on another connection."""
        self.exchange.finish(status.UNAVAILABLE, "This connection is to be left. Ask again.")

    def on_over(self, *, is_complete: bool) -> None:
        self._door.unwatch(self)


def ray_call(exchange: GrpcExchange, door: Informed) -> BuiltinCall:
    """Answer for Ray Serve's own service."""

    def answer(_: bytes) -> bytes | GrpcStatus:
        unavailable = door.why_unavailable()
        if unavailable is not None:
            return unavailable
        is_list = exchange.head.path == builtins.LIST_APPLICATIONS
        return builtins.applications(door.applications()) if is_list else builtins.healthz()

    return BuiltinCall(exchange, answer)


def health_call(exchange: GrpcExchange, door: Informed) -> BuiltinCall:
    """Answer the standard health check."""

    def answer(message: bytes) -> bytes | GrpcStatus:
        service = builtins.asked_service(message)
        state = door.health_of(service)
        if state == builtins.SERVICE_UNKNOWN:
            return GrpcStatus(status.NOT_FOUND, f"There is no service {service!r}.")
        return builtins.health(state)

    return BuiltinCall(exchange, answer)


def refused_call(exchange: GrpcExchange, code: int, details: str, *, http_status: int = 0) -> BuiltinCall:
    """Answer with a status, whatever is asked; with one of HTTP what is no gRPC."""
    call = BuiltinCall(exchange, lambda _: GrpcStatus(code, details))
    if http_status:
        exchange.refuse_http(http_status)
    else:
        exchange.finish(code, details)
    return call
