"""One connection of hypercorn's, and how an HTTP/2 client is sent away from it without losing a request.

A GOAWAY tells a client to open its next streams on another connection (RFC 9113, 6.8). Those that are open go on, and
a client that keeps to the protocol waits for them. httpx does not: every request that waits for an answer when a
GOAWAY is read fails, even if its answer has come in the same read. So a client is asked when it has no stream open, in
the same write as the end of its last answer, because a moment later it may have begun the next one; and only if that
answer's stream has been the only one since it began.

A client that always has several is asked when the time comes (`hurry`), as it would be by any other server.
"""

from __future__ import annotations

from typing import Final

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Event, RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from hyperframe.frame import GoAwayFrame

from serve_lite.proxy.hypercorn_streams import refuse_odd_heads

_LAST_STREAM: Final = 2**31 - 1  #: no stream is refused
_GOAWAY: Final = GoAwayFrame(0, last_stream_id=_LAST_STREAM, error_code=0).serialize()


class Connection(TCPServer):
    """A connection that can be asked to end. HTTP/1.1 clients are told with their next answer."""

    _is_leaving = False  #: the client is to be asked when it has no stream open
    _is_hurried = False  #: with the next write
    _has_asked = False
    _is_guarded = False  #: against heads that hypercorn would fail at
    _is_shared = (
        False  #: several streams have been open at a time since none was; known of one that is leaving
    )

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()  # else it outlives a client that has left by the time allowed for silence

    async def protocol_send(self, event: Event) -> None:
        if not self._is_guarded and (protocol := self._http2()) is not None:
            self._is_guarded = True  # what it sends first are its settings, before it looks at a request
            refuse_odd_heads(protocol)
        if self._is_leaving:
            if isinstance(event, Updated) and not event.idle:
                self._is_shared = self._is_shared or self._num_streams() > 1
            elif isinstance(event, RawData) and self._is_time_to_ask():
                self._has_asked = True
                event = RawData(data=event.data + _GOAWAY)
        await super().protocol_send(event)

    def leave(self) -> None:
        """Ask the client to leave when it has all its answers."""
        self._is_leaving = True
        self._is_shared = self._num_streams() > 1

    async def hurry(self) -> None:
        """Ask the client now, whatever is open. Streams that it opens all the same are answered."""
        self._is_leaving = self._is_hurried = True
        if self._http2() is not None and not self._has_asked:
            await self.protocol_send(RawData(data=b""))

    def _is_time_to_ask(self) -> bool:
        """Whether the client has all its answers with what is just being written."""
        protocol = self._http2()
        if protocol is None or self._has_asked:
            return False
        if self._is_hurried:
            return True
        if not protocol.keep_alive_requests or self._num_streams():  # the former are all that there were
            return False
        was_shared, self._is_shared = self._is_shared, False
        return not was_shared

    def _num_streams(self) -> int:
        protocol = self._http2()
        return protocol.connection.open_inbound_streams if protocol is not None else 0

    def _http2(self) -> H2Protocol | None:
        protocol = getattr(getattr(self, "protocol", None), "protocol", None)
        return protocol if isinstance(protocol, H2Protocol) else None
