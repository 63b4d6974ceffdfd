"""Which replica gets a call: the less loaded of two, among those that have its model loaded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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


class Warm(Limited, Protocol):
    """Something that holds models, by id."""

    @property
    def model_ids(self) -> Collection[str]:
        """Ids of the models that it has loaded or is loading."""
        ...


WarmT = TypeVar("WarmT", bound=Warm)


def prefer_warm(candidates: Sequence[WarmT], model_id: str) -> list[WarmT]:
    """Return the candidates that hold the model; if none does, those that hold the fewest models.

    No call waits for a replica that holds its model while another has room: loading again costs the
    one call, waiting costs every call behind it.
    """
    warm = [c for c in candidates if model_id in c.model_ids]
    if warm:
        return warm
    fewest = min((len(c.model_ids) for c in candidates), default=0)
    return [c for c in candidates if len(c.model_ids) == fewest]
