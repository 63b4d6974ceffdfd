"""Ranks of real replicas: told at the start, closed up after a scale-down, heard by `reconfigure`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio

from serve_lite.schema import ServeStatus
from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeployReply, DeployRequest, WaitRequest
from tests.instances import DEADLINE_S, Instance

RANKED = """
import os
import serve_lite as serve

@serve.deployment(max_ongoing_requests=1)
class Ranked:
    def reconfigure(self, config, rank):
        self.heard = (config, rank.rank, rank.local_rank, rank.node_rank)
    async def __call__(self, request):
        context = serve.get_replica_context()
        return {
            "pid": os.getpid(), "rank": context.rank.rank, "of": context.world_size, "heard": self.heard,
        }

app = Ranked.bind()
"""


async def scale(daemon: Instance, folder: Path, count: int) -> None:
    app = AppSubmission(
        environment=CodeEnvironment(cwd=str(folder), sys_path=(str(folder),)),
        build=BuildRequest(app_name="default", import_path="ranked:app"),
        overrides=({"name": "Ranked", "num_replicas": count},),
        code_version="same",
    )
    await daemon.ask("deploy", DeployRequest(apps=[app]), DeployReply)
    await daemon.ask("wait_apps", WaitRequest(names=["default"]), ServeStatus)


async def ask(daemon: Instance, said: dict[int, dict[str, Any]]) -> None:
    answer = (await daemon.http.get("/")).json()
    said[answer["pid"]] = answer


async def seen(daemon: Instance, count: int) -> dict[int, dict[str, Any]]:
    """Return what each replica says, once `count` of them know that there are so many."""
    said: dict[int, dict[str, Any]] = {}
    with anyio.fail_after(DEADLINE_S):
        while len(said) != count or any(answer["of"] != count for answer in said.values()):
            async with anyio.create_task_group() as group:
                for _ in range(8):
                    group.start_soon(ask, daemon, said)
            said = {pid: a for pid, a in said.items() if pid in daemon.pids("replica default/Ranked")}
    return said


async def test_ranks_follow_the_number_of_replicas(daemon: Instance, tmp_path: Path) -> None:
    (tmp_path / "ranked.py").write_text(RANKED)
    await scale(daemon, tmp_path, 3)
    three = await seen(daemon, 3)
    assert sorted(a["rank"] for a in three.values()) == [0, 1, 2]
    await scale(daemon, tmp_path, 2)
    two = await seen(daemon, 2)
    assert set(two) < set(three)  # nobody was restarted
    assert sorted(a["rank"] for a in two.values()) == [0, 1]
    assert all(a["heard"] == [None, a["rank"], a["rank"], 0] for a in two.values())
    await scale(daemon, tmp_path, 4)
    four = await seen(daemon, 4)
    assert set(two) < set(four)
    assert sorted(a["rank"] for a in four.values()) == [0, 1, 2, 3]
