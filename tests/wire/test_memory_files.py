"""Memory files between two ends of a connection, carried by hand on a real loop."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serve_lite.wire.calls import CalleeTable, CallerTable, IncomingCall
from serve_lite.wire.file_pool import Answer, Budget, FilePool, Freed, Gone, Offer
from serve_lite.wire.frames import Kind
from serve_lite.wire.listener import NoGauge
from serve_lite.wire.memory_files import FROM_BYTES, MemoryFiles, are_supported
from tests.wire.test_calls import Recorder

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not are_supported(), reason="this system has no memory files that others can open"),
]
DEADLINE_S = 20.0
SIZE = 2 * FROM_BYTES
encode = msgspec.msgpack.encode


class Ends:
    """A sender and a receiver; what they tell each other arrives at once, unless `holds`."""

    def __init__(self, **limits: Any) -> None:
        loop = asyncio.get_running_loop()
        self.said: list[bytes] = []
        self.sender = MemoryFiles(loop, self._to_receiver, pool=FilePool(Budget(), **limits))
        self.receiver = MemoryFiles(loop, lambda word: self.sender.receive(word))

    def _to_receiver(self, word: bytes) -> None:
        self.said.append(word)
        self.receiver.receive(word)

    def carry(self, data: bytes) -> memoryview:
        """One buffer, through a file."""
        stored = self.sender.store([data])
        assert stored is not None
        [view] = self.receiver.restore([memoryview(b) for b in stored])
        return view


@pytest.fixture
async def ends() -> AsyncIterator[Callable[..., Ends]]:
    made: list[Ends] = []

    def make(**limits: Any) -> Ends:
        made.append(Ends(**limits))
        return made[-1]

    yield make
    for pair in made:
        pair.sender.close()
        pair.receiver.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def mapped() -> int:
    gc.collect()  # what earlier tests left in circles does not count
    return Path("/proc/self/maps").read_text().count("memfd:serve-lite")


async def test_the_first_buffer_of_a_size_goes_through_the_socket_and_the_next_one_not(ends: Any) -> None:
    pair = ends()
    assert pair.sender.store([b"1" * SIZE]) is None
    view = pair.carry(b"2" * SIZE)
    assert view == b"2" * SIZE
    assert view.format == "B"
    assert pair.sender.counts() == (1, 0)
    assert pair.receiver.counts() == (0, 1)


async def test_buffers_keep_their_places(ends: Any) -> None:
    pair = ends()
    sent = [b"a", b"b" * SIZE, b"c", b"d" * SIZE, b"e" * SIZE, bytearray(b"f")]
    lengths = []
    for _ in range(3):
        stored = pair.sender.store(sent)
        lengths.append([len(b) for b in stored])
        restored = pair.receiver.restore([memoryview(b) for b in stored])
        assert restored == sent
        del restored
        await asyncio.sleep(0)
    assert lengths[-1] == [1, 1, 1, 3 * 14]


async def test_a_file_is_not_written_while_somebody_looks_at_it(ends: Any) -> None:
    pair = ends()
    pair.sender.store([bytes(SIZE)])
    view = pair.carry(b"1" * SIZE)
    part = view[10:20]
    del view
    for _ in range(5):
        pair.sender.store([b"2" * SIZE])
        await asyncio.sleep(0)
    assert part == b"1" * 10
    assert pair.sender.counts()[0] > 1


async def test_a_file_is_used_again_once_nobody_looks_at_it(ends: Any) -> None:
    pair = ends()
    pair.sender.store([bytes(SIZE)])
    for n in range(50):
        view = pair.carry(bytes([n]) * SIZE)
        assert (view[0], view[-1]) == (n, n)
        heard = asyncio.get_running_loop().create_future()
        del view
        asyncio.get_running_loop().call_soon(heard.set_result, None)  # after the word of the view's end
        await heard
    assert pair.sender.counts() == (1, 0)


async def test_a_view_that_ends_in_another_thread_is_heard_of(ends: Any) -> None:
    pair = ends()
    pair.sender.store([bytes(SIZE)])
    views = [pair.carry(bytes(SIZE))]
    await asyncio.to_thread(views.clear)
    await until(lambda: pair.sender.store([bytes(SIZE)]) is not None)


async def test_files_that_nobody_needs_go(ends: Any) -> None:
    before = mapped()
    pair = ends(idle_s=0.01)
    pair.sender.store([bytes(SIZE)])
    view = pair.carry(b"1" * SIZE)
    del view
    await until(lambda: pair.sender.counts() == pair.receiver.counts() == (0, 0))
    assert mapped() == before


async def test_a_file_that_is_kept_becomes_the_receivers(ends: Any) -> None:
    before = mapped()
    pair = ends(kept_s=0.01)
    pair.sender.store([bytes(SIZE)])
    view = pair.carry(b"1" * SIZE)
    await until(lambda: pair.sender.counts() == pair.receiver.counts() == (0, 0))
    pair.sender.store([b"2" * SIZE])
    assert view == b"1" * SIZE
    del view
    await until(lambda: mapped() == before + 2 * pair.sender.counts()[0])


async def test_a_view_outlives_both_ends(ends: Any) -> None:
    before = (mapped(), descriptors())
    pair = ends()
    pair.sender.store([bytes(SIZE)])
    view = pair.carry(b"1" * SIZE)
    pair.sender.close()
    pair.receiver.close()
    assert view == b"1" * SIZE
    del view
    assert (mapped(), descriptors()) == before


async def test_what_was_looked_at_during_a_fork_is_not_used_again(ends: Any) -> None:
    pair = ends(idle_s=1000.0)
    pair.sender.store([bytes(SIZE)])
    view = pair.carry(b"1" * SIZE)
    child = os.fork()
    if child == 0:
        del view  # tells nobody: this is not the process that the sender knows
        os._exit(0)
    os.waitpid(child, 0)
    del view
    await until(lambda: pair.sender.counts() == pair.receiver.counts() == (0, 0))
    assert pair.sender.store([bytes(SIZE)]) is None


async def test_a_fork_leaves_files_alone_that_nobody_looks_at(ends: Any) -> None:
    pair = ends()
    pair.sender.store([bytes(SIZE)])
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert pair.carry(b"1" * SIZE) == b"1" * SIZE


async def test_without_descriptors_buffers_go_through_the_socket(ends: Any) -> None:
    pair = ends()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
    try:
        assert pair.sender.store([bytes(SIZE)]) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert pair.sender.store([bytes(SIZE)]) is None
    assert pair.sender.counts() == (0, 0)


def offer_of(found_at: int, **fields: Any) -> Offer:
    found = os.fstat(found_at)
    values = {
        "file": 1, "pid": os.getpid(), "descriptor": found_at, "inode": found.st_ino,
        "size_bytes": found.st_size,
    }  # fmt: skip
    return Offer(**{**values, **fields})


@pytest.mark.parametrize("what", ["unsealed", "too short", "another", "a pipe", "closed"])
async def test_only_a_sealed_memory_file_of_that_size_is_mapped(what: str) -> None:
    reader, writer = os.pipe()
    file = os.memfd_create("test-unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(file, SIZE)
    offers = {
        "unsealed": offer_of(file),
        "too short": offer_of(file, size_bytes=SIZE + 1),
        "another": offer_of(file, inode=os.fstat(file).st_ino + 1),
        "a pipe": offer_of(reader),
        "closed": offer_of(file, descriptor=100_000),
    }
    said: list[bytes] = []
    files = MemoryFiles(asyncio.get_running_loop(), said.append)
    try:
        files.receive(encode(offers[what]))
    finally:
        files.close()
        for descriptor in (reader, writer, file):
            os.close(descriptor)
    assert said == [encode(Answer(1, False))]
    assert files.counts() == (0, 0)


async def test_a_peer_that_cannot_map_is_offered_no_more() -> None:
    said: list[Offer] = []
    files = MemoryFiles(
        asyncio.get_running_loop(), lambda word: said.append(msgspec.msgpack.decode(word, type=Offer))
    )
    before = descriptors()
    assert files.store([bytes(SIZE)]) is None
    files.receive(encode(Answer(said[0].file, False)))
    assert files.store([bytes(SIZE)]) is None
    assert (len(said), files.counts(), descriptors()) == (1, (0, 0), before)
    files.close()


@pytest.mark.parametrize(
    "word", [b"", b"\xc1", encode([9, 1]), encode(Freed(7, True)), encode(Answer(7, True))], ids=repr
)
async def test_a_word_that_cannot_be_ends_the_connection(ends: Any, word: bytes) -> None:
    with pytest.raises(ValueError, match=r"the peer|peer"):
        ends().sender.receive(word)


async def test_references_that_cannot_be_end_the_connection(ends: Any) -> None:
    pair = ends()
    pair.sender.store([bytes(SIZE)])
    stored = [memoryview(b) for b in pair.sender.store([bytes(SIZE)])]
    for wrong in ([], [memoryview(b"123")], [memoryview(bytes(14))]):
        with pytest.raises(ValueError, match="does not say which|cannot be"):
            pair.receiver.restore(wrong)
    view = pair.receiver.restore(stored)
    with pytest.raises(ValueError, match="cannot be"):
        pair.receiver.restore(stored)  # it is being looked at
    del view


async def test_gone_files_that_were_never_here_do_no_harm(ends: Any) -> None:
    pair = ends()
    pair.receiver.receive(encode(Gone((5, 6))))
    assert pair.receiver.counts() == (0, 0)


class Tables:
    """A caller and a callee of which each can do memory files, or not."""

    def __init__(self, *, caller_can: bool, callee_can: bool) -> None:
        loop = asyncio.get_running_loop()

        def make(tell: Callable[[bytes], None]) -> MemoryFiles:
            return MemoryFiles(loop, tell)

        self.calls: list[IncomingCall] = []
        self.noted: list[int] = []
        self.caller = CallerTable(lambda: None, make_files=make if caller_can else None)
        self.callee = CalleeTable(
            lambda: None,
            self.calls.append,
            gauge=NoGauge(),
            note_accepted=self.noted.append,
            slot=3,
            make_files=make if callee_can else None,
        )
        self.caller.hello()
        self.carry()

    def carry(self) -> int:
        """Carry everything there is; return how many bytes it was."""
        total = 0
        while True:
            there, back = b"".join(self.caller.data_to_send()), b"".join(self.callee.data_to_send())
            if not there and not back:
                return total
            total += len(there) + len(back)
            self.callee.receive(there)
            self.caller.receive(back)

    def close(self) -> None:
        self.caller.let_go()
        self.callee.let_go()


@pytest.mark.parametrize(("caller_can", "callee_can"), [(False, True), (True, False), (False, False)])
async def test_unless_both_can_everything_goes_through_the_socket(caller_can: bool, callee_can: bool) -> None:
    tables = Tables(caller_can=caller_can, callee_can=callee_can)
    assert tables.caller.slot == 3
    assert tables.caller.files is tables.callee.files is None
    for _ in range(3):
        tables.caller.call(Kind.CALL_PYTHON, b"h", [b"x" * SIZE], Recorder(), streams_body=False)
        assert tables.carry() > SIZE


async def test_calls_items_results_and_errors_go_through_files_both_ways() -> None:
    tables = Tables(caller_can=True, callee_can=True)
    data = b"x" * SIZE
    for n in range(3):
        heard = Recorder()
        call = tables.caller.call(Kind.CALL_PYTHON, b"h", [b"p", data], heard, streams_body=True)
        call.send_item(b"more", data)
        on_the_way = tables.carry()
        incoming = tables.calls.pop()
        pieces: list[bytes] = []
        incoming.listen(lambda envelope, buffers, to=pieces: to.append(bytes(buffers[0])), lambda: None)  # type: ignore[misc]
        assert ([bytes(b) for b in incoming.buffers], pieces) == ([b"p", data], [data])
        incoming.buffers = []
        incoming.item(b"i", data)
        incoming.result(b"r", data, b"tail") if n % 2 else incoming.error(b"e", data)
        on_the_way += tables.carry()
        last = ("result", b"r", data, b"tail") if n % 2 else ("error", b"e")
        assert heard.heard[-2:] == [("item", b"i", data), last]
        del incoming
        await asyncio.sleep(0)
        tables.carry()  # that nobody looks at them any more
    assert on_the_way < SIZE  # the last round: all files were there
    assert tables.noted == [1, 2, 3]
    tables.close()


async def test_files_that_were_not_agreed_on_end_the_connection() -> None:
    tables = Tables(caller_can=False, callee_can=True)
    tables.caller.put(Kind.FILES, 0, 0, encode(Gone((1,))))
    with pytest.raises(ValueError, match="not agreed"):
        tables.carry()


def test_systems_without_them_do_without() -> None:
    assert are_supported() == (sys.platform == "linux")
