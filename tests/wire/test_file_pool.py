"""The sender's account of its memory files, under histories of any kind."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serve_lite.wire.file_pool import Budget, FilePool, file_bytes

KB = 1024
LIMIT_BYTES, LIMIT_FILES = 8 * KB * KB, 6
IDLE_S, KEPT_S = 10.0, 30.0
sizes = st.integers(256 * KB, 5 * KB * KB)


def make_pool(budget: Budget | None = None) -> FilePool:
    return FilePool(budget or Budget(), limit_bytes=LIMIT_BYTES, limit_files=LIMIT_FILES)


def ready(pool: FilePool, size: int, now: float = 0.0) -> int:
    """A file that the peer has mapped."""
    growth = pool.grow(size)
    assert growth is not None
    pool.answered(growth.file, now)
    return growth.file


class Histories(RuleBasedStateMachine):
    """The model: which files there are, in which state, and how large."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(12 * KB * KB, 9)
        self.pool = make_pool(self.budget)
        self.now = 0.0
        self.sizes: dict[int, int] = {}
        self.offered: set[int] = set()
        self.free: dict[int, float] = {}
        self.leased: dict[int, float] = {}

    def forget(self, file: int) -> None:
        del self.sizes[file]
        self.free.pop(file, None)
        self.leased.pop(file, None)

    @rule(size=sizes)
    def lease(self, size: int) -> None:
        file = self.pool.lease(size, self.now)
        if file is None:
            assert not [f for f in self.free if size <= self.sizes[f] <= 4 * size]
            return
        assert file in self.free
        assert self.sizes[file] >= size
        del self.free[file]
        self.leased[file] = self.now

    @rule(size=sizes)
    def grow(self, size: int) -> None:
        growth = self.pool.grow(size)
        if growth is None:
            return
        assert growth.size_bytes >= size
        assert growth.file not in self.sizes
        for file in growth.give_up:
            assert file in self.free
            self.forget(file)
        self.sizes[growth.file] = growth.size_bytes
        self.offered.add(growth.file)

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        if self.offered:
            file = data.draw(st.sampled_from(sorted(self.offered)))
            self.pool.answered(file, self.now)
            self.offered.discard(file)
            self.free[file] = self.now

    @rule(data=st.data(), again=st.booleans())
    def free_one(self, data: st.DataObject, again: bool) -> None:
        if self.leased:
            file = data.draw(st.sampled_from(sorted(self.leased)))
            assert self.pool.freed(file, self.now)
            del self.leased[file]
            self.free[file] = self.now
            if not again:
                self.pool.drop(file)
                self.forget(file)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        due = {f for f, since in self.free.items() if since + IDLE_S <= self.now}
        due |= {f for f, since in self.leased.items() if since + KEPT_S <= self.now}
        assert set(self.pool.expired(self.now)) == due
        for file in due:
            self.forget(file)

    @invariant()
    def is_bounded_and_counted(self) -> None:
        used = sum(self.sizes.values())
        assert used <= LIMIT_BYTES
        assert len(self.sizes) <= LIMIT_FILES
        assert (self.budget.free_bytes, self.budget.free_files) == (12 * KB * KB - used, 9 - len(self.sizes))

    @invariant()
    def knows_when_to_look_again(self) -> None:
        times = [s + IDLE_S for s in self.free.values()] + [s + KEPT_S for s in self.leased.values()]
        assert self.pool.next_expiry == min(times, default=None)

    def teardown(self) -> None:
        assert set(self.pool.close()) == set(self.sizes)
        assert (self.budget.free_bytes, self.budget.free_files) == (12 * KB * KB, 9)
        assert self.pool.grow(256 * KB) is None


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60)


@pytest.mark.parametrize("size", [1, 256 * KB, 256 * KB + 1, 10**6, 10**7, 10**8, 2**30 + 1])
def test_files_are_at_most_a_quarter_larger_than_what_they_are_for(size: int) -> None:
    assert size <= file_bytes(size) <= max(256 * KB, size * 5 // 4 + 256 * KB)
    assert file_bytes(file_bytes(size)) == file_bytes(size)


def test_a_small_buffer_does_not_take_a_large_file() -> None:
    pool = make_pool()
    ready(pool, 4 * KB * KB)
    assert pool.lease(512 * KB, 0.0) is None
    small = ready(pool, 512 * KB)
    assert pool.lease(512 * KB, 0.0) == small


def test_files_that_nobody_needs_make_room_for_one_that_is_needed() -> None:
    pool = make_pool()
    first, second = ready(pool, 3 * KB * KB, now=1.0), ready(pool, 3 * KB * KB, now=2.0)
    growth = pool.grow(5 * KB * KB)
    assert growth is not None
    assert growth.give_up == (first,)
    assert pool.lease(3 * KB * KB, 3.0) == second
    assert pool.grow(5 * KB * KB) is None  # one is looked at, the other one on its way


def test_what_other_connections_have_counts() -> None:
    budget = Budget(3 * KB * KB, 10)
    first, second = make_pool(budget), make_pool(budget)
    ready(first, 2 * KB * KB)
    assert second.grow(2 * KB * KB) is None
    first.close()
    assert second.grow(2 * KB * KB) is not None


def test_what_a_peer_cannot_say_is_refused() -> None:
    pool = make_pool()
    file = ready(pool, 256 * KB)
    with pytest.raises(ValueError, match="was not leased"):
        pool.freed(file, 0.0)
    with pytest.raises(ValueError, match="there never was"):
        pool.freed(file + 1, 0.0)
    with pytest.raises(ValueError, match="was not offered"):
        pool.answered(file, 0.0)


def test_a_file_that_was_given_away_may_be_freed_late() -> None:
    pool = make_pool()
    file = ready(pool, 256 * KB)
    assert pool.lease(256 * KB, 0.0) == file
    assert pool.expired(KEPT_S) == (file,)
    assert pool.freed(file, KEPT_S) is False
