"""Bodies that have a size: JSON, ten megabytes up and down, streams of small chunks, WebSocket messages."""

from __future__ import annotations

import uvloop

from benchmarks.asks import CHUNKS, TRANSFER_BYTES
from benchmarks.figures import Figure, Goal, megabytes_per_s, milliseconds, per_s
from benchmarks.loads import websockets
from benchmarks.rows.base import Measured, Row
from benchmarks.server import BenchmarkError, Server

GROUP = "Bodies and streams"


class Json(Row):
    name = "json"
    group = GROUP
    about = "A JSON document is sent, parsed, written again and sent back, by a Starlette application; 16 connections."
    app = "web"
    CONNECTIONS = 16
    figures = (
        Figure("json_1k_per_s", "JSON of 1 kB there and back: requests/s", per_s, more_is_better=True),
        Figure("json_1k_p50_ms", "JSON of 1 kB there and back: p50", milliseconds),
        Figure("json_100k_per_s", "JSON of 100 kB there and back: requests/s", per_s, more_is_better=True),
        Figure("json_100k_p50_ms", "JSON of 100 kB there and back: p50", milliseconds),
    )

    def measure(self, server: Server) -> Measured:
        for size in ("1k", "100k"):
            load = server.load(f"json-{size}", connections=self.CONNECTIONS)
            yield f"json_{size}_per_s", load.requests_per_s
            yield f"json_{size}_p50_ms", load.p50_ms


class Transfers(Row):
    name = "transfers"
    group = GROUP
    about = "A body of 10 MB that a Starlette application reads whole, and one that it sends."
    app = "web"
    figures = (
        Figure("upload_p50_ms", "10 MB up, 1 connection: p50", milliseconds),
        Figure("upload_mb_per_s", "10 MB up, 4 connections", megabytes_per_s, more_is_better=True),
        Figure("download_p50_ms", "10 MB down, 1 connection: p50", milliseconds),
        Figure("download_mb_per_s", "10 MB down, 4 connections", megabytes_per_s, more_is_better=True),
    )

    def measure(self, server: Server) -> Measured:
        for way in ("upload", "download"):
            yield f"{way}_p50_ms", server.load(way, connections=1).p50_ms
            rate = server.load(way, connections=4).requests_per_s
            yield f"{way}_mb_per_s", rate * TRANSFER_BYTES / 1e6


class Chunks(Row):
    name = "chunks"
    group = GROUP
    about = "Answers streamed in 1000 chunks of 16 bytes that are ready at once; 16 clients."
    app = "web"
    figures = (
        Figure(
            "chunks_per_s",
            "HTTP stream of small chunks, 16 clients: chunks/s",
            per_s,
            more_is_better=True,
            target=Goal(100_000),
            aim=Goal(300_000),
        ),
    )

    def measure(self, server: Server) -> Measured:
        yield "chunks_per_s", server.load("chunks", connections=16).requests_per_s * CHUNKS


class WebSockets(Row):
    name = "websocket"
    group = GROUP
    about = "Messages of 32 bytes that come back over WebSockets, one at a time on each of 16 connections."
    app = "web"
    CONNECTIONS = 16
    figures = (
        Figure("websocket_per_s", "WebSocket echo, 16 connections: messages/s", per_s, more_is_better=True),
        Figure("websocket_p50_ms", "WebSocket echo, 16 connections: p50", milliseconds),
    )

    def measure(self, server: Server) -> Measured:
        for seconds in (server.settings.warm_up_s, server.settings.seconds):
            load = uvloop.run(
                websockets.run(server.place.port, "/echo", connections=self.CONNECTIONS, seconds=seconds)
            )
            if load.errors:
                raise BenchmarkError(f"{load.errors} WebSocket connections failed or echoed something else.")
        yield "websocket_per_s", load.requests_per_s
        yield "websocket_p50_ms", load.p50_ms
