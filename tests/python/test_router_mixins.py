"""What routers that users write may mix in: rankings of replicas, as values in and values out."""

from __future__ import annotations

from typing import Any

from serve_lite.context import ReplicaID
from serve_lite.request_router import (
    FIFOMixin,
    LocalityMixin,
    MultiplexMixin,
    PendingRequest,
    RequestMetadata,
    RequestRouter,
    RunningReplica,
)
from serve_lite.state.ids import DeploymentId

MODEL = DeploymentId(name="Model", app_name="shop")


class Router(FIFOMixin, LocalityMixin, MultiplexMixin, RequestRouter):
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        return [candidate_replicas]


def replica(name: str, *models: str, queue_len: int = 0) -> RunningReplica:
    return RunningReplica(
        ReplicaID(name, MODEL), max_ongoing_requests=2, queue_len=queue_len, multiplexed_model_ids=set(models)
    )


def asking_for(model: str) -> PendingRequest:
    return PendingRequest([], {}, RequestMetadata(multiplexed_model_id=model))


def names(ids: set[ReplicaID]) -> set[str]:
    return {one.unique_id for one in ids}


def router_of(*replicas: RunningReplica) -> Router:
    made = Router(MODEL)
    made.update_replicas(list(replicas))
    return made


def test_every_replica_is_near() -> None:
    one, two = replica("one"), replica("two")
    router = router_of(one, two)
    assert names(router.apply_locality_routing()) == {"one", "two"}
    assert router.rank_replicas_via_locality([one, two]) == [[one, two], [], []]


def test_replicas_are_ranked_by_the_models_they_hold() -> None:
    warm, cold, colder = replica("warm", "a", "b"), replica("cold", "b"), replica("colder")
    router = router_of(warm, cold, colder)
    assert router.rank_replicas_via_multiplex([warm, cold, colder], "a") == [[warm], [colder], [cold]]
    assert names(router.apply_multiplex_routing(asking_for("a"))) == {"warm"}
    assert names(router.apply_multiplex_routing(asking_for("b"))) == {"warm", "cold"}
    assert names(router.apply_multiplex_routing(asking_for(""))) == {"warm", "cold", "colder"}


def test_a_router_knows_its_deployment_and_who_has_room() -> None:
    free, full = replica("free", queue_len=1), replica("full", queue_len=2)
    router: Any = router_of(free, full)
    assert (router.app_name, router.deployment_name) == ("shop", "Model")
    assert router.select_available_replicas() == [free]
    assert router.select_available_replicas([full]) == []
    assert router.replica_queue_len_cache.get(full.replica_id) == 2
    assert router.replica_queue_len_cache.get(ReplicaID("gone", MODEL)) is None
    assert list(router.curr_replicas.values()) == [free, full]
    assert (full.actor_id, full.ongoing, full.limit, full.model_ids) == ("full", 2, 2, set())


def test_another_set_of_replicas_takes_the_place_of_the_one_before() -> None:
    router = router_of(replica("old"))
    router.update_replicas([replica("new")])
    assert names(set(router.curr_replicas)) == {"new"}
