"""Clients that ask one request after another, and note each answer and each failure with its time.

Half of them keep their connection, the others make a new one for each request: what a kill does to the two differs.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

GIVE_UP_S = 60.0  #: for a request
AFTER_REFUSAL_S = 0.01  #: so that clients who are refused leave the processor to those who recover


@dataclass
class Seen:
    """What clients saw. Times are those of `time.perf_counter`."""

    answered_at: list[float] = field(default_factory=list)
    failed_at: list[tuple[float, str]] = field(default_factory=list)

    def after(self, moment: float) -> Seen:
        """Return what was seen from then on; the answer before it is kept, because a gap may begin with it."""
        begin = max((i for i, at in enumerate(self.answered_at) if at <= moment), default=0)
        return Seen(self.answered_at[begin:], [entry for entry in self.failed_at if entry[0] >= moment])

    def longest_gap_s(self) -> float:
        pairs = zip(self.answered_at, self.answered_at[1:], strict=False)
        return max((later - earlier for earlier, later in pairs), default=0.0)

    def causes(self) -> Counter[str]:
        return Counter(cause for _, cause in self.failed_at)


class Clients:
    """Clients that ask until told to stop."""

    def __init__(self, port: int) -> None:
        self.seen = Seen()
        self._port = port
        self._is_over = False

    async def ask(self, *, keeps: bool) -> None:
        """Ask again and again, on one connection while it lasts or on a new one each time."""
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._is_over:
            try:
                async with asyncio.timeout(GIVE_UP_S):
                    if streams is None:
                        streams = await asyncio.open_connection("127.0.0.1", self._port)
                    status, closes = await _exchange(*streams, keeps=keeps)
            except ConnectionRefusedError:
                await self._fail("refused")
                continue
            except TimeoutError:
                await self._fail("no answer")
                status, closes = 0, True
            except (OSError, EOFError):
                await self._fail("broken")
                status, closes = 0, True
            if status == 200:
                self.seen.answered_at.append(time.perf_counter())
            elif status:
                await self._fail(f"status {status}")
            if streams is not None and (closes or not keeps):
                streams[1].close()
                streams = None
        if streams is not None:
            streams[1].close()

    async def _fail(self, cause: str) -> None:
        self.seen.failed_at.append((time.perf_counter(), cause))
        await asyncio.sleep(AFTER_REFUSAL_S)

    def stop(self) -> None:
        self._is_over = True


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, keeps: bool
) -> tuple[int, bool]:
    """Make one request; return the status and whether the server closes the connection."""
    connection = "keep-alive" if keeps else "close"
    writer.write(f"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: {connection}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    _, found, rest = head.partition(b"content-length:")
    if found:
        await reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
    else:  # the end of the connection is the end of the answer
        await reader.read()
    return status, b"connection: close" in head or not found
