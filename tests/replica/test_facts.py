"""What a replica tells of itself: the numbers for autoscaling policies."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from serve_lite.config import DeploymentConfig
from serve_lite.replica import facts as facts_module
from serve_lite.replica.facts import Facts
from serve_lite.replica.user_code import UserCode
from serve_lite.wire.messages import ReplicaFacts


class Ear:
    """Stands at the end of the wire."""

    def __init__(self) -> None:
        self.heard: list[ReplicaFacts] = []

    def tell_facts(self, told: bytes) -> None:
        self.heard.append(msgspec.msgpack.decode(told, type=ReplicaFacts))


class Thermometer:
    def __init__(self, says: list[Any]) -> None:
        self.says = says
        self.asked = 0

    def record_autoscaling_stats(self) -> Any:
        self.asked += 1
        now = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if isinstance(now, Exception):
            raise now
        return now


async def follow(*says: Any) -> tuple[Ear, Facts, Thermometer]:
    user = UserCode(Thermometer, DeploymentConfig())
    instance = await user.build((list(says),), {})
    ear = Ear()
    facts = Facts(ear)  # type: ignore[arg-type]
    facts.follow_autoscaling(user.autoscaling_stats)
    return ear, facts, instance


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_module, "_AUTOSCALING_PERIOD_S", 0.005)


async def test_numbers_are_told_when_they_change_whatever_fails_in_between() -> None:
    ear, facts, thermometer = await follow({"t": 1}, {"t": 1}, ValueError("broken"), {"t": 2.5})
    async with asyncio.timeout(20):
        while thermometer.asked < 8:
            await asyncio.sleep(0.005)
    await facts.aclose()
    assert [heard.autoscaling_stats for heard in ear.heard] == [{"t": 1}, {"t": 2.5}]


async def test_a_wrong_answer_ends_the_asking(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        ear, facts, thermometer = await follow({"t": "warm"})
        await asyncio.wait(facts._polling, timeout=20)
    assert (ear.heard, thermometer.asked) == ([], 1)
    assert "must return a dict of names and numbers" in caplog.text
    await facts.aclose()
