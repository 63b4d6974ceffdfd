"""A client of HTTP/2 that shows every event and sends whatever it is told to, for what grpcio would not do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    TrailersReceived,
)

from tests.instances import DEADLINE_S, Instance

E = TypeVar("E", bound=Event)

SAY = "/serve_lite.echo.Echo/Say"
GATHER = "/serve_lite.echo.Echo/Gather"


def framed(data: bytes, flag: int = 0) -> bytes:
    """Return a message as gRPC sends it."""
    return bytes((flag,)) + len(data).to_bytes(4, "big") + data


class Raw:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        config = H2Configuration(
            header_encoding="latin-1", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = H2Connection(config)
        self.h2.initiate_connection()
        self.events: list[Event] = []
        self.is_closed = False
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def send(self, data: bytes) -> None:
        """Send frames that the library knows nothing of."""
        self.writer.write(data)

    def begin(self, path: str, *more: tuple[str, str], ends: bool = False) -> int:
        """Begin a request; return its stream."""
        stream = self.h2.get_next_available_stream_id()
        pseudo = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")]
        self.h2.send_headers(
            stream,
            [*pseudo, ("content-type", "application/grpc"), ("te", "trailers"), *more],
            end_stream=ends,
        )
        self.flush()
        return stream

    def request(self, path: str, message: bytes = b"", *more: tuple[str, str]) -> int:
        """Send a request with one message; return its stream."""
        stream = self.begin(path, *more)
        self.h2.send_data(stream, framed(message), end_stream=True)
        self.flush()
        return stream

    async def read(self) -> bool:
        """Take what has come; False: the server has closed the connection."""
        data = await self.reader.read(65536)
        if not data:
            self.is_closed = True
            return False
        for event in self.h2.receive_data(data):
            self.events.append(event)
            if isinstance(event, DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()
        return True

    async def until(self, kind: type[E], claim: Callable[[E], bool] = lambda _: True) -> E:
        """Return the first event of this kind that has come, or comes."""
        with anyio.fail_after(DEADLINE_S):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and claim(event):
                        return event
                assert await self.read(), f"closed before a {kind.__name__}: {self.events}"

    async def until_closed(self) -> ConnectionTerminated | None:
        """Wait until the server closes the connection; return its GOAWAY."""
        with anyio.fail_after(DEADLINE_S):
            try:
                while await self.read():
                    continue
            except ConnectionError:
                self.is_closed = True
        return next((e for e in self.events if isinstance(e, ConnectionTerminated)), None)

    async def status(self, stream: int) -> str:
        """Return the grpc-status of a stream, once it is there."""
        await self.until(StreamEnded, lambda event: event.stream_id == stream)
        for event in self.events:
            if isinstance(event, ResponseReceived | TrailersReceived) and event.stream_id == stream:
                found = dict(event.headers).get("grpc-status")
                if found is not None:
                    return str(found)
        raise AssertionError(f"no grpc-status among {self.events}")


@asynccontextmanager
async def connect(host: str, port: int) -> AsyncIterator[Raw]:
    """Connect to a gRPC door."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass  # the server was first


@asynccontextmanager
async def raw(door: Instance) -> AsyncIterator[Raw]:
    """Connect to the gRPC door of an instance."""
    assert door.info.grpc_host is not None
    async with connect(door.info.grpc_host, door.info.grpc_port) as client:
        yield client
