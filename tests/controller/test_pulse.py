"""What the controller's loop tells of itself."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from serve_lite.admin.health import health_metrics
from serve_lite.controller.pulse import WINDOW, DurationStats, Pulse, stats_of


class Clock:
    """A clock that stands until it is told to go on."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def run_pass(pulse: Pulse, clock: Clock, *, until: float | None, sleep_s: float, work_s: float) -> None:
    pulse.falls_asleep(until)
    clock.now += sleep_s
    pulse.begins_pass()
    clock.now += work_s
    pulse.ends_pass()


def test_before_the_first_pass_nothing_is_made_up() -> None:
    view = Pulse(Clock()).view()
    assert (view.passes, view.last_pass_at, view.passes_per_s) == (0, None, 0.0)
    assert view.pass_duration_s == DurationStats()


def test_passes_and_sleeps_are_told_apart() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    run_pass(pulse, clock, until=100.0, sleep_s=0.0, work_s=2.0)
    run_pass(pulse, clock, until=105.0, sleep_s=4.0, work_s=4.0)
    clock.now += 10.0
    view = pulse.view()
    assert (view.passes, view.passes_per_s, view.last_pass_at) == (2, 0.1, 110.0)
    assert view.pass_duration_s == DurationStats(mean=3.0, std=1.0, min=2.0, max=4.0)
    assert (view.last_sleep_s, view.expected_sleep_s) == (4.0, 3.0)


def test_a_sleep_until_something_happens_has_no_expected_length() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    run_pass(pulse, clock, until=None, sleep_s=50.0, work_s=0.0)
    assert pulse.view().expected_sleep_s is None
    run_pass(pulse, clock, until=10.0, sleep_s=0.0, work_s=0.0)
    assert pulse.view().expected_sleep_s == 0.0


def test_only_the_last_passes_count_for_durations() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    run_pass(pulse, clock, until=None, sleep_s=0.0, work_s=1000.0)
    for _ in range(WINDOW):
        run_pass(pulse, clock, until=None, sleep_s=0.0, work_s=1.0)
    view = pulse.view()
    assert (view.passes, view.pass_duration_s.max) == (WINDOW + 1, 1.0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_statistics_are_in_order(durations: list[float]) -> None:
    stats = stats_of(durations)
    slack = 1e-9 * stats.max
    assert stats.min - slack <= stats.mean <= stats.max + slack
    assert 0 <= stats.std <= stats.max - stats.min + slack


def test_times_of_the_loops_clock_become_those_of_the_wall() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    run_pass(pulse, clock, until=None, sleep_s=1.0, work_s=1.0)
    clock.now += 3.0
    told = health_metrics(
        pulse.view(), timestamp=5000.0, event_loop_delay_s=0.5, tasks=7, memory_bytes=3 * 2**20
    )
    assert (told.controller_start_time, told.last_control_loop_time, told.uptime_s) == (4995.0, 4997.0, 5.0)
    assert (told.num_asyncio_tasks, told.process_memory_mb) == (7, 3.0)
    assert math.isclose(told.loops_per_second, 0.2)
