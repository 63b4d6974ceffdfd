"""What stands between a client and hypercorn: the client's bytes go through a filter before hypercorn reads them.

HTTP/1 is read and written anew (`rewriting`), HTTP/2 frames are counted (`h2_frames`), a WebSocket's bytes pass
unseen. The way back is the transport's own.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from typing import Final, Protocol

from serve_lite.proxy.h2_frames import PREFACE, FrameGuard, goaway
from serve_lite.proxy.options import ProxyOptions
from serve_lite.proxy.rewriting import RequestRewriter
from serve_lite.proxy.stalls import WriteWatch

#: The entry of the connection that the current task serves.
ENTRY: ContextVar[Entry] = ContextVar("entry")

_PREFACE_START: Final = PREFACE[:14]
_SMALL_FRAME_BYTES: Final = 256  #: frames smaller than this on average are given out a few at a time
_FEW_BYTES: Final = 2048

_log = logging.getLogger("serve_lite.proxy")


class Begun(Protocol):
    """A request that hypercorn has begun."""

    expects_continue: bool  #: set by the entry

    @property
    def holds_client(self) -> bool:
        """Whether the client waits to be told to send its body."""

    def give_up(self, status: int, text: str) -> None:
        """End it, because the rest of its body is malformed or does not come."""


class Bridge(Protocol):
    """A request in hypercorn's hands."""

    def client_gone(self) -> None:
        """The connection has ended."""


class PacedReader(asyncio.StreamReader):
    """A reader that lets other connections have their turn when what it holds takes long to work through."""

    holds_small_frames = False

    async def read(self, n: int = -1) -> bytes:
        """Return what has come, at most `n` bytes; of small frames a few, after a pass of the loop."""
        if self.holds_small_frames:
            await asyncio.sleep(0)
            n = min(n, _FEW_BYTES) if n > 0 else _FEW_BYTES
        return await super().read(n)


class Entry(asyncio.StreamReaderProtocol):
    """One connection of a client, on its way to hypercorn.

    Lifetime: `open` puts it on the transport, whose end ends it.
    """

    def __init__(self, options: ProxyOptions, protocol: str) -> None:
        self._loop = asyncio.get_running_loop()
        self.reader = PacedReader(loop=self._loop)
        super().__init__(self.reader, loop=self._loop)
        self._options = options
        self._first_bytes = b""
        self._rewriter: RequestRewriter | None = None
        self._frames: FrameGuard | None = None
        self._is_raw = self._is_over = False
        self._num_begun = 0  #: HTTP/1 requests that hypercorn has begun
        self._begun: Begun | None = None  #: the last of them
        self._since = self._loop.time()  #: when the request that is coming began, or its body last came on
        self._timer: asyncio.TimerHandle | None = None
        self._writes = WriteWatch(options.write_timeout_s)
        self._write_timer = self._loop.call_later(options.write_timeout_s, self._check_writing)
        self._is_write_paused = False
        self.left = asyncio.Event()  #: the client has, or was told to
        self.bridges: set[Bridge] = set()  #: requests that hypercorn has begun and not ended
        self._protocol = protocol

    def open(self, transport: asyncio.Transport, data: bytes) -> asyncio.StreamWriter:
        """Take the transport over, with what was read from it; return the way back."""
        self._transport = transport
        transport.set_protocol(self)
        self.connection_made(transport)
        if self._protocol in ("h2", "h2c"):
            self._frames = FrameGuard(self._options, self._loop.time())
        elif self._protocol == "websocket":
            self._is_raw = True
        else:
            self._timer = self._loop.call_later(self._options.read_timeout_s, self._check_patience)
        if self._protocol == "h2c":  # what follows the head of the upgrade is HTTP/2
            head, end, data = data.partition(b"\r\n\r\n")
            self.reader.feed_data(head + end)
        if data:
            self.data_received(data)
        if not transport.is_reading():
            transport.resume_reading()
        return asyncio.StreamWriter(transport, self, self.reader, self._loop)

    def begin(self, request: Begun) -> tuple[int, str] | None:
        """hypercorn begins an HTTP/1 request; return status and text if it is or stands for one that was refused."""
        number, self._num_begun = self._num_begun, self._num_begun + 1
        rewriter = self._rewriter
        if rewriter is not None and rewriter.is_refused(number):
            return rewriter.refusal
        self._begun = request
        request.expects_continue = rewriter is not None and rewriter.expects_continue(number)
        return None

    def continued(self) -> None:
        """A client that waited was told to send its body, which has its time from now on."""
        self._since = self._loop.time()

    @property
    def takes_nothing(self) -> bool:
        """Whether something waits for the client to take it."""
        return self._transport.get_write_buffer_size() > 0

    # --- from the transport ---------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        if self._is_raw:
            self.reader.feed_data(data)
        elif self._frames is not None:
            self._take_frames(self._frames, data)
        elif self._rewriter is not None:
            self._take_requests(self._rewriter, data)
        else:
            self._take_first(data)

    def pause_writing(self) -> None:
        self._is_write_paused = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self._is_write_paused = False
        self._writes.progressed()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def _take_first(self, data: bytes) -> None:
        """Look at the first bytes: HTTP/2 begins with a text of its own."""
        if not self._first_bytes:
            self._since = self._loop.time()
        self._first_bytes += data
        start = self._first_bytes[: len(_PREFACE_START)]
        if _PREFACE_START.startswith(start) and len(start) < len(_PREFACE_START):
            return  # still could be either
        data, self._first_bytes = self._first_bytes, b""
        if start == _PREFACE_START:
            self._frames = FrameGuard(self._options, self._loop.time())
            self._take_frames(self._frames, data)
        else:
            self._rewriter = RequestRewriter(self._options)
            self._take_requests(self._rewriter, data)

    def _take_requests(self, rewriter: RequestRewriter, data: bytes) -> None:
        if not rewriter.is_within_request or rewriter.is_within_passed_body:
            self._since = self._loop.time()
        self._pass_on(rewriter, rewriter.feed(data))

    def _pass_on(self, rewriter: RequestRewriter, data: bytes) -> None:
        if data:
            self.reader.feed_data(data)
        if rewriter.upgrade:
            if rewriter.upgrade == "h2c":
                self._frames = FrameGuard(self._options, self._loop.time())
            else:
                self._is_raw = True
            if rewriter.rest:
                self.data_received(rewriter.rest)
        elif rewriter.is_over:
            self._is_over = True
            if rewriter.is_cut and self._num_begun == rewriter.num_passed and self._begun is not None:
                assert rewriter.refusal is not None
                self._begun.give_up(*rewriter.refusal)

    def _take_frames(self, frames: FrameGuard, data: bytes) -> None:
        passed = frames.feed(data, self._loop.time())
        self.reader.holds_small_frames = frames.passed_frames * _SMALL_FRAME_BYTES > len(passed)
        if passed:
            self.reader.feed_data(passed)
        if frames.violation is not None:
            code, reason = frames.violation
            _log.warning("an HTTP/2 connection is ended: %s", reason)
            self._is_over = True
            self._transport.write(goaway(code, reason))
            self.reader.feed_eof()
            self._transport.close()
            self.left.set()

    # --- silence --------------------------------------------------------------------------------

    def _check_patience(self) -> None:
        """Give up a request that does not come to its end; look again later."""
        self._timer = None
        if self._is_over or self._is_raw or self._frames is not None:
            return
        wait_s, rewriter = self._options.read_timeout_s, self._rewriter
        is_coming = bool(self._first_bytes) if rewriter is None else rewriter.is_within_request
        is_held = self._begun is not None and self._begun.holds_client
        if is_coming and not is_held and self._transport.is_reading():
            wait_s += self._since - self._loop.time()
            if wait_s <= 0:
                rewriter = self._rewriter = rewriter or RequestRewriter(self._options)
                self._pass_on(rewriter, rewriter.refuse(408, "Request Timeout"))
                return
        self._timer = self._loop.call_later(wait_s, self._check_patience)

    def _check_writing(self) -> None:
        """Cut off a client that takes nothing of what was written; look again later."""
        transport = self._transport
        unsent, is_growing = transport.get_write_buffer_size(), not self._is_write_paused
        is_growing = is_growing and not transport.is_closing()
        if self._writes.is_stalled(unsent, self._loop.time(), may_grow=is_growing):
            transport.abort()
        else:
            self._write_timer = self._loop.call_later(self._options.write_timeout_s, self._check_writing)

    def _end(self) -> None:
        self.left.set()
        self._write_timer.cancel()
        self._is_over, self._begun = True, None
        if self._timer is not None:
            self._timer.cancel()
        if self._rewriter is not None:
            self._rewriter.close()
            self._rewriter = None
