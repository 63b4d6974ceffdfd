"""Properties of autoscaling that hold in every history of load, failures, clocks, capacities, deploys and daemons."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_lite.config import AutoscalingConfig
from serve_lite.policy.actions import StopReplica
from serve_lite.schema import DeploymentStatus
from tests.policy.cases import MODEL
from tests.policy.scaled_world import Change, ScaledWorld
from tests.policy.world import Behaviour, Pass

UP_S, DOWN_S, TO_ZERO_S = 7.0, 20.0, 11.0
WINDOW = {"cron": "*/10 * * * *", "duration_s": 180.0, "min_replicas": 3}

BEHAVIOURS = [Behaviour(), Behaviour(), Behaviour(start_s=15.0, stop_s=10.0), Behaviour(runs_s=90.0)]

configs = st.builds(
    lambda lowest, extra, initial, up, down, schedules: AutoscalingConfig(
        min_replicas=lowest,
        max_replicas=max(3, lowest + extra),
        initial_replicas=None if initial is None else min(max(initial, lowest), max(3, lowest + extra)),
        upscaling_factor=up,
        downscaling_factor=down,
        upscale_delay_s=UP_S,
        downscale_delay_s=DOWN_S,
        downscale_to_zero_delay_s=TO_ZERO_S,
        look_back_period_s=11.0,
        schedules=schedules,
    ),
    st.integers(0, 2),
    st.integers(0, 6),
    st.sampled_from([None, None, 0, 2, 4]),
    st.sampled_from([None, 0.5, 2.0]),
    st.sampled_from([None, 0.4]),
    st.sampled_from([(), (), (WINDOW,)]),
)

STEPS = st.one_of(
    st.tuples(st.just("calls"), st.sampled_from(["a", "b"]), st.sampled_from([0, 0, 1, 2, 5, 9, 30])),
    st.tuples(st.just("calls"), st.sampled_from(["a", "b"]), st.integers(0, 12)),
    st.tuples(st.just("wait"), st.floats(0.1, 60)),
    st.tuples(st.just("wait"), st.floats(0.1, 10)),
    st.tuples(st.just("kill"), st.integers(0, 10)),
    st.tuples(st.just("restart"), st.floats(0.0, 20)),
    st.tuples(st.just("clock"), st.floats(-7200, 7200)),
    st.tuples(st.just("capacity"), st.sampled_from([None, 0.0, 30.0, 50.0, 100.0]), st.sampled_from(["UP", "DOWN"])),
    st.tuples(st.just("deploy"), st.sampled_from(BEHAVIOURS)),
    st.tuples(st.just("full disk")),
)  # fmt: skip


class Rules:
    """What may never be."""

    def served_on(self, done: Pass) -> None:
        """Who stops for no failure of its own leaves as many as are wanted."""
        stopped = {a.replica for a in done.actions if isinstance(a, StopReplica) and not a.is_failure}
        if any(r.is_running and r.id in stopped for r in done.before.replicas.values()):
            target = done.goal.apps["shop"].deployments[0].target
            left = sum(r.is_running for r in done.after.replicas.values())
            assert left >= target, f"only {left} serve, {target} are wanted"

    def stays_in_bounds(self, world: ScaledWorld) -> None:
        if world.now < world.rests_until:
            return  # the last decision could not be stored
        # A schedule is followed at its times, and within a minute where the clock was set.
        assert world.bounds().clip(world.target) == world.target, (world.target, world.bounds())

    def does_not_flap(self, changes: list[Change]) -> None:
        for before, after in pairwise(changes):
            if after.is_cold_start or after.is_forced:
                continue
            if after.target > after.was:
                delay = UP_S
            else:
                delay = TO_ZERO_S if after.was == 1 else DOWN_S
                assert after.target > 0 or after.was == 1, "the last replica goes alone"
            assert after.at - before.at >= delay - 1e-3, (before, after)


def play(world: ScaledWorld, history: list[tuple[Any, ...]]) -> None:
    version = 1
    for kind, *args in history:
        match kind:
            case "calls":
                world.set_calls(*args)
            case "wait":
                world.run(args[0])
            case "kill":
                victims = sorted(world.observed.replicas)
                if victims:
                    world.kill(victims[args[0] % len(victims)])
                    world.tell_if_none_runs()
                    world.look()
            case "restart":
                world.restart_daemon(args[0])
            case "clock":
                world.set_clock(args[0])
            case "capacity":
                world.set_capacity(args[0], None if args[0] is None else args[1])
            case "deploy":
                version += 1
                world.behaviours[f"v{version}"] = args[0]
                world.begin(f"v{version}")
            case "full disk":
                world.fails_to_store = True


def rest(world: ScaledWorld, version: str = "last") -> None:
    """End all troubles, and let everything calm down."""
    world.fails_to_store = False
    world.set_capacity(None, None)
    world.behaviours[version] = Behaviour()
    world.begin(version)
    world.run(250.0)


quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(configs, st.lists(STEPS, max_size=25))
def test_the_number_stays_in_its_bounds_and_does_not_flap_and_who_serves_is_left(
    config: AutoscalingConfig, history: list[tuple[Any, ...]]
) -> None:
    rules = Rules()
    has_set_clock = any(step[0] == "clock" for step in history) and bool(config.schedules)
    world = ScaledWorld(config=config, check=rules.served_on)
    if not has_set_clock:
        world.check_scaling = rules.stays_in_bounds
    world.begin()
    play(world, history)
    rules.does_not_flap(world.changes)
    world.run(61.0)  # a clock that was set is known by now
    rules.stays_in_bounds(world)


@quick
@given(configs, st.lists(STEPS, max_size=15))
def test_without_load_it_ends_at_the_fewest_and_a_call_wakes_it(
    config: AutoscalingConfig, history: list[tuple[Any, ...]]
) -> None:
    config = without_schedules(config)
    world = ScaledWorld(config=config)
    world.begin()
    play(world, history)
    for caller in world.callers:
        world.set_calls(caller, 0)
    rest(world)
    assert world.target == config.min_replicas == len(world.observed.replicas)
    assert world.observed.deployments[MODEL].status is DeploymentStatus.HEALTHY
    assert world.scale_at is None, "an idle deployment costs nothing"

    world.set_calls("a", 1)
    world.run(1.0)
    assert len(world.running()) >= 1, "a call wakes one, in the time that a start takes"
    assert world.load_of(world.callers["a"]).queued == 0
    changes = len(world.changes)
    world.run(30.0)
    later = world.changes[changes:]  # a factor above 1 wakes more than one call needs
    assert all(change.target < change.was for change in later), "and one call needs no more"


@quick
@given(configs, st.lists(STEPS, max_size=15), st.integers(1, 30))
def test_under_steady_load_it_reaches_what_the_load_needs_and_stays_there(
    config: AutoscalingConfig, history: list[tuple[Any, ...]], calls: int
) -> None:
    config = without_schedules(config)
    world = ScaledWorld(config=config)
    world.begin()
    play(world, history)
    world.set_calls("b", 0)
    world.set_calls("a", calls)
    rest(world)
    needed = math.ceil(calls / config.target_ongoing_requests)
    fewest, most = config.min_replicas, config.max_replicas
    expected = min(max(needed, fewest), most)
    assert world.target == len(world.running()) == expected
    changes = len(world.changes)
    world.run(60.0)
    assert len(world.changes) == changes


@quick
@given(st.integers(1, 200), st.sampled_from([1, 2, 5]))
def test_calls_that_arrive_together_wake_one_replica(calls: int, factor: int) -> None:
    world = ScaledWorld(
        config=AutoscalingConfig(
            min_replicas=0,
            max_replicas=9,
            upscale_delay_s=60.0,
            upscaling_factor=factor,
            look_back_period_s=11.0,
        )
    )
    world.begin()
    world.run(5.0)
    assert not world.observed.replicas
    for caller in world.callers:
        world.set_calls(caller, calls)
    world.run(10.0)
    assert len(world.running()) == world.starts == factor


@quick
@given(st.floats(0, 3600), st.floats(-3600, 3600))
def test_a_schedule_is_followed_to_the_second_and_within_a_minute_of_a_clock_that_was_set(
    before: float, by_s: float
) -> None:
    config = AutoscalingConfig(min_replicas=1, max_replicas=5, downscale_delay_s=0.0, schedules=(WINDOW,))
    world = ScaledWorld(config=config)
    world.check_scaling = Rules().stays_in_bounds
    world.begin()
    world.run(before)
    world.check_scaling = lambda world: None
    world.wall_offset += by_s  # nobody tells
    world.run(60.001)
    world.check_scaling = Rules().stays_in_bounds
    world.run(1800.0)


def without_schedules(config: AutoscalingConfig) -> AutoscalingConfig:
    return AutoscalingConfig.from_value({**config.to_dict(), "schedules": []}, "it", lax=False)
