"""Updates with real replicas: bad versions, rollbacks, callers and callees, and what a crash loop costs."""

from __future__ import annotations

import os
import re
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import psutil
import pytest

import serve_lite as serve
from serve_lite.schema import ApplicationStatus, DeploymentStatus, ServeStatus
from serve_lite.wire.messages import WaitRequest
from tests.instances import DEADLINE_S, Instance, until

PATH = "/api/serve/applications/"
RUNNING, FAILED = ApplicationStatus.RUNNING, ApplicationStatus.DEPLOY_FAILED

#: Two deployments whose version and faults are in the file.
SHOP = """
import os, threading, time

import serve_lite as serve

VERSION, FAULT = "1", ""


class Faulty:
    def __init__(self):
        if FAULT == "start":
            raise ValueError("there is no model here")
        if FAULT == "crash":
            threading.Timer(0.3, os._exit, [3]).start()

    def check_health(self):
        if FAULT == "health" and time.monotonic() > READY_AT + 0.2:
            raise ValueError("the model is ill")


READY_AT = time.monotonic()


@serve.deployment(health_check_period_s=0.1)
class Model(Faulty):
    def __call__(self, request=None):
        return VERSION


@serve.deployment
class Callee:
    pass


def price(self):
    return VERSION


setattr(Callee.func_or_class, f"price_{VERSION}", price)
setattr(Callee.func_or_class, "price_1", price)  # what callers of the version before call


@serve.deployment
class Front:
    def __init__(self, callee):
        self.callee = callee

    async def __call__(self, request=None):
        price = await getattr(self.callee, f"price_{VERSION}").remote()
        return f"{VERSION} {price}"


model = Model.bind()
front = Front.bind(Callee.bind())
"""


class Shop:
    """A file with an application, and an instance that runs it."""

    def __init__(self, folder: Path, daemon: Instance) -> None:
        self.folder, self.daemon = folder, daemon

    def write(self, version: str, fault: str = "") -> None:
        """Write another version of the code, at once: somebody may be importing it."""
        code = SHOP.replace('VERSION, FAULT = "1", ""', f'VERSION, FAULT = "{version}", "{fault}"')
        (self.folder / "new").write_text(code)
        (self.folder / "new").replace(self.folder / "shop.py")

    async def deploy(
        self, version: str, fault: str = "", target: str = "model", *, rollback: bool = False, **options: Any
    ) -> tuple[ApplicationStatus, str]:
        """Deploy a version by a document; return status and message once they are decided."""
        self.write(version, fault)
        entry = {"name": "Model", **options} if options else None
        document = {
            "applications": [
                {
                    "name": "default",
                    "import_path": f"shop:{target}",
                    "runtime_env": {"working_dir": str(self.folder), "env_vars": {"VERSION": version}},
                    "rollback_on_failure": rollback,
                    "deployments": [entry] if entry else [],
                }
            ]
        }
        answer = await self.daemon.admin.put(PATH, json=document)
        assert answer.status_code == 200, answer.text
        app = (await self.settled()).applications["default"]
        return app.status, app.message

    async def settled(self) -> ServeStatus:
        return await self.daemon.ask("wait_apps", WaitRequest(names=["default"]), ServeStatus)

    async def deployment(self, name: str = "Model") -> DeploymentStatus:
        return (await self.daemon.status()).applications["default"].deployments[name].status


@pytest.fixture
def shop(tmp_path: Path, daemon: Instance) -> Shop:
    return Shop(tmp_path, daemon)


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("start", "ValueError: there is no model here"),
        ("crash", "exited with status 3"),
        ("health", "ValueError: the model is ill"),
    ],
)
async def test_a_version_that_dies_soon_never_costs_an_old_replica(
    shop: Shop, replicas: int, fault: str, words: str
) -> None:
    options = {"num_replicas": replicas, "min_ready_s": 1.5, "max_constructor_retry_count": 3}
    assert (await shop.deploy("1", **options))[0] is RUNNING
    before = shop.daemon.pids("replica")
    status, message = await shop.deploy("2", fault, **options)
    assert status is FAILED
    assert words in message
    await until(lambda: shop.daemon.pids("replica") == before, "only the old replicas are left")
    assert {(await shop.daemon.http.get("/")).text for _ in range(10)} == {"1"}
    assert (await shop.deploy("3", **options))[0] is RUNNING  # a new deploy clears it
    assert (await shop.daemon.http.get("/")).text == "3"


async def test_a_version_that_is_given_up_makes_way_for_the_last_one_that_worked(daemon: Instance) -> None:
    """The old replica is stopped first here: without a rollback nothing would serve."""

    @serve.deployment(max_surge_percent=0)
    class Model:
        def __init__(self, version: str) -> None:
            if version == "bad":
                raise ValueError("there is no model here")
            self.version = version

        def __call__(self) -> str:
            return self.version

    def run(version: str) -> serve.DeploymentHandle:
        return serve.run(Model.bind(version), rollback_on_failure=True)

    handle = await anyio.to_thread.run_sync(run, "good")
    with pytest.raises(RuntimeError) as refused:
        await anyio.to_thread.run_sync(run, "bad")
    assert "Revision 2 was given up, and revision 1 is wanted again. Why:" in str(refused.value)
    assert "ValueError: there is no model here (at " in str(refused.value)
    assert await handle.remote() == "good"

    history = (await daemon.admin.get(f"{PATH}default/history")).json()
    assert [(r["revision"], r["is_current"]) for r in history["revisions"]] == [
        (3, True),
        (2, False),
        (1, False),
    ]
    assert "ValueError: there is no model here" in history["revisions"][0]["reason"]
    handle = await anyio.to_thread.run_sync(run, "better")
    assert (await daemon.status()).applications["default"].message == ""
    assert await handle.remote() == "better"


async def test_a_rollback_of_a_document_takes_its_part_of_the_document_back(shop: Shop) -> None:
    assert (await shop.deploy("1", rollback=True))[0] is RUNNING
    status, message = await shop.deploy("2", "start", rollback=True)
    assert status is FAILED
    assert "Revision 2 was given up, and revision 1 is wanted again." in message
    assert await shop.deployment() is DeploymentStatus.HEALTHY
    app = (await shop.daemon.admin.get(PATH)).json()["applications"]["default"]
    assert app["deployed_app_config"]["rollback_on_failure"] is True
    assert (await shop.daemon.http.get("/")).text == "1"
    os.kill(await shop.daemon.daemon_pid(), 9)  # and what is told of it outlives the daemon
    after = (await shop.settled()).applications["default"]
    assert (after.status, after.message) == (status, message)


async def test_a_build_that_fails_is_rolled_back_too(shop: Shop) -> None:
    assert (await shop.deploy("1", rollback=True))[0] is RUNNING
    status, message = await shop.deploy("2", target="absent", rollback=True)
    assert status is FAILED
    assert message.startswith("Revision 2 was given up, and revision 1 is wanted again. Why:\n")
    assert "There is no 'absent' in module 'shop'" in message
    assert (await shop.daemon.http.get("/")).text == "1"


async def test_callers_and_callees_that_change_together_fail_no_request(shop: Shop) -> None:
    """Version 2 of the caller calls a method that version 1 of the callee does not have."""
    assert (await shop.deploy("1", target="front"))[0] is RUNNING
    answers: list[tuple[int, str]] = []
    is_over = False

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=shop.daemon.http_url, timeout=DEADLINE_S) as client:
            while not is_over:
                answer = await client.get("/")
                answers.append((answer.status_code, answer.text))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(ask)
        assert (await shop.deploy("2", target="front"))[0] is RUNNING
        await until(lambda: (200, "2 2") in answers, "the new version answers")
        is_over = True
    assert set(answers) <= {(200, "1 1"), (200, "1 2"), (200, "2 2")}
    assert len(answers) > 4


async def test_a_caller_of_another_version_hears_which_versions_do_not_fit(daemon: Instance) -> None:
    @serve.deployment
    class Callee:
        def old(self) -> str:
            return "old"

    @serve.deployment
    class Caller:
        async def __call__(self) -> str:
            handle = serve.get_deployment_handle("Callee", "callee")
            try:
                return str(await handle.new.remote())
            except serve.exceptions.RayServeException as error:
                return f"{type(error).__name__}: {error}"

    await daemon.run(Callee.bind(), name="callee", route_prefix=None)
    handle = await daemon.run(Caller.bind(), name="caller", route_prefix=None)
    assert re.fullmatch(
        r"UnknownMethodError: Tried to call a method 'new' that does not exist. Available methods: \['old'\]. "
        r"Replica callee#Callee#\w+ runs version \w{12}; its caller, caller#Caller#\w+, version \w{12}\.",
        await handle.remote(),
    )


@pytest.mark.parametrize("how", ["scaled", "deployed"])
async def test_of_several_replicas_the_idle_ones_leave(shop: Shop, how: str) -> None:
    """The busy one stays, whether it is the oldest or not, and its request is answered."""
    (shop.folder / "held.py").write_text(
        textwrap.dedent("""
        import asyncio, os, pathlib
        import serve_lite as serve

        HERE = pathlib.Path(__file__).parent

        @serve.deployment(num_replicas=3)
        class Held:
            async def __call__(self, request):
                (HERE / "entered").write_text(str(os.getpid()))
                while not (HERE / "gate").exists():
                    await asyncio.sleep(0.01)
                return str(os.getpid())

        app = Held.bind()
        """)
    )
    await deploy_held(shop, 3)
    for _ in range(3):  # whichever of the three is busy
        await keep_the_busy_one(shop, scale if how == "scaled" else deploy_held)


async def keep_the_busy_one(shop: Shop, change: Callable[[Shop, int], Awaitable[None]]) -> None:
    entered, gate = shop.folder / "entered", shop.folder / "gate"
    entered.unlink(missing_ok=True)
    gate.unlink(missing_ok=True)
    answers: list[str] = []

    async def ask() -> None:
        answers.append((await shop.daemon.http.get("/")).text)

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        busy = await until(lambda: entered.exists() and entered.read_text(), "a replica is busy")
        await change(shop, 1)
        await until(lambda: shop.daemon.pids("replica") == {int(busy)}, "only the busy one is left")
        gate.touch()
    assert answers == [busy]
    await change(shop, 3)
    await shop.settled()


async def scale(shop: Shop, target: int) -> None:
    url = "/api/v1/applications/default/deployments/Held/scale?manual=true"
    answer = await shop.daemon.admin.post(url, json={"target_num_replicas": target})
    assert answer.status_code == 200, answer.text


async def deploy_held(shop: Shop, target: int) -> None:
    app = {
        "name": "default",
        "import_path": "held:app",
        "runtime_env": {"working_dir": str(shop.folder)},
        "deployments": [{"name": "Held", "num_replicas": target}],
    }
    answer = await shop.daemon.admin.put(PATH, json={"applications": [app]})
    assert answer.status_code == 200, answer.text
    if target > 1:
        await shop.settled()


def processor_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def test_a_crash_loop_costs_under_one_percent_of_a_processor(shop: Shop) -> None:
    """Without counting user code, which runs in replicas; as time that the processor worked, not on a clock."""
    (shop.folder / "looping.py").write_text(
        textwrap.dedent("""
        import pathlib, os, threading
        import serve_lite as serve

        STARTS = pathlib.Path(__file__).parent / "starts"

        @serve.deployment(num_replicas=2)
        class Looping:
            def __init__(self):
                with open(STARTS, "a") as file:
                    file.write("start\\n")
                threading.Timer(0.2, os._exit, [3]).start()

        app = Looping.bind()
        """)
    )
    starts = shop.folder / "starts"
    await shop.daemon.deploy("looping:app", folder=shop.folder)
    # It has served once, so it is tried for ever; by then the waits are several seconds long.
    await until(lambda: len(starts.read_text().splitlines()) >= 10, "each has crashed four times")
    processes = [
        psutil.Process(shop.daemon.keeper_pid),
        *shop.daemon.processes("daemon"),
        *shop.daemon.processes("template"),
    ]
    assert len(processes) >= 3
    before, begun_at = processor_s(processes), time.monotonic()
    await until(lambda: len(starts.read_text().splitlines()) >= 12, "it was started again")
    await anyio.sleep(max(0.0, 10.0 - (time.monotonic() - begun_at)))
    window_s = time.monotonic() - begun_at
    used_s = processor_s(processes) - before
    assert used_s < 0.01 * window_s, f"{used_s:.3f} s in {window_s:g} s"
