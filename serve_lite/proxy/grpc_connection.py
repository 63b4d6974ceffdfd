"""One client's connection to the gRPC door: the socket around `h2_server`, and the times a client has for things."""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple, Protocol, cast

from serve_lite.proxy.grpc_exchange import Peer
from serve_lite.proxy.grpc_headers import RequestHead, read_head
from serve_lite.proxy.h2_server import H2Server, H2Stream, Limits

_JOIN_BYTES: Final = 64 * 1024  #: more than this is not copied into one piece to be written


class Patience(NamedTuple):
    """How long a client may take."""

    midst_s: float = (
        60.0  #: for the beginning of the connection, and for a frame or header block it has begun
    )
    silence_s: float = 60.0  #: without a byte, until it is asked for a sign of life
    answer_s: float = 20.0  #: for that sign; then the connection is cut
    write_s: float = 60.0  #: without taking anything of what was written to it
    look_s: float = 10.0  #: how often all this is looked at


USUAL_PATIENCE: Final = Patience()


class ConnectionOwner(Protocol):
    """What a connection wants of its door."""

    limits: Limits
    patience: Patience

    def admit(self, connection: GrpcConnection) -> str:
        """A connection is made; return why it may not stay, or ""."""

    def begin(self, connection: GrpcConnection, stream: H2Stream, head: RequestHead) -> None:
        """A request comes."""

    def request_over(self, connection: GrpcConnection) -> None:
        """A request has ended, and others may be open."""

    def forget(self, connection: GrpcConnection) -> None:
        """A connection has ended."""


class GrpcConnection(asyncio.Protocol):
    """Reads and writes for one `H2Server`; writes once per pass of the loop, however much was sent meanwhile.

    Lifetime: from the listener, until the client or the door ends it.
    """

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._has_asked_to_leave = self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = self._midst_since = self._loop.time()
        self._pinged_at: float | None = None
        self._flushes = False  #: a flush is on its way
        self._is_full = False  #: more waits to be written than should
        self._unsent_bytes = 0  #: when last looked
        self._taken_at = self._heard_at  #: when the client has last taken something
        self.h2 = H2Server(
            read_head,
            self._begin,
            self._schedule_flush,
            self._heard_at,
            owner.limits,
            on_stream_over=self._stream_over,
        )
        self.peer = Peer()

    # --- from the transport ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self.peer = Peer(
            _address(transport.get_extra_info("peername")), _names(transport.get_extra_info("peercert"))
        )
        reason = self._owner.admit(self)
        if reason:
            self.h2.turn_away(reason)
        self._timer = self._loop.call_later(self._owner.patience.look_s, self._look)
        self._flush()

    def data_received(self, data: bytes) -> None:
        now = self._heard_at = self._loop.time()
        self._pinged_at = None
        h2 = self.h2
        was_in_midst, num_frames = h2.is_in_midst, h2.num_frames
        h2.feed(data, now)
        if not was_in_midst or h2.num_frames != num_frames:
            self._midst_since = now
        self._flush()

    def pause_writing(self) -> None:
        assert self._transport is not None
        self._is_full = True
        self._taken_at = self._loop.time()
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self.h2.pause()

    def resume_writing(self) -> None:
        self._is_full = False
        self.h2.resume()

    def eof_received(self) -> bool:
        return False  # a client that has closed its side waits for nothing

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        self.h2.lose()
        self._owner.forget(self)

    # --- for the door ---------------------------------------------------------------------------

    def ask_to_leave(self) -> None:
        """Ask the client to use another connection; what it still sends on this one is answered."""
        if not self._has_asked_to_leave and not self._is_closing:
            self._has_asked_to_leave = True
            self.h2.go_away(is_final=False)

    def close(self) -> None:
        """Tell the client that nothing more is answered, write what there is, and close."""
        if not self._is_closing:
            self.h2.go_away(is_final=True)
            self._flush()
            self._end()

    def abort(self) -> None:
        """Cut the connection."""
        self._is_closing = True
        if self._transport is not None:
            self._transport.abort()

    # --- writing --------------------------------------------------------------------------------

    def _stream_over(self) -> None:
        self._owner.request_over(self)

    def _begin(self, stream: H2Stream, head: RequestHead) -> None:
        self._owner.begin(self, stream, head)

    def _schedule_flush(self) -> None:
        if not self._flushes:
            self._flushes = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushes = False
        if self._is_closing or self._transport is None:
            return
        chunks = self.h2.data_to_send()
        if len(chunks) == 1:
            self._transport.write(chunks[0])
        elif chunks:
            if sum(map(len, chunks)) <= _JOIN_BYTES:
                self._transport.write(b"".join(chunks))
            else:
                self._transport.writelines(chunks)
        if self.h2.violation is not None:
            self._end()

    def _end(self) -> None:
        """Close once what was written has gone out; a client that does not take it is cut off by `_look`."""
        self._is_closing = True
        assert self._transport is not None
        self._transport.close()

    # --- patience -------------------------------------------------------------------------------

    def _look(self) -> None:
        """Cut off a client that does not come to a point, or that is no longer there."""
        patience, now = self._owner.patience, self._loop.time()
        is_stuck = self.h2.is_in_midst and now - self._midst_since >= patience.midst_s
        is_gone = self._pinged_at is not None and now - self._pinged_at >= patience.answer_s
        is_deaf = self._is_full and not self._takes(now) and now - self._taken_at >= patience.write_s
        if is_stuck or is_gone or is_deaf or (self._is_closing and now - self._heard_at >= patience.midst_s):
            self.abort()
            return
        if self._pinged_at is None and now - self._heard_at >= patience.silence_s:
            self._pinged_at = now
            self.h2.ping()
        self._timer = self._loop.call_later(patience.look_s, self._look)

    def _takes(self, now: float) -> bool:
        """Whether the client has taken something since the last look, while more waits than should.

        Little is written meanwhile, so that what waits shrinks if a client takes of it. Not so long as it only asks for
        small things, such as answers to PINGs, and takes nothing.
        """
        assert self._transport is not None
        has_shrunk = self._transport.get_write_buffer_size() < self._unsent_bytes
        self._unsent_bytes = self._transport.get_write_buffer_size()
        if has_shrunk:
            self._taken_at = now
        return has_shrunk


def _address(address: tuple[str, int] | None) -> str:
    if not address:
        return ""
    host = f"ipv6:[{address[0]}]" if ":" in address[0] else f"ipv4:{address[0]}"
    return f"{host}:{address[1]}"


def _names(certificate: dict[str, Any] | None) -> dict[str, list[str]]:
    """Return the names in a certificate as `ssl` tells of it, by the keys that grpcio has for them."""
    if not certificate:
        return {}
    common = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    others = [value for _, value in certificate.get("subjectAltName", ())]
    names = {
        "transport_security_type": ["ssl"],
        "x509_common_name": common,
        "x509_subject_alternative_name": others,
    }
    return {key: values for key, values in names.items() if values}
