"""The access log of the doors: a line for each request, those that never reached a replica too.

A request pays for one tuple. Lines are made and written in a thread, a fifth of a second's worth at a time. If
writing cannot keep up, lines are dropped, and a line says how many; requests never wait for it.

Query strings are left out, since people put secrets there, and so are keys. Nothing that a client sends can end a line
or move a terminal's cursor: what is no printable ASCII is escaped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Callable
from typing import Final, Literal

from serve_lite.proxy.exchange import Exchange

_WRITE_EVERY_S: Final = 0.2
_MOST_WAITING: Final = 200_000  #: lines; some tens of megabytes
_LONGEST_PATH: Final = 2048  #: bytes shown

_UNSAFE: Final = re.compile(r"[^!-~]|\\")

_log = logging.getLogger("serve_lite.proxy")

#: Unix time, door, client, request id, application, method, target, status, seconds, bytes
_Line = tuple[float, str, str, bytes, str, str, bytes, int | str, float, int]


class AccessLog:
    """Lines that wait to be written.

    Lifetime: used on one event loop, from the first line to `aclose`, which writes what is left.

    Args:
        write: puts a batch of whole lines where they belong; called in a thread, one batch at a time.
        encoding: what a line looks like.
    """

    def __init__(self, write: Callable[[bytes], object], encoding: Literal["TEXT", "JSON"] = "TEXT") -> None:
        self._write = write
        self._render = _as_json if encoding == "JSON" else _as_text
        self._lines: list[_Line] = []
        self._num_dropped = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def note_http(
        self, exchange: Exchange, app: str, method: str, status: int, latency_s: float, body_bytes: int
    ) -> None:
        """Note an HTTP request or WebSocket that is over."""
        self.note(
            "http",
            exchange.client[0],
            exchange.request_id,
            app,
            method,
            exchange.target,
            status,
            latency_s,
            body_bytes,
        )

    def note(
        self,
        door: str,
        client: str,
        request_id: bytes,
        app: str,
        method: str,
        target: bytes | str,
        status: int | str,
        latency_s: float,
        body_bytes: int,
    ) -> None:
        """Note one request that is over.

        Args:
            target: path, with or without a query; "-" where there is none.
            body_bytes: sent to the client.
        """
        if len(self._lines) >= _MOST_WAITING:
            self._num_dropped += 1
            return
        raw = target if isinstance(target, bytes) else target.encode()
        self._lines.append(
            (time.time(), door, client, request_id, app, method, raw, status, latency_s, body_bytes)
        )
        if self._timer is None and self._writing is None:
            self._timer = asyncio.get_running_loop().call_later(_WRITE_EVERY_S, self._begin)

    async def aclose(self) -> None:
        """Write what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await self._writing
        await self._write_all()

    def _begin(self) -> None:
        self._timer = None
        self._writing = asyncio.get_running_loop().create_task(self._write_some())

    async def _write_some(self) -> None:
        try:
            await self._write_all()
        finally:
            self._writing = None
            if self._lines and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_WRITE_EVERY_S, self._begin)

    async def _write_all(self) -> None:
        lines, self._lines = self._lines, []
        num_dropped, self._num_dropped = self._num_dropped, 0
        if not lines and not num_dropped:
            return
        if num_dropped:
            _log.warning("the access log could not keep up: %d lines are missing", num_dropped)
        try:
            await asyncio.to_thread(self._write_lines, lines)
        except OSError as error:  # a full disk, or a folder that is gone: requests are not to suffer from it
            _log.warning("%d lines of the access log are lost: %s", len(lines), error)

    def _write_lines(self, lines: list[_Line]) -> None:
        render = self._render
        self._write("".join([render(line) for line in lines]).encode("ascii"))


def safe(text: str) -> str:
    """Return text as one word of printable ASCII: everything else is escaped, and so are backslashes and spaces."""
    return _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in match[0].encode("utf-8", "surrogateescape"))


def _path(target: bytes) -> str:
    path = target.partition(b"?")[0]
    text = safe(path[:_LONGEST_PATH].decode("ascii", "surrogateescape")) or "-"
    return text if len(path) <= _LONGEST_PATH else f"{text}..."


def _when(at: float) -> str:
    whole, rest = divmod(at, 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(rest * 1000):03d}Z"


def _as_text(line: _Line) -> str:
    at, _, client, request_id, app, method, target, status, latency_s, body_bytes = line
    return (
        f"{_when(at)} {safe(client) or '-'} {request_id.decode('ascii') or '-'} {safe(app) or '-'} "
        f"{safe(method) or '-'} {_path(target)} {status} {latency_s * 1000:.1f}ms {body_bytes}\n"
    )


def _as_json(line: _Line) -> str:
    at, door, client, request_id, app, method, target, status, latency_s, body_bytes = line
    record = {
        "asctime": _when(at),
        "door": door,
        "client": client,
        "request_id": request_id.decode("ascii"),
        "application": app,
        "method": method,
        "path": _path(target),
        "status": status,
        "latency_ms": round(latency_s * 1000, 3),
        "bytes": body_bytes,
    }
    return json.dumps(record) + "\n"
