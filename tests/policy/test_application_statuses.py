"""Where applications stand: one table, and nothing that ever happens leaves it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_lite.schema import ApplicationStatus
from serve_lite.state.applications import (
    APPLICATION_MOVES,
    STATUS_OF,
    Condition,
    IllegalStatusError,
    condition_of,
    next_application_status,
)
from tests.policy.test_callers import chain
from tests.policy.test_histories import jumps, kills, updates, waits
from tests.policy.world import World

A, C = ApplicationStatus, Condition


def test_every_status_has_its_row_and_every_condition_its_status() -> None:
    assert set(APPLICATION_MOVES) == set(A)
    assert set(STATUS_OF) == set(C)
    assert set(STATUS_OF.values()) == set(A) - {A.NOT_STARTED}


@pytest.mark.parametrize(
    ("status", "condition"),
    [
        (A.RUNNING, C.GIVEN_UP),
        (A.RUNNING, C.BUILD_FAILED),
        (A.RUNNING, C.FELL_BACK),
        (A.DELETING, C.WELL),
        (A.DELETING, C.SICK),
        (A.UNHEALTHY, C.BUILD_FAILED),
    ],
)
def test_a_move_that_the_table_does_not_have_raises(status: A, condition: C) -> None:
    with pytest.raises(IllegalStatusError, match=f"'shop' is {status} and now: {condition.value}"):
        next_application_status("shop", status, condition)


class Follower:
    """Goes along with an application, move by move."""

    def __init__(self) -> None:
        self.status = A.NOT_STARTED
        self.seen: set[tuple[A, A]] = set()

    def __call__(self, world: World) -> None:
        app = world.goal.apps.get("shop")
        if app is None:
            self.status = A.NOT_STARTED
            return
        condition, _ = condition_of(app, world.observed)
        before, self.status = self.status, next_application_status("shop", self.status, condition)
        self.seen.add((before, self.status))


builds = st.fixed_dictionaries({"kind": st.just("bad build"), "rollback_on_failure": st.booleans()})
deletes = st.fixed_dictionaries({"kind": st.just("delete")})


def play(world: World, history: list[dict[str, Any]]) -> None:
    """Have all this happen to Front, which calls Middle, which calls Back."""
    world.deploy(*chain("0"))
    number = 0
    for step in history:
        match step["kind"]:
            case "update":
                number += 1
                if step["bad"]:
                    world.behaviours[f"{step['bad']} {number}"] = step["behaviour"]
                goals = chain(str(number), step["target"], **step["options"])
                world.deploy(*goals, rollback_on_failure=step["rollback_on_failure"])
            case "bad build" if "shop" in world.goal.apps:
                world.submit_bad(rollback_on_failure=step["rollback_on_failure"])
            case "delete" if "shop" in world.goal.apps:
                world.delete()
            case "kill":
                victims = sorted(world.observed.replicas)
                if victims:
                    world.kill(victims[step["victim"] % len(victims)])
            case "wait":
                world.run(step["for_s"])
            case "suspend":
                world.suspend(step["by_s"])
            case "reboot":
                world.reboot(step["by_s"])
            case "restart daemon":
                world.restart_daemon()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(updates, updates, builds, deletes, kills, waits, jumps), max_size=10))
def test_whatever_happens_only_moves_of_the_table_are_made(history: list[dict[str, Any]]) -> None:
    world = World(watch=Follower())
    play(world, history)
    world.settle()


def test_a_life_with_all_that_can_happen_is_followed() -> None:
    follower = Follower()
    world = World(watch=follower)
    play(world, [])
    world.settle()
    world.kill(world.running("front 0")[0].id)
    world.settle()
    world.submit_bad()
    world.settle()
    world.deploy(*chain("1"))
    world.settle()
    world.delete()
    world.settle()
    assert follower.seen >= {
        (A.NOT_STARTED, A.DEPLOYING),
        (A.DEPLOYING, A.RUNNING),
        (A.RUNNING, A.UNHEALTHY),
        (A.UNHEALTHY, A.RUNNING),
        (A.RUNNING, A.DEPLOYING),
        (A.DEPLOYING, A.DEPLOY_FAILED),
        (A.DEPLOY_FAILED, A.DEPLOYING),
        (A.RUNNING, A.DELETING),
    }
    assert (A.RUNNING, A.DEPLOY_FAILED) not in follower.seen
