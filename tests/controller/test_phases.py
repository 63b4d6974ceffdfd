"""What replicas are busy with, as REST shows it, with real replicas that are really busy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from serve_lite.wire.messages import DeleteRequest, Empty
from tests.controller.test_replicas import Shop, kill_daemon
from tests.instances import DEADLINE_S, Instance

SLOW = """
    import asyncio, os, pathlib, time
    import serve_lite as serve

    HERE = pathlib.Path(__file__).parent

    def gate(name):
        (HERE / f"{name}.entered").touch()
        while not (HERE / f"{name}.open").exists():
            time.sleep(0.01)

    gate("module")

    @serve.deployment(user_config={"a": 1}, graceful_shutdown_timeout_s=120)
    class Slow:
        def __init__(self):
            gate("constructor")
        def reconfigure(self, config):
            gate(f"reconfigure{config['a']}")
        def check_health(self):
            gate("health")
        async def __call__(self, request):
            name = request.query_params["wait"]
            (HERE / f"{name}.entered").touch()
            while not (HERE / f"{name}.open").exists():
                await asyncio.sleep(0.01)
            return str(os.getpid())
        def __del__(self):
            gate("destructor")

    app = Slow.bind()

    @serve.deployment
    def plain(request):
        return "plain"

    function = plain.bind()
"""


@pytest.fixture
async def shop(tmp_path: Path, daemon: Instance) -> AsyncIterator[Shop]:
    """An application of which each step waits for a gate; all are open in the end."""
    shop = Shop(tmp_path, daemon)
    shop.write("slow", SLOW)
    yield shop
    for gate in ("module", "constructor", "reconfigure1", "reconfigure2", "health", "destructor", "request"):
        shop.open(gate)


async def application(shop: Shop) -> dict[str, Any]:
    details: dict[str, Any] = (await shop.daemon.admin.get("/api/serve/applications/")).json()
    app: dict[str, Any] = details["applications"]["default"]
    return app


async def replica(shop: Shop, deployment: str = "Slow") -> dict[str, Any]:
    [found] = (await application(shop))["deployments"][deployment]["replicas"]
    assert isinstance(found, dict)
    return found


async def until_phase(shop: Shop, phase: str, note: str | None = None) -> dict[str, Any]:
    with anyio.fail_after(DEADLINE_S):
        while True:
            found = await replica(shop)
            if found["phase"] == phase and note in (None, found["phase_note"]):
                return found
            await anyio.sleep(0.01)


async def start(shop: Shop, import_path: str = "slow:app") -> dict[str, Any]:
    for gate in ("module", "constructor", "reconfigure1", "health"):
        shop.open(gate)
    await shop.submit(import_path, code_version="1")
    await shop.settled()
    return await application(shop)


async def test_a_start_tells_its_phases_while_user_code_holds_the_loop(shop: Shop) -> None:
    await shop.submit("slow:app")
    await shop.entered("module")
    app = await application(shop)
    assert (app["status"], app["phase"], app["phases"]) == ("DEPLOYING", "importing", {})
    assert app["phase_started_s"] == pytest.approx(app["last_deployed_time_s"], abs=60)
    shop.open("module")

    passed = ["starting process", "importing"]
    for gate, phase in (
        ("constructor", "constructor"),
        ("reconfigure1", "reconfigure"),
        ("health", "first health check"),
    ):
        await shop.entered(gate)
        found = await until_phase(shop, phase)
        assert (found["state"], list(found["phases"])) == ("STARTING", passed)
        assert found["phase_started_s"] >= found["start_time_s"] - 0.01
        shop.open(gate)
        passed.append(phase)

    await shop.settled()
    found = await replica(shop)
    assert (found["state"], found["phase"], list(found["phases"])) == ("RUNNING", "ready", passed)
    assert all(seconds >= 0 for seconds in found["phases"].values())
    assert (found["failed_in"], found["last_error"]) == (None, "")
    app = await application(shop)
    assert (app["phase"], list(app["phases"])) == (None, ["importing"])


async def test_phases_of_code_that_is_not_there_are_left_out(shop: Shop) -> None:
    await start(shop, "slow:function")
    assert list((await replica(shop, "plain"))["phases"]) == ["starting process", "importing"]


async def test_new_settings_are_taken_in_a_phase_of_their_own(shop: Shop) -> None:
    started = (await start(shop))["deployments"]["Slow"]["replicas"][0]["phases"]
    await shop.submit("slow:app", {"name": "Slow", "user_config": {"a": 2}}, code_version="1")
    await shop.entered("reconfigure2")
    found = await until_phase(shop, "reconfigure")
    assert (found["state"], found["phases"]) == ("UPDATING", started)
    shop.open("reconfigure2")
    await shop.settled()
    assert (await replica(shop))["phase"] == "ready"


async def test_a_replica_that_stops_tells_how_many_requests_it_waits_for(shop: Shop) -> None:
    await start(shop)
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client, anyio.create_task_group() as group:

        async def ask(gate: str) -> None:
            assert (await client.get(f"{shop.daemon.http_url}/?wait={gate}")).status_code == 200

        group.start_soon(ask, "first")
        group.start_soon(ask, "second")
        await shop.entered("first")
        await shop.entered("second")
        await shop.daemon.ask("delete", DeleteRequest(names=["default"]), Empty)
        found = await until_phase(shop, "draining", "2 requests left")
        assert (found["state"], found["failed_in"]) == ("STOPPING", None)
        shop.open("first")
        await until_phase(shop, "draining", "1 request left")
        shop.open("second")
    await shop.entered("destructor")
    await until_phase(shop, "stopping", "")


async def test_an_adopted_replica_is_ready_and_its_start_is_not_forgotten(shop: Shop) -> None:
    await start(shop)
    before = await replica(shop)
    await kill_daemon(shop)
    after = await until_phase(shop, "ready")
    assert (after["pid"], after["phases"]) == (before["pid"], before["phases"])


async def test_a_start_that_the_death_of_the_daemon_interrupts_begins_anew(shop: Shop) -> None:
    shop.open("module")
    await shop.submit("slow:app")
    await shop.entered("constructor")
    first = await until_phase(shop, "constructor")
    await kill_daemon(shop)
    for gate in ("constructor", "reconfigure1", "health"):
        shop.open(gate)
    await shop.settled()
    second = await replica(shop)
    assert (second["phase"], second["pid"] != first["pid"]) == ("ready", True)


async def test_a_sick_replica_shows_its_last_error(shop: Shop) -> None:
    shop.write(
        "sick",
        """
        import pathlib
        import serve_lite as serve

        HERE = pathlib.Path(__file__).parent

        @serve.deployment(health_check_period_s=0.05)
        class Sick:
            def check_health(self):
                if (HERE / "ill").exists():
                    raise RuntimeError("the card has gone")
            def __call__(self, request):
                return "well"

        app = Sick.bind()
        """,
    )
    await shop.submit("sick:app")
    await shop.settled()
    assert (await replica(shop, "Sick"))["last_error"] == ""
    (shop.folder / "ill").touch()
    with anyio.fail_after(DEADLINE_S):
        while not (dead := (await application(shop))["deployments"]["Sick"]["recent_dead_replicas"]):
            await anyio.sleep(0.01)
    assert "RuntimeError: the card has gone (at " in dead[0]["last_error"]
    assert (dead[0]["state"], dead[0]["phase"]) == ("STOPPED", "stopped")
    (shop.folder / "ill").unlink()
