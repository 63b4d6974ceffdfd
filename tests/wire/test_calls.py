"""The call tables, both ends joined by hand: no sockets, no loop."""

from __future__ import annotations

from typing import Any

import pytest

from serve_lite.wire.calls import WINDOW_BYTES, CalleeTable, CallerTable, IncomingCall
from serve_lite.wire.frames import Kind
from serve_lite.wire.messages import RejectReason


class Recorder:
    """Writes down what a caller hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def on_result(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self.heard.append(("result", envelope, *map(bytes, buffers)))

    def on_item(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self.heard.append(("item", envelope, *map(bytes, buffers)))

    def on_end(self, envelope: bytes) -> None:
        self.heard.append(("end",))

    def on_error(self, envelope: bytes, buffers: list[memoryview]) -> None:
        self.heard.append(("error", envelope))

    def on_rejected(self, reason: RejectReason, load: int) -> None:
        self.heard.append(("rejected", reason, load))

    def on_lost(self, accepted: bool) -> None:
        self.heard.append(("lost", accepted))

    def on_writable(self) -> None:
        self.heard.append(("writable",))


class Load:
    ongoing = 3


class Pair:
    """A caller and a callee whose bytes are carried by `carry`."""

    def __init__(self) -> None:
        self.calls: list[IncomingCall] = []
        self.noted: list[int] = []
        self.caller = CallerTable(lambda: None)
        self.callee = CalleeTable(
            lambda: None, self.calls.append, gauge=Load(), note_accepted=self.noted.append, slot=5
        )

    def carry(self) -> None:
        self.callee.receive(b"".join(self.caller.data_to_send()))
        self.caller.receive(b"".join(self.callee.data_to_send()))

    def call(self, *, streams_body: bool = False) -> tuple[Any, Recorder]:
        recorder = Recorder()
        return self.caller.call(
            Kind.CALL_PYTHON, b"head", [b"args"], recorder, streams_body=streams_body
        ), recorder


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_the_callee_welcomes_the_caller_with_its_slot(pair: Pair) -> None:
    pair.caller.hello()
    pair.carry()
    assert pair.caller.slot == 5


def test_a_call_is_answered_and_carries_the_load(pair: Pair) -> None:
    _, heard = pair.call()
    pair.carry()
    [call] = pair.calls
    assert (call.envelope, bytes(call.buffers[0]), pair.noted) == (b"head", b"args", [1])
    call.result(b"ok", b"value")
    pair.carry()
    assert heard.heard == [("result", b"ok", b"value")]
    assert (pair.caller.load, pair.caller.open, pair.callee.open) == (3, {}, {})


def test_answers_may_come_in_any_order(pair: Pair) -> None:
    _, first = pair.call()
    _, second = pair.call()
    pair.carry()
    pair.calls[1].result(b"2")
    pair.calls[0].result(b"1")
    pair.carry()
    assert (first.heard, second.heard) == ([("result", b"1")], [("result", b"2")])


def test_a_rejected_call_tells_why(pair: Pair) -> None:
    _, heard = pair.call()
    pair.carry()
    pair.calls[0].reject(RejectReason.FULL)
    pair.carry()
    assert heard.heard == [("rejected", RejectReason.FULL, 3)]


def test_a_cancelled_call_is_heard_of_by_the_callee_only(pair: Pair) -> None:
    outgoing, heard = pair.call()
    pair.carry()
    cancelled: list[bool] = []
    pair.calls[0].on_cancel = lambda: cancelled.append(True)
    outgoing.cancel()
    pair.carry()
    pair.calls[0].result(b"too late")
    pair.carry()
    assert (cancelled, heard.heard, pair.calls[0].alive) == ([True], [], False)


def test_a_stream_stops_when_its_window_is_used_and_goes_on_with_credit(pair: Pair) -> None:
    outgoing, heard = pair.call()
    pair.carry()
    [call] = pair.calls
    resumed: list[bool] = []
    call.on_writable = lambda: resumed.append(True)
    chunk = b"x" * 1000
    sent = 1
    while call.item(b"", chunk):
        sent += 1
    assert WINDOW_BYTES / 1064 <= sent <= WINDOW_BYTES / 1064 + 1
    pair.carry()
    assert len(heard.heard) == sent
    assert resumed == []
    for _ in range(sent):
        outgoing.consumed(len(chunk))
    pair.carry()
    assert resumed == [True]
    assert call.has_credit
    call.end()
    pair.carry()
    assert heard.heard[-1] == ("end",)


def test_a_streamed_request_is_slowed_the_same_way(pair: Pair) -> None:
    outgoing, heard = pair.call(streams_body=True)
    pair.carry()
    [call] = pair.calls
    assert call.streams_body
    got: list[int] = []
    ended: list[bool] = []
    pair.carry()
    while outgoing.send_item(b"", b"y" * 10_000):
        pass
    pair.carry()  # they arrive before anybody listens
    call.listen(lambda envelope, buffers: got.append(len(buffers[0])), lambda: ended.append(True))
    assert sum(got) >= WINDOW_BYTES - 10_000 - 64 * len(got)
    for size in got:
        call.consumed(size)
    pair.carry()
    assert ("writable",) in heard.heard
    outgoing.end()
    pair.carry()
    assert ended == [True]


def test_the_ledger_tells_which_calls_were_never_read(pair: Pair) -> None:
    _, first = pair.call()
    _, second = pair.call()
    pair.caller.lost(last_accepted=1)
    assert (first.heard, second.heard) == ([("lost", True)], [("lost", False)])


def test_without_a_ledger_every_open_call_may_have_run(pair: Pair) -> None:
    _, heard = pair.call()
    pair.caller.lost(last_accepted=None)
    assert heard.heard == [("lost", True)]


def test_call_ids_come_round_and_skip_those_still_open(pair: Pair) -> None:
    outgoing, _ = pair.call()
    pair.caller._last_id = 2**32 - 2
    ids = [pair.call()[0].id for _ in range(3)]
    assert outgoing.id == 1
    assert ids == [2**32 - 1, 2, 3]
    heard = pair.caller.open[2].receiver
    pair.caller.lost(last_accepted=2**32 - 1)
    assert heard.heard == [("lost", False)]  # type: ignore[attr-defined]  # newer than the last one read, though smaller


def test_room_that_nobody_wants_is_declined(pair: Pair) -> None:
    declined: list[bool] = []
    pair.callee.on_decline = lambda: declined.append(True)
    pair.callee.offer_room()
    pair.carry()
    pair.carry()
    assert declined == [True]
    pair.caller.on_room = lambda: True
    pair.callee.offer_room()
    pair.carry()
    pair.carry()
    assert declined == [True]


def test_lost_connections_abandon_the_callees_work(pair: Pair) -> None:
    pair.call()
    pair.carry()
    abandoned: list[bool] = []
    pair.calls[0].on_cancel = lambda: abandoned.append(True)
    pair.callee.lost()
    assert (abandoned, pair.calls[0].alive) == ([True], False)


def test_a_peer_that_sends_nonsense_is_refused(pair: Pair) -> None:
    with pytest.raises(ValueError, match="kind 9"):
        pair.caller._receive_rare(Kind.CANCEL, 1, 0, b"", [])


def test_what_was_not_accepted_is_taken_back_and_never_runs() -> None:
    """The callee wakes up after its caller has taken back what lay in the socket."""
    pair = Pair()
    recorders = [Recorder() for _ in range(3)]
    pair.caller.call(Kind.CALL_PYTHON, b"", [], recorders[0], streams_body=False)
    pair.carry()
    for recorder in recorders[1:]:
        pair.caller.call(Kind.CALL_PYTHON, b"", [], recorder, streams_body=False)
    in_the_socket = b"".join(pair.caller.data_to_send())
    pair.caller.take_back(pair.noted[-1])
    assert [r.heard for r in recorders] == [[], [("lost", False)], [("lost", False)]]
    read_before, cancelled = pair.noted[-1], []
    pair.callee.receive(in_the_socket)
    for call in pair.calls[1:]:
        call.on_cancel = lambda call=call: cancelled.append(call.id)  # type: ignore[misc]  # bound at once
    pair.callee.withdraw(read_before, pair.caller.last_id)
    assert cancelled == [call.id for call in pair.calls[1:]]
    assert pair.calls[0].alive and not any(call.alive for call in pair.calls[1:])
    pair.carry()
    pair.calls[0].result(b"", b"late")
    pair.carry()
    assert recorders[0].heard == [("result", b"", b"late")]
    assert recorders[1].heard == recorders[2].heard == [("lost", False)]


def test_a_call_that_both_sides_saw_is_refused_and_not_forgotten() -> None:
    """The callee noted it right before it was stopped, so its caller still waits for it."""
    pair = Pair()
    recorder = Recorder()
    pair.caller.call(Kind.CALL_PYTHON, b"", [], recorder, streams_body=False)
    pair.callee.receive(b"".join(pair.caller.data_to_send()))
    pair.caller.take_back(pair.noted[-1])
    assert recorder.heard == []
    pair.callee.withdraw(0, pair.caller.last_id)
    pair.carry()
    assert recorder.heard == [("rejected", RejectReason.DRAINING, 3)]
