"""A world for policies: replicas without processes, time without waiting.

Does what `controller/controller.py` and the fleet do, with the physics of replicas decided by the test: how long a
start takes, whether a version works, who dies when. `check` is called after each pass with what it did.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import assert_never

import msgspec

from serve_lite.controller.goals import accept_fallback, mark_proven, reject_build
from serve_lite.policy import actions as act
from serve_lite.policy.claims import with_claims
from serve_lite.policy.meaning import configured_events
from serve_lite.policy.reconcile import reconcile
from serve_lite.policy.standby import following
from serve_lite.schema import ReplicaState
from serve_lite.state import events as ev
from serve_lite.state.goal import AppGoal, AppSubmission, DeploymentGoal, Goal
from serve_lite.state.ids import DeploymentId
from serve_lite.state.observed import Observed, ReplicaView, fold
from serve_lite.state.resources import UNLIMITED, Machine
from tests.policy.cases import application, goal_of


@dataclass
class Behaviour:
    """What replicas of one version (or settings) do."""

    starts: bool = True
    start_s: float = 0.5
    stop_s: float = 0.2
    runs_s: float | None = None  #: None: until it is stopped or killed
    is_well: bool = True  #: answers health checks


@dataclass
class Pass:
    """What one pass of the loop did."""

    goal: Goal
    before: Observed
    after: Observed
    actions: tuple[act.Action, ...]
    now: float


@dataclass
class World:
    """Time, replicas, and the loop over them."""

    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    check: Callable[[Pass], None] = lambda done: None
    goal: Goal = field(default_factory=Goal)
    observed: Observed = field(default_factory=Observed)
    now: float = 1000.0
    stops: int = 0
    starts: int = 0
    revisions: dict[int, AppGoal] = field(
        default_factory=dict
    )  #: all that were deployed, as the store has them
    rollbacks: list[str] = field(default_factory=list)  #: why, each time
    machine: Machine = UNLIMITED
    watch: Callable[[World], None] = lambda world: None  #: called after everything that is folded

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, str, Callable[[], ev.Event | None]]] = []

    # --- what a test does to it ---

    def deploy(self, *deployments: DeploymentGoal, rollback_on_failure: bool = False) -> None:
        """Make these the goal, as a deploy does."""
        old = self.goal.apps.get("shop")
        had = {d.id: d for d in old.deployments} if old else {}
        names = {d.id for d in deployments}
        retired = tuple(d for d in (*(old.retired if old else ()), *had.values()) if d.id not in names)
        revision = self.goal.revision + 1
        before = self.goal
        app = application(
            *(following(had.get(d.id), d) for d in deployments),
            retired=retired,
            revision=revision,
            submission=AppSubmission(name="shop", rollback_on_failure=rollback_on_failure),
            proven=old.proven if old else 0,
        )
        self.goal = with_claims(self.goal, msgspec.structs.replace(goal_of(app), revision=revision))
        self.revisions[revision] = self.goal.apps["shop"]
        self.fold(configured_events(before, self.goal, self.observed, self.now))
        self.look()

    def delete(self) -> None:
        app = msgspec.structs.replace(self.goal.apps["shop"], is_deleting=True)
        self.goal = goal_of(app)
        self.look()

    def kill(self, replica: str) -> None:
        """Have a replica's process die now."""
        self.forget(replica)
        self.fold([ev.ReplicaExited(replica=replica, at=self.now, detail="it was killed by SIGKILL")])
        self.look()

    def suspend(self, for_s: float) -> None:
        """Have the machine sleep: time goes on, and what was due comes late."""
        self.now += for_s
        self.look()

    def reboot(self, now: float) -> None:
        """Have the machine start again: nothing is left but what was stored, and the clock begins anew."""
        self._due = []
        self.now = now
        self._load([])

    def restart_daemon(self) -> None:
        """Have a new daemon find the replicas that serve; those that were starting or stopping are lost."""
        found = [r for r in self.observed.replicas.values() if r.state is ReplicaState.RUNNING]
        ends = {r.id for r in found}
        self._due = [entry for entry in self._due if entry[2] in ends]
        heapq.heapify(self._due)
        self._load(found)

    def _load(self, found: list[ReplicaView]) -> None:
        self._due = [entry for entry in self._due if not entry[2].startswith("build of ")]
        heapq.heapify(self._due)
        self.observed = Observed(deployments=self.observed.deployments)
        self.fold(configured_events(Goal(), self.goal, self.observed, self.now))
        for r in found:
            news = ev.ReplicaFound(
                replica=r.id, deployment=r.deployment, version=r.version, settings=r.settings, pid=1, rank=r.rank,
                at=self.now,
            )  # fmt: skip
            self.fold([news])
            self.later(0.05, r.id, lambda name=r.id: ev.ReplicaReady(replica=name, at=self.now))  # type: ignore[misc]
        self.look()

    def run(self, for_s: float) -> None:
        """Let time pass."""
        end = self.now + for_s
        while True:
            wake_at = self.wake_at
            at = min([self._due[0][0] if self._due else end, end, wake_at if wake_at is not None else end])
            if at >= end:
                self.now = end
                return
            self.now = max(self.now, at)
            news = []
            while self._due and self._due[0][0] <= self.now:
                event = heapq.heappop(self._due)[3]()
                if event is not None:
                    news.append(event)
            self.fold(news)
            self.look()

    def settle(self) -> None:
        """Let enough time pass for every start, stop and back-off."""
        self.run(600.0)

    # --- what it does ---

    def look(self) -> None:
        """One pass of the loop, and another as long as it finds something to do."""
        for _ in range(10):
            plan = reconcile(self.goal, self.observed, self.now, machine=self.machine)
            before = self.observed
            self.fold(plan.findings)
            self.fold(event for action in plan.actions for event in self.perform(action))
            self.check(Pass(self.goal, before, self.observed, plan.actions, self.now))
            if not plan.actions and not plan.findings:
                assert plan.wake_at is None or plan.wake_at > self.now, "it would spin"
                self.wake_at = plan.wake_at
                return
        raise AssertionError(f"the loop does not come to rest: {plan}")

    wake_at: float | None = None

    def fold(self, events: Iterable[ev.Event]) -> None:
        self.observed = fold(self.observed, events)
        self.watch(self)

    def perform(self, action: act.Action) -> list[ev.Event]:
        """Begin an action: what it means at once, and what will come of it."""
        match action:
            case act.StartReplica():
                return [self.start(action)]
            case act.StopReplica():
                self.stops += 1
                view = self.observed.replicas[action.replica]
                self.forget(view.id)
                self.later(self.behaviour(view).stop_s, view.id, lambda: self.exited(view.id))
                return [
                    ev.ReplicaStopping(
                        replica=view.id, at=self.now, reason=action.reason, is_failure=action.is_failure
                    )
                ]
            case act.ReconfigureReplica():
                return [self.reconfigure(self.observed.replicas[action.replica], action.is_standby)]
            case act.PlaceReplica():
                return [
                    ev.ReplicaPlaced(
                        replica=action.replica, rank=action.rank, world_size=action.world_size, at=self.now
                    )
                ]
            case act.CheckHealth():
                view = self.observed.replicas[action.replica]
                self.later(0.01, view.id, lambda: self.answer_health(view))
                return [ev.ReplicaHealthAsked(replica=view.id, at=self.now)]
            case act.ForgetApp():
                self.goal = Goal()
                return []
            case act.MarkProven():
                self.goal = mark_proven(
                    self.goal, action.app, action.revision, action.deployments, is_whole=action.is_whole
                )
                self.revisions[action.revision] = self.goal.apps[action.app]
                return []
            case act.RollBack():
                return self.roll_back(action)
            case act.StartBuild():
                self.later(1.0, f"build of {action.revision}", lambda: self.fail_build(action))
                return [ev.BuildStarted(app=action.app, revision=action.revision, at=self.now)]
            case act.CancelBuild():
                self.forget(f"build of {action.revision}")
                return [ev.BuildEnded(app=action.app, revision=action.revision, at=self.now)]
            case _:
                assert_never(action)

    def submit_bad(self, *, rollback_on_failure: bool = False) -> None:
        """Hand in a version that cannot be built; it is found out a second later."""
        app = self.goal.apps["shop"]
        revision = self.goal.revision + 1
        submission = msgspec.structs.replace(app.submission, rollback_on_failure=rollback_on_failure)
        building = msgspec.structs.replace(
            app,
            revision=revision,
            submission=submission,
            is_building=True,
            is_deleting=False,
            build_error="",
            fallback="",
        )
        self.goal = msgspec.structs.replace(self.goal, apps={"shop": building}, revision=revision)
        self.fold([])
        self.look()

    def fail_build(self, action: act.StartBuild) -> ev.Event:
        self.goal = reject_build(self.goal, action.app, action.revision, "ImportError: no")
        return ev.BuildEnded(app=action.app, revision=action.revision, at=self.now)

    def roll_back(self, action: act.RollBack) -> list[ev.Event]:
        self.rollbacks.append(action.reason)
        old = self.goal
        past = self.revisions.get(old.apps["shop"].proven)
        alive = {r.deployment for r in self.observed.replicas.values()}
        why = action.reason
        self.goal = accept_fallback(old, "shop", action.revision, past, why, now=self.now, alive=alive)
        self.revisions[self.goal.revision] = self.goal.apps["shop"]
        return list(configured_events(old, self.goal, self.observed, self.now))

    def start(self, action: act.StartReplica) -> ev.Event:
        self.starts += 1
        goal = self.wanted(action.deployment, action.is_standby)
        name = f"{goal.id.app_name}#{goal.id.name}#{next(self._numbers):08}"
        planned = ev.ReplicaPlanned(
            replica=name,
            deployment=goal.id,
            version=goal.version,
            settings=goal.settings,
            rank=action.rank,
            world_size=goal.target,
            allotment=action.allotment,
            at=self.now,
        )
        behaviour = self.behaviours.get(goal.version, Behaviour())
        settings = self.behaviours.get(goal.settings, Behaviour())
        is_good = behaviour.starts and settings.starts
        self.later(
            behaviour.start_s, name, lambda: self.started(name, behaviour) if is_good else self.failed(name)
        )
        return planned

    def started(self, name: str, behaviour: Behaviour) -> ev.Event:
        if behaviour.runs_s is not None:
            self.later(behaviour.runs_s, name, lambda: self.exited(name, "it exited with status 1"))
        return ev.ReplicaReady(replica=name, at=self.now)

    def failed(self, name: str) -> ev.Event:
        self.later(0.01, name, lambda: self.exited(name))
        return ev.ReplicaStartFailed(replica=name, at=self.now, error="ValueError: no (at shop.py:3)")

    def exited(self, name: str, detail: str = "it exited with status 0") -> ev.Event:
        self.forget(name)
        return ev.ReplicaExited(replica=name, at=self.now, detail=detail)

    def reconfigure(self, view: ReplicaView, is_standby: bool) -> ev.Event:
        settings = self.wanted(view.deployment, is_standby).settings

        def answer() -> ev.Event:
            if self.behaviours.get(settings, Behaviour()).starts:
                return ev.ReplicaReconfigured(replica=view.id, at=self.now)
            return ev.ReplicaRefused(replica=view.id, at=self.now, error="ValueError: no (at shop.py:9)")

        self.later(0.1, view.id, answer)
        return ev.ReplicaReconfiguring(replica=view.id, settings=settings, at=self.now)

    def answer_health(self, view: ReplicaView) -> ev.Event:
        error = "" if self.behaviour(view).is_well else "RuntimeError: ill"
        return ev.ReplicaHealthAnswered(replica=view.id, at=self.now, error=error, spread=0.5)

    def later(self, after_s: float, replica: str, event: Callable[[], ev.Event | None]) -> None:
        heapq.heappush(self._due, (self.now + after_s, next(self._numbers), replica, event))

    def forget(self, replica: str) -> None:
        """What was to come of this replica does not come any more."""
        self._due = [entry for entry in self._due if entry[2] != replica]
        heapq.heapify(self._due)

    def behaviour(self, view: ReplicaView) -> Behaviour:
        return self.behaviours.get(view.version, Behaviour())

    def wanted(self, deployment: DeploymentId, is_standby: bool = False) -> DeploymentGoal:
        app = self.goal.apps["shop"]
        goal = next(d for d in (*app.deployments, *app.retired) if d.id == deployment)
        if not is_standby:
            return goal
        assert goal.before is not None
        return goal.before

    def running(self, version: str | None = None) -> list[ReplicaView]:
        return [
            r
            for r in self.observed.replicas.values()
            if r.state is ReplicaState.RUNNING and version in (None, r.version)
        ]
