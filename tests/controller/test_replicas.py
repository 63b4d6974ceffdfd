"""The controller with real daemons and real replicas, told over the control socket, and really killed."""

from __future__ import annotations

import json
import os
import re
import signal
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from serve_lite.exceptions import RayServeException
from serve_lite.schema import ApplicationStatus, DeploymentStatus, DeploymentStatusTrigger, ServeStatus
from serve_lite.state.goal import AppSubmission, BuildRequest, CodeEnvironment
from serve_lite.wire.messages import DeleteRequest, DeployReply, DeployRequest, Empty, WaitRequest
from tests.instances import Instance, until

RUNNING, DEPLOY_FAILED = ApplicationStatus.RUNNING, ApplicationStatus.DEPLOY_FAILED

SHOP = """
    import json, os, pathlib, time
    import serve_lite as serve

    HERE = pathlib.Path(__file__).parent

    def note(what):
        with open(HERE / "notes", "a") as file:
            file.write(f"{what} {os.getpid()}\\n")

    def gate(name):
        (HERE / f"{name}.entered").touch()
        while not (HERE / f"{name}.open").exists():
            time.sleep(0.01)

    @serve.deployment(graceful_shutdown_wait_loop_s=60, graceful_shutdown_timeout_s=120)
    class Echo:
        def __init__(self):
            note("made")
            self.config = None
        def reconfigure(self, config):
            if config.get("bad"):
                raise ValueError("bad config")
            self.config = config
        def __call__(self, request):
            if request.query_params.get("wait"):
                gate(request.query_params["wait"])
            return json.dumps({"pid": os.getpid(), "config": self.config})
        def __del__(self):
            note("gone")

    app = Echo.bind()
"""


class Shop:
    """A folder with applications, and an instance to deploy them to."""

    def __init__(self, folder: Path, daemon: Instance) -> None:
        self.folder, self.daemon = folder, daemon
        self.write("shop", SHOP)

    def write(self, module: str, code: str) -> None:
        """Write a module, at once: somebody may be importing it."""
        new = self.folder / f"{module}.new"
        new.write_text(textwrap.dedent(code))
        new.replace(self.folder / f"{module}.py")

    async def submit(
        self,
        import_path: str = "shop:app",
        *overrides: Mapping[str, Any],
        code_version: str = "",
        name: str = "default",
        route_prefix: str | None = "/",
    ) -> None:
        """Hand in an application as a config file does."""
        app = AppSubmission(
            name=name,
            source="declarative",
            route_prefix=route_prefix,
            environment=CodeEnvironment(cwd=str(self.folder), sys_path=(str(self.folder),)),
            build=BuildRequest(app_name=name, import_path=import_path),
            overrides=tuple(dict(o) for o in overrides),
            code_version=code_version,
        )
        await self.daemon.ask("deploy", DeployRequest(apps=[app]), DeployReply)

    async def settled(self, *names: str) -> ServeStatus:
        return await self.daemon.ask("wait_apps", WaitRequest(names=list(names or ["default"])), ServeStatus)

    async def deploy(self, *args: Any, **kwargs: Any) -> tuple[ApplicationStatus, str]:
        """Hand in an application and return its status and message once they are decided."""
        await self.submit(*args, **kwargs)
        app = (await self.settled(kwargs.get("name", "default"))).applications[kwargs.get("name", "default")]
        return app.status, app.message

    async def ask(self, path: str = "/") -> dict[str, Any]:
        """Make one request on a connection of its own."""
        async with httpx.AsyncClient(base_url=self.daemon.http_url, timeout=30) as client:
            response = await client.get(path)
            assert response.status_code == 200, response.text
            answer: dict[str, Any] = json.loads(response.text)
            return answer

    async def entered(self, gate: str) -> None:
        try:
            await until(lambda: (self.folder / f"{gate}.entered").exists(), f"gate {gate} is entered")
        except AssertionError as error:
            error.add_note(self.daemon.log("daemon.log") + self.daemon.log("importer_default.log"))
            raise

    def open(self, gate: str) -> None:
        (self.folder / f"{gate}.open").touch()

    def notes(self, what: str) -> Sequence[str]:
        path = self.folder / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(what)]


@pytest.fixture
def shop(tmp_path: Path, daemon: Instance) -> Shop:
    return Shop(tmp_path, daemon)


async def kill_daemon(shop: Shop) -> None:
    """kill -9 the daemon and return when the next one answers."""
    before = await shop.daemon.daemon_pid()
    os.kill(before, signal.SIGKILL)
    with anyio.fail_after(30):
        while await shop.daemon.daemon_pid() == before:
            await anyio.sleep(0.01)


async def test_a_killed_replica_is_replaced_and_the_application_runs_again(shop: Shop) -> None:
    await shop.deploy()
    first = await shop.ask()
    os.kill(first["pid"], signal.SIGKILL)
    await until(lambda: shop.daemon.pids("replica") - {first["pid"]}, "another replica starts")
    assert (await shop.ask())["pid"] != first["pid"]
    with anyio.fail_after(30):
        while (status := await shop.daemon.status()).applications["default"].status is not RUNNING:
            await anyio.sleep(0.01)
    deployment = status.applications["default"].deployments["Echo"]
    assert deployment.status_trigger is DeploymentStatusTrigger.UNSPECIFIED
    details = (await shop.daemon.admin.get("/api/serve/applications/")).json()
    [dead] = details["applications"]["default"]["deployments"]["Echo"]["recent_dead_replicas"]
    assert (dead["state"], dead["pid"]) == ("STOPPED", first["pid"])


async def test_a_new_version_takes_over_without_a_failed_request(shop: Shop) -> None:
    await shop.deploy()
    failed: list[str] = []
    served: set[int] = set()
    done = anyio.Event()

    async def load() -> None:
        async with httpx.AsyncClient(base_url=shop.daemon.http_url, timeout=30) as client:
            while not done.is_set():
                response = await client.get("/")
                if response.status_code != 200:
                    failed.append(response.text)
                else:
                    served.add(response.json()["pid"])

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(load)
        for _ in range(3):
            assert (await shop.deploy())[0] is RUNNING
        done.set()
    assert failed == []
    assert len(served) >= 3
    assert len(shop.daemon.pids("replica")) == 1


async def test_a_version_whose_constructor_fails_is_given_up_and_the_old_one_serves(shop: Shop) -> None:
    await shop.deploy()
    before = await shop.ask()
    shop.write("shop", SHOP.replace('note("made")', 'raise RuntimeError("no model")'))
    status, message = await shop.deploy()
    assert status is DEPLOY_FAILED
    assert "The deployment failed to start 3 times in a row." in message
    assert message.splitlines()[-1].startswith("RuntimeError: no model (at ")
    assert message.splitlines()[-1].endswith("shop.py:19)")
    assert await shop.ask() == before


async def test_a_constructor_that_ends_the_process_is_told_with_its_last_words(shop: Shop) -> None:
    shop.write("shop", SHOP.replace('note("made")', 'print("out of luck", flush=True); os._exit(3)'))
    status, message = await shop.deploy()
    assert status is DEPLOY_FAILED
    assert re.search(
        r"ended while it was starting \(constructor since [\d.]+ s\): it exited with status 3", message
    )
    assert message.endswith("out of luck")


async def test_a_build_that_fails_says_where_and_leaves_the_old_version_serving(shop: Shop) -> None:
    await shop.deploy()
    before = await shop.ask()
    shop.write("broken", "import serve_lite\n\nraise KeyError('no such thing')\n")
    status, message = await shop.deploy("broken:app")
    assert status is DEPLOY_FAILED
    assert message.startswith("Deploying app 'default' failed with exception:\n")
    assert message.splitlines()[-1].startswith("KeyError: 'no such thing' (at ")
    assert message.endswith("broken.py:3)")
    assert await shop.ask() == before


async def test_a_second_submission_cancels_the_build_of_the_first(shop: Shop) -> None:
    shop.write("slow", "from shop import gate\ngate('slow')\n")
    await shop.submit("slow:app")
    await shop.entered("slow")
    assert (await shop.deploy())[0] is RUNNING
    await until(lambda: not shop.daemon.pids("importer"), "the first importer ends")


async def test_the_same_code_version_scales_and_reconfigures_without_a_restart(shop: Shop) -> None:
    await shop.deploy(code_version="c1")
    first = await shop.ask()
    echo = {"name": "Echo", "num_replicas": 3, "user_config": {"a": 1}}
    assert (await shop.deploy("shop:app", echo, code_version="c1"))[0] is RUNNING
    assert first["pid"] in shop.daemon.pids("replica")
    assert len(shop.daemon.pids("replica")) == 3
    assert (await shop.ask())["config"] == {"a": 1}
    assert (await shop.deploy(code_version="c1"))[0] is RUNNING
    assert shop.daemon.pids("replica") == {first["pid"]}


async def test_a_user_config_that_is_refused_leaves_the_old_one_in_force(shop: Shop) -> None:
    await shop.deploy("shop:app", {"name": "Echo", "user_config": {"a": 1}}, code_version="c1")
    before = await shop.ask()
    status, message = await shop.deploy(
        "shop:app", {"name": "Echo", "user_config": {"bad": 1}}, code_version="c1"
    )
    assert status is DEPLOY_FAILED
    assert message.splitlines()[-1].startswith("ValueError: bad config (at ")
    assert (await shop.ask())["config"] == {"a": 1}

    # It may have taken half of what it refused, so another one takes its place.
    await until(lambda: len(pids := shop.daemon.pids("replica")) == 1 and before["pid"] not in pids)
    status, message = await shop.deploy(
        "shop:app", {"name": "Echo", "user_config": {"a": 1}}, code_version="c1"
    )
    assert (status, message) == (RUNNING, "")
    after = await shop.ask()
    assert after["config"] == {"a": 1}
    assert shop.daemon.pids("replica") == {after["pid"]}


PICKY = """
    import json, os, pathlib, time
    import serve_lite as serve

    HOLD = pathlib.Path(__file__).parent / "hold"

    @serve.deployment
    class Picky:
        config = None
        def __init__(self):
            while HOLD.exists():
                time.sleep(0.01)
        def reconfigure(self, config):
            if self.config is not None:
                self.config = "half of it"
                raise ValueError("only once")
            self.config = config
        def __call__(self, request):
            return json.dumps({"pid": os.getpid(), "config": self.config})

    app = Picky.bind()
"""


async def test_a_replica_whose_reconfigure_fails_is_replaced_by_one_that_takes_it(shop: Shop) -> None:
    shop.write("picky", PICKY)
    one = {"name": "Picky", "num_replicas": 2, "user_config": 1}
    assert (await shop.deploy("picky:app", one, code_version="c1"))[0] is RUNNING
    before = shop.daemon.pids("replica")
    failed: list[str] = []
    is_done = False

    async def ask_on() -> None:
        while not is_done:
            try:
                await shop.ask()
            except (AssertionError, httpx.HTTPError) as error:
                failed.append(repr(error))

    async with anyio.create_task_group() as group:
        group.start_soon(ask_on)
        status, message = await shop.deploy("picky:app", {**one, "user_config": 2}, code_version="c1")
        is_done = True
    assert (status, message) == (RUNNING, "")
    assert failed == []
    assert not shop.daemon.pids("replica") & before
    assert {(await shop.ask())["config"] for _ in range(10)} == {2}


async def test_a_replica_that_refused_settings_is_told_them_again_by_the_next_daemon(shop: Shop) -> None:
    shop.write("picky", PICKY)
    one = {"name": "Picky", "user_config": 1}
    assert (await shop.deploy("picky:app", one, code_version="c1"))[0] is RUNNING
    before = await shop.ask()
    (shop.folder / "hold").touch()  # nothing takes its place for now
    other = {
        **one,
        "user_config": 2,
        "max_constructor_retry_count": 1,
    }  # nothing is tried after the first refusal
    assert (await shop.deploy("picky:app", other, code_version="c1"))[0] is DEPLOY_FAILED
    assert await shop.ask() == {**before, "config": "half of it"}  # better than nothing

    await kill_daemon(shop)
    (shop.folder / "hold").unlink()
    status, _ = await shop.deploy("picky:app", one, code_version="c1")
    assert status is RUNNING
    after = await shop.ask()
    assert (after["config"], after["pid"] != before["pid"]) == (1, True)


async def test_deleting_waits_for_requests_and_runs_the_destructor_but_no_longer(shop: Shop) -> None:
    """The wait loop of a minute is not slept through: the test's deadline is shorter."""
    await shop.deploy()
    async with anyio.create_task_group() as group:
        answers: list[dict[str, Any]] = []

        async def ask() -> None:
            answers.append(await shop.ask("/?wait=busy"))

        group.start_soon(ask)
        await shop.entered("busy")
        await shop.daemon.ask("delete", DeleteRequest(names=["default"]), Empty)
        status = (await shop.daemon.status()).applications["default"]
        assert status.status is ApplicationStatus.DELETING
        async with httpx.AsyncClient(base_url=shop.daemon.http_url) as client:
            assert (await client.get("/")).status_code == 404
        shop.open("busy")
        assert "default" not in (await shop.settled()).applications
    assert [a["config"] for a in answers] == [None]
    assert len(shop.notes("gone")) == 1


async def test_a_replica_that_does_not_finish_in_its_grace_is_killed(shop: Shop) -> None:
    await shop.deploy("shop:app", {"name": "Echo", "graceful_shutdown_timeout_s": 0.2})
    async with anyio.create_task_group() as group:

        async def ask() -> None:
            async with httpx.AsyncClient(base_url=shop.daemon.http_url, timeout=30) as client:
                assert (await client.get("/?wait=never")).status_code == 500

        group.start_soon(ask)
        await shop.entered("never")
        await shop.daemon.delete("default")
    assert shop.daemon.pids("replica") == set()


async def test_replicas_of_a_killed_daemon_are_adopted_with_all_that_is_known_of_them(shop: Shop) -> None:
    await shop.deploy(
        "shop:app", {"name": "Echo", "num_replicas": 2, "user_config": {"a": 1}}, code_version="c1"
    )
    before = shop.daemon.pids("replica")
    await kill_daemon(shop)
    app = (await shop.daemon.status()).applications["default"]
    assert (app.status, app.deployments["Echo"].replica_states) == (RUNNING, {"RUNNING": 2})
    assert (await shop.ask())["pid"] in before
    assert (await shop.deploy(code_version="c1"))[0] is RUNNING
    assert shop.daemon.pids("replica") < before
    assert len(shop.notes("made")) == 2


async def test_a_replica_that_died_with_its_daemon_is_replaced(shop: Shop) -> None:
    await shop.deploy("shop:app", {"name": "Echo", "num_replicas": 2})
    victim, other = shop.daemon.pids("replica")
    daemon_pid = await shop.daemon.daemon_pid()
    os.kill(daemon_pid, signal.SIGSTOP)  # so that it cannot replace the victim itself
    os.kill(victim, signal.SIGKILL)
    os.kill(daemon_pid, signal.SIGKILL)
    with anyio.fail_after(30):
        while True:
            deployments = (await shop.daemon.status()).applications["default"].deployments
            if deployments["Echo"].status is DeploymentStatus.HEALTHY and len(shop.notes("made")) == 3:
                break
            await anyio.sleep(0.01)
    assert other in shop.daemon.pids("replica")
    assert victim not in shop.daemon.pids("replica")


async def test_a_build_and_a_start_that_a_dying_daemon_interrupts_are_begun_again(shop: Shop) -> None:
    shop.write("later", "from shop import *\ngate('build')\napp = Echo.bind()\n")
    await shop.submit("later:app")
    await shop.entered("build")
    await kill_daemon(shop)
    assert (await shop.daemon.status()).applications["default"].status is ApplicationStatus.DEPLOYING
    shop.write("shop", SHOP.replace('note("made")', 'gate("start")'))
    shop.open("build")
    await shop.entered("start")
    await kill_daemon(shop)
    shop.open("start")
    app = (await shop.settled()).applications["default"]
    assert (app.status, app.message) == (RUNNING, "")
    assert (await shop.ask())["pid"] in shop.daemon.pids("replica")
    assert len(shop.daemon.pids("replica")) == 1


async def test_a_prefix_that_another_application_has_is_refused_and_nothing_changes(shop: Shop) -> None:
    await shop.deploy()
    with pytest.raises(RayServeException, match='Prefix / is being used by application "default"'):
        await shop.submit(name="other")
    assert list((await shop.daemon.status()).applications) == ["default"]
