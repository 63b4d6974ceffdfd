"""The storm: clients of every kind ask while everything is killed, deployed and scaled in a random order.

Afterwards each request that failed must have been open while something was killed that explains it, and nothing may
be left: no request in a gauge, no descriptor, thread or memory in the processes, no file, no process.

`SOAK_S` is how long it lasts, in seconds (`make soak`); without it, each thing is done once. `SOAK_SEED` repeats a
run's order.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator

import pytest

from tests.chaos.crowd import Book, Crowd
from tests.chaos.storm import Storm
from tests.chaos.waiting import eventually
from tests.chaos.weights import Weights
from tests.instances import Instance, until

SOAK_S = float(os.environ.get("SOAK_S", "0"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)

#: What may stay in each process that lives through all rounds of a calm soak; allocators never give all back.
MOST_GROWTH_MB = 4.0

pytestmark = pytest.mark.timeout(SOAK_S * 1.5 + 300)


@pytest.fixture
async def storm(daemon: Instance) -> Storm:
    print(f"\nSOAK_SEED={SEED}")
    storm = Storm(daemon, random.Random(SEED))
    await storm.deploy()
    return storm


def order(storm: Storm, draw: random.Random) -> Iterator[str]:
    """Give every action once, in a random order, and again until the time is over."""
    until_s = time.monotonic() + SOAK_S * 2 / 3
    while True:
        names = list(storm.actions)
        draw.shuffle(names)
        yield from names
        if time.monotonic() >= until_s:
            return


async def test_in_a_storm_only_requests_inside_killed_processes_are_lost(storm: Storm) -> None:
    crowd = Crowd(storm.instance)
    storm.write_into(crowd.book)
    async with crowd.asking():
        await crowd.progress()
        for name in order(storm, random.Random(SEED)):
            print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
            await storm.actions[name]()
            await crowd.progress()
    show(crowd.book)
    await storm.calm_down()
    await nothing_is_open(storm.instance)
    await only_files_of_the_living(storm.instance)


async def test_without_kills_of_the_daemon_nothing_grows_and_nothing_is_lost_but_by_kills(
    storm: Storm,
) -> None:
    """Deploys, scaling and dead replicas under load, in one and the same daemon."""
    crowd = Crowd(storm.instance)
    storm.write_into(crowd.book)
    rounds = [
        "kill one worker",
        "deploy",
        "scale",
        "kill all replicas",
        "deploy what cannot be imported",
        "deploy",
    ]
    async with crowd.asking():
        for name in rounds:  # warm: everything has been loaded once
            await storm.actions[name]()
        await crowd.progress()
    await storm.calm_down()
    await nothing_is_open(storm.instance)
    weights = Weights(storm.instance)
    await weights.take()
    until_s = time.monotonic() + SOAK_S / 3
    while True:
        crowd = crowd.again()
        storm.write_into(crowd.book)
        async with crowd.asking():
            for name in rounds:
                await storm.actions[name]()
                await crowd.progress()
        show(crowd.book)
        await storm.calm_down()
        await nothing_is_open(storm.instance)
        await weights.take()
        if time.monotonic() >= until_s and weights.taken >= (3 if SOAK_S else 2):
            break
    print(weights.table())
    assert weights.growth_mb() < MOST_GROWTH_MB


def show(book: Book) -> None:
    """Print the table, and fail with every request that nothing explains."""
    print(book.table(), flush=True)
    unexplained = book.not_permitted()
    assert not unexplained, "\n".join(map(str, unexplained[:20]))


async def nothing_is_open(instance: Instance) -> None:
    """Return when no replica processes a request."""

    async def is_idle() -> bool:
        page = (await instance.admin.get("/metrics")).text
        ongoing = re.findall(r"^serve_replica_processing_queries\{.*\} (\S+)$", page, re.MULTILINE)
        return bool(ongoing) and not any(map(float, ongoing))

    await eventually(is_idle, "no replica processes a request")


async def only_files_of_the_living(instance: Instance) -> None:
    """Return when the sockets and ledgers of those that were killed are gone."""

    def names() -> set[str]:
        return {name for name in os.listdir(instance.paths.run) if name.startswith(("r-", "p-"))}

    def wanted() -> set[str]:
        suffixes = {p.cmdline()[0].split()[-1] for p in instance.processes("replica")}
        return {f"r-{suffix}{kind}" for suffix in suffixes for kind in (".sock", ".acc", ".live")}

    def is_right() -> bool:
        probers = {name for name in names() if name.startswith("p-")}
        return len(probers) == 1 and names() - probers == wanted()

    await until(is_right, "only the living have files")
