"""The calls open on one connection, seen from either end. Sans-IO.

`CallerTable` starts calls, `CalleeTable` answers them; a connection has one of each kind at its ends.
Feed received bytes to `receive`; after anything else was called, write what `data_to_send` returns
(`on_output` is called when there begins to be something).

A call goes: CALL -> RESULT | ERROR | REJECTED, or CALL -> ITEM* -> END | ERROR. With BODY_FOLLOWS the caller
sends ITEM* END of its own. CANCEL from the caller ends it at once for the caller; the callee stops the
work when it can and then says nothing.

Flow control: each direction of each call may have `WINDOW_BYTES` of items on the way. `send_item` and
`item` return False when the window is used up; the sender then waits for `on_writable`. The receiver
gives back what it has used with `consumed`.

Acceptance: the callee notes the id of each call it has read in its accept ledger before it does anything
else. Ids grow, so a caller whose connection ends can tell what was never read, and may send that elsewhere. So may one
whose callee does not answer (`take_back`, and `withdraw` on the other side; `wire/ledger.py` tells why that is safe).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final, Protocol

from serve_lite.wire.frames import BODY_FOLLOWS, Buffer, Frame, FrameDecoder, Kind, encode_frame
from serve_lite.wire.messages import RejectReason

WINDOW_BYTES: Final = 256 * 1024
ITEM_OVERHEAD_BYTES: Final = (
    64  #: what an item costs besides its payload, so that empty items are bounded too
)
_CREDIT_STEP_BYTES: Final = 64 * 1024  #: credit is given back in steps of at least this
_ID_MASK: Final = 0xFFFFFFFF

#: what hears a piece of a streamed request: envelope, buffers
OnItem = Callable[[bytes, list[memoryview]], None]
_U32: Final = Struct("<I")
_I32: Final = Struct("<i")


class Receiver(Protocol):
    """What the maker of a call gives to hear of it. Called on the loop; must neither block nor raise."""

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None: ...
    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None: ...
    def on_end(self, envelope: bytes) -> None: ...
    def on_error(self, envelope: bytes, buffers: list[memoryview]) -> None: ...
    def on_rejected(self, reason: RejectReason, load: int) -> None: ...
    def on_lost(self, accepted: bool) -> None: ...
    def on_writable(self) -> None: ...


class OutgoingCall:
    """One call as its caller holds it."""

    __slots__ = ("_credit", "_table", "_unreturned", "id", "receiver")

    def __init__(self, table: CallerTable, call: int, receiver: Receiver) -> None:
        self.id = call
        self.receiver = receiver
        self._table = table
        self._credit = WINDOW_BYTES
        self._unreturned = 0

    def send_item(self, envelope: bytes, *buffers: Buffer) -> bool:
        """Send a piece of the request; False: stop until `on_writable`."""
        if self.id not in self._table.open:
            return False
        self._credit -= _cost(envelope, buffers)
        self._table.put(Kind.ITEM, self.id, 0, envelope, buffers)
        return self._credit > 0

    def end(self) -> None:
        """Say that the request is complete."""
        if self.id in self._table.open:
            self._table.put(Kind.END, self.id, 0, b"")

    def cancel(self) -> None:
        """Give the call up. The receiver hears nothing more of it."""
        if self._table.open.pop(self.id, None) is not None:
            self._table.put(Kind.CANCEL, self.id, 0, b"")

    def consumed(self, payload_bytes: int) -> None:
        """Say that an item of this size was used, so the callee may send more."""
        self._unreturned += payload_bytes + ITEM_OVERHEAD_BYTES
        if self._unreturned >= _CREDIT_STEP_BYTES and self.id in self._table.open:
            self._table.put(Kind.CREDIT, self.id, 0, _U32.pack(self._unreturned))
            self._unreturned = 0

    def _granted(self, credit: int) -> None:
        was_blocked = self._credit <= 0
        self._credit += credit
        if was_blocked and self._credit > 0:
            self.receiver.on_writable()


class _Table:
    """What both ends have: frames to write."""

    def __init__(self, on_output: Callable[[], None]) -> None:
        self._decoder = FrameDecoder()
        self._out: list[Buffer] = []
        self._on_output = on_output

    def put(self, kind: int, call: int, aux: int, envelope: bytes, buffers: Sequence[Buffer] = ()) -> None:
        """Queue one frame."""
        chunks = encode_frame(kind, call, aux, envelope, buffers)
        out = self._out
        if not out:
            self._out = chunks
            self._on_output()
        else:
            out += chunks

    def data_to_send(self) -> list[Buffer]:
        """Return what must be written now, in order."""
        out = self._out
        self._out = []
        return out

    def let_go(self) -> None:
        """Hold on to nobody who heard of this table; nothing can be sent any more. What it knows can still be read.

        Tables and connections know each other, and would otherwise lie about until a full garbage collection.
        """
        self._on_output = _nobody_sends
        self._out = []


class CallerTable(_Table):
    """The calls that this end has made."""

    def __init__(self, on_output: Callable[[], None], *, on_room: Callable[[], bool] | None = None) -> None:
        super().__init__(on_output)
        self.open: dict[int, OutgoingCall] = {}
        self.load = 0  #: the callee's ongoing requests when it last answered, ours among them
        self.slot: int | None = None  #: our place in the callee's ledger; None until it said WELCOME
        self.on_welcome: Callable[[], None] | None = None
        self.on_room = on_room  #: the callee has room again; return False to let another caller have it
        self.facts = b""  #: what the callee last told of itself
        self.on_facts: Callable[[], None] | None = None
        self._last_id = 0

    def hello(self) -> None:
        """Say the first word. Calls may follow at once; `on_welcome` tells when the callee has answered."""
        self.put(Kind.HELLO, 0, 0, b"")

    def call(
        self, kind: int, envelope: bytes, buffers: Sequence[Buffer], receiver: Receiver, *, streams_body: bool
    ) -> OutgoingCall:
        """Start a call. With `streams_body`, pieces and an end must follow."""
        call = self._last_id = (self._last_id + 1) & _ID_MASK or 1
        while call in self.open:  # ids come round after four billion calls; long-lived calls keep theirs
            call = self._last_id = (call + 1) & _ID_MASK or 1
        outgoing = OutgoingCall(self, call, receiver)
        self.put(kind, call, BODY_FOLLOWS if streams_body else 0, envelope, buffers)
        self.open[call] = outgoing
        return outgoing

    def receive(self, data: bytes) -> None:
        """Take received bytes and tell the receivers.

        Raises:
            ValueError: the peer sent what is no frame; close the connection.
        """
        for kind, call, aux, envelope, buffers in self._decoder.feed(data):
            if kind == Kind.RESULT:
                self.load = aux
                outgoing = self.open.pop(call, None)
                if outgoing is not None:
                    outgoing.receiver.on_result(envelope, buffers)
            elif kind == Kind.ITEM:
                outgoing = self.open.get(call)
                if outgoing is not None:
                    outgoing.receiver.on_item(envelope, buffers)
            else:
                self._receive_rare(kind, call, aux, envelope, buffers)

    def lost(self, last_accepted: int | None) -> None:
        """The connection ended. `last_accepted` is what the ledger says, None if there is no ledger."""
        calls, self.open = self.open, {}
        for call, outgoing in calls.items():
            unread = last_accepted is not None and 0 < (call - last_accepted) & _ID_MASK < 2**31
            outgoing.receiver.on_lost(not unread)

    def let_go(self) -> None:
        super().let_go()
        self.on_welcome = self.on_room = self.on_facts = None

    @property
    def last_id(self) -> int:
        """Id of the last call that was made, 0 for none."""
        return self._last_id

    def take_back(self, last_accepted: int) -> None:
        """Give up what the callee has not accepted; the receivers hear that it was lost and did not run."""
        for call in [c for c in self.open if 0 < (c - last_accepted) & _ID_MASK < 2**31]:
            outgoing = self.open.pop(call)
            self.put(Kind.CANCEL, call, 0, b"")
            outgoing.receiver.on_lost(False)

    def _receive_rare(
        self, kind: int, call: int, aux: int, envelope: bytes, buffers: list[memoryview]
    ) -> None:
        if kind == Kind.WELCOME:
            self.slot = _I32.unpack(envelope)[0]
            if self.on_welcome is not None:
                self.on_welcome()
        elif kind == Kind.ROOM:
            self.load = aux
            if self.on_room is None or not self.on_room():
                self.put(Kind.DECLINE, 0, 0, b"")
        elif kind == Kind.FACTS:
            self.facts = envelope
            if self.on_facts is not None:
                self.on_facts()
        elif kind == Kind.CREDIT:
            outgoing = self.open.get(call)
            if outgoing is not None:
                outgoing._granted(_U32.unpack(envelope)[0])
        elif kind in (Kind.END, Kind.ERROR, Kind.REJECTED):
            self.load = aux
            outgoing = self.open.pop(call, None)
            if outgoing is None:
                return
            if kind == Kind.END:
                outgoing.receiver.on_end(envelope)
            elif kind == Kind.ERROR:
                outgoing.receiver.on_error(envelope, buffers)
            else:
                outgoing.receiver.on_rejected(RejectReason(envelope[0]), aux)
        else:
            raise ValueError(f"a callee sent a frame of kind {kind}")


class Gauge(Protocol):
    """Whatever counts the ongoing requests of this process."""

    ongoing: int


class IncomingCall:
    """One call as its callee holds it. Exactly one of `result`, `end`, `error`, `reject` ends it.

    `on_cancel` may be set by whoever handles the call, and `listen` hears the pieces of a streamed request.
    After a cancel or a lost connection the answering methods do nothing.
    """

    __slots__ = (
        "_credit", "_early", "_on_end", "_on_item", "_table", "_unreturned", "alive", "buffers", "envelope", "id",
        "kind", "on_cancel", "on_writable", "streams_body",
    )  # fmt: skip

    def __init__(self, table: CalleeTable, frame: Frame) -> None:
        self.kind, self.id, flags, self.envelope, self.buffers = frame
        self.streams_body = bool(flags & BODY_FOLLOWS)
        self.alive = True  #: the caller still waits for an answer
        self.on_cancel: Callable[[], object] | None = None
        self.on_writable: Callable[[], None] | None = None
        self._on_item: OnItem | None = None
        self._on_end: Callable[[], None] | None = None
        self._early: list[tuple[bytes, list[memoryview]] | None] = []  # before `listen`; None is the end
        self._table = table
        self._credit = WINDOW_BYTES
        self._unreturned = 0

    def listen(self, on_item: OnItem, on_end: Callable[[], None]) -> None:
        """Hear the pieces of the request and its end, from the first on; at most a window of them waits."""
        self._on_item, self._on_end = on_item, on_end
        early, self._early = self._early, []
        for piece in early:
            if piece is None:
                on_end()
            else:
                on_item(*piece)

    @property
    def table(self) -> CalleeTable:
        """The connection's calls; also tells callers apart."""
        return self._table

    def result(self, envelope: bytes, *buffers: Buffer) -> None:
        """Answer the call."""
        self._finish(Kind.RESULT, envelope, buffers)

    def error(self, envelope: bytes, *buffers: Buffer) -> None:
        """Say that the call failed (`ErrorHead`)."""
        self._finish(Kind.ERROR, envelope, buffers)

    def end(self, envelope: bytes = b"") -> None:
        """End the stream of items."""
        self._finish(Kind.END, envelope, ())

    def reject(self, reason: RejectReason) -> None:
        """Refuse the call; it has not run and will not."""
        self._finish(Kind.REJECTED, bytes((reason,)), ())

    def item(self, envelope: bytes, *buffers: Buffer) -> bool:
        """Send one item of the answer; False: stop until `on_writable` (or the caller is gone)."""
        if not self.alive:
            return False
        self._credit -= _cost(envelope, buffers)
        self._table.put(Kind.ITEM, self.id, self._table.gauge.ongoing & 0xFFFF, envelope, buffers)
        return self._credit > 0

    @property
    def has_credit(self) -> bool:
        """Whether an item may be sent now."""
        return self._credit > 0

    def consumed(self, payload_bytes: int) -> None:
        """Say that a piece of the request was used, so the caller may send more."""
        self._unreturned += payload_bytes + ITEM_OVERHEAD_BYTES
        if self._unreturned >= _CREDIT_STEP_BYTES and self.alive:
            self._table.put(Kind.CREDIT, self.id, 0, _U32.pack(self._unreturned))
            self._unreturned = 0

    def _finish(self, kind: int, envelope: bytes, buffers: Sequence[Buffer]) -> None:
        if self.alive:
            self.alive = False
            table = self._table
            table.open.pop(self.id, None)
            table.put(kind, self.id, table.gauge.ongoing & 0xFFFF, envelope, buffers)

    def _received(self, piece: tuple[bytes, list[memoryview]] | None) -> None:
        if self._on_item is None or self._on_end is None:
            self._early.append(piece)
        elif piece is None:
            self._on_end()
        else:
            self._on_item(*piece)

    def _abandoned(self) -> None:
        self.alive = False
        if self.on_cancel is not None:
            self.on_cancel()

    def _granted(self, credit: int) -> None:
        was_blocked = self._credit <= 0
        self._credit += credit
        if was_blocked and self._credit > 0 and self.on_writable is not None:
            self.on_writable()


class CalleeTable(_Table):
    """The calls that the other end has made of us.

    Args:
        on_call: told of each new call, in order; must answer or reject it, now or later.
        note_accepted: told the id of each call before `on_call` (writes the ledger).
        gauge: its `ongoing` is reported to the caller with every answer.
        slot: the caller's place in the ledger, -1 for none.
    """

    def __init__(
        self,
        on_output: Callable[[], None],
        on_call: Callable[[IncomingCall], None],
        *,
        gauge: Gauge,
        note_accepted: Callable[[int], None] | None = None,
        slot: int = -1,
    ) -> None:
        super().__init__(on_output)
        self.open: dict[int, IncomingCall] = {}
        self.gauge = gauge
        self.wants_room = False  #: it was refused as full and not offered room since
        self.on_decline: Callable[[], None] | None = None
        self._on_call = on_call
        self._note_accepted = note_accepted
        self._slot = slot

    def receive(self, data: bytes) -> None:
        """Take received bytes and tell the handlers.

        Raises:
            ValueError: the peer sent what is no frame; close the connection.
        """
        for frame in self._decoder.feed(data):
            kind, call = frame[0], frame[1]
            if kind <= Kind.CALL_CONTROL:
                if self._note_accepted is not None:
                    self._note_accepted(call)
                incoming = IncomingCall(self, frame)
                self.open[call] = incoming
                self._on_call(incoming)
            elif kind == Kind.HELLO:
                self.put(Kind.WELCOME, 0, 0, _I32.pack(self._slot))
            elif kind == Kind.DECLINE:
                if self.on_decline is not None:
                    self.on_decline()
            else:
                self._receive_about(frame)

    def tell_facts(self, facts: bytes) -> None:
        """Tell this caller what it should know to choose (`ReplicaFacts`)."""
        self.put(Kind.FACTS, 0, 0, facts)

    def offer_room(self) -> None:
        """Tell this caller that there is room again."""
        self.wants_room = False
        self.put(Kind.ROOM, 0, self.gauge.ongoing & 0xFFFF, b"")

    def lost(self) -> None:
        """The connection ended: every call of it is abandoned."""
        calls, self.open = self.open, {}
        for incoming in calls.values():
            incoming._abandoned()

    def withdraw(self, read_before: int, last: int) -> None:
        """Refuse the calls that were read after `read_before`, up to `last`: their caller has taken them back.

        To be used right after they were read, when the work on them is planned and has not begun.
        """
        for call in [
            c for c in self.open if 0 < (c - read_before) & _ID_MASK < 2**31 and (last - c) & _ID_MASK < 2**31
        ]:
            incoming = self.open[call]
            incoming.reject(RejectReason.DRAINING)
            if incoming.on_cancel is not None:
                incoming.on_cancel()

    def _receive_about(self, frame: Frame) -> None:
        kind, call, _, envelope, buffers = frame
        incoming = self.open.get(call)
        if incoming is None:
            return  # answered meanwhile
        if kind == Kind.ITEM:
            incoming._received((envelope, buffers))
        elif kind == Kind.END:
            incoming._received(None)
        elif kind == Kind.CREDIT:
            incoming._granted(_U32.unpack(envelope)[0])
        elif kind == Kind.CANCEL:
            del self.open[call]
            incoming._abandoned()
        else:
            raise ValueError(f"a caller sent a frame of kind {kind}")


def _nobody_sends() -> None:
    """The connection of this table has ended."""


def _cost(envelope: bytes, buffers: Sequence[Buffer]) -> int:
    cost = ITEM_OVERHEAD_BYTES + len(envelope)
    for buffer in buffers:
        cost += buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
    return cost
