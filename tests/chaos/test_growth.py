"""What a daemon holds after rounds of deploys, kills and scaling is what it held before them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from serve_lite.state.observed import KEPT_DEAD
from tests.chaos.census import count_collections, count_gauges, count_objects, count_rows, counted
from tests.chaos.crowd import Crowd
from tests.chaos.storm import HERE, Storm
from tests.chaos.waiting import eventually
from tests.instances import Instance

__all__ = ["counted"]  # a fixture

WARMING, ROUNDS = 2, 3

#: What differs from one look to the next: this look, and calls between processes that are just being made.
ACCIDENTAL = 4

pytestmark = pytest.mark.timeout(600)


async def all_is_back(
    count: Callable[[], Coroutine[Any, Any, Counter[str]]], before: Counter[str], slack: int
) -> None:
    """Return when nothing is more than it was, give or take what is accidental."""
    last: Counter[str] = Counter()

    async def is_back() -> bool:
        nonlocal last
        last = await count()
        return all(number <= before[kind] + slack for kind, number in last.items())

    try:
        await eventually(is_back, "there is no more of anything than before")
    except AssertionError:
        more = {k: (before[k], n) for k, n in last.items() if n > before[k] + slack}
        raise AssertionError(f"more than before: {more}") from None


async def test_rounds_of_everything_leave_nothing_in_the_daemon(counted: Instance) -> None:
    storm = Storm(counted, random.Random(1))
    await storm.deploy()

    async def one_round() -> None:
        crowd = Crowd(counted)
        storm.write_into(crowd.book)
        async with crowd.asking():
            for name in ("kill one worker", "kill one door", "scale", "kill all replicas", "deploy"):
                await storm.actions[name]()
            await storm.actions["deploy what cannot be imported"]()
            await crowd.progress()
        assert not crowd.book.not_permitted(), crowd.book.table()
        await storm.calm_down()

    for _ in range(WARMING):
        await one_round()
    await eventually(lambda: has_settled(counted), "old replicas are gone")
    rows, gauges = count_rows(counted), await count_gauges(counted)
    objects = await count_objects(counted)
    for kind in ("observed.ReplicaView", "phases.Progress"):  # the last that died are kept, and shown
        objects[f"serve_lite.state.{kind}"] += 2 * KEPT_DEAD
    for _ in range(ROUNDS):
        await one_round()
    await all_is_back(lambda: count_objects(counted), objects, ACCIDENTAL)
    await all_is_back(lambda: count_gauges(counted), gauges, 0)

    async def now() -> Counter[str]:
        return count_rows(counted)

    await all_is_back(now, rows, slack=10)  # revisions of the application, up to ten


async def test_applications_that_come_and_go_leave_nothing_in_the_daemon(counted: Instance) -> None:
    async def come_and_go(first: int, last: int) -> None:
        for number in range(first, last):
            name = f"app-{number}"
            await counted.deploy(
                "storm_app:app", name=name, route_prefix=f"/{name}", folder=HERE, args={"version": name}
            )
            assert (await counted.http.get(f"/{name}/", params={"n": 1})).json() == 2
            await counted.delete(name)

    await come_and_go(0, 2)
    rows, objects = count_rows(counted), await count_objects(counted)
    for kind in ("RouteAccount", "Cell"):  # what was counted for a route stays counted
        objects[f"serve_lite.proxy.accounts.{kind}"] += 6
    await come_and_go(2, 8)
    await all_is_back(lambda: count_objects(counted), objects, ACCIDENTAL)
    assert count_rows(counted) == rows


async def test_when_replicas_have_ended_their_memory_is_given_back(counted: Instance) -> None:
    """Python would wait for tens of thousands of new objects before it collects everything."""
    storm = Storm(counted, random.Random(1))
    await storm.deploy()
    before = await count_collections(counted)
    await storm.kill_all_replicas()

    async def has_collected() -> bool:
        return await count_collections(counted) > before

    await eventually(has_collected, "the daemon has collected its garbage")


async def has_settled(instance: Instance) -> bool:
    """Whether all replicas that there are serve."""
    apps = (await instance.status()).applications.values()
    states = [state for app in apps for d in app.deployments.values() for state in d.replica_states]
    return states == ["RUNNING"] * len(states)
