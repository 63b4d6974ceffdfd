"""A world whose load changes: callers with calls, a scaler that hears of them, clocks that are set, daemons that end.

The scaler is the real one (`controller/scaling.py`), and so is what its decisions do to the goal; what callers do is
what `routing/load.py` does, at the times at which it does it. Calls have no end of their own: the test says how many
there are.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import msgspec

from serve_lite.config import AutoscalingConfig
from serve_lite.controller import goals
from serve_lite.controller.scaling import Scaler
from serve_lite.policy.autoscaling import Bounds, report_every_s
from serve_lite.policy.capacity import initial_target, scaling_bounds
from serve_lite.policy.meaning import scaled_events
from serve_lite.policy.schedules import window_at
from serve_lite.state.goal import AppSubmission, CapacityDirection, DeploymentGoal
from serve_lite.wire.messages import DeploymentLoad
from tests.policy.cases import MODEL, wanted
from tests.policy.world import World

RECONNECT_S = 0.3  #: callers have found a new daemon by then


@dataclass
class Change:
    """The number of replicas wanted has changed."""

    at: float
    was: int
    target: int
    is_cold_start: bool
    is_forced: bool  #: the bounds did not allow the number before


@dataclass
class Caller:
    """Somebody with calls to the deployment."""

    name: str
    calls: int = 0
    has_told: bool = False
    has_called: bool = False  #: that calls wait for a first replica, since its last report


@dataclass
class ScaledWorld(World):
    """One deployment that scales by itself; `check_scaling` is called whenever nothing is left to decide."""

    config: AutoscalingConfig = field(default_factory=AutoscalingConfig)
    check_scaling: Callable[[ScaledWorld], None] = lambda world: None
    wall_offset: float = 1_783_317_000.0  #: of the wall clock from `now`
    capacity: float | None = None
    direction: CapacityDirection = None
    fails_to_store: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.callers = {name: Caller(name) for name in ("a", "b")}
        self.changes: list[Change] = []
        self.rests_until = 0.0
        self.is_down = False  #: there is no daemon
        self.scale_at: float | None = None  #: when the scaler wants to look again
        self._epoch = 0
        self.new_scaler()

    # --- what a test does to it ---

    def begin(self, version: str = "v1") -> None:
        """Deploy, as the first time or anew."""
        old = self.goal.apps.get("shop")
        previous = old.deployments[0] if old else None
        self.deploy(self.model(version, previous))

    def model(self, version: str, previous: DeploymentGoal | None) -> DeploymentGoal:
        goal = wanted(version, autoscaling_config=self.config)
        is_changed = previous is None or previous.config.autoscaling_config != self.config
        target = initial_target(
            goal.config,
            self.capacity,
            previous.target if previous else None,
            direction=self.direction,
            is_changed=is_changed,
        )
        if previous is not None and previous.target != target:
            self.changes.append(Change(self.now, previous.target, target, False, is_forced=True))
        return msgspec.structs.replace(goal, target=target)

    def set_calls(self, caller: str, calls: int) -> None:
        self.callers[caller].calls = calls
        self.tell_if_none_runs()
        self.look()

    def set_capacity(self, capacity: float | None, direction: CapacityDirection) -> None:
        self.capacity, self.direction = capacity, direction
        self.look()

    def set_clock(self, by_s: float) -> None:
        """Have somebody set the wall clock."""
        self.wall_offset += by_s
        self.look()

    def restart_daemon(self, down_s: float) -> None:
        """Have the daemon die, and another one take its place; replicas and calls live on meanwhile."""
        self.is_down = True
        self.run(down_s)
        self.is_down = False
        self.new_scaler()
        self.look()

    # --- what it does ---

    def new_scaler(self) -> None:
        self.questions: list[Coroutine[Any, Any, None]] = []
        self.lines: list[str] = []
        self._epoch += 1
        epoch = self._epoch
        self.scaler = Scaler(
            clock=lambda: self.now,
            wake=lambda: None,
            spawn=self.questions.append,
            wall=lambda: self.wall,
            record=lambda subject, text, level: self.lines.append(text),
        )
        for caller in self.callers.values():
            caller.has_told = caller.has_called = False
            self.later(RECONNECT_S, f"caller {caller.name}", lambda c=caller: self.tick(c, epoch))

    @property
    def wall(self) -> float:
        return self.now + self.wall_offset

    @property
    def target(self) -> int:
        return self.wanted(MODEL).target

    @property
    def calls(self) -> int:
        return sum(caller.calls for caller in self.callers.values())

    def bounds(self) -> Bounds:
        window = window_at(self.config.schedules, self.wall)
        return scaling_bounds(self.config, self.capacity, self.direction, window)

    def tick(self, caller: Caller, epoch: int) -> None:
        """One caller's timer fires."""
        if epoch == self._epoch:
            caller.has_called = False
            self.tell(caller)
            self.later(report_every_s(self.config), f"caller {caller.name}", lambda: self.tick(caller, epoch))

    def tell(self, caller: Caller) -> None:
        load = self.load_of(caller)
        if not load.is_none or caller.has_told:
            caller.has_told = not load.is_none
            if not self.is_down:
                self.scaler.take_load(load)

    def tell_if_none_runs(self) -> None:
        """A call that finds no replica is told of at once."""
        for caller in self.callers.values():
            if caller.calls and not self.running() and not caller.has_called and not self.is_down:
                caller.has_called = True
                self.tell(caller)

    def load_of(self, caller: Caller) -> DeploymentLoad:
        running = sorted(r.id for r in self.running())
        sent = dict.fromkeys(running, 0)
        room = 100 if running else 0
        for i in range(min(caller.calls, room * len(running))):
            sent[running[i % len(running)]] += 1
        sent = {name: count for name, count in sent.items() if count}
        queued = caller.calls - sum(sent.values())
        return DeploymentLoad(
            app="shop", deployment="Model", caller=caller.name, queued=queued, running=sent, at=self.now
        )

    def look(self) -> None:
        if self.is_down:
            self.wake_at = None
            return
        self.goal = self.declared()
        super().look()
        for _ in range(10):
            was_allowed = self.bounds().clip(self.target) == self.target
            scalings, wake_at = self.scaler.plan(self.goal, self.observed, self.now)
            assert not self.questions, "the built-in policy is asked nothing"
            if not scalings:
                assert wake_at is None or wake_at > self.now, "it would spin"
                self.scale_at = wake_at
                self.wake_at = min((t for t in (self.wake_at, wake_at) if t is not None), default=None)
                self.check_scaling(self)
                return
            for scaling in scalings:
                if self.fails_to_store:
                    self.fails_to_store, self.rests_until = False, self.now + 1.0
                    self.scaler.done(scaling, is_stored=False)
                    continue
                before = self.target
                self.goal = goals.accept_scaling(
                    self.goal, scaling.deployment, scaling.target, scaling.window
                )
                self.fold(
                    scaled_events(
                        scaling.deployment, before, self.target, scaling.bounds, self.observed, self.now
                    )
                )
                is_cold = "requests wait and no replica runs" in scaling.reason
                self.changes.append(Change(self.now, before, self.target, is_cold, not was_allowed))
                self.scaler.done(scaling, is_stored=True)
            super().look()
        raise AssertionError("the scaler does not come to rest")

    def declared(self) -> Any:
        """Return the goal as a document's, so that `target_capacity` holds."""
        app = self.goal.apps["shop"]
        submission = AppSubmission(name="shop", source="declarative")
        return msgspec.structs.replace(
            self.goal,
            apps={"shop": msgspec.structs.replace(app, submission=submission)},
            target_capacity=self.capacity,
            capacity_direction=self.direction,
        )
