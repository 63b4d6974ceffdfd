"""An application whose deployment brings a request router of its own."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from starlette.requests import Request

import serve_lite as serve
from serve_lite.request_router import PendingRequest, RequestRouter, RunningReplica


class LastOne(RequestRouter):
    """Prefers one replica; notes where it runs and what it hears."""

    def initialize_state(self, notes: str = "", **kwargs: Any) -> None:
        self._notes = Path(notes)
        self._write(f"made in {os.getpid()}")

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        assert pending_request is not None
        if pending_request.metadata.session_id == "die":
            os._exit(3)
        ranked = sorted(candidate_replicas, key=lambda r: r.routing_stats.get("place", 0), reverse=True)
        return [[replica] for replica in ranked]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: Any, result: Any = None) -> None:
        self._write(f"routed {pending_request.metadata.request_id}")

    def on_request_completed(self, replica_id: Any, internal_request_id: str) -> None:
        self._write(f"completed {internal_request_id}")

    def _write(self, line: str) -> None:
        with self._notes.open("a") as file:
            file.write(line + "\n")


@serve.deployment(
    num_replicas=3,
    max_ongoing_requests=1,
    request_router_config={"request_router_class": LastOne, "request_routing_stats_period_s": 0.05},
)
class Routed:
    async def __call__(self, request: Request) -> dict[str, int]:
        gate = request.query_params.get("gate")
        place = serve.get_replica_context().rank.rank
        if gate:
            Path(f"{gate}.{place}").touch()
        while gate and not Path(gate).exists():
            await asyncio.sleep(0.005)
        return {"pid": os.getpid(), "place": place}

    def record_routing_stats(self) -> dict[str, int]:
        return {"place": serve.get_replica_context().rank.rank}


def app(args: dict[str, str]) -> serve.Application:
    config = {
        "request_router_class": LastOne,
        "request_router_kwargs": {"notes": args["notes"]},
        "request_routing_stats_period_s": 0.05,
    }
    return Routed.options(request_router_config=config).bind()
