"""How many replicas the load asks for. Ray Serve 2.60's default policy, as functions of what is known.

In the order in which a decision is made: samples of several callers become one number (`aggregate`), that number
becomes a wish (`wanted_by_load`, or what a custom policy says), factors make the step smaller or larger
(`with_factors`), a wish must last before it counts (`after_delay`), and the bounds hold always (`decide`).

Pure. `controller/scaling.py` gathers the samples, keeps the timers and carries decisions out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from serve_lite.config import AggregationFunction, AutoscalingConfig

#: (seconds on the monotonic clock, value), oldest first; a value holds until the next one.
Series = Sequence[tuple[float, float]]

_NOISE = 1e-9  #: a mean of equal values may be off by less than this, and must not cost a replica
_CLOCK_NOISE = 1e-6
_LEAST_WINDOW_S = 0.001


# --- samples ------------------------------------------------------------------------------------


def merge(series: Sequence[Series]) -> list[tuple[float, float]]:
    """Return the sum of step functions: at each time any of them has a sample, the sum of the last values.

    Times are rounded to 10 ms, so that samples taken together count together.
    """
    steps: list[tuple[float, int, float]] = sorted(
        (round(at, 2), i, value) for i, one in enumerate(series) for at, value in one
    )
    last = [0.0] * len(series)
    merged: list[tuple[float, float]] = []
    for at, i, value in steps:
        last[i] = value
        if merged and merged[-1][0] == at:
            merged.pop()
        merged.append((at, sum(last)))
    return merged


def window_start(series: Sequence[Series], merged: Series) -> float:
    """Return from when on every caller had told something, as far as there was one such time."""
    start = max(round(one[0][0], 2) for one in series if one)
    return start if start <= merged[-1][0] else merged[0][0]


def aggregate(series: Sequence[Series], function: AggregationFunction, now: float) -> float:
    """Return one number for the samples of all callers; 0 without samples.

    The mean is weighted by time, and the last value holds until now.
    """
    series = [one for one in series if one]
    if not series:
        return 0.0
    merged = merge(series)
    start = window_start(series, merged)
    inside = [value for at, value in merged if at >= start]
    if function is AggregationFunction.MAX:
        return max(inside)
    if function is AggregationFunction.MIN:
        return min(inside)
    end = max(now, start + _LEAST_WINDOW_S, merged[-1][0])
    ends = [*(at for at, _ in merged[1:]), end]
    area = sum(
        value * (until - max(at, start))
        for (at, value), until in zip(merged, ends, strict=True)
        if until > start
    )
    return area / (end - start)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The load of one deployment over its look-back period."""

    total: float = 0.0  #: requests that run or wait
    queued: float = 0.0  #: those of them that wait for a replica

    @property
    def running(self) -> float:
        return max(0.0, self.total - self.queued)


def load_of(
    queued: Sequence[Series], running: Sequence[Series], config: AutoscalingConfig, now: float
) -> Load:
    """Return the load that callers' samples amount to."""
    function = config.aggregation_function
    return Load(total=aggregate([*running, *queued], function, now), queued=aggregate(queued, function, now))


# --- wishes -------------------------------------------------------------------------------------


def wanted_by_load(load: Load, config: AutoscalingConfig) -> float:
    """Return how many replicas would each have just the load they should have."""
    return load.total / config.get_target_ongoing_requests()


def with_factors(wish: float, running: int, config: AutoscalingConfig) -> int:
    """Return where a step from `running` towards `wish` ends, when only its share of the way is made.

    A share so small that nothing would change still takes one replica away.
    """
    if running == 0:
        return _ceil(wish)
    way = wish - running
    share = config.get_upscaling_factor() if way > 0 else config.get_downscaling_factor()
    step = _ceil(running + share * way)
    return step - 1 if step == running and _ceil(wish) < running else step


def _ceil(number: float) -> int:
    return math.ceil(number - _NOISE)


# --- delays -------------------------------------------------------------------------------------


class Timer(msgspec.Struct, frozen=True):
    """Since when another number has been wanted without a break, and in which direction."""

    direction: int = 0  #: 1 up, -1 down, 0: the present number is right
    since: float = 0.0


def after_delay(
    wish: int, target: int, timer: Timer, config: AutoscalingConfig, now: float
) -> tuple[int, Timer, float | None]:
    """Return the number that counts now, the timer after it, and when the wish would count if it lasts.

    The last step, from 1 to 0, is never part of a longer one.
    """
    if target > 1:
        wish = max(1, wish)
    if wish == target:
        return target, Timer(), None
    direction = 1 if wish > target else -1
    if timer.direction != direction:
        timer = Timer(direction, now)
    due = timer.since + _delay_s(direction, target, config)
    if now >= due - _CLOCK_NOISE:
        return wish, Timer(), None
    return target, timer, due


def _delay_s(direction: int, target: int, config: AutoscalingConfig) -> float:
    if direction > 0:
        return config.upscale_delay_s
    if target == 1 and config.downscale_to_zero_delay_s is not None:
        return config.downscale_to_zero_delay_s
    return config.downscale_delay_s


# --- decisions ----------------------------------------------------------------------------------


class Bounds(msgspec.Struct, frozen=True):
    """The fewest and the most replicas."""

    lowest: int
    highest: int
    why: str = ""  #: what else to say of them in a reason

    def clip(self, number: int) -> int:
        return min(max(number, self.lowest), self.highest)


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """How many replicas there should be from now on."""

    target: int
    wish: int  #: before delay and bounds
    timer: Timer
    due: float | None = None  #: when the present wish will count if it lasts
    reason: str = ""  #: if the target changes


def is_cold_start(load: Load, running: int) -> bool:
    """Whether requests wait and nothing serves them: no policy is asked, and no delay holds it up."""
    return running == 0 and load.total > 0


def decide(
    config: AutoscalingConfig,
    bounds: Bounds,
    load: Load,
    *,
    running: int,
    target: int,
    timer: Timer,
    now: float,
    wish: float | None = None,
    policy_name: str = "",
) -> Decision:
    """Return the decision for one deployment.

    Args:
        running: replicas that serve.
        target: replicas wanted so far.
        wish: what a custom policy says; None: what the load says.
        policy_name: of the policy that says it; "" for the deployment's own.
    """
    if is_cold_start(load, running):
        asked = step = max(_ceil(config.get_upscaling_factor()), target)
        after, due = Timer(), None
        why = "requests wait and no replica runs"
    else:
        why = (
            f"{load.total:.4g} requests run or wait at {running} running replicas; "
            f"{config.get_target_ongoing_requests():.4g} each are wanted"
            if wish is None
            else f"the policy {policy_name or config.policy.policy_function!r} asks for {wish:.4g}"
        )
        if wish is None:
            wish = wanted_by_load(load, config) if running else target
        asked = step = max(0, with_factors(wish, running, config))
        after, due = Timer(), None
        if running or not step:
            # Clipped before the delay too: a wish that the bounds forbid is none, and nothing need wait for it.
            step, after, due = after_delay(bounds.clip(step), target, timer, config, now)
    chosen = bounds.clip(step)
    if chosen != asked and chosen in (bounds.lowest, bounds.highest):
        why += f"; the bounds are {bounds.lowest} and {bounds.highest}{bounds.why}"
    return Decision(target=chosen, wish=asked, timer=after, due=due, reason=why if chosen != target else "")


def default_autoscaling_policy(context: Any) -> tuple[float, dict[str, Any]]:
    """Return what the built-in policy wants, for policies of one's own that begin with it.

    Takes an `AutoscalingContext` with its `config`; delays, factors and bounds come afterwards.
    """
    if context.current_num_replicas == 0:
        return float(context.target_num_replicas), {}
    return context.total_num_requests / context.config.get_target_ongoing_requests(), {}


def plan_pace_s(config: AutoscalingConfig) -> float:
    """Return how often to look again while the number may change just because time passes."""
    return min(1.0, max(0.1, report_every_s(config) / 5))


def report_every_s(config: AutoscalingConfig) -> float:
    """Return how often callers tell their load."""
    return min(config.look_back_period_s * 0.2, config.metrics_interval_s)


def stale_after_s(config: AutoscalingConfig) -> float:
    """Return after how long without a word a caller's load counts no more, though it has not gone."""
    return max(2 * config.metrics_interval_s, 10.0)
