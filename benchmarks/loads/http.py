"""Requests per second and latency at a number of keep-alive connections.

wrk makes the load where it is installed: one thread, in C, the least disturbance on a small machine. Where
it is not, a generator on asyncio takes its place; it costs several times as much of the processor that the
server needs too, so the report says which of the two it was, and numbers of the two must not be mixed.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import httptools
import uvloop

from benchmarks.asks import Ask
from benchmarks.spread import percentile

WRK_SCRIPT = """\
wrk.method = {method}
wrk.body = {body}
wrk.headers["Content-Type"] = {content_type}
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format(
        '\\n{{"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"errors":%d}}\\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
        latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What one round of load has shown."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int  #: broken connections, time-outs and answers with a status above 399

    @property
    def requests_per_s(self) -> float:
        return (self.requests - self.errors) / self.seconds

    def as_dict(self) -> dict[str, float]:
        return {"requests_per_s": self.requests_per_s, **asdict(self)}


def generator() -> str:
    """Return the name of what will make the load here."""
    return "wrk" if shutil.which("wrk") else "asyncio"


def run(port: int, ask: Ask, *, connections: int, seconds: float, scratch: Path) -> Load:
    """Load the server on 127.0.0.1 for `seconds` and return what was seen."""
    if generator() == "wrk":
        return _wrk(port, ask, connections, seconds, scratch)
    return uvloop.run(_asyncio_load(port, ask, connections, seconds))


def _wrk(port: int, ask: Ask, connections: int, seconds: float, scratch: Path) -> Load:
    script = scratch / "wrk.lua"
    text = WRK_SCRIPT.format(
        method=json.dumps(ask.method),
        body=json.dumps(ask.body) if ask.body else "nil",
        content_type=json.dumps(ask.content_type) if ask.body else "nil",
    )
    script.write_text(text)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    command += ["-s", str(script), f"http://127.0.0.1:{port}{ask.path}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    result = json.loads(output.strip().splitlines()[-1])
    return Load(
        requests=int(result["requests"]),
        seconds=float(result["seconds"]),
        p50_ms=float(result["p50_ms"]),
        p99_ms=float(result["p99_ms"]),
        errors=int(result["errors"]),
    )


async def _asyncio_load(port: int, ask: Ask, connections: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    content = f"Content-Type: {ask.content_type}\r\nContent-Length: {len(ask.body)}\r\n" if ask.body else ""
    request = (
        f"{ask.method} {ask.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{content}\r\n{ask.body}".encode()
    )
    clients: list[_Client] = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: _Client(request), "127.0.0.1", port)
        clients.append(client)

    started = time.perf_counter()
    for client in clients:
        client.ask_again()
    await asyncio.sleep(seconds)
    elapsed = time.perf_counter() - started
    for client in clients:
        client.stop()

    latencies = [latency for client in clients for latency in client.latencies_s]
    return Load(
        requests=len(latencies),
        seconds=elapsed,
        p50_ms=percentile(latencies, 50) * 1000,
        p99_ms=percentile(latencies, 99) * 1000,
        errors=sum(client.errors for client in clients),
    )


class _Client(asyncio.Protocol):
    """One keep-alive connection that asks again as soon as it is answered."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._asked_at = 0.0
        self._stopped = False
        self.latencies_s: list[float] = []
        self.errors = 0

    def ask_again(self) -> None:
        assert self._transport is not None
        self._asked_at = time.perf_counter()
        self._transport.write(self._request)

    def stop(self) -> None:
        self._stopped = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's classes do not derive from it

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.latencies_s.append(time.perf_counter() - self._asked_at)
        if self._parser.get_status_code() > 399:
            self.errors += 1
        if not self._stopped:
            self.ask_again()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._stopped:
            self.errors += 1
