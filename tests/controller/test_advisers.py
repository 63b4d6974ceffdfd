"""Custom autoscaling policies run in an adviser, a process beside the daemon."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serve_lite.controller.spawner import Spawner
from serve_lite.state.goal import CodeEnvironment
from serve_lite.wire.connection import Connection, RemoteControlError, connect
from serve_lite.wire.messages import DecideReply, DecideRequest

HERE = Path(__file__).parent


@pytest.fixture
async def adviser(anyio_backend: str) -> AsyncIterator[Connection]:
    with tempfile.TemporaryDirectory(prefix="sl-", dir="/tmp") as folder:
        async with Spawner(folder, folder) as spawner:
            path = spawner.socket_path("shop#adviser#1")
            child = await spawner.spawn_adviser("shop", CodeEnvironment(sys_path=(str(HERE),)), path)
            connection = await connect(path)
            yield connection
            connection.close()
            assert (await child.wait()).code == 0  # nobody to advise: it ends by itself
            assert not os.path.exists(path)


async def decide(adviser: Connection, policy: str, **fields: object) -> DecideReply:
    request = DecideRequest(app="shop", deployment="Model", policy=policy, **fields)
    return await adviser.control("decide", request, DecideReply, timeout_s=20)


async def test_a_function_gets_its_context_and_its_state_back(adviser: Connection) -> None:
    context = {"total_queued_requests": 5.0, "running_replicas": ["shop#Model#bb", "shop#Model#aa"]}
    first = await decide(adviser, "advice:by_queue", context=context)
    assert first.target == 2.5
    assert first.state["asked"] == 1 and first.state["names"] == ["aa", "bb"] and first.state["of"] == "Model"
    assert first.state["pid"] != os.getpid()
    again = await decide(adviser, "advice:by_queue", context=context, state=first.state)
    assert again.state["asked"] == 2


async def test_a_class_is_made_once_with_its_arguments(adviser: Connection) -> None:
    context = {"config": {"max_replicas": 9}}
    answers = [await decide(adviser, "advice.Bounded", kwargs={"most": 4}, context=context) for _ in range(3)]
    assert [a.target for a in answers] == [4, 4, 4]
    assert [a.state for a in answers] == [{"calls": n} for n in (1, 2, 3)]
    other = await decide(adviser, "advice.Bounded", kwargs={"most": 20}, context=context)
    assert (other.target, other.state) == (9, {"calls": 1})


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("advice:wrong", "must return .number of replicas, state., but returned 'many'"),
        ("advice:fails", "no idea"),
        ("advice:missing", "missing"),
        ("nowhere:f", "No module named 'nowhere'"),
    ],
)
async def test_a_policy_that_fails_says_why(adviser: Connection, policy: str, says: str) -> None:
    with pytest.raises(RemoteControlError, match=says):
        await decide(adviser, policy)
