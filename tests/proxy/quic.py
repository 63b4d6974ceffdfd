"""A client of HTTP/3, by aioquic, that lets a test see every event."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, ProtocolNegotiated, QuicEvent

PATIENCE_S = 20.0

E = TypeVar("E")


class Http3Client(QuicConnectionProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.h3: H3Connection
        self.events: list[H3Event | QuicEvent] = []
        self._changed = asyncio.Event()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self.h3 = H3Connection(self._quic)
        self.events.append(event)
        if hasattr(self, "h3"):
            self.events += self.h3.handle_event(event)
        self._changed.set()

    def send(
        self, method: str, path: str, *headers: tuple[str, str], ends: bool = True, **pseudo: str
    ) -> int:
        """Send the head of a request on a new stream; return the stream."""
        stream = self._quic.get_next_available_stream_id()
        told = {":method": method, ":scheme": "https", ":authority": "a", ":path": path}
        told |= {f":{name}": value for name, value in pseudo.items()}
        pairs = [(n.encode(), v.encode("latin-1")) for n, v in (*told.items(), *headers)]
        self.h3.send_headers(stream, pairs, end_stream=ends)
        self.transmit()
        return stream

    def send_body(self, stream: int, data: bytes, *, ends: bool = True) -> None:
        self.h3.send_data(stream, data, ends)
        self.transmit()

    async def event(self, kind: type[E], stream: int | None = None) -> E:
        """Return the next event of a kind, of one stream or any; take it from the list."""
        with anyio.fail_after(PATIENCE_S):
            while True:
                for i, event in enumerate(self.events):
                    if isinstance(event, kind) and stream in (None, getattr(event, "stream_id", None)):
                        del self.events[i]
                        return event
                self._changed.clear()
                await self._changed.wait()

    async def head(self, stream: int) -> tuple[int, dict[str, str]]:
        """Return status and headers of the next head on a stream; its end, if it has none of a body, stays."""
        event = await self.event(HeadersReceived, stream)
        if event.stream_ended:
            self.events.append(DataReceived(b"", stream, True))
        headers = {n.decode(): v.decode() for n, v in event.headers}
        return int(headers.pop(":status", "0")), headers

    async def body(self, stream: int) -> bytes:
        """Return the body, to the end of its stream."""
        data = b""
        while True:
            event = await self.event(DataReceived, stream)
            data += event.data
            if event.stream_ended:
                return data

    async def get(self, path: str, *headers: tuple[str, str], method: str = "GET") -> tuple[int, bytes]:
        stream = self.send(method, path, *headers)
        status, told = await self.head(stream)
        assert told["x-request-id"]
        return status, await self.body(stream)

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        stream = self.send("POST", path, ends=False)
        self.send_body(stream, body)
        return (await self.head(stream))[0], await self.body(stream)

    async def is_closed(self) -> int:
        """Wait until the server has closed the connection; return its code."""
        return (await self.event(ConnectionTerminated)).error_code


@asynccontextmanager
async def http3(host: str, port: int, authority: Path) -> AsyncIterator[Http3Client]:
    """Connect for as long as the block."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_REQUIRED)
    configuration.load_verify_locations(str(authority))
    with anyio.fail_after(PATIENCE_S):
        connecting = connect(host, port, configuration=configuration, create_protocol=Http3Client)
        client: Any = await connecting.__aenter__()
    try:
        yield client
    finally:
        await connecting.__aexit__(None, None, None)
