from __future__ import annotations

import msgspec

from serve_lite.controller.publisher import Publisher, routes
from serve_lite.schema import ReplicaState
from serve_lite.state import events as ev
from serve_lite.state.goal import DeploymentGoal, Goal
from serve_lite.state.ids import DeploymentId
from serve_lite.state.lifecycle import DeploymentMove
from serve_lite.state.observed import Observed, fold
from serve_lite.wire.messages import Membership, MemberState, RouteTarget
from tests.policy.cases import MODEL, application, goal_of, wanted

R1, R2 = "shop#Model#aaaaaaaa", "shop#Model#bbbbbbbb"


def publisher() -> Publisher:
    return Publisher(lambda replica: f"/run/{replica[-8:]}.sock")


def configured(goal: DeploymentGoal) -> ev.Event:
    return ev.DeploymentConfigured(
        deployment=goal.id, version=goal.version, settings=goal.settings, move=None, at=0.0
    )


def running(*replicas: str, deployment: DeploymentId = MODEL, version: str = "v2") -> list[ev.Event]:
    events: list[ev.Event] = []
    for replica in replicas:
        events += [
            ev.ReplicaPlanned(replica=replica, deployment=deployment, version=version, settings="s1", at=0.0),
            ev.ReplicaReady(replica=replica, at=1.0),
        ]
    return events


def heard(source: Publisher) -> list[Membership]:
    told: list[Membership] = []
    source.watch("shop", "Model", told.append)
    return told


def test_a_watcher_hears_nothing_before_anything_is_known_and_then_every_change_once() -> None:
    source = publisher()
    told = heard(source)
    assert told == []
    goal, observed = goal_of(application(wanted(target=2))), Observed()
    source.publish(goal, observed)
    observed = fold(observed, running(R1))
    source.publish(goal, observed)
    source.publish(goal, observed)
    assert [[r.socket for r in m.replicas] for m in told] == [[], ["/run/aaaaaaaa.sock"]]
    assert {m.state for m in told} == {MemberState.AVAILABLE}
    assert heard(source) == told[-1:]


def test_a_replica_that_is_to_stop_leaves_at_once() -> None:
    source = publisher()
    told = heard(source)
    goal, observed = goal_of(application(wanted(target=1))), fold(Observed(), running(R1, R2))
    source.publish(goal, observed)
    source.publish(goal, fold(observed, [ev.ReplicaStopping(replica=R1, reason="", at=2.0)]))
    assert [[r.replica_id for r in m.replicas] for m in told] == [[R1, R2], [R2]]


def test_a_deleted_deployment_is_missing_though_its_replicas_still_drain() -> None:
    source = publisher()
    told = heard(source)
    app = application(wanted(), is_deleting=True)
    source.publish(goal_of(app), fold(Observed(), running(R1)))
    source.publish(Goal(), Observed())
    assert [m.state for m in told] == [MemberState.MISSING]


def test_a_deployment_that_was_given_up_is_failed_unless_something_of_it_serves() -> None:
    goal = wanted("v2", target=1)
    failures: list[ev.Event] = []
    for n in range(3):
        name = f"shop#Model#0000000{n}"
        failures += [
            ev.ReplicaPlanned(replica=name, deployment=MODEL, version="v2", settings="s1", at=n),
            ev.ReplicaStartFailed(replica=name, error="boom", at=n),
            ev.ReplicaExited(replica=name, detail="", at=n),
        ]
    observed = fold(Observed(), [configured(goal), *failures])
    source = publisher()
    told = heard(source)
    source.publish(goal_of(application(goal)), observed)
    source.publish(goal_of(application(goal)), fold(observed, running(R1, version="v1")))
    assert [m.state for m in told] == [MemberState.FAILED, MemberState.AVAILABLE]


def test_who_has_stopped_watching_hears_nothing_more() -> None:
    source = publisher()
    told: list[Membership] = []
    unwatch = source.watch("shop", "Model", told.append)
    unwatch()
    source.publish(goal_of(application(wanted())), Observed())
    assert told == []


def test_routes_are_told_when_they_change_and_only_then() -> None:
    source = publisher()
    told: list[tuple[RouteTarget, ...]] = []
    source.watch_routes(told.append)
    goal = goal_of(application(wanted(), route_prefix="/shop"), application(name="hidden"))
    source.publish(goal, Observed())
    source.publish(goal, fold(Observed(), running(R1)))
    assert told == [(RouteTarget(prefix="/shop", app="shop", deployment="Model"),)]


def test_an_ingress_of_another_name_takes_over_when_the_whole_new_version_is_in_place() -> None:
    old_id = DeploymentId("Old", "shop")
    old = msgspec.structs.replace(wanted("v1", deployment=old_id), route_prefix="/")
    new = wanted("v2")
    app = application(new, retired=(old,), route_prefix="/")
    observed = fold(Observed(), [configured(old), configured(new)])
    observed = fold(observed, running("shop#Old#cccccccc", deployment=old_id, version="v1"))
    assert [t.deployment for t in routes(goal_of(app), observed)] == ["Old"]
    observed = fold(observed, running(R1))
    assert observed.replicas[R1].state is ReplicaState.RUNNING
    reached = ev.DeploymentMoved(deployment=MODEL, move=DeploymentMove.REACHED, at=2.0)
    assert [t.deployment for t in routes(goal_of(app), fold(observed, [reached]))] == ["Model"]
