"""Which of two replicas gets a call."""

from __future__ import annotations

from typing import Protocol, TypeVar


class Loaded(Protocol):
    """Something whose load is known."""

    @property
    def ongoing(self) -> int:
        """Requests that it has accepted and not finished, as far as the caller knows."""
        ...


LoadedT = TypeVar("LoadedT", bound=Loaded)


def less_loaded(first: LoadedT, second: LoadedT) -> LoadedT:
    """Return the candidate with fewer ongoing requests; `first` on a tie.

    The caller draws the two at random. Mitzenmacher, "The Power of Two Choices in Randomized Load
    Balancing", IEEE TPDS 12(10), 2001.
    """
    return second if second.ongoing < first.ongoing else first


class Limited(Loaded, Protocol):
    """Something whose load is known and may not pass a limit."""

    @property
    def limit(self) -> int:
        """Ongoing requests that it accepts at most."""
        ...


def has_room(candidate: Limited) -> bool:
    """Whether it may be sent one more request."""
    return candidate.ongoing < candidate.limit
