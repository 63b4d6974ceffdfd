"""One gRPC request on an HTTP/2 stream: messages cut out of its bytes, and the way to answer it.

Everything is a callback on the event loop; nothing here waits. Messages are raw bytes: nothing of ours decodes or
decompresses them, except where the door itself answers.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple, Protocol

from serve_lite.proxy import h2_wire
from serve_lite.proxy.grpc_headers import RequestHead, ending, http_status, opening
from serve_lite.proxy.h2_server import H2Stream
from serve_lite.wire.frames import Buffer
from serve_lite.wire.grpc_status import ENCODINGS, INTERNAL, RESOURCE_EXHAUSTED
from serve_lite.wire.messages import Metadata

_HEAD_BYTES: Final = 5  #: of a message: one byte whether it is compressed, four its length
_SMALL_BYTES: Final = 64 * 1024  #: what a message may have without asking the larder
_JOIN_BYTES: Final = 8 * 1024  #: smaller messages and their heads are one piece


class Work(Protocol):
    """What runs for an exchange. Must neither block nor raise."""

    def on_message(self, message: Buffer, is_compressed: bool) -> None:
        """A message of the client is whole. Say `GrpcExchange.read_on` once more may come."""

    def on_messages_end(self) -> None:
        """The client has sent its last message."""

    def on_client_writable(self) -> None:
        """The client took what was sent; `send` may be used again."""

    def on_refused(self, code: int, details: str) -> None:
        """What the client sends is no gRPC: end the request with this status."""

    def on_over(self, *, is_complete: bool) -> None:
        """The answer was sent whole, or else the client is gone. Nothing else is called after this."""


class Peer(NamedTuple):
    """Who the client is."""

    address: str = ""  #: as gRPC writes it
    certificate: dict[str, list[str]] = {}  #: the names in it, if one was shown


class Larder:
    """How many bytes of unfinished messages the whole door may hold.

    A client can have a message begun on each stream and end none of them. Small ones are always taken; a large one
    that would not fit is refused, so that what is kept for clients has a bound and others are served.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def take(self, size: int) -> bool:
        """Hold so much more; False: there is no room."""
        if self.held_bytes + size > self.max_bytes:
            return False
        self.held_bytes += size
        return True

    def give_back(self, size: int) -> None:
        """Hold so much less."""
        self.held_bytes -= size


class GrpcExchange:
    """One request. Its maker sets `work` before anything of the body comes.

    Answering is `respond`, or any number of `send` and then `finish`. After the client has gone they do nothing.
    """

    __slots__ = (
        "_gathered", "_has_started", "_is_deaf", "_larder", "_max_message_bytes", "_needed_bytes", "_stocked_bytes",
        "_stream", "_withheld", "head", "is_paused", "peer", "request_id", "sent_bytes", "started", "work",
    )  # fmt: skip

    work: Work

    def __init__(
        self,
        stream: H2Stream,
        head: RequestHead,
        *,
        peer: Peer,
        request_id: str,
        larder: Larder,
        max_message_bytes: int,
    ) -> None:
        self.started = time.monotonic()
        self.head = head
        self.peer = peer
        self.request_id = request_id
        self.sent_bytes = 0  #: of messages to the client
        self.is_paused = False  #: what comes is kept, and no more asked for
        self._stream = stream
        self._larder = larder
        self._max_message_bytes = max_message_bytes
        self._has_started = False
        self._is_deaf = False  #: nothing more of the request is looked at
        self._gathered = bytearray()  #: of the message that is coming, with its head
        self._needed_bytes = _HEAD_BYTES  #: of it, until there is something to do
        self._stocked_bytes = 0  #: of the larder
        self._withheld = 0  #: bytes that came while paused
        stream.user = self

    # --- answering ------------------------------------------------------------------------------

    def respond(
        self,
        message: Buffer,
        compression: int,
        *,
        details: str = "",
        trailing: Metadata | None = None,
        initial: Metadata | None = None,
    ) -> None:
        """Answer with one message and an OK."""
        end = ending(0, details, self.request_id, trailing)
        if self._has_started:
            self.send(message, compression)
            self._stream.finish(end)
            return
        self._has_started = self._is_deaf = True
        self.sent_bytes += len(message)
        encoding = ENCODINGS[compression] if compression else ""
        framed = _head(message, compression) + message
        self._stream.respond(opening(self.head.content_type, encoding, initial), framed, end)

    def send(self, message: Buffer, compression: int, initial: Metadata | None = None) -> bool:
        """Send one message; False: stop until `Work.on_client_writable`."""
        stream = self._stream
        self.sent_bytes += len(message)
        if not self._has_started:
            self._has_started = True
            encoding = ENCODINGS[compression] if compression else ""
            stream.send_headers(opening(self.head.content_type, encoding, initial))
        head = _head(message, compression)
        if len(message) <= _JOIN_BYTES:
            stream.send(head + message)
        else:
            stream.send(head, message)
        return stream.is_writable

    def finish(
        self,
        code: int,
        details: str = "",
        trailing: Metadata | None = None,
        initial: Metadata | None = None,
    ) -> None:
        """End the answer with a status. The request id goes with it."""
        self._is_deaf = True
        self._let_go()
        end = ending(code, details, self.request_id, trailing)
        if not self._has_started:
            self._has_started = True
            start = opening(self.head.content_type, "", initial)
            if initial:  # what is in one block with the status, a client takes for trailing metadata
                self._stream.send_headers(start)
            else:
                end = start + end
        self._stream.finish(end)

    def refuse_http(self, status: int) -> None:
        """Answer what is no gRPC request."""
        self._has_started = self._is_deaf = True
        self._stream.finish(http_status(status))

    def cut(self) -> None:
        """End the answer in the middle of a message, which the client does not take in time."""
        self._is_deaf = True
        self._stream.reset(h2_wire.CANCEL)

    @property
    def holds_answer(self) -> bool:
        """Whether something of the answer waits for the client."""
        return self._stream.pending_bytes > 0

    def pause(self) -> None:
        """Ask the client for nothing more until `read_on`."""
        self.is_paused = True

    def read_on(self) -> None:
        """Let the client send more."""
        self.is_paused = False
        if self._withheld:
            self._stream.consumed(self._withheld)
            self._withheld = 0

    # --- from the stream ------------------------------------------------------------------------

    def on_data(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._withheld += len(data)
        if not self._gathered and len(data) >= _HEAD_BYTES:  # most messages are one frame
            size = int.from_bytes(data[1:_HEAD_BYTES], "big")
            if len(data) == _HEAD_BYTES + size and data[0] <= 1 and size <= self._max_message_bytes:
                self.work.on_message(memoryview(data)[_HEAD_BYTES:], bool(data[0]))
                if not self.is_paused:
                    self.read_on()
                return
        self._gather(data)
        if not self.is_paused and not self._is_deaf:
            self.read_on()

    def on_end(self) -> None:
        if self._is_deaf:
            return
        if self._gathered:
            self._refuse(INTERNAL, "The request ended within a message.")
        else:
            self.work.on_messages_end()

    def on_writable(self) -> None:
        self.work.on_client_writable()

    def on_closed(self, *, is_complete: bool) -> None:
        self._is_deaf = True
        self._let_go()
        work = self.work
        del self.work  # refers back to this
        work.on_over(is_complete=is_complete)

    def _gather(self, data: bytes) -> None:
        gathered = self._gathered
        gathered += data
        if len(gathered) < self._needed_bytes:
            self._stock()
            return
        at = 0
        while len(gathered) - at >= _HEAD_BYTES and not self._is_deaf:
            flag, size = gathered[at], int.from_bytes(gathered[at + 1 : at + _HEAD_BYTES], "big")
            if flag > 1:
                self._refuse(INTERNAL, f"A message begins with {flag}, which is neither 0 nor 1.")
                return
            if size > self._max_message_bytes:
                self._refuse(
                    RESOURCE_EXHAUSTED,
                    f"A message of {size} bytes is larger than the {self._max_message_bytes} allowed.",
                )
                return
            end = at + _HEAD_BYTES + size
            if end > len(gathered):
                self._needed_bytes = end - at
                break
            self.work.on_message(memoryview(gathered)[at + _HEAD_BYTES : end], bool(flag))
            at = end
        else:
            self._needed_bytes = _HEAD_BYTES
        if self._is_deaf:
            return
        if at:  # messages refer to the old one
            self._gathered = gathered[at:]
        self._stock()

    def _stock(self) -> None:
        """Have room in the larder for what is held; refuse the request if there is none.

        Room is taken as the bytes come, not as they are announced: an announcement costs a client nothing.
        """
        needed = max(0, len(self._gathered) - _SMALL_BYTES)
        if needed > self._stocked_bytes and not self._larder.take(needed - self._stocked_bytes):
            self._refuse(
                RESOURCE_EXHAUSTED,
                "There is no room for a message of this size now: others hold all that is kept for large messages.",
            )
            return
        if needed < self._stocked_bytes:
            self._larder.give_back(self._stocked_bytes - needed)
        self._stocked_bytes = needed

    def _refuse(self, code: int, details: str) -> None:
        self._is_deaf = True
        self._let_go()
        self.work.on_refused(code, details)

    def _let_go(self) -> None:
        self._gathered = bytearray()
        if self._stocked_bytes:
            self._larder.give_back(self._stocked_bytes)
            self._stocked_bytes = 0


def _head(message: Buffer, compression: int) -> bytes:
    return (b"\1" if compression else b"\0") + len(message).to_bytes(4, "big")
