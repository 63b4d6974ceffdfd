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
from serve_lite.wire.messages import DecideAppReply, DecideAppRequest, DecideReply, DecideRequest

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


# --- for all deployments of an application ------------------------------------------------------


async def decide_app(adviser: Connection, policy: str, **fields: object) -> DecideAppReply:
    contexts = {name: {"total_num_requests": n} for name, n in (("A", 1.0), ("B", 3.5), ("Quiet", 0.0))}
    request = DecideAppRequest(app="shop", policy=policy, contexts=contexts, **fields)
    return await adviser.control("decide_app", request, DecideAppReply, timeout_s=20)


async def test_a_policy_for_all_deployments_sees_each_and_may_leave_some_out(adviser: Connection) -> None:
    first = await decide_app(adviser, "advice:for_all")
    assert first.targets == {"A": 3.5, "B": 1.0}
    assert first.states == {"A": {"asked": 1}, "B": {"asked": 1}, "Quiet": {"asked": 1}}
    assert first.took_ms > 0
    again = await decide_app(adviser, "advice:for_all", states={"B": {"asked": 1}})
    assert again.states["B"] == {"asked": 2} and again.states["A"] == {"asked": 1}


async def test_it_may_have_no_state_and_may_be_a_class(adviser: Connection) -> None:
    reply = await decide_app(adviser, "advice:for_all_without_state")
    assert (reply.targets, reply.states) == ({"A": 2, "B": 2, "Quiet": 2}, {})
    reply = await decide_app(adviser, "advice:ForAll", kwargs={"each": 7})
    assert set(reply.targets.values()) == {7}


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("advice:names_a_stranger", "answered for 'Stranger', which it was not asked about. Use the keys"),
        ("advice:wrong_number", "must return numbers of replicas, not 'many'"),
        ("advice:wrong_state", "must return each state as a dict, not 5"),
        ("advice:only_numbers", "must return ..deployment id: number of replicas"),
        ("advice:fails", "no idea"),
        ("advice:ForAll", "missing 1 required positional argument: 'each'"),
    ],
)
async def test_a_policy_for_all_that_fails_says_why(adviser: Connection, policy: str, says: str) -> None:
    with pytest.raises(RemoteControlError, match=says):
        await decide_app(adviser, policy)
