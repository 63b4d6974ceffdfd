"""Instances as systemd runs them: sockets passed on, no keeper; and units that systemd understands."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import pytest

from serve_lite.daemon.options import InstanceOptions, paths
from tests.cli.commands import Cli
from tests.instances import DEADLINE_S, Instance, Instances, is_running, until

HERE = Path(__file__).parent

#: Puts the descriptors that are its arguments at 3, 4, ... and becomes a daemon, as systemd does it.
LAUNCH = """
import os, sys
fds = [os.dup(int(fd)) for fd in sys.argv[1:]]
high = [__import__("fcntl").fcntl(fd, 0, 50) for fd in fds]
for target, fd in enumerate(high, 3):
    os.dup2(fd, target)
os.closerange(3 + len(high), 100)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)))
os.execv(sys.executable, [sys.executable, "-P", "-m", "serve_lite.daemon.entry"])
"""


class Systemd:
    """The sockets of one instance, and its service, started and stopped by the test."""

    def __init__(self, instances: Instances, folder: Path) -> None:
        self._instances = instances
        self.options: InstanceOptions = instances.options()
        self.home = self.options.home
        where = paths(self.home)
        where.prepare()
        control = socket.socket(socket.AF_UNIX)
        control.bind(where.control)
        control.listen()
        self.sockets = {
            "control": control,
            "admin": socket.create_server(("127.0.0.1", 0)),
            "http": socket.create_server(("127.0.0.1", 0)),
        }
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(folder / "notify"))
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "journal"
        self.instance: Instance

    def launch(self, **names: str) -> subprocess.Popen[bytes]:
        """Start the service; sockets have other names if they are given."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, *(str(sock.fileno()) for sock in self.sockets.values())],
                pass_fds=[sock.fileno() for sock in self.sockets.values()],
                env={
                    **os.environ,
                    "SERVE_LITE_HOME": self.home,
                    "NOTIFY_SOCKET": str(self._folder / "notify"),
                    "LISTEN_FDNAMES": ":".join(names.get(name, name) for name in self.sockets),
                },
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        return self.process

    async def start(self) -> Instance:
        """Start the service and return its instance once it has said that it is up."""
        self.launch()
        with anyio.fail_after(DEADLINE_S):
            await anyio.wait_readable(self.notify)
        assert self.notify.recv(100) == b"READY=1"
        self.instance = await self._instances.join(self.options)
        return self.instance

    async def ended(self) -> int:
        """Return the exit status of the service."""
        process = self.process
        assert process is not None
        await until(lambda: process.poll() is not None, "the service ends")
        return process.returncode

    async def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return await self.ended()

    async def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            await self.stop()
        for sock in (*self.sockets.values(), self.notify):
            sock.close()
        os.unlink(paths(self.home).control)


@pytest.fixture
async def systemd(instances: Instances, tmp_path: Path, anyio_backend: str) -> AsyncIterator[Systemd]:
    service = Systemd(instances, tmp_path)
    yield service
    await service.close()


async def test_a_stop_and_a_start_bring_the_applications_back_and_lose_no_connection(
    systemd: Systemd,
) -> None:
    instance = await systemd.start()
    assert instance.keeper_pid == 0
    await instance.deploy("served:who", folder=HERE)
    answer = (await instance.http.get("/")).json()
    assert answer["keys"] == []  # nothing of systemd's in the environment of user code
    assert await systemd.stop() == 0
    await until(lambda: not is_running(answer["pid"]), "the replica ends with the service")
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client, anyio.create_task_group() as group:

        async def ask() -> None:
            assert (await client.get(instance.http_url)).json()["pid"] != answer["pid"]

        group.start_soon(ask)  # nobody is there, and the connection waits
        await anyio.sleep(0)
        await systemd.start()
    assert (await systemd.instance.status()).applications["default"].status == "RUNNING"


async def test_replicas_outlive_a_daemon_that_is_killed(systemd: Systemd) -> None:
    instance = await systemd.start()
    await instance.deploy("served:who", folder=HERE)
    pid = (await instance.http.get("/")).json()["pid"]
    assert systemd.process is not None
    systemd.process.kill()
    assert await systemd.ended() == -signal.SIGKILL
    instance = await systemd.start()
    assert (await instance.http.get("/")).json()["pid"] == pid


async def test_a_second_signal_stops_it_at_once(systemd: Systemd, tmp_path: Path) -> None:
    instance = await systemd.start()
    await instance.deploy("served:held", folder=HERE, args={"folder": str(tmp_path)})
    async with anyio.create_task_group() as group:

        async def ask() -> None:
            with pytest.raises(httpx.TransportError):
                await instance.http.get("/")

        group.start_soon(ask)
        (entered,) = await until(lambda: list(tmp_path.glob("entered-*")))
        replica = int(entered.name.partition("-")[2])
        assert systemd.process is not None
        systemd.process.terminate()
        await until(lambda: b"leaving, because of SIGTERM" in systemd.log.read_bytes())
        assert is_running(replica)  # it has a request
        systemd.process.terminate()
        assert await systemd.ended() == 1
        await until(lambda: not is_running(replica), "the replica is killed too")


async def test_it_cannot_be_upgraded_and_says_what_to_do(systemd: Systemd) -> None:
    await systemd.start()
    done = await Cli(systemd.home, HERE)("upgrade")
    assert done.code == 1
    assert "has no keeper" in done.err and "Restart its service" in done.err


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            {"http": "serve-lite-http.socket"},
            "A socket has the name 'serve-lite-http.socket'. Set FileDescriptorName=",
        ),
        ({"control": "http"}, "No socket has the name 'control'"),
    ],
)
async def test_sockets_with_wrong_names_are_refused(
    systemd: Systemd, names: dict[str, str], said: str
) -> None:
    systemd.launch(**names)
    assert await systemd.ended() == 78
    assert said in systemd.log.read_text()


async def test_proxy_processes_need_a_keeper(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_LITE_PROXY_PROCESSES", "2")
    systemd.launch()
    assert await systemd.ended() == 78
    assert "`proxy_processes` needs a keeper" in systemd.log.read_text()
    done = await Cli(systemd.home, HERE)("systemd", "--sockets")
    assert done.code == 1 and "Leave --sockets out" in done.err
    done = await Cli(systemd.home, HERE)("systemd")
    assert done.code == 0, done


async def test_a_control_socket_elsewhere_is_refused(systemd: Systemd, tmp_path: Path) -> None:
    systemd.sockets["control"].close()
    systemd.sockets["control"] = control = socket.socket(socket.AF_UNIX)
    control.bind(str(tmp_path / "elsewhere"))
    control.listen()
    systemd.launch()
    assert await systemd.ended() == 78
    assert f"Set ListenStream={paths(systemd.home).control}" in systemd.log.read_text()


async def test_a_state_directory_has_one_instance_however_it_is_started(
    systemd: Systemd, instances: Instances
) -> None:
    await systemd.start()
    done = await Cli(systemd.home, HERE)("start", "--http-port", "0")
    assert "An instance is already running" in done.out
    assert await systemd.stop() == 0
    os.unlink(paths(systemd.home).control)
    instance = await instances.start(systemd.options)
    control = paths(systemd.home).control
    systemd.sockets["control"].close()
    os.rename(control, control + ".kept")
    systemd.sockets["control"] = fresh = socket.socket(socket.AF_UNIX)
    fresh.bind(control)
    fresh.listen()
    systemd.launch()
    assert await systemd.ended() == 78
    assert f"already up in '{systemd.home}' (process {instance.keeper_pid})" in systemd.log.read_text()
    os.rename(control + ".kept", control)
    await instances.stop(instance)
    Path(control).touch()  # the fixture removes it


async def test_after_a_reboot_all_is_back(instances: Instances) -> None:
    """Everything is killed at one moment, and what lay on a file system in memory is gone."""
    home = os.path.join(instances.options().home, "deep" * 30)  # so long that its sockets must be elsewhere
    options = instances.options(home=home)
    instance = await instances.start(options)
    assert instance.paths.run != instance.paths.home
    await instance.deploy("served:who", name="one", route_prefix="/one", folder=HERE)
    await instance.deploy("served:two", name="two", route_prefix="/two", folder=HERE)
    everything = [instance.keeper_pid, *instance.pids("")]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in everything:
            os.kill(pid, number)
    await until(lambda: not any(map(is_running, everything)), "all are dead")
    shutil.rmtree(instance.paths.run)
    again = await instances.start(options)
    status = await again.status()
    assert set(status.applications) == {"one", "two"}
    for path in ("/one", "/two"):
        assert (await again.http.get(path)).status_code == 200
    assert len(again.pids("replica")) == 3 and not set(everything) & again.pids("")


# --- units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [[], ["--sockets"], ["--system", "--run-as", getpass.getuser(), "--sockets"]]
)
async def test_systemd_understands_the_units(words: list[str], tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd here to ask")
    cli = Cli(str(tmp_path / "a home"), tmp_path)
    done = await cli("systemd", *words, "-o", "units", SERVE_LITE_ADMIN_PORT="52365")
    assert done.code == 0, done
    files = sorted((tmp_path / "units").iterdir())
    assert [file.name for file in files] == (
        [f"serve-lite-{name}.socket" for name in ("admin", "control", "http")] if words else []
    ) + ["serve-lite.service"]
    manager = "--system" if "--system" in words else "--user"
    checked = subprocess.run(
        ["systemd-analyze", manager, "verify", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert "serve-lite" not in checked.stderr, checked.stderr  # of other units it may say what it likes
    assert checked.returncode == 0, checked.stderr


async def test_units_need_ports_of_their_own_and_an_owner(tmp_path: Path) -> None:
    cli = Cli(str(tmp_path), tmp_path)
    done = await cli("systemd", "--sockets", SERVE_LITE_ADMIN_PORT="0")
    assert (done.code, "needs a port of its own" in done.err) == (1, True)
    done = await cli("systemd", "--system")
    assert (done.code, "Give --run-as USER" in done.err) == (1, True)


async def test_units_name_the_settings_and_quote_what_systemd_would_read(tmp_path: Path) -> None:
    (tmp_path / "my settings.yaml").write_text("http_options:\n  port: 8123\n")
    home = tmp_path / "100% mine"
    done = await Cli(str(home), tmp_path)(
        "systemd", "--json", "--sockets", "--settings", "my settings.yaml", SERVE_LITE_ADMIN_PORT="52365"
    )
    assert done.code == 0, done
    files = json.loads(done.out)
    escaped = str(home).replace("%", "%%")
    assert f'Environment="SERVE_LITE_HOME={escaped}"' in files["serve-lite.service"]
    assert f'Environment="SERVE_LITE_SETTINGS={tmp_path}/my settings.yaml"' in files["serve-lite.service"]
    assert "ListenStream=127.0.0.1:8123\n" in files["serve-lite-http.socket"]
    control = paths(str(home)).control.replace("%", "%%")
    assert f"ListenStream={control}\n" in files["serve-lite-control.socket"]


async def test_a_service_s_command_starts_an_instance(instances: Instances, tmp_path: Path) -> None:
    """What ExecStart says works, in the environment that the unit gives it."""
    options = instances.options()
    done = await Cli(options.home, tmp_path)("systemd")
    lines = dict(line.split("=", 1) for line in done.out.splitlines() if "=" in line)
    name, _, value = lines["Environment"].partition("=")
    process = subprocess.Popen(
        lines["ExecStart"].split(),
        env={**os.environ, name: value, "SERVE_LITE_HTTP_PORT": "0", "SERVE_LITE_ADMIN_PORT": "0"},
        cwd="/",
        start_new_session=True,
    )
    await until(lambda: Path(paths(options.home).control).exists(), "the instance is up")
    instance = await instances.join(options)
    assert instance.keeper_pid == process.pid
    assert (await Cli(options.home, tmp_path)("upgrade", "--grace-period", "0")).code == 0
    process.terminate()
    await until(lambda: process.poll() is not None, "the service ends")
    assert process.returncode == 0
