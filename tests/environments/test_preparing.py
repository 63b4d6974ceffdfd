"""Environments of a running instance: packages, archives and interpreters, each prepared once and told of once."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

import serve_lite as serve
from tests.environments.sources import Web, make_wheel, make_zip, serving
from tests.instances import Instance, Instances, is_running, until

pytestmark = pytest.mark.processes

APPS = "/api/serve/applications/"
PREPARE_S = 90.0  #: only a broken run waits this long for an environment

CODE = """
import os
import shutil
import subprocess
import sys

import serve_lite as serve


def about():
    try:
        import acme
    except ImportError:
        return {"acme": None, "python": sys.executable}
    program = shutil.which("acme-version")
    said = subprocess.run([program], capture_output=True, text=True).stdout.strip() if program else ""
    return {"acme": acme.version, "python": sys.executable, "program": said, "cwd": os.getcwd()}


@serve.deployment
class Inner:
    def about(self):
        return {**about(), "pid": os.getpid()}


@serve.deployment
class Outer:
    def __init__(self, inner=None):
        self.inner = inner

    async def __call__(self, request):
        inner = await self.inner.about.remote() if self.inner else None
        return {**about(), "pid": os.getpid(), "inner": inner}


one = Outer.bind()
two = Outer.bind(Inner.bind())
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheels, and with code that says what it finds."""
    folder = tmp_path_factory.mktemp("shelf")
    for version in ("1.0", "2.0"):
        make_wheel(folder / "wheels", "acme", version)
    (folder / "shop.py").write_text(CODE)
    return folder


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


def acme(shelf: Path, version: str, installer: str = "uv", **more: Any) -> dict[str, Any]:
    """Return a runtime_env with one version of our package, had without a network."""
    options = ["--no-index", "--find-links", str(shelf / "wheels")]
    prefix = "uv_pip" if installer == "uv" else "pip"
    return {installer: {"packages": [f"acme=={version}"], f"{prefix}_install_options": options, **more}}


def app(shelf: Path, env: dict[str, Any], target: str = "one", **fields: Any) -> dict[str, Any]:
    return {"import_path": f"shop:{target}", "runtime_env": {"working_dir": str(shelf), **env}, **fields}


async def put(instance: Instance, *apps: dict[str, Any]) -> None:
    answer = await instance.admin.put(APPS, json={"applications": list(apps)})
    assert answer.status_code == 200, answer.text


async def settled(instance: Instance, name: str = "default") -> dict[str, Any]:
    """Return an application's details once it is not being deployed any more."""
    with anyio.fail_after(PREPARE_S):
        while True:
            details = (await instance.admin.get(APPS)).json()["applications"].get(name, {})
            if details.get("status") not in (None, "NOT_STARTED", "DEPLOYING"):
                return dict(details)
            await anyio.sleep(0.02)


async def running(instance: Instance, *apps: dict[str, Any]) -> None:
    await put(instance, *apps)
    for app_ in apps:
        details = await settled(instance, app_.get("name", "default"))
        assert details["status"] == "RUNNING", details["message"]


async def about(instance: Instance, path: str = "/") -> dict[str, Any]:
    answer = await instance.http.get(path)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def environments(instance: Instance) -> list[str]:
    folder = Path(instance.home, "environments")
    return sorted(os.listdir(folder)) if folder.exists() else []


def preparations(instance: Instance) -> int:
    """Return how many times something was prepared, or tried."""
    return instance.log("daemon.log").count("preparing the environment")


# --- packages -----------------------------------------------------------------------------------


async def test_packages_are_installed_once_and_found_by_code_and_programs(
    daemon: Instance, shelf: Path
) -> None:
    pip = acme(shelf, "1.0", "pip", pip_check=True)
    await running(
        daemon,
        app(shelf, pip, name="a", route_prefix="/a"),
        app(shelf, pip, name="b", route_prefix="/b"),  # waits for the same preparation
    )
    [environment] = environments(daemon)
    venv = os.path.join(daemon.home, "environments", environment, "venv")
    for path in ("/a", "/b"):
        found = await about(daemon, path)
        assert (found["acme"], found["program"]) == ("1.0", "1.0")
        assert found["python"] == os.path.join(venv, "bin", "python")
        assert found["cwd"] == str(shelf)
    assert preparations(daemon) == 1

    # Another application, later: nothing is installed a second time.
    await running(daemon, app(shelf, pip, name="c", route_prefix="/c", args={}))
    assert (await about(daemon, "/c"))["acme"] == "1.0"
    assert preparations(daemon) == 1

    # So does the next daemon, which finds the replicas gone as after a reboot.
    os.kill(await daemon.daemon_pid(), signal.SIGKILL)
    for process in daemon.processes("replica"):
        process.kill()
    await until(lambda: len(daemon.pids("replica c/")) == 1, "the application is back", deadline_s=PREPARE_S)
    assert (await about(daemon, "/c"))["acme"] == "1.0"
    assert preparations(daemon) == 1


async def test_deployments_of_one_application_have_packages_of_their_own(
    daemon: Instance, shelf: Path
) -> None:
    def overridden(version: str) -> dict[str, Any]:
        options = {"runtime_env": acme(shelf, version)}
        return app(
            shelf, acme(shelf, "1.0"), "two", deployments=[{"name": "Inner", "ray_actor_options": options}]
        )

    await running(daemon, overridden("2.0"))
    found = await about(daemon)
    assert (found["acme"], found["inner"]["acme"]) == ("1.0", "2.0")

    # A change of the one leaves the other alone.
    await running(daemon, overridden("1.0"))
    changed = await about(daemon)
    assert changed["inner"]["acme"] == "1.0"
    assert changed["pid"] == found["pid"]
    assert changed["inner"]["pid"] != found["inner"]["pid"]
    assert daemon.log("daemon.log").count("preparing the environment") == 2


async def test_a_deployment_has_folders_of_its_own(daemon: Instance, shelf: Path, tmp_path: Path) -> None:
    make_zip(tmp_path / "lib.zip", {"acme.py": "version = 'zipped'\n"})
    (tmp_path / "own").mkdir()
    env = {"working_dir": str(tmp_path / "own"), "py_modules": [str(tmp_path / "lib.zip")]}
    inner = {"name": "Inner", "ray_actor_options": {"runtime_env": env}}
    await running(daemon, app(shelf, {}, "two", deployments=[inner]))
    found = await about(daemon)
    assert found["acme"] is None
    assert (found["inner"]["acme"], found["inner"]["cwd"]) == ("zipped", str(tmp_path / "own"))


async def test_what_cannot_be_installed_is_one_error_and_the_old_version_serves_on(
    daemon: Instance, shelf: Path
) -> None:
    await running(daemon, app(shelf, {}, "two"))
    before = await about(daemon)

    for env in (acme(shelf, "3.0", "pip"), acme(shelf, "3.0", "uv")):
        await put(daemon, app(shelf, env, "two"))
        details = await settled(daemon)
        assert details["status"] == "DEPLOY_FAILED"
        assert re.search(r"(pip|uv) could not install the packages \(exit status \d+\)", details["message"])
        assert "acme==3.0" in details["message"]
        assert await about(daemon) == before
    tried = preparations(daemon)

    # A deployment's own environment, with code that runs already.
    options = {"ray_actor_options": {"runtime_env": acme(shelf, "4.0")}}
    await put(daemon, app(shelf, {}, "two", deployments=[{"name": "Inner", **options}]))
    details = await settled(daemon)
    assert details["status"] == "DEPLOY_FAILED"
    assert "acme==4.0" in details["message"]
    assert await about(daemon) == before
    assert preparations(daemon) == tried + 1
    assert environments(daemon) == []


async def test_a_requirements_file_that_changes_is_installed_anew(
    daemon: Instance, shelf: Path, tmp_path: Path
) -> None:
    file = tmp_path / "requirements.txt"
    for version in ("1.0", "2.0"):
        file.write_text(f"--no-index\n--find-links {shelf}/wheels\nacme=={version}\n")
        await running(daemon, app(shelf, {"uv": str(file)}))
        assert (await about(daemon))["acme"] == version


async def test_packages_that_serve_lite_cannot_run_with_are_refused(
    daemon: Instance, shelf: Path, tmp_path: Path
) -> None:
    wheel = make_wheel(tmp_path, "msgspec", "99.0")
    await put(daemon, app(shelf, {"uv": [str(wheel)]}))
    details = await settled(daemon)
    assert details["status"] == "DEPLOY_FAILED"
    assert "With these packages a replica cannot run: " in details["message"]
    assert environments(daemon) == []


# --- interpreters -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory, shelf: Path) -> Path:
    """A Python with one package and without any of ours."""
    import subprocess

    folder = tmp_path_factory.mktemp("other") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    [packages] = (folder / "lib").glob("python*/site-packages")
    (packages / "acme.py").write_text("version = 'of the interpreter'\n")
    (packages / "only_there.py").write_text("")
    return folder / "bin" / "python"


async def test_code_runs_in_the_interpreter_that_is_named(
    daemon: Instance, shelf: Path, interpreter: Path
) -> None:
    await running(daemon, app(shelf, {"python": str(interpreter)}))
    found = await about(daemon)
    assert (found["acme"], found["python"]) == ("of the interpreter", str(interpreter))

    # With packages as well, those come first and the interpreter's are still there.
    (shelf / "there.py").write_text("import only_there\nfrom shop import one\n")
    env = {"py_executable": str(interpreter), **acme(shelf, "2.0")}
    await running(daemon, app(shelf, env) | {"import_path": "there:one"})
    assert (await about(daemon))["acme"] == "2.0"


ROUTED = """
import os
import sys

import only_there
import serve_lite as serve
from serve_lite.request_router import RequestRouter


class Noting(RequestRouter):
    async def choose_replicas(self, candidate_replicas, pending_request=None):
        with open("router", "w") as file:
            file.write(f"{os.getpid()} {sys.executable}\\n")
        return [list(candidate_replicas)]


@serve.deployment(request_router_config={"request_router_class": Noting})
class Routed:
    def __call__(self, request):
        return sys.executable


app = Routed.bind()
"""


async def test_advice_comes_from_that_interpreter_too(
    daemon: Instance, tmp_path: Path, interpreter: Path
) -> None:
    (tmp_path / "routed.py").write_text(ROUTED)
    env = {"working_dir": str(tmp_path), "python": str(interpreter)}
    await running(daemon, {"import_path": "routed:app", "runtime_env": env})
    note = tmp_path / "router"
    with anyio.fail_after(PREPARE_S):
        while not (note.exists() and note.read_text().endswith("\n")):  # until the adviser is up
            assert (await daemon.http.get("/")).text == str(interpreter)
    assert note.read_text() == f"{min(daemon.pids('adviser default'))} {interpreter}\n"


async def test_an_interpreter_that_cannot_run_a_replica_is_told(
    daemon: Instance, shelf: Path, tmp_path: Path
) -> None:
    fake = tmp_path / "python"
    wrong = {
        "#!/bin/sh\necho hello\n": "is no Python interpreter: it printed 'hello",
        "#!/bin/sh\necho it is broken >&2; exit 3\n": "is no Python interpreter that works: it is broken",
        '#!/bin/sh\necho \'{"version": [3, 10, 2], "path": [], "stdlib": []}\'\n': "is Python 3.10.2, and replicas",
        '#!/bin/sh\necho \'{"version": [3, 77, 0], "path": [], "stdlib": []}\'\n': "install serve-lite there",
    }
    for script, words in wrong.items():
        fake.write_text(script)
        fake.chmod(0o700)
        await put(daemon, app(shelf, {"python": str(fake)}))
        details = await settled(daemon)
        assert details["status"] == "DEPLOY_FAILED"
        assert words in details["message"]


# --- archives -----------------------------------------------------------------------------------


async def test_code_comes_from_archives(daemon: Instance, shelf: Path, tmp_path: Path, web: Web) -> None:
    shop = (shelf / "shop.py").read_text()
    web.answers["/shop.zip"] = make_zip(tmp_path / "a.zip", {"shop-main/shop.py": shop}).read_bytes()
    local = make_zip(tmp_path / "lib.zip", {"acme/__init__.py": "version = 'zipped'\n"})
    env = {"working_dir": web.url("/shop.zip", "me:secret@"), "py_modules": [str(local)]}
    await running(daemon, {"import_path": "shop:one", "runtime_env": env})
    found = await about(daemon)
    assert found["acme"] == "zipped"
    assert found["cwd"].startswith(os.path.join(daemon.home, "environments"))
    assert found["cwd"].endswith("shop-main")

    # What was prepared and has been removed is prepared anew by the next daemon.
    for process in daemon.processes("replica"):
        process.suspend()
    os.kill(await daemon.daemon_pid(), signal.SIGKILL)
    for environment in environments(daemon):
        os.rename(Path(daemon.home, "environments", environment), tmp_path / environment)
    for process in daemon.processes("replica"):
        process.kill()
    await until(lambda: web.asked == ["/shop.zip"] * 2, "it is fetched again", deadline_s=PREPARE_S)
    await until(lambda: len(daemon.pids("replica")) == 1, "the application is back")
    assert (await about(daemon))["cwd"] == found["cwd"]

    # The password is in no answer and no log.
    shown = [(await daemon.admin.get(APPS)).text, (await daemon.admin.get(f"{APPS}history")).text]
    shown += [daemon.log(name) for name in os.listdir(daemon.paths.logs)]
    assert not [text for text in shown if "secret" in text]
    assert "<redacted>@127.0.0.1" in shown[0]


async def test_an_archive_that_cannot_be_had_is_told_without_its_password(
    daemon: Instance, shelf: Path, web: Web
) -> None:
    await running(daemon, app(shelf, {}))
    web.answers["/text.zip"] = b"no archive"
    wrong = {
        "/none.zip": "the server answers 404",
        "/text.zip": "is not a zip file",
        f"/text.zip#sha256={'0' * 64}": "has the SHA-256 hash",
    }
    for path, words in wrong.items():
        env = {"working_dir": web.url(path, "me:secret@")}
        await put(daemon, {"import_path": "shop:one", "runtime_env": env})
        details = await settled(daemon)
        assert details["status"] == "DEPLOY_FAILED"
        assert words in details["message"]
        assert "secret" not in str(details)
        assert (await about(daemon))["acme"] is None
    assert environments(daemon) == []


async def test_what_cannot_be_prepared_anew_is_tried_once_until_the_next_deploy(
    daemon: Instance, shelf: Path, tmp_path: Path, web: Web
) -> None:
    content = make_zip(tmp_path / "a.zip", {"shop.py": (shelf / "shop.py").read_text()}).read_bytes()
    web.answers["/shop.zip"] = content
    document = {"import_path": "shop:one", "runtime_env": {"working_dir": web.url("/shop.zip")}}
    await running(daemon, document)

    del web.answers["/shop.zip"]
    [environment] = environments(daemon)
    os.rename(Path(daemon.home, "environments", environment), tmp_path / environment)
    [replica] = daemon.processes("replica")
    replica.kill()
    again = "start: more replicas are wanted"
    await until(lambda: daemon.log("daemon.log").count(again) >= 4, "it is started again and again")
    assert web.asked == ["/shop.zip"] * 2
    assert "the server answers 404" in (await daemon.admin.get(APPS)).text

    web.answers["/shop.zip"] = content
    await put(daemon, document)
    with anyio.fail_after(PREPARE_S):
        while (await settled(daemon))["status"] != "RUNNING":
            await anyio.sleep(0.02)
    assert (await about(daemon))["acme"] is None
    assert web.asked == ["/shop.zip"] * 3


# --- being interrupted --------------------------------------------------------------------------


def held(web: Web, path: str, content: bytes) -> tuple[threading.Event, threading.Event]:
    """Have an answer wait; return what says that it was asked for, and what lets it go on."""
    asked, go_on = threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        try:
            handler.wfile.write(content[:10])
            asked.set()
            go_on.wait(PREPARE_S)
            handler.wfile.write(content[10:])
        except ConnectionError:
            pass  # who asked has ended, as is meant here

    web.answers[path] = answer
    return asked, go_on


async def test_a_daemon_that_is_killed_leaves_nothing_half_made(
    daemon: Instance, shelf: Path, tmp_path: Path, web: Web
) -> None:
    content = make_zip(tmp_path / "a.zip", {"shop.py": (shelf / "shop.py").read_text()}).read_bytes()
    asked, go_on = held(web, "/shop.zip", content)
    try:
        await put(daemon, {"import_path": "shop:one", "runtime_env": {"working_dir": web.url("/shop.zip")}})
        await until(asked.is_set, "it is asked for the archive")
        [making] = environments(daemon)
        asked.clear()
        os.kill(await daemon.daemon_pid(), signal.SIGKILL)
        await until(asked.is_set, "the next daemon asks for the archive")
        assert making not in environments(daemon)
        assert len(daemon.pids("preparer")) == 1
    finally:
        go_on.set()
    assert (await settled(daemon))["status"] == "RUNNING"
    assert not [name for name in environments(daemon) if "making" in name]


@pytest.mark.parametrize("how", ["the daemon is killed", "the application is deleted"])
async def test_what_an_installer_has_started_ends_with_it(daemon: Instance, tmp_path: Path, how: str) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "hang"\nbackend-path = ["."]\n'
        '[project]\nname = "hang"\nversion = "1"\n'
    )
    pid_file = tmp_path / "pid"
    (project / "hang.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(pid_file)!r}).write_text(f'{{os.getpid()}} ')\ntime.sleep(600)\n"
    )
    env = {"pip": [str(project)], "working_dir": str(tmp_path)}
    await put(daemon, {"import_path": "shop:one", "runtime_env": env})
    await until(lambda: pid_file.exists() and pid_file.read_text().endswith(" "), "the build has begun")
    pid = int(pid_file.read_text())
    assert is_running(pid)
    if how == "the daemon is killed":
        os.kill(await daemon.daemon_pid(), signal.SIGKILL)
        await until(lambda: not is_running(pid), "the build has ended")
    await daemon.delete("default")
    await until(lambda: not is_running(pid), "the build has ended")
    await until(lambda: not environments(daemon), "nothing of it is left")


async def test_a_replica_that_waits_for_its_environment_can_be_stopped(
    daemon: Instance, shelf: Path, tmp_path: Path, web: Web
) -> None:
    content = make_zip(tmp_path / "a.zip", {"shop.py": (shelf / "shop.py").read_text()}).read_bytes()
    web.answers["/a.zip"] = content
    await running(daemon, {"import_path": "shop:one", "runtime_env": {"working_dir": web.url("/a.zip")}})
    [environment] = environments(daemon)
    os.rename(Path(daemon.home, "environments", environment), tmp_path / environment)
    asked, go_on = held(web, "/a.zip", content)
    try:
        daemon.processes("replica")[0].kill()
        await until(asked.is_set, "it is asked for the archive again")
        await daemon.delete("default")
        await until(lambda: not daemon.pids("preparer"), "the preparer has ended")
        assert not daemon.pids("replica")
        assert (await daemon.admin.get(APPS)).json()["applications"] == {}
    finally:
        go_on.set()


async def test_a_deploy_that_is_overtaken_or_deleted_ends_its_preparation(
    daemon: Instance, shelf: Path, web: Web
) -> None:
    asked, go_on = held(web, "/a.zip", b"0" * 100)
    try:
        for overtake in (True, False):
            await put(daemon, {"import_path": "shop:one", "runtime_env": {"working_dir": web.url("/a.zip")}})
            await until(asked.is_set, "it is asked for the archive")
            asked.clear()
            if overtake:
                await running(daemon, app(shelf, {}))
            else:
                await daemon.delete("default")
            await until(lambda: not daemon.pids("preparer"), "the preparer has ended")
            await until(lambda: not environments(daemon), "nothing of it is left")
    finally:
        go_on.set()


# --- from Python --------------------------------------------------------------------------------


@serve.deployment
class Reporting:
    def __call__(self) -> list[str]:
        import acme  # type: ignore[import-not-found]  # installed for this deployment alone

        return [acme.version, sys.executable]


async def test_a_script_gives_a_deployment_packages_in_code(daemon: Instance, shelf: Path) -> None:
    env = acme(shelf, "2.0")
    handle = await daemon.run(Reporting.options(ray_actor_options={"runtime_env": env}).bind())
    version, python = await handle.remote()
    assert version == "2.0"
    assert python.startswith(os.path.join(daemon.home, "environments"))

    wrong = acme(shelf, "5.0")
    with pytest.raises(RuntimeError, match="uv could not install the packages"):
        await daemon.run(Reporting.options(ray_actor_options={"runtime_env": wrong}).bind())
    assert (await handle.remote())[0] == "2.0"
    with pytest.raises(
        serve.exceptions.InvalidConfigError, match=r"Reporting\.ray_actor_options\.runtime_env\.conda"
    ):
        await daemon.run(Reporting.options(ray_actor_options={"runtime_env": {"conda": "x"}}).bind())


async def test_limits_are_settings_of_the_instance(
    instances: Instances, monkeypatch: pytest.MonkeyPatch, web: Web
) -> None:
    monkeypatch.setenv("SERVE_LITE_ARCHIVE_MAX_BYTES", "50")
    instance = await instances.start()
    web.answers["/a.zip"] = b"0" * 100
    await put(instance, {"import_path": "shop:one", "runtime_env": {"working_dir": web.url("/a.zip")}})
    assert "larger than 50 bytes; SERVE_LITE_ARCHIVE_MAX_BYTES" in (await settled(instance))["message"]


async def test_requests_are_answered_while_an_environment_is_prepared(
    daemon: Instance, shelf: Path, web: Web
) -> None:
    await running(daemon, app(shelf, {}))
    asked, go_on = held(web, "/a.zip", b"0" * 100)
    try:
        other = {"name": "other", "route_prefix": "/other", "import_path": "shop:one"}
        env = {"working_dir": web.url("/a.zip")}
        await put(daemon, app(shelf, {}), {**other, "runtime_env": env})
        await until(asked.is_set, "it is asked for the archive")
        async with httpx.AsyncClient(base_url=daemon.http_url) as client:
            for _ in range(20):
                assert (await client.get("/")).status_code == 200
        assert (await daemon.admin.get(APPS)).json()["applications"]["other"]["status"] == "DEPLOYING"
    finally:
        go_on.set()
