"""Echoes per second over WebSockets: each connection sends a message again as soon as the last one came back.

The client knows which bytes must come back, so it compares them and parses nothing: what is measured is the server.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from typing import cast

from benchmarks.loads.http import Load
from benchmarks.spread import percentile

MESSAGE = b"an echo of thirty-two bytes, say"
_CONNECT_S = 10.0


async def run(port: int, path: str, *, connections: int, seconds: float) -> Load:
    """Echo on `connections` connections for `seconds`; an answer that differs is an error."""
    loop = asyncio.get_running_loop()
    clients: list[_Client] = []
    try:
        for _ in range(connections):
            _, client = await loop.create_connection(lambda: _Client(port, path), "127.0.0.1", port)
            clients.append(client)
        async with asyncio.timeout(_CONNECT_S):
            for client in clients:
                await client.opened
        started = time.perf_counter()
        for client in clients:
            client.send()
        await asyncio.sleep(seconds)
        elapsed = time.perf_counter() - started
    finally:
        for client in clients:
            client.stop()
    latencies = [latency for client in clients for latency in client.latencies_s]
    errors = sum(client.errors for client in clients)
    if not latencies:
        return Load(requests=errors, seconds=elapsed, p50_ms=0.0, p99_ms=0.0, errors=errors)
    return Load(
        requests=len(latencies) + errors,
        seconds=elapsed,
        p50_ms=percentile(latencies, 50) * 1000,
        p99_ms=percentile(latencies, 99) * 1000,
        errors=errors,
    )


class _Client(asyncio.Protocol):
    def __init__(self, port: int, path: str) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.latencies_s: list[float] = []
        self.errors = 0
        self._head = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        self._frame = masked_frame(MESSAGE)
        self._echo = b"\x82" + bytes([len(MESSAGE)]) + MESSAGE
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._sent_at = 0.0
        self._stopped = False

    def send(self) -> None:
        assert self._transport is not None
        self._sent_at = time.perf_counter()
        self._transport.write(self._frame)

    def stop(self) -> None:
        self._stopped = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's classes do not derive from it
        self._transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.opened.done():
            head, end, self._received = self._received.partition(b"\r\n\r\n")
            if not end:
                self._received = head
            elif head.startswith(b"HTTP/1.1 101"):
                self.opened.set_result(None)
            else:
                self.opened.set_exception(ConnectionError(f"no WebSocket: {head[:100]!r}"))
            return
        if len(self._received) < len(self._echo):
            return
        if self._received != self._echo:
            self.errors += 1
            self.stop()  # out of step: what follows would be wrong as well
            return
        self._received = b""
        self.latencies_s.append(time.perf_counter() - self._sent_at)
        if not self._stopped:
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("closed during the handshake"))
        if not self._stopped:
            self.errors += 1


def masked_frame(message: bytes) -> bytes:
    """Return a binary message of up to 125 bytes as a client sends it (RFC 6455, section 5.2)."""
    if len(message) > 125:
        raise ValueError("longer messages have another header")
    key = os.urandom(4)
    masked = bytes(byte ^ key[i % 4] for i, byte in enumerate(message))
    return struct.pack("!BB", 0x82, 0x80 | len(message)) + key + masked
