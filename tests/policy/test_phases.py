"""Phases: folded from what replicas tell, shown, and never decided by."""

from __future__ import annotations

import pytest

from serve_lite.policy.reconcile import reconcile
from serve_lite.policy.slow import NAMED, describe_slow_starts
from serve_lite.schema import Phase, ReplicaState
from serve_lite.state import events as ev
from serve_lite.state.observed import Observed, ReplicaView, fold
from serve_lite.state.phases import TOLD, Progress, is_told
from tests.policy.cases import MODEL, replicas, wanted
from tests.policy.world import Behaviour, World

ID = "shop#Model#aaaaaaaa"


def planned(at: float = 100.0) -> Observed:
    event = ev.ReplicaPlanned(replica=ID, deployment=MODEL, version="v1", settings="s1", at=at)
    configured = ev.DeploymentConfigured(deployment=MODEL, version="v1", settings="s1", move=None, at=at)
    return fold(Observed(), [configured, event])


def told(phase: Phase, at: float, note: str = "") -> ev.ReplicaPhased:
    return ev.ReplicaPhased(replica=ID, at=at, phase=phase, note=note)


def started() -> Observed:
    return fold(
        planned(),
        [
            told(Phase.IMPORTING, 100.5),
            told(Phase.CONSTRUCTOR, 102.5),
            ev.ReplicaReady(replica=ID, at=105.5),
        ],
    )


def view(observed: Observed) -> ReplicaView:
    return observed.replicas[ID]


def test_a_start_that_is_done_has_the_seconds_of_each_phase_in_order() -> None:
    progress = view(started()).progress
    assert (progress.phase, progress.since) == (Phase.READY, 105.5)
    assert list(progress.finished.items()) == [
        ("starting process", 0.5),
        ("importing", 2.0),
        ("constructor", 3.0),
    ]


def test_what_comes_after_the_start_leaves_its_seconds_alone() -> None:
    observed = fold(
        started(),
        [
            ev.ReplicaReconfiguring(replica=ID, settings="s2", at=110.0),
            ev.ReplicaReconfigured(replica=ID, at=120.0),
            ev.ReplicaStopping(replica=ID, reason="scaled down", at=130.0),
            told(Phase.DRAINING, 130.1, "2 requests left"),
        ],
    )
    progress = view(observed).progress
    assert (progress.phase, progress.note, progress.since) == (Phase.DRAINING, "2 requests left", 130.1)
    assert progress.finished == view(started()).progress.finished


def test_another_note_does_not_begin_the_phase_anew() -> None:
    progress = Progress(phase=Phase.DRAINING, since=1.0, note="2 requests left", is_started=True)
    after = progress.enter(Phase.DRAINING, 5.0, "1 request left")
    assert (after.since, after.note) == (1.0, "1 request left")


@pytest.mark.parametrize("state", ReplicaState)
@pytest.mark.parametrize("phase", Phase)
def test_news_that_comes_late_changes_nothing(state: ReplicaState, phase: Phase) -> None:
    if is_told(state, phase):
        assert phase in TOLD[state]
        return
    before = Observed(replicas={ID: replicas("v1", 1, state)[0]})
    assert fold(before, [told(phase, 500.0)]) == before


def test_a_failed_start_keeps_the_phase_in_which_it_failed() -> None:
    observed = fold(
        planned(),
        [
            told(Phase.CONSTRUCTOR, 101.0),
            ev.ReplicaStartFailed(replica=ID, error="ValueError: no", at=103.0),
            told(Phase.RECONFIGURE, 103.1),
        ],
    )
    progress = view(observed).progress
    assert (progress.phase, progress.failed_in) == (Phase.STOPPING, Phase.CONSTRUCTOR)
    assert progress.finished["constructor"] == 2.0
    observed = fold(observed, [ev.ReplicaExited(replica=ID, detail="it ended", at=104.0)])
    [dead] = observed.deployments[MODEL].dead
    assert (dead.progress.phase, dead.progress.failed_in) == (Phase.STOPPED, Phase.CONSTRUCTOR)


def test_a_process_that_ends_while_it_starts_says_in_which_phase() -> None:
    observed = fold(
        planned(),
        [
            told(Phase.CONSTRUCTOR, 101.0),
            ev.ReplicaExited(replica=ID, detail="it was killed by SIGSEGV", at=103.5),
        ],
    )
    [dead] = observed.deployments[MODEL].dead
    assert dead.progress.failed_in is Phase.CONSTRUCTOR
    assert dead.error == (
        "The replica's process ended while it was starting (constructor since 2.5 s): it was killed by SIGSEGV"
    )


def test_an_adopted_replica_is_ready_and_has_the_seconds_that_were_written_down() -> None:
    found = ev.ReplicaFound(
        replica=ID,
        deployment=MODEL,
        version="v1",
        settings="s1",
        pid=7,
        phases={"constructor": 3.0},
        at=900.0,
    )
    recovering = fold(Observed(), [found])
    assert view(recovering).progress.phase is Phase.RECOVERING
    ready = fold(recovering, [ev.ReplicaReady(replica=ID, at=900.2)])
    assert view(ready).progress.phase is Phase.READY
    assert view(ready).progress.finished == {"constructor": 3.0}


def test_clocks_that_differ_never_give_a_negative_duration() -> None:
    assert Progress(phase=Phase.IMPORTING, since=5.0).enter(Phase.CONSTRUCTOR, 4.9).finished == {
        "importing": 0.0
    }


def test_a_build_has_phases_until_its_application_is_forgotten() -> None:
    building = fold(Observed(), [ev.BuildStarted(app="shop", revision=3, at=10.0)])
    assert building.built["shop"].progress.phase is Phase.IMPORTING
    prepared = fold(
        Observed(),
        [
            ev.BuildStarted(app="shop", revision=3, at=10.0),
            ev.BuildPhased(app="shop", revision=3, phase=Phase.PREPARING_ENVIRONMENT, at=10.0),
            ev.BuildPhased(app="shop", revision=3, phase=Phase.IMPORTING, at=14.0),
            ev.BuildPhased(app="shop", revision=2, phase=Phase.PREPARING_ENVIRONMENT, at=14.5),
            ev.BuildEnded(app="shop", revision=3, at=15.0),
        ],
    )
    assert prepared.built["shop"].progress.finished == {
        "importing": 1.0,
        "preparing environment": 4.0,
    }
    assert fold(prepared, [ev.AppForgotten(app="shop", at=20.0)]).built == {}


def test_a_slow_start_says_in_which_phase_it_hangs() -> None:
    world = World({"v1": Behaviour(start_s=200)})
    world.deploy(wanted("v1", 1))
    [replica] = world.observed.replicas
    began_at = world.now
    world.run(10)
    world.fold([ev.ReplicaPhased(replica=replica, at=began_at + 2, phase=Phase.CONSTRUCTOR)])
    world.run(21)
    assert world.observed.deployments[MODEL].message.endswith(" constructor since 28 s.")
    world.run(30)
    assert world.observed.deployments[MODEL].message.endswith(" constructor since 58 s.")
    assert not reconcile(world.goal, world.observed, world.now).findings, "told again although nothing is new"


@pytest.mark.parametrize("after_s", [30.0, 59.99999999999999, 60.0, 89.9, 90.00000000000001, 3000.3])
def test_the_next_look_at_a_slow_start_is_always_in_the_future(after_s: float) -> None:
    for begun_at in (0.1, 1000.3, 123456.789):
        starting = replicas("v1", 2, ReplicaState.STARTING, begun_at=begun_at)
        message, at = describe_slow_starts(MODEL, starting, begun_at + after_s)
        assert at is not None and at > begun_at + after_s
        if message:
            assert describe_slow_starts(MODEL, starting, (begun_at + after_s + at) / 2)[0] == message


def test_of_many_slow_starts_some_are_named() -> None:
    starting = replicas("v1", NAMED + 3, ReplicaState.STARTING, begun_at=0.0)
    message, _ = describe_slow_starts(MODEL, starting, 1000.0)
    assert f"has {NAMED + 3} replicas" in message
    assert message.endswith(", and 3 more.")
