"""`serve.run` and its siblings against a real instance."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest

import serve_lite as serve
from serve_lite.exceptions import DeploymentNotFoundError, RayServeException
from serve_lite.schema import ApplicationStatus
from tests.instances import DEADLINE_S, Instance, until

pytestmark = pytest.mark.anyio


async def blocking(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a blocking API call as a script would, off this loop."""
    return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs))


@serve.deployment
class Adder:
    def __init__(self, step: int) -> None:
        self.step = step

    def add(self, value: int) -> int:
        return value + self.step


@serve.deployment
class Front:
    """Composed: handles arrive inside containers."""

    def __init__(self, adders: dict[str, list[Any]]) -> None:
        self.adders = adders

    async def __call__(self, request: Any) -> Any:
        return await self.chain(int(request.query_params.get("n", "0")))

    async def chain(self, value: int) -> int:
        first, second = self.adders["all"]
        result: int = await second.add.remote(first.add.remote(value))
        return result

    async def names(self) -> list[str]:
        return [handle.deployment_name for handle in self.adders["all"]]


@serve.deployment
class Broken:
    def __init__(self) -> None:
        raise ValueError("the weights are missing")


def composed() -> serve.Application:
    return Front.bind({"all": [Adder.bind(1), Adder.bind(10)]})


async def test_an_application_of_several_deployments_answers_over_http_and_from_python(
    daemon: Instance,
) -> None:
    handle = await blocking(serve.run, composed(), name="sums", route_prefix="/sums")
    assert (await daemon.http.get("/sums?n=5")).json() == 16
    assert await blocking(lambda: handle.chain.remote(1).result(timeout_s=DEADLINE_S)) == 12
    assert await handle.names.remote() == ["Adder", "Adder_1"]
    status = await blocking(serve.status)
    assert status.applications["sums"].status == "RUNNING"
    assert set(status.applications["sums"].deployments) == {"Adder", "Adder_1", "Front"}


async def test_a_shared_node_is_one_deployment(daemon: Instance) -> None:
    adder = Adder.bind(2)
    handle = await blocking(serve.run, Front.bind({"all": [adder, adder]}))
    assert await handle.names.remote() == ["Adder", "Adder"]
    assert await handle.chain.remote(0) == 4


async def test_handles_are_found_by_name_and_missing_ones_are_errors(daemon: Instance) -> None:
    await blocking(serve.run, composed(), name="sums", route_prefix=None)
    app = await blocking(serve.get_app_handle, "sums")
    assert await app.chain.remote(0) == 11
    adder = await blocking(serve.get_deployment_handle, "Adder_1", "sums")
    assert await adder.add.remote(1) == 11
    with pytest.raises(RayServeException, match="'nope' does not exist"):
        await blocking(serve.get_app_handle, "nope")
    with pytest.raises(KeyError, match="Nope"):
        await blocking(serve.get_deployment_handle, "Nope", "sums")
    with pytest.raises(RayServeException, match="specify an application name"):
        await blocking(serve.get_deployment_handle, "Adder")


async def test_running_again_replaces_the_replicas_and_keeps_other_applications(daemon: Instance) -> None:
    other = await blocking(serve.run, Adder.bind(1), name="other", route_prefix="/other")
    before = daemon.pids("replica other/")
    await blocking(serve.run, Adder.options(name="A").bind(1), name="mine", route_prefix=None)
    first = daemon.pids("replica mine/")
    handle = await blocking(serve.run, Adder.options(name="A").bind(5), name="mine", route_prefix=None)
    assert await handle.add.remote(1) == 6
    await until(lambda: not (daemon.pids("replica mine/") & first), "the old replica is gone")
    assert daemon.pids("replica other/") == before
    assert await other.add.remote(1) == 2


async def test_a_scaler_outside_may_set_the_numbers_of_an_application_that_says_so(daemon: Instance) -> None:
    url = "/api/v1/applications/{}/deployments/Adder/scale"
    for name, takes_scaler in (("open", True), ("closed", False)):
        await blocking(
            serve.run, Adder.bind(1), name=name, route_prefix=None, external_scaler_enabled=takes_scaler
        )
        answer = await daemon.admin.post(url.format(name), json={"target_num_replicas": 2})
        assert answer.status_code == (200 if takes_scaler else 412), answer.text
    await until(lambda: len(daemon.pids("replica open/")) == 2, "it is scaled")
    shown = (await daemon.admin.get("/api/serve/applications/")).json()["applications"]
    assert [shown[name]["external_scaler_enabled"] for name in ("open", "closed")] == [True, False]
    scaling = Adder.options(num_replicas="auto").bind(1)
    with pytest.raises(ValueError, match="'Adder' has: give it num_replicas"):
        await blocking(serve.run, scaling, name="both", route_prefix=None, external_scaler_enabled=True)


async def test_a_failing_constructor_raises_with_the_users_exception_and_others_go_on(
    daemon: Instance,
) -> None:
    good = await blocking(serve.run, Adder.bind(1), name="good", route_prefix="/good")
    with pytest.raises(RuntimeError, match="(?s)Deploying application bad failed.*the weights are missing"):
        await blocking(serve.run, Broken.bind(), name="bad", route_prefix="/bad")
    status = await blocking(serve.status)
    assert status.applications["bad"].status is ApplicationStatus.DEPLOY_FAILED
    assert status.applications["good"].status is ApplicationStatus.RUNNING
    assert await good.add.remote(1) == 2


async def test_a_failing_new_version_leaves_the_old_one_serving(daemon: Instance) -> None:
    handle = await blocking(serve.run, Adder.options(name="D").bind(1), name="app", route_prefix=None)
    pids = daemon.pids("replica app/")
    with pytest.raises(RuntimeError, match="(?s)the weights are missing"):
        await blocking(serve.run, Broken.options(name="D").bind(), name="app", route_prefix=None)
    assert await handle.add.remote(1) == 2
    await until(lambda: daemon.pids("replica app/") == pids, "only the old replica is left")


async def test_bad_input_is_refused_before_anything_changes(daemon: Instance) -> None:
    await blocking(serve.run, Adder.bind(1), name="one", route_prefix="/one")
    with pytest.raises(TypeError, match=r"Deployment.bind\(\)"):
        await blocking(serve.run, Adder)
    with pytest.raises(ValueError, match="must start with a forward slash"):
        await blocking(serve.run, Adder.bind(1), route_prefix="one")
    with pytest.raises(RayServeException, match="non-empty"):
        await blocking(serve.run, Adder.bind(1), name="")
    with pytest.raises(RayServeException, match='"one"'):
        await blocking(serve.run, Adder.bind(1), name="two", route_prefix="/one")
    assert list((await blocking(serve.status)).applications) == ["one"]


async def test_delete_removes_route_and_replicas_and_fails_late_calls(daemon: Instance) -> None:
    handle = await blocking(serve.run, Adder.bind(1), name="gone", route_prefix="/gone")
    assert await handle.add.remote(1) == 2
    await blocking(serve.delete, "gone")
    assert not daemon.pids("replica gone/")
    assert (await daemon.http.get("/gone")).status_code == 404
    with pytest.raises(DeploymentNotFoundError):
        await asyncio.wait_for(_await(handle.add.remote(1)), DEADLINE_S)
    await blocking(serve.delete, "never existed")


async def _await(response: Any) -> Any:
    return await response


async def test_cancelling_an_http_request_cancels_what_it_called(daemon: Instance, tmp_path: Path) -> None:
    @serve.deployment
    class Slow:
        async def hang(self, note: str) -> None:
            Path(note).touch()
            try:
                await asyncio.sleep(3600)
            finally:
                Path(note + ".ended").touch()

    @serve.deployment
    class Caller:
        def __init__(self, slow: Any) -> None:
            self.slow = slow

        async def __call__(self, request: Any) -> None:
            await self.slow.hang.remote(request.query_params["note"])

    await blocking(serve.run, Caller.bind(Slow.bind()))
    note = tmp_path / "note"
    async with httpx.AsyncClient(base_url=daemon.http_url) as client:
        request = asyncio.ensure_future(client.get("/", params={"note": str(note)}, timeout=DEADLINE_S))
        await until(note.exists)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    await until((tmp_path / "note.ended").exists)


async def test_older_code_may_give_host_and_port_to_run(daemon: Instance) -> None:
    with pytest.warns(DeprecationWarning, match="serve.start"):
        await blocking(serve.run, Adder.bind(1), host="127.0.0.1", port=8000)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        await blocking(serve.start)  # connects to the one that is up


async def test_start_refuses_options_that_belong_elsewhere() -> None:
    with pytest.raises(ValueError, match="http_options"):
        serve.start(http_port=1)
    with pytest.raises(TypeError, match="proxy_location"):
        serve.start(proxy_location=3)  # type: ignore[arg-type]


# --- lifetimes: scripts of their own ---

SCRIPT = """
import sys, time
import serve_lite as serve

@serve.deployment
class Hello:
    async def __call__(self):
        return "hello"

serve.start(http_options={"port": 0})
handle = serve.run(Hello.bind())
"""

SAY = "print(handle.remote().result(), flush=True)\n"


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "SERVE_LITE_HOME": str(home), "SERVE_LITE_ADMIN_PORT": "0"}


def script(tmp_path: Path, tail: str = SAY) -> list[str]:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT) + tail)
    return [sys.executable, str(path)]


def leftovers(home: Path) -> list[str]:
    """Sockets of the instance, and processes that have its directory in their environment."""
    import psutil

    sockets = [p.name for p in home.glob("*.sock")] + [p.name for p in home.glob("*.acc")]
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SERVE_LITE_HOME") == str(home):
                processes.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return sockets + processes


def test_a_script_embeds_an_instance_that_ends_with_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for _ in range(2):  # the second finds nothing in its way
        done = subprocess.run(
            script(tmp_path), env=environment(home), capture_output=True, text=True, timeout=DEADLINE_S
        )
        assert (done.stdout, done.returncode) == ("hello\n", 0), done.stderr
        assert leftovers(home) == []


async def test_an_embedded_instance_ends_with_a_script_that_is_killed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with subprocess.Popen(
        script(tmp_path, SAY + "time.sleep(600)\n"), env=environment(home), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert await anyio.to_thread.run_sync(process.stdout.readline) == "hello\n"
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE_S)
    await until(lambda: leftovers(home) == [], "nothing of the instance is left")
    assert not (home / "control.sock").exists()


def test_blocking_run_ends_with_ctrl_c(tmp_path: Path) -> None:
    home = tmp_path / "home"
    tail = (
        f"try:\n    {SAY}    serve.run(Hello.bind(), blocking=True)\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    with subprocess.Popen(
        script(tmp_path, tail),
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hello\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert (out, process.returncode) == ("interrupted\n", 0), err
    assert leftovers(home) == []
