"""What hypercorn can do and has no way to ask for: taken from its stream objects, of which ASGI's `send` is a method.

Each function takes the `send` of one request. The names used are hypercorn's own and not all public; the tests of
both fronts notice when they change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from typing import Any, Final

import h11
from h2.events import Event, RequestReceived
from hpack import HeaderTuple
from hypercorn.protocol.events import Data, InformationalResponse, StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection

Message = MutableMapping[str, Any]  # ASGI's, whose values are of many types
Send = Callable[[Message], Awaitable[None]]
Pairs = list[tuple[bytes, bytes]]

_H2_INTERNAL_ERROR: Final = 2
_MUCH_BYTES: Final = 64 * 1024


async def reset(send: Send) -> None:
    """Reset the HTTP/2 stream; one left unfinished would stay open for ever.

    For HTTP/1.1 there is nothing to do: hypercorn closes the connection.
    """
    stream, protocol = _parts(send)
    connection: Any = getattr(protocol, "connection", None)
    if hasattr(connection, "reset_stream"):
        connection.reset_stream(stream.stream_id, error_code=_H2_INTERNAL_ERROR)
        await protocol._flush()


async def drained(send: Send) -> None:
    """Wait until little is held for the HTTP/2 stream.

    hypercorn's own waiting ends as soon as it looks whether there is room, also if there is none.
    """
    stream, protocol = _parts(send)
    buffer: Any = getattr(protocol, "stream_buffers", {}).get(getattr(stream, "stream_id", None))
    if buffer is not None and len(buffer.buffer) >= _MUCH_BYTES:
        await buffer.drain()


def forget(send: Send) -> None:
    """Have nothing more sent on the stream.

    hypercorn would answer for an application that was cancelled, and wait for the sending by a task that was too.
    """
    stream, _ = _parts(send)
    if hasattr(stream, "closed"):
        stream.closed = True


async def inform(send: Send, status: int, headers: Pairs) -> None:
    """Send an interim answer, which hypercorn itself does for 103 in HTTP/2 only."""
    stream, protocol = _parts(send)
    if hasattr(protocol, "_send_h11_event"):
        await protocol._send_h11_event(h11.InformationalResponse(status_code=status, headers=headers))
    else:
        await stream.send(InformationalResponse(stream.stream_id, headers=headers, status_code=status))


async def end_with_trailers(send: Send, trailers: Pairs) -> None:
    """End a chunked answer of HTTP/1.1 with trailers, which hypercorn does for HTTP/2 only."""
    stream, protocol = _parts(send)
    await protocol._send_h11_event(h11.EndOfMessage(headers=trailers))
    stream.state = ASGIHTTPState.CLOSED
    await stream.send(StreamClosed(stream_id=stream.stream_id))


def refuse_odd_heads(protocol: H2Protocol) -> None:
    """Have requests of a connection answered 400 that hypercorn would fail at, or answer without us.

    Those are requests whose pseudo-headers are no ASCII, and CONNECT but for WebSockets (RFC 8441). Here they become
    requests that are malformed in a way that hypercorn passes on: their target is no path.
    """
    receive = protocol.connection.receive_data

    def receive_data(data: bytes) -> list[Event]:
        events = receive(data)
        for event in events:
            if isinstance(event, RequestReceived) and not _is_plain(event.headers):
                head = {b":method": b"GET", b":path": b"*", b":scheme": b"http", b":authority": b"-"}
                event.headers = [HeaderTuple(*pair) for pair in head.items()]
        return events

    protocol.connection.receive_data = receive_data  # type: ignore[method-assign, assignment]


def _is_plain(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    told = {bytes(name): bytes(value) for name, value in headers}
    if not all(value.isascii() for name, value in told.items() if name.startswith((b":", b"sec-websocket-"))):
        return False
    if told.get(b":method", b"").upper() != b"CONNECT":
        return True
    return told.get(b":protocol") == b"websocket" and told.get(b"sec-websocket-version") == b"13"


def watch_close(send: Send, note: Callable[[int, str], None]) -> None:
    """Have `note` told the code and reason with which the client closes the WebSocket, or must have it closed.

    hypercorn ends the connection of a client that breaks the protocol without a word; here it hears which rule it was
    (RFC 6455, section 7.1.7).
    """
    stream, _ = _parts(send)
    connection: Any = getattr(stream, "connection", None)
    if connection is None:
        return
    events, handle = connection.events, stream._handle_events
    failure: CloseConnection | None = None

    def noting() -> Iterator[object]:
        nonlocal failure
        for event in events():
            if isinstance(event, CloseConnection):
                note(int(event.code), event.reason or "")
                if connection.state is ConnectionState.OPEN:  # not the client's: what it sent cannot be read
                    failure = event
                    return
            yield event

    async def handle_events() -> None:
        await handle()
        if failure is not None:
            await stream.send(Data(stream.stream_id, data=connection.send(failure)))
            await stream.send(StreamClosed(stream.stream_id))

    connection.events, stream._handle_events = noting, handle_events


def _parts(send: Send) -> tuple[Any, Any]:
    """Return the stream and the protocol of the connection that it belongs to."""
    stream: Any = getattr(send, "__self__", None)
    return stream, getattr(getattr(stream, "send", None), "__self__", None)
