"""Who is ejected, for how long, and who never is."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from serve_lite.config import OutlierEjection
from serve_lite.policy.outliers import LAST_EJECTION, places, plan_ejections
from serve_lite.schema import ReplicaState
from serve_lite.state import events as ev
from serve_lite.state.observed import Observed, ReplicaView, fold
from serve_lite.state.pulse import Calls
from tests.policy.cases import replicas, wanted
from tests.policy.world import World

CONFIG = OutlierEjection(consecutive_errors=5, interval_s=10, base_ejection_s=30, max_ejection_percent=50)
WELL = Calls(ended=100)
FAILING = Calls(ended=100, failures=5, streak=5)


def with_calls(*calls: Calls) -> list[ReplicaView]:
    return [
        msgspec.structs.replace(r, calls=c) for r, c in zip(replicas("v1", len(calls)), calls, strict=True)
    ]


def after(views: list[ReplicaView], now: float, config: OutlierEjection | None = CONFIG) -> list[ReplicaView]:
    """Return the replicas as they are after what was found out."""
    found = plan_ejections(config, views, now).findings
    return list(fold(Observed(replicas={r.id: r for r in views}), found).replicas.values())


def test_so_many_errors_in_a_row_eject_and_one_fewer_does_not() -> None:
    views = with_calls(WELL, FAILING, msgspec.structs.replace(FAILING, streak=4))
    [found] = plan_ejections(CONFIG, views, now=100).findings
    assert found == ev.ReplicaEjected(replica=views[1].id, at=100, until=130, ejections=1)


def test_if_nobody_succeeds_nobody_is_ejected() -> None:
    assert not plan_ejections(CONFIG, with_calls(FAILING, FAILING, FAILING), now=100).findings
    idle = Calls()
    assert not plan_ejections(CONFIG, with_calls(FAILING, idle), now=100).findings


def test_the_only_replica_is_never_ejected() -> None:
    assert not plan_ejections(CONFIG, with_calls(FAILING), now=100).findings


def test_each_ejection_lasts_longer_and_calls_before_it_are_not_held_against_it() -> None:
    views = after(with_calls(WELL, FAILING), now=100)
    assert views[1].calls.ejected_until == 130 and not views[1].is_serving
    assert plan_ejections(CONFIG, views, now=101).wake_at == 130
    views = after(views, now=130)
    assert views[1].is_serving
    assert after(views, now=130) == views
    failed = ev.ReplicaCounted(replica=views[1].id, at=131, ended=105, failures=10, streak=10)
    views = list(fold(Observed(replicas={r.id: r for r in views}), [failed]).replicas.values())
    assert after(views, now=131)[1].calls.ejected_until == 131 + 60


def test_intervals_without_an_ejection_make_up_for_earlier_ones() -> None:
    paid = Calls(ended=200, failures=10, streak=5, ejections=2, returned_at=100, ended_at_return=100)
    views = with_calls(WELL, paid)
    assert after(views, now=105)[1].calls.ejected_until == 105 + 90
    assert after(views, now=125)[1].calls.ejected_until == 125 + 30


def test_one_that_is_ejected_again_and_again_is_replaced() -> None:
    hopeless = Calls(
        ended=200, failures=10, streak=5, ejections=LAST_EJECTION, returned_at=100, ended_at_return=100
    )
    views = with_calls(WELL, hopeless)
    plan = plan_ejections(CONFIG, views, now=101)
    assert [r.id for r in plan.incurable] == [views[1].id] and not plan.findings


def test_without_the_option_whoever_was_ejected_comes_back() -> None:
    views = after(with_calls(WELL, FAILING), now=100)
    assert all(r.is_serving for r in after(views, now=101, config=None))


_CALLS = st.builds(
    Calls,
    ended=st.integers(10, 1000),
    failures=st.integers(0, 10),
    streak=st.integers(0, 10),
    ejected_until=st.none() | st.floats(0, 200),
    ejections=st.integers(0, 5),
    returned_at=st.none() | st.floats(0, 100),
    ended_at_return=st.integers(0, 10),
)


@given(st.lists(_CALLS, min_size=1, max_size=12), st.integers(1, 100))
def test_there_is_always_one_left_and_never_more_out_than_allowed(calls: list[Calls], percent: int) -> None:
    config = msgspec.structs.replace(CONFIG, max_ejection_percent=percent)
    before = with_calls(*calls)
    views = after(before, now=100, config=config)
    out = {r.id for r in views if not r.is_serving}
    fresh = out - {r.id for r in before if not r.is_serving}
    gone = {r.id for r in plan_ejections(config, before, now=100).incurable}
    if fresh or gone:
        assert len(out | gone) <= places(config, len(views))
        assert len(out | gone) < len(views)
    again = plan_ejections(config, [r for r in views if r.id not in gone], now=100)
    assert not [f for f in again.findings if isinstance(f, ev.ReplicaReturned)]


def test_in_a_world_a_failing_replica_is_ejected_and_comes_back_and_is_replaced_in_the_end() -> None:
    config = OutlierEjection(consecutive_errors=2, interval_s=1000, base_ejection_s=10)
    world = World()
    world.deploy(wanted("v1", 3, outlier_ejection=config))
    world.run(5)
    bad, *good = [r.id for r in world.running()]
    ended = 0
    for round_number in range(1, LAST_EJECTION + 2):
        ended += 10
        world.fold(
            [
                *(
                    ev.ReplicaCounted(replica=g, at=world.now, ended=ended, failures=0, streak=0)
                    for g in good
                ),
                ev.ReplicaCounted(replica=bad, at=world.now, ended=ended, failures=ended, streak=ended),
            ]
        )
        world.look()
        if round_number <= LAST_EJECTION:
            assert not world.observed.replicas[bad].is_serving
            world.run(10 * round_number + 1)
            assert world.observed.replicas[bad].is_serving
    world.run(5)
    assert bad not in world.observed.replicas and len(world.running()) == 3
    assert all(r.state is ReplicaState.RUNNING for r in world.observed.replicas.values())
